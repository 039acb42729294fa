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
    frame,
    image_entry,
    prepare,
    write_coco,
    write_image,
    write_voc,
)

# Left, top, width and height of an object on each of ten frames of 64 x 48 pixels.
OBJECTS = [
    (1, 39, 14, 9), (6, 38, 13, 10), (11, 30, 12, 8), (16, 28, 14, 7), (21, 24, 11, 8),
    (26, 20, 13, 6), (31, 16, 12, 8), (37, 12, 14, 7), (48, 8, 14, 6), (50, 4, 13, 8),
]  # fmt: skip


def write_source(folder: Path, form: str, box: Callable[..., tuple[float, ...]], stated: tuple[int, int]) -> Path:
    """Ten frames, each with the numbers that ``box`` makes of x, y, w and h, as ``voc`` or ``coco``."""
    entries, boxes = [], []
    for number, object_ in enumerate(OBJECTS):
        write_image(folder / f"{number}.png", seed=number)
        if form == "voc":
            write_voc(folder / f"{number}.xml", corners("cube", *box(*object_)), size=stated)
        entries.append(image_entry(number, f"{number}.png", stated))
        boxes.append(box_entry(number, number, box=tuple(map(float, box(*object_)))))
    if form == "coco":
        write_coco(folder / "labels.json", entries, boxes)
    return folder


def prepared(source: Path, *arguments: str, command: str = "imagefolder") -> Prepared:
    output = source.parent / "prepared"
    prepare(command, source, "--classes", "cube,ball", "--output", output, *arguments)
    result = Prepared(output)
    result.check()
    return result


# How the numbers are written, the size that is stated, and the options that read them.
WRITTEN = {
    "corners": (lambda x, y, w, h: (x, y, x + w, y + h), (WIDTH, HEIGHT), "--boxes xyxy"),
    "sides": (lambda x, y, w, h: (x, y, w, h), (WIDTH, HEIGHT), "--boxes xywh"),
    "fractions": (lambda x, y, w, h: (x / 64, y / 48, (x + w) / 64, (y + h) / 48), (WIDTH, HEIGHT), "--normalised"),
    "large": (lambda x, y, w, h: (2 * x, 2 * y, 2 * (x + w), 2 * (y + h)), (2 * WIDTH, 2 * HEIGHT), "--scale-boxes"),
}  # fmt: skip


@pytest.mark.parametrize("form", ["voc", "coco"])
@pytest.mark.parametrize("name", WRITTEN)
def test_refused_until_the_person_has_chosen(tmp_path: Path, name: str, form: str) -> None:
    box, stated, option = WRITTEN[name]
    source = write_source(tmp_path / "raw", form, box, stated)
    options = option.split()
    if name in ("fractions", "large") and form == "coco":
        options += ["--boxes", "xyxy"]
    if (name, form) in (("corners", "voc"), ("sides", "coco")):
        result = prepared(source)
        assert result.kinds("noted") == {}
    else:
        with pytest.raises(UserError, match=f"{' of 10 (boxes|pictures)'}.*{option}"):
            prepared(source)
        assert not (tmp_path / "prepared").exists()
        result = prepared(source, *options)
        (line,) = result.reasons("box_reading")
        assert line.startswith("all: boxes are ") and line.endswith("10 of 10 fit their pictures")
    for number, object_ in enumerate(OBJECTS):
        ((_, found),) = result.boxes(f"{number}.png")
        np.testing.assert_allclose(found, object_, atol=1e-6)


def test_copies_whose_annotations_do_not_tell(tmp_path: Path) -> None:
    """The stated size is that of the copies, the boxes are those of pictures twice as large."""
    source = write_source(tmp_path / "raw", "coco", lambda *box: tuple(2 * value for value in box), (WIDTH, HEIGHT))
    with pytest.raises(UserError, match="pixels of another resolution.*--scale-by 0.5"):
        prepared(source)
    result = prepared(source, "--scale-by", "0.5")
    assert result.boxes("4.png") == [("cube", list(OBJECTS[4]))]


def test_one_part_is_enough(tmp_path: Path) -> None:
    """Training written otherwise than validation; and duo reads as the others do."""
    source = tmp_path / "raw"
    for part, form in (("train", "corners"), ("test", "sides")):
        write_source(source / part, "none", WRITTEN[form][0], (WIDTH, HEIGHT))
        boxes = [box_entry(number, number, box=WRITTEN[form][0](*each)) for number, each in enumerate(OBJECTS)]
        entries = [image_entry(number, f"{number}.png") for number in range(10)]
        write_coco(source / part / f"{part}.json", entries, boxes)
    with pytest.raises(UserError, match=r"raw \(train\): .* of 10 boxes reach beyond .*--boxes xyxy"):
        prepared(source, command="duo")


def write_turned(folder: Path, form: str, orientation: int, stated: bool = True) -> Path:
    """Six photos, stored as 64 x 48 and turned by EXIF; boxes and sizes of the stored picture."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    folder.mkdir()
    entries, boxes = [], []
    for number in range(6):
        image = Image.fromarray(frame(number, width=WIDTH, height=HEIGHT))
        image.save(folder / f"{number}.jpg", exif=exif)
        box = (4 + number, 8, 20, 30)
        size = (WIDTH, HEIGHT) if stated else (0, 0)
        if form == "voc":
            write_voc(folder / f"{number}.xml", corners("cube", 4 + number, 8, 24 + number, 38), size=size)
        entries.append(image_entry(number, f"{number}.jpg", size))
        boxes.append(box_entry(number, number, box=box))
    if form == "coco":
        write_coco(folder / "labels.json", entries, boxes)
    return folder


# The box 4 8 20 30 (x, y, w, h) of a picture of 64 x 48 once the picture is turned.
TURNED = [48 - 38, 4, 30, 20]


@pytest.mark.parametrize("form", ["voc", "coco"])
def test_boxes_of_the_stored_picture(tmp_path: Path, form: str) -> None:
    source = write_turned(tmp_path / "raw", form, 6)
    with pytest.raises(UserError, match="EXIF data turn 6 of 6 pictures by a quarter.*--turn-boxes if"):
        prepared(source)
    result = prepared(source, "--turn-boxes")
    assert result.boxes("0.jpg") == [("cube", TURNED)]
    assert result.kinds("noted") == {"box_reading": 1}
    result = prepared(source, "--no-turn-boxes", "--overwrite")
    assert result.boxes("0.jpg") == [("cube", [4, 8, 20, 30])]


@pytest.mark.parametrize(
    ("orientation", "stated", "box"),
    [(2, True, [64 - 24, 8, 20, 30]), (6, False, TURNED)],
)
def test_turns_that_no_size_tells_are_said(tmp_path: Path, orientation: int, stated: bool, box: list[int]) -> None:
    source = write_turned(tmp_path / "raw", "coco", orientation, stated=stated)
    result = prepared(source)
    assert "EXIF data turn or mirror 6 of 6 pictures" in result.reasons("box_reading")[0]
    result = prepared(source, "--boxes", "xywh", "--overwrite")
    assert "6 of 6 fit their pictures; EXIF data turn or mirror 6 of 6" in result.reasons("box_reading")[0]
    assert result.boxes("0.jpg") == [("cube", [4, 8, 20, 30])]
    assert prepared(source, "--turn-boxes", "--overwrite").boxes("0.jpg") == [("cube", box)]
