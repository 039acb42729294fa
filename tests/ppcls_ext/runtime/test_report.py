"""Tables, JSON, pictures and COCO results of predictions."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.annotations import Ledger
from detection.coco import load_coco, read_coco
from ppcls_ext.runtime import DetectionPrediction, Prediction
from ppcls_ext.runtime.coco_results import coco_results, numbering_of
from ppcls_ext.runtime.report import above, as_records, as_table, save_pictures, summary, true_class
from ppcls_ext.utils.errors import UserError
from tests.support.predictors import OPERATORS, made_classifier, made_detector

CLASSES = ["cube", "human body", "n/a"]


@pytest.fixture
def classifier():
    return made_classifier(None, None, classes=CLASSES)


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


@pytest.fixture
def detector():
    return made_detector(None)


@pytest.fixture
def detections(tmp_path):
    """Two objects in the first image, none in the second, and a file that is no image."""
    folder = tmp_path / "images" / "dive"
    folder.mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (60, 40), (30, 30, 30)).save(folder / name)
    boxes = np.array([[5, 6, 25, 36], [30, 2, 50, 12]], np.float32)
    return [
        DetectionPrediction(
            str(folder / "a.png"), boxes, np.array([0.9, 0.25], np.float32), np.array([1, 0]), height=40, width=60
        ),
        DetectionPrediction(str(folder / "b.png"), height=40, width=60),
        DetectionPrediction(str(folder / "c.txt"), error="is not an image"),
    ]


def test_names_of_other_systems_are_shown_and_their_folders_are_classes(classifier):
    name = os.fsdecode("photos/海参/海胆.png".encode("gbk"))
    assert true_class(name, ["b", "海参"]) == "海参"
    assert true_class(unicodedata.normalize("NFD", "photos/é/1.png"), ["é"]) == "é"
    assert "photos/海参/海胆.png" in as_table([Prediction(name, [0], ["cube"], [0.9])], classifier)


def test_classes_as_table_summary_and_records(classifier, predictions):
    assert true_class("photos/n_a/1.png", CLASSES) == "n/a"
    lines = as_table(predictions, classifier).splitlines()
    assert lines[0].split("  ")[0] == "file"
    assert [line.rstrip().rsplit("  ", 1)[-1].strip() for line in lines[2:4]] == ["cube yes", "human body NO"]
    assert "90.0 %" in lines[2]
    assert len(lines) == 5
    text = "3 images predicted, 1 of 2 right by their folder's name, 1 unreadable and skipped"
    assert summary(predictions, classifier) == text
    assert as_table(predictions[3:], classifier) == ""
    records = json.loads(json.dumps(as_records(predictions, classifier)))
    assert records[1]["true_class"] == "human body"
    assert records[1]["predictions"][0] == {"class_id": 0, "label": "cube", "score": 0.6}
    assert (records[3]["error"], records[3]["predictions"]) == ("is empty", [])
    nameless = made_classifier(None, None, classes=None)
    assert "true class" not in as_table(predictions, nameless)
    assert summary(predictions[:1], nameless) == "1 image predicted"


def test_boxes_as_table_summary_and_records(detector, detections):
    table = as_table(detections, detector).splitlines()
    assert table[2].endswith("2        ball (1, 90 %), cube (1, 25 %)")
    assert table[3].endswith("0        -")
    assert summary(detections, detector) == "2 objects in 2 images, 1 without any, 1 unreadable and skipped"
    assert summary(above(detections, 0.3), detector).startswith("1 object in 2 images, 1 without any")
    first, second, third = json.loads(json.dumps(as_records(detections, detector)))
    assert first["detections"][0] == {
        "class_id": 1, "label": "ball", "score": pytest.approx(0.9), "box": [5.0, 6.0, 25.0, 36.0],
    }  # fmt: skip
    assert (second["detections"], second["error"], third["error"]) == ([], None, "is not an image")


def test_pictures_of_classes(classifier, predictions, tmp_path):
    assert save_pictures(predictions, classifier, tmp_path / "sheet.png", "title") == [tmp_path / "sheet.png"]
    assert Image.open(tmp_path / "sheet.png").width > 400
    files = save_pictures(predictions, classifier, tmp_path / "folder", "title")
    assert [file.name for file in files] == ["1.png", "1_2.png", "1_3.png"]
    assert all(Image.open(file).height > 300 for file in files)
    with pytest.raises(UserError, match=r"unknown picture format '\.txt'"):
        save_pictures(predictions, classifier, tmp_path / "sheet.txt", "title")
    with pytest.raises(UserError, match="nothing to draw"):
        save_pictures(predictions[3:], classifier, tmp_path / "none.png", "title")


def test_pictures_of_boxes(detector, detections, tmp_path):
    written = save_pictures(detections, detector, tmp_path / "drawn", "title")
    assert sorted(file.name for file in written) == ["a.png", "b.png"]
    drawn, plain = (np.asarray(Image.open(file)) for file in written)
    assert (drawn != plain).any()
    assert (plain == 30).all()
    (sheet,) = save_pictures(detections, detector, tmp_path / "sheet.png", "title")
    assert Image.open(sheet).width > 800
    (single,) = save_pictures(detections[:1], detector, tmp_path / "single.jpg", "title")
    assert Image.open(single).size == Image.open(written[0]).size


def test_dark_sonar_frames_are_drawn_as_the_detector_sees_them(detections, tmp_path):
    frame = np.zeros((40, 60, 3), np.uint8)
    frame[:, :30, 0] = 4  # an echo in one channel of three, hardly above black
    Image.fromarray(frame).save(detections[1].name)
    enhanced = made_detector(None, [OPERATORS[0], {"SonarEnhance": {"method": "equalize"}}, *OPERATORS[1:]])
    (file,) = save_pictures(detections[1:2], enhanced, tmp_path / "drawn", "title")
    drawn = np.asarray(Image.open(file).convert("RGB"))
    assert drawn[drawn.shape[0] // 2, 10].tolist() == [255, 255, 255]
    assert drawn[drawn.shape[0] // 2, -10].tolist() == [0, 0, 0]


def listing(file):
    """Returns what an annotation file lists, as the tool reads it."""
    return read_coco(file, Ledger(), content=load_coco(file, ("images", "categories")))


def write_annotations(file, names=("dive/b.png", "dive/a.png"), categories=((7, "cube"), (3, "ball"))):
    content = {
        "images": [{"id": 10 * number, "file_name": name} for number, name in enumerate(names, start=1)],
        "categories": [{"id": number, "name": name} for number, name in categories],
        "annotations": [],
    }
    file.write_text(json.dumps(content))
    return file


def test_coco_ids_come_from_an_annotation_file(detector, detections, tmp_path, caplog):
    images = [Path(one.name) for one in detections[:2]]
    numbering = numbering_of(listing(write_annotations(tmp_path / "val.json")), images, detector)
    results = coco_results(detections, detector, numbering)
    assert [(one["image_id"], one["category_id"], one["bbox"]) for one in results] == [
        (20, 3, [5.0, 6.0, 20.0, 30.0]),
        (20, 7, [30.0, 2.0, 20.0, 10.0]),
    ]
    assert [one["score"] for one in results] == pytest.approx([0.9, 0.25])
    # The longest path decides between equal names; two records of one file are no number.
    file = write_annotations(tmp_path / "val.json", names=("other/a.png", "a.png", "dive/a.png"))
    assert numbering_of(listing(file), images[:1], detector).image_ids == {detections[0].name: 30}
    with pytest.raises(UserError, match="none of the 1 images is in it"):
        alike = listing(write_annotations(file, names=("a.png", "A.png")))
        numbering_of(alike, [Path("other/a.PNG")], detector)
    with pytest.raises(UserError, match="not trained for: tyre; those trained: cube, ball"):
        numbering_of(listing(write_annotations(file, categories=((1, "ball"), (2, "tyre")))), images, detector)
    # Of other systems: the very letters first, then without case; of an absolute path the end is enough.
    for name in ("Dive/A.PNG", "D:\\sets\\dive\\a.png"):
        file = write_annotations(tmp_path / "val.json", names=("dive/b.png", name))
        assert numbering_of(listing(file), images[:1], detector).image_ids == {detections[0].name: 20}
    # Images without a number are named and left out.
    with caplog.at_level("WARNING"):
        numbering = numbering_of(listing(write_annotations(file, names=("dive/b.png",))), images, detector)
    assert "1 images are not in" in caplog.text
    assert "a.png" in caplog.text
    assert coco_results(detections, detector, numbering) == []
    # So are classes that the file lacks.
    lacking = listing(write_annotations(file, names=("dive/a.png",), categories=((1, "ball"),)))
    (result,) = coco_results(detections, detector, numbering_of(lacking, images, detector))
    assert result["category_id"] == 1
    assert "lacks 1 of the 2 classes (cube)" in caplog.text
