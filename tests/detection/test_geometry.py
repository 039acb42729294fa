"""What the numbers of boxes are: readings give the right corners, wrong ones are found, sound sets raise no doubt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.annotations import Frame, RawBox
from detection.geometry import (
    LAYOUTS,
    Boxes,
    BoxReading,
    Pictures,
    corners_of,
    doubt_about,
    place_boxes,
    read_pictures,
)
from ppcls_ext.preprocess import read_image

ORIENTATION = 0x0112


def pictures_of(*sizes: tuple[int, int], stated: list[tuple[int, int]] | None = None, orientation: int = 1) -> Pictures:
    shown = np.array(sizes, np.int64)
    told = shown if stated is None else np.array(stated, np.int64)
    return Pictures(shown, np.full(len(sizes), orientation, np.int64), told)


def random_corners(
    rows: np.ndarray, sizes: np.ndarray, low: float = 0.05, high: float = 0.3, seed: int = 0
) -> np.ndarray:
    """Returns objects with sides of these shares of their pictures, anywhere inside."""
    generator = np.random.default_rng(seed)
    sides = generator.uniform(low, high, (len(rows), 2))
    first = generator.uniform(0, 1 - sides)
    return np.concatenate([first, first + sides], axis=1) * np.tile(sizes[rows], 2)


def written(corners: np.ndarray, layout: str) -> np.ndarray:
    """Returns corners as an annotator who uses ``layout`` writes them."""
    low, high = corners[:, :2], corners[:, 2:]
    if layout.startswith("y"):
        low, high = low[:, ::-1], high[:, ::-1]
    if layout.endswith(("wh", "hw")):
        low, high = (low + high) / 2 if layout.startswith("c") else low, high - low
    return np.concatenate([low, high], axis=1)


def boxes_of(numbers: np.ndarray, layout: str, rows: np.ndarray) -> Boxes:
    return Boxes(np.asarray(numbers, np.float64), np.full(len(rows), layout), rows)


ROWS = np.repeat(np.arange(20), 5)
SIZES = pictures_of(*[(640, 480)] * 12, *[(600, 400)] * 8)
CORNERS = random_corners(ROWS, SIZES.shown)


@pytest.mark.parametrize("own", ["xyxy", "xywh"])
@pytest.mark.parametrize("true", LAYOUTS)
def test_boxes_written_otherwise_than_their_form_says(own: str, true: str) -> None:
    boxes = boxes_of(written(CORNERS, true), own, ROWS)
    np.testing.assert_allclose(corners_of(boxes, SIZES, BoxReading(boxes=true)), CORNERS)
    doubt = doubt_about(boxes, SIZES)
    if own == true:
        assert doubt is None
    else:
        assert f"--boxes {true} reads them so" in doubt and " of 100 boxes " in doubt
        assert doubt_about(boxes, SIZES, BoxReading(boxes=true)) is None
        # Whoever says that they are right is believed.
        assert doubt_about(boxes, SIZES, BoxReading(boxes="as-written")) is None


def picture_with_an_object(path: Path, orientation: int) -> Path:
    """Stores 96 x 64 pixels with a bright object 4 to 34 wide and 8 to 40 high, held as EXIF's number says."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[8:40, 4:34] = 250
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    return path


