"""Preparing data whose boxes do not fit the pictures: refused with the option that reads them, then read as chosen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.utils.errors import UserError
from tests.support.raw_data import (
    HEIGHT,
    WIDTH,
    Prepared,
    box_entry,
    corners,
    image_entry,
    prepared,
    write_coco,
    write_image,
    write_voc,
)

# Left, top, width and height of an object on each of ten frames of 64 x 48 pixels.
OBJECTS = [
    (1, 39, 14, 9), (6, 38, 13, 10), (11, 30, 12, 8), (16, 28, 14, 7), (21, 24, 11, 8),
    (26, 20, 13, 6), (31, 16, 12, 8), (37, 12, 14, 7), (48, 8, 14, 6), (50, 4, 13, 8),
]  # fmt: skip


def write_source(
    folder: Path, form: str, box: Callable[..., tuple[float, ...]], stated: tuple[int, int], name: str = "labels"
) -> Path:
    """Ten frames, each with the numbers that ``box`` makes of x, y, w and h, as ``voc`` or ``coco``."""
    entries, boxes = [], []
    for number, object_ in enumerate(OBJECTS):
        write_image(folder / f"{number}.png", seed=number)
        if form == "voc":
            write_voc(folder / f"{number}.xml", corners("cube", *box(*object_)), size=stated)
        entries.append(image_entry(number, f"{number}.png", stated))
        boxes.append(box_entry(number, number, box=tuple(map(float, box(*object_)))))
    if form == "coco":
        write_coco(folder / f"{name}.json", entries, boxes)
    return folder


def imagefolder(source: Path, *arguments: str) -> Prepared:
    return prepared("imagefolder", source, "--classes", "cube,ball", *arguments)


def as_corners(x: float, y: float, w: float, h: float) -> tuple[float, ...]:
    return x, y, x + w, y + h


def as_sides(*box: float) -> tuple[float, ...]:
    return box


SIZE, TWICE = (WIDTH, HEIGHT), (2 * WIDTH, 2 * HEIGHT)


@pytest.mark.parametrize(
    ("form", "box", "stated", "option"),
    [
        ("coco", as_corners, SIZE, "--boxes xyxy"),
        ("voc", as_sides, SIZE, "--boxes xywh"),
        ("voc", lambda x, y, w, h: (x / 64, y / 48, (x + w) / 64, (y + h) / 48), SIZE, "--normalised"),
        ("voc", lambda *box: tuple(2 * value for value in as_corners(*box)), TWICE, "--scale-boxes"),
        ("coco", lambda *box: tuple(2 * value for value in box), SIZE, "--scale-by 0.5"),
    ],
    ids=["corners", "sides", "fractions", "of larger pictures", "of larger pictures, which nothing tells"],
)
def test_refused_until_the_person_has_chosen(
    tmp_path: Path, form: str, box: Callable[..., tuple[float, ...]], stated: tuple[int, int], option: str
) -> None:
    source = write_source(tmp_path / "raw", form, box, stated)
    with pytest.raises(UserError, match=f"{' of 10 (boxes|pictures)'}.*{option}"):
        imagefolder(source)
    assert not (tmp_path / "prepared").exists()
    result = imagefolder(source, *option.split())
    (line,) = result.reasons("box_reading")
    assert line.startswith("all: boxes are ") and line.endswith("10 of 10 fit their pictures")
    for number, object_ in enumerate(OBJECTS):
        ((_, found),) = result.boxes(f"{number}.png")
        np.testing.assert_allclose(found, object_, atol=1e-6)


def test_one_part_is_enough(tmp_path: Path) -> None:
    """Training written otherwise than validation; and duo reads as the others do."""
    for part, box in (("train", as_corners), ("test", as_sides)):
        write_source(tmp_path / "raw" / part, "coco", box, SIZE, part)
    with pytest.raises(UserError, match=r"raw \(train\): .* of 10 boxes reach beyond .*--boxes xyxy"):
        prepared("duo", tmp_path / "raw")


def turn(source: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for file in source.glob("*.png"):
        with Image.open(file) as image:
            image.save(file, exif=exif)


@pytest.mark.parametrize("form", ["voc", "coco"])
def test_boxes_of_the_stored_picture(tmp_path: Path, form: str) -> None:
    """Photos that EXIF turns, with boxes and sizes of the pictures as they are stored."""
    written = as_corners if form == "voc" else as_sides
    source = write_source(tmp_path / "raw", form, lambda x, y, w, h: written(x / 2, y / 2, w, h), SIZE)
    turn(source, 6)
    with pytest.raises(UserError, match="EXIF data turn 10 of 10 pictures by a quarter.*--turn-boxes if"):
        imagefolder(source)
    x, y, w, h = (10.5, 12, 11, 8)
    assert imagefolder(source, "--turn-boxes").boxes("4.png") == [("cube", [HEIGHT - y - h, x, h, w])]
    assert imagefolder(source, "--no-turn-boxes").boxes("4.png") == [("cube", [x, y, w, h])]


def test_mirrored_pictures_which_no_size_tells_are_said(tmp_path: Path) -> None:
    source = write_source(tmp_path / "raw", "coco", as_sides, SIZE)
    turn(source, 2)
    result = imagefolder(source)
    assert "EXIF data turn or mirror 10 of 10 pictures" in result.reasons("box_reading")[0]
    assert result.boxes("4.png") == [("cube", list(OBJECTS[4]))]
    x, y, w, h = OBJECTS[4]
    assert imagefolder(source, "--turn-boxes").boxes("4.png") == [("cube", [WIDTH - x - w, y, w, h])]
