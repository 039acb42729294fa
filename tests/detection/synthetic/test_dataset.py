"""The prepared data set of synthetic frames."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from detection.synthetic import CLASSES, synthetic_frame, write_synthetic
from ppcls_ext.utils.errors import UserError


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_layout_ids_and_pictures(tmp_path):
    report = write_synthetic(tmp_path / "set", train=6, val=3, size=96, seed=2)
    parts = {part: json.loads((tmp_path / f"set/annotations/{part}.json").read_text()) for part in ("train", "val")}
    assert (tmp_path / "set/classes.txt").read_text().split() == list(CLASSES)
    assert json.loads((tmp_path / "set/report.json").read_text()) == report
    for part, count in (("train", 6), ("val", 3)):
        assert len(parts[part]["images"]) == report["parts"][part]["images"] == count
        assert len(parts[part]["annotations"]) == sum(report["parts"][part]["boxes_by_class"].values())
        assert [entry["name"] for entry in parts[part]["categories"]] == list(CLASSES)
    for key in ("images", "annotations"):
        ids = [entry["id"] for part in parts.values() for entry in part[key]]
        assert ids == list(range(1, len(ids) + 1))
    first = parts["train"]["images"][0]
    expected = synthetic_frame(2, 0, 96)
    picture = cv2.imread(str(tmp_path / "set/images" / first["file_name"]), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(picture, expected.image)
    assert first["sonar"] == expected.sonar and (first["width"], first["height"]) == (96, 96)
    boxes = [entry["bbox"] for entry in parts["train"]["annotations"] if entry["image_id"] == first["id"]]
    assert boxes == expected.boxes.tolist()


def test_same_seed_same_files_and_validation_does_not_depend_on_training(tmp_path):
    for name, train, seed in (("a", 4, 0), ("b", 4, 0), ("more", 6, 0), ("other", 4, 1)):
        write_synthetic(tmp_path / name, train=train, val=2, size=64, seed=seed)
    a, b, more, other = (content_of(tmp_path / name) for name in ("a", "b", "more", "other"))
    assert a == b
    images = [name for name in a if name.endswith(".png")]
    assert all(a[name] == more[name] for name in images)
    assert all(a[name] != other[name] for name in images)
    assert len({a[name] for name in images}) == len(images)


def test_what_is_there_is_replaced_only_when_asked(tmp_path):
    write_synthetic(tmp_path / "set", train=1, val=1, size=64)
    with pytest.raises(UserError, match="give --overwrite to replace it"):
        write_synthetic(tmp_path / "set", train=2, val=1, size=64)
    assert write_synthetic(tmp_path / "set", train=2, val=1, size=64, overwrite=True)["parts"]["train"]["images"] == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(UserError, match="holds something else"):
        write_synthetic(tmp_path / "mine", overwrite=True)


@pytest.mark.parametrize("arguments", [{"train": 0}, {"val": 0}, {"size": 20}, {"seed": -1}, {"train": 2_000_000}])
def test_numbers_out_of_range(arguments, tmp_path):
    with pytest.raises(UserError, match=f"--{next(iter(arguments))} must be at"):
        write_synthetic(tmp_path / "set", **arguments)
    assert list(tmp_path.iterdir()) == []