def bounds(path: Path) -> list[int]:
    bright = read_image(path)[..., 0] > 125
    columns, rows = np.flatnonzero(bright.any(axis=0)), np.flatnonzero(bright.any(axis=1))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_turned_as_the_decoder_turns_the_picture(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = picture_with_an_object(tmp_path / f"a.{suffix}", orientation)
    pictures = read_pictures([path, tmp_path / "missing.jpg"], [(96, 64), None])
    height, width = read_image(path).shape[:2]
    assert pictures.shown.tolist() == [[width, height], [0, 0]]
    assert pictures.orientation.tolist() == [orientation, 1]
    for reading, numbers in (
        (BoxReading(turn_boxes=True), [4, 8, 30, 32]),
        (BoxReading(turn_boxes=True, normalised=True), [4 / 96, 8 / 64, 30 / 96, 32 / 64]),
    ):
        found = corners_of(boxes_of(np.array([numbers]), "xywh", np.array([0])), pictures, reading)
        np.testing.assert_allclose(found, [bounds(path)], atol=1e-9)


def test_fractions_in_a_part_of_the_pictures() -> None:
    part = (ROWS % 9 == 0)[:, None]
    pictures = SIZES._replace(names=[f"{number}.png" for number in range(20)])
    numbers = np.where(part, CORNERS / np.tile(SIZES.shown[ROWS], 2), CORNERS)
    doubt = doubt_about(boxes_of(numbers, "xyxy", ROWS), pictures)
    assert f"{part.sum()} of 100 boxes, on {part.sum() // 5} pictures such as 0.png, hold no number above 1" in doubt
    assert "split the set" in doubt and "--no-normalised takes all as pixels" in doubt


@pytest.mark.parametrize(("own", "true"), [("xyxy", "xyxy"), ("xywh", "cxcywh")])
@pytest.mark.parametrize(("whole", "size"), [(100, (640, 480)), (1000, (4000, 3000)), (1000, (640, 480))])
def test_shares_of_the_picture_from_0_to_100_or_1000(whole: int, size: tuple[int, int], true: str, own: str) -> None:
    pictures = pictures_of(*[size] * 20)
    corners = random_corners(ROWS, pictures.shown)
    boxes = boxes_of(written(corners / np.tile(size, 2) * whole, true), own, ROWS)
    doubt = doubt_about(boxes, pictures)
    if own == true or min(size) >= 2 * whole:
        assert f"--normalised {whole} reads them so, --no-normalised as pixels" in doubt
    reading = BoxReading(boxes=true, normalised=whole)
    np.testing.assert_allclose(corners_of(boxes, pictures, reading), corners)
    assert doubt_about(boxes, pictures, reading) is None
    if min(size) >= 2 * whole:
        assert doubt_about(boxes, pictures, BoxReading(boxes=true, normalised=False)) is None


@pytest.mark.parametrize(("own", "other"), [("xywh", "xyxy"), ("xyxy", "xywh"), ("xyxy", "yxyx")])
def test_two_ways_to_write_boxes_in_one_set(own: str, other: str) -> None:
    part = ROWS % 3 == 0
    pictures = pictures_of(*[(640, 400)] * 20)
    corners = random_corners(ROWS, pictures.shown)
    numbers = np.where(part[:, None], written(corners, other), written(corners, own))
    doubt = doubt_about(boxes_of(numbers, own, ROWS), pictures)
    assert "split the set" in doubt and f"--boxes {other}" in doubt
    assert doubt_about(boxes_of(numbers, own, ROWS), pictures, BoxReading(boxes="as-written")) is None


# Sets that are right, or nearly: corners on pictures.


def with_bad_boxes(corners: np.ndarray, count: int) -> np.ndarray:
    """Some far outside, some with exchanged corners, some a little too large."""
    spoilt = corners.copy()
    spoilt[:count:3] += 5000
    spoilt[1:count:3] = spoilt[1:count:3][:, [2, 3, 0, 1]]
    spoilt[2:count:3, 2] = 720
    return spoilt


FULL = np.tile(SIZES.shown[ROWS], 2) * np.array([0, 0, 1, 1])
SOUND: dict[str, Callable[[], np.ndarray]] = {
    "a few bad boxes": lambda: with_bad_boxes(CORNERS, 9),
    "drawn beyond the border": lambda: CORNERS * 1.2 - 0.1 * np.tile([600, 400], 2),
    "full pictures": lambda: FULL,
    "small objects": lambda: random_corners(ROWS, SIZES.shown, 0.002, 0.01),
    "in the first quarter": lambda: CORNERS / 2,
    "placeholders": lambda: np.where(np.arange(100)[:, None] % 5, np.array([[0, 0, 0, 0]]), CORNERS),
}


@pytest.mark.parametrize("own", ["xyxy", "xywh"])
@pytest.mark.parametrize("name", SOUND)
def test_no_false_alarm(name: str, own: str) -> None:
    assert doubt_about(boxes_of(written(SOUND[name](), own), own, ROWS), SIZES) is None


@pytest.mark.parametrize("own", ["xyxy", "xywh"])
def test_no_false_alarm_in_random_sets(own: str) -> None:
    """Of any number of boxes and any size of objects, some of them spoilt."""
    generator = np.random.default_rng(5)
    for seed in range(60):
        count, high = int(generator.integers(1, 60)), float(generator.uniform(0.05, 0.9))
        corners = random_corners(ROWS[:count], SIZES.shown, 0.02, high, seed)
        spoilt = with_bad_boxes(corners, count // 10)
        assert doubt_about(boxes_of(written(spoilt, own), own, ROWS[:count]), SIZES) is None, (seed, count, high)


def test_what_cannot_be_told_is_said() -> None:
    """Sides taken for corners where all objects are large, and pixels of smaller pictures."""

    def words(corners: np.ndarray, layout: str, own: str) -> str:
        numbers = written(corners, layout).tolist()
        raw = [RawBox("cube", (0, 0, 1, 1), numbers=tuple(each), layout=own) for each in numbers]
        frames = [
            Frame(str(row), Path("none.png"), raw[5 * row : 5 * row + 5], "", tuple(size))
            for row, size in enumerate(SIZES.shown.tolist())
        ]
        doubt, text = place_boxes(frames)
        assert doubt is None
        return text

    large = random_corners(ROWS, SIZES.shown, 0.6, 0.9)
    text = words(large, "xywh", "xyxy")
    assert "all 100 boxes lie in the upper left quarter" in text and "(--boxes xywh)" in text
    assert "--scale-by 2 for half the size" in words(CORNERS / 2, "xywh", "xywh")
    # Too few to be sure of percent: every tenth box.
    text = words(np.where(np.arange(100)[:, None] % 10, 0, CORNERS * 70 / 480), "xywh", "xywh")
    assert "numbers from 0 to 100 of the picture (--normalised 100)?" in text and "quarter" not in text
    for corners in (CORNERS, large, FULL):
        assert words(corners, "xyxy", "xyxy") == words(corners, "xywh", "xywh") == ""
