"""COCO files that nobody prepared, in the encodings and with the names of other systems."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from detection.annotations import Ledger
from detection.coco import AnnotationFileError, open_coco
from detection.evaluation.boxes import read_ground_truth
from ppcls_ext.utils.texts import VARIABLE, say_guesses
from tests.support.raw_data import box_entry, image_entry, write_image

STATED = {
    "images\\b c.PNG": "b c.png", "d%20e.png": "d e.png", "C:\\x\\images\\海参.png": "海参.png",
    "file:///y/f.png": "f.png", unicodedata.normalize("NFD", "é.png"): "é.png", "./g.png": "g.png",
}  # fmt: skip


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing is stated, nothing has been guessed."""
    monkeypatch.setenv(VARIABLE, "")
    say_guesses()


def written(folder: Path, encoding: str, names: list[str]) -> Path:
    content = {
        "images": [image_entry(number, name) for number, name in enumerate(names, start=1)],
        "annotations": [box_entry(number, number) for number in range(1, len(names) + 1)],
        "categories": [{"id": 1, "name": "海参"}],
    }
    file = folder / "a.json"
    file.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    return file


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16-le", "gb18030"])
def test_training_and_evaluation_read_what_preparation_reads(tmp_path, encoding):
    for seed, name in enumerate(STATED.values()):
        write_image(tmp_path / "images" / name, seed=seed)
    names = [name for name in STATED if encoding != "gb18030" or unicodedata.is_normalized("NFC", name)]
    file = written(tmp_path, encoding, names)
    coco = open_coco(file, tmp_path / "images", Ledger())
    assert coco.names == ["海参"]
    assert [frame.image for frame in coco.frames] == [tmp_path / "images" / STATED[name] for name in names]
    assert all(frame.boxes for frame in coco.frames)
    assert read_ground_truth(file).names == ["海参"]


def test_names_that_fit_several_files_or_an_unknown_encoding_are_one_line(tmp_path):
    for seed, name in enumerate(("A.png", "a.PNG")):
        write_image(tmp_path / name, seed=seed)
    with pytest.raises(AnnotationFileError, match=r"a\.json: a\.png is not in .*A\.png and a\.PNG are"):
        open_coco(written(tmp_path, "utf-8", ["a.png"]), tmp_path, Ledger())
    file = written(tmp_path, "utf-8", ["A.png"])
    file.write_bytes(file.read_text(encoding="utf-8").replace("海参", "해삼").encode("cp949"))
    with pytest.raises(AnnotationFileError, match=r"a\.json: line 1 .*--encoding"):
        open_coco(file, tmp_path, Ledger())
