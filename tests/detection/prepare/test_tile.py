"""Prepared sets cut into tiles: pictures, boxes, empty tiles, and what a later split makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ppcls_ext.utils.errors import UserError
from tests.support.raw_data import box_entry, image_entry, prepare, write_coco

LARGE, SMALL = (150, 100), (64, 48)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A grey picture of 16 bits and a small one of colours for training, one for validation, each of other noise."""
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for name, size in (("deep.png", LARGE), ("val.png", LARGE)):
        cv2.imwrite(str(folder / "images" / name), noise.integers(0, 65536, size[::-1], dtype=np.uint16))
    cv2.imwrite(str(folder / "images" / "small.jpg"), noise.integers(0, 256, (*SMALL[::-1], 3), dtype=np.uint8))
    boxes = [
        box_entry(1, 1, box=(10, 10, 20, 20)),  # whole in the first tile only
        box_entry(2, 1, category=2, box=(54, 70, 20, 10)),  # half in the first column, whole in the second
        box_entry(3, 1, box=(80, 10, 60, 10), iscrowd=1),
        box_entry(4, 2, box=(1, 2, 3, 4)),
    ]
    sizes = {"deep.png": LARGE, "small.jpg": SMALL}
    images = [image_entry(n, name, sizes[name], sonar={"range": 6}) for n, name in enumerate(sizes, start=1)]
    write_coco(folder / "annotations" / "train.json", images, boxes)
    val = [box_entry(1, 1, box=(10, 10, 20, 20)), box_entry(2, 1, category=2, box=(100, 70, 20, 10))]
    write_coco(folder / "annotations" / "val.json", [image_entry(1, "val.png", LARGE)], val)
    return folder


def cut(source: Path, *options: str) -> tuple[Path, dict[str, Any], dict[str, list[Any]]]:
    """Returns the folder, the training file and its annotations by file name."""
    output = source.parent / "tiles"
    prepare("tile", source, "--tile", "64", "--overlap", "0.25", "--output", output, "--overwrite", *options)
    coco = json.loads((output / "annotations" / "train.json").read_text())
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    boxes: dict[str, list[Any]] = {name: [] for name in names.values()}
    for entry in coco["annotations"]:
        boxes[names[entry["image_id"]]].append(entry)
    return output, coco, boxes


def test_tiles_are_parts_of_their_pictures_and_say_where_they_lie(source: Path) -> None:
    output, coco, boxes = cut(source)
    whole = cv2.imread(str(source / "images" / "deep.png"), cv2.IMREAD_UNCHANGED)
    covered = np.zeros(whole.shape, bool)
    entries = {image["file_name"]: image for image in coco["images"]}
    for name, image in entries.items():
        if image["tile_of"] == "deep.png":
            x, y, width, height = image["tile"]
            assert name == f"deep_x{x:04d}_y{y:04d}.png"
            part = cv2.imread(str(output / "images" / name), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(part, whole[y : y + height, x : x + width])
            covered[y : y + height, x : x + width] = True
            assert "sonar" not in image, "its range is that of the whole picture"
    assert covered.all() and len(entries) == 3 * 2 + 1
    # What is no larger than a tile stays the file that it was.
    assert entries["small.jpg"]["tile"] == [0, 0, *SMALL] and entries["small.jpg"]["sonar"] == {"range": 6}
    assert (output / "images" / "small.jpg").samefile(source / "images" / "small.jpg")
    assert [entry["bbox"] for entry in boxes["small.jpg"]] == [[1, 2, 3, 4]]


def test_boxes_are_cut_by_their_visible_share(source: Path) -> None:
    _, _, boxes = cut(source)
    # Tiles begin at x 0, 43 and 86, and at y 0 and 36.
    assert [entry["bbox"] for entry in boxes["deep_x0000_y0000.png"]] == [[10, 10, 20, 20]]
    (half,) = boxes["deep_x0000_y0036.png"]
    assert half["bbox"] == [54, 34, 10, 10] and half["truncated"] == 1 and half["iscrowd"] == 0
    (whole,) = boxes["deep_x0043_y0036.png"]
    assert whole["bbox"] == [11, 34, 20, 10] and "truncated" not in whole
    # A crowd stays one, however little of it a tile shows.
    assert [entry["iscrowd"] for entry in boxes["deep_x0043_y0000.png"]] == [1]
    assert boxes["deep_x0086_y0036.png"] == []
    output, _, boxes = cut(source, "--min-visible", "0.6")
    assert [entry["iscrowd"] for entry in boxes["deep_x0000_y0036.png"]] == [1], "too little visible: to be ignored"
    counts = json.loads((output / "report.json").read_text())["counts"]
    # With --min-visible 0.6, over both parts: two tiles cut the crowd, and two show too little of a box.
    assert counts["pictures"] == 3 and counts["boxes"] == 6 and counts["ignored"] == 2 and counts["cut"] == 2


def test_empty_tiles_of_training_may_be_left_out(source: Path) -> None:
    output, coco, boxes = cut(source, "--keep-empty", "0")
    assert all(boxes.values()) and len(boxes) == 6
    val = json.loads((output / "annotations" / "val.json").read_text())
    assert len(val["images"]) == 6
    assert json.loads((output / "report.json").read_text())["counts"]["empty_left_out"] == 1
    with pytest.raises(UserError, match="is no prepared data set"):
        cut(source / "images")


def test_a_later_split_keeps_the_tiles_of_a_picture_together(source: Path, tmp_path: Path) -> None:
    output, _, _ = cut(source)
    # All tiles in one file, to be split anew.
    files = [json.loads((output / "annotations" / f"{part}.json").read_text()) for part in ("train", "val")]
    together = {key: files[0][key] + files[1][key] for key in ("images", "annotations")}
    write_coco(tmp_path / "all.json", together["images"], together["annotations"])
    prepare("imagefolder", output, "--annotations", tmp_path / "all.json", "--classes", "cube,ball",
            "--val-fraction", "0.4", "--output", tmp_path / "split")  # fmt: skip
    sides = []
    for part in ("train", "val"):
        images = json.loads((tmp_path / "split" / "annotations" / f"{part}.json").read_text())["images"]
        sides.append({image["tile_of"] for image in images})
    assert all(sides) and not sides[0] & sides[1]
