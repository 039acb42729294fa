"""Tables, JSON and pictures of predictions."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from ppcls_ext.runtime import Prediction
from ppcls_ext.runtime.report import as_records, as_table, save_pictures, summary, true_class
from ppcls_ext.utils.errors import UserError

CLASSES = ["cube", "human body", "n/a"]


@pytest.fixture
def predictions(tmp_path):
    names = []
    for folder in ("cube", "human body", "elsewhere"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (20, 30), (200, 10, 10)).save(tmp_path / folder / "1.png")
        names.append(str(tmp_path / folder / "1.png"))
    return [
        Prediction(names[0], [0, 1], ["cube", "human body"], [0.9, 0.1]),
        Prediction(names[1], [0, 1], ["cube", "human body"], [0.6, 0.4]),
        Prediction(names[2], [1, 0], ["human body", "cube"], [0.55, 0.45]),
        Prediction(str(tmp_path / "cube" / "bad.png"), error="is empty"),
    ]


def test_the_folder_tells_the_true_class():
    assert true_class("photos/cube/1.png", CLASSES) == "cube"
    assert true_class("photos/n_a/1.png", CLASSES) == "n/a"
    assert true_class("photos/other/1.png", CLASSES) is None
    assert true_class("photos/cube/1.png", None) is None


def test_table_and_summary(predictions):
    lines = as_table(predictions, CLASSES).splitlines()
    assert lines[0].split("  ")[0] == "file"
    assert [line.rstrip().rsplit("  ", 1)[-1].strip() for line in lines[2:4]] == ["cube yes", "human body NO"]
    assert "90.0 %" in lines[2]
    assert len(lines) == 5
    assert summary(predictions, CLASSES) == (
        "3 images predicted, 1 of 2 right by their folder's name, 1 unreadable and skipped"
    )
    assert "true class" not in as_table(predictions, None)
    assert summary(predictions[:1], None) == "1 image predicted"
    assert as_table(predictions[3:], CLASSES) == ""


def test_records_are_json(predictions):
    records = json.loads(json.dumps(as_records(predictions, CLASSES)))
    assert records[1]["true_class"] == "human body"
    assert records[1]["predictions"][0] == {"class_id": 0, "label": "cube", "score": 0.6}
    assert records[3]["error"] == "is empty"
    assert records[3]["predictions"] == []


def test_one_sheet_or_one_picture_each(predictions, tmp_path):
    assert save_pictures(predictions, CLASSES, tmp_path / "sheet.png", "title") == [tmp_path / "sheet.png"]
    assert Image.open(tmp_path / "sheet.png").width > 400
    files = save_pictures(predictions, CLASSES, tmp_path / "folder", "title")
    assert [file.name for file in files] == ["1.png", "1_2.png", "1_3.png"]
    assert all(Image.open(file).height > 300 for file in files)
    with pytest.raises(UserError, match=r"unknown picture format '\.txt'"):
        save_pictures(predictions, CLASSES, tmp_path / "sheet.txt", "title")
    with pytest.raises(UserError, match="nothing to draw"):
        save_pictures(predictions[3:], CLASSES, tmp_path / "none.png", "title")
