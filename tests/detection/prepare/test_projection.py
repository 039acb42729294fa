"""Sonar frames as fans and in polar form: pictures, boxes and what is told of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detection.synthetic import FARTHEST, NEAREST, OPENING_DEGREES, fan
from ppcls_ext.utils.errors import UserError
from tests.support.raw_data import corners, prepare, write_voc

SIZE = 160
SONAR = f"<sonar><range>{FARTHEST}</range><azimuth>{OPENING_DEGREES}</azimuth></sonar>"
# A square ahead in the middle of the fan and a long thing to its right, as x1, y1, x2, y2.
MIDDLE, RIGHT = (78, 88, 82, 92), (95, 60, 125, 66)
INSIDE = fan(SIZE, 208, 192)[2]


def write_frames(folder: Path, box: tuple[int, int, int, int], extra: str = SONAR, white: float = 255) -> Path:
    """Two fans, dark but for what lies in the box; ``white``: how large samples get (1: fractions)."""
    for number in range(2):
        pixels = np.where(INSIDE, 20 + number, 0).astype(np.uint8)
        pixels[box[1] : box[3], box[0] : box[2]] = 250
        folder.mkdir(exist_ok=True)
        name, kind = {255: ("bmp", np.uint8), 1: ("tiff", np.float32)}.get(white, ("png", np.uint16))
        samples = (pixels * (white / 255)).astype(kind)
        cv2.imwrite(str(folder / f"{number}.{name}"), samples)
        write_voc(folder / f"{number}.xml", corners("cube", *box), size=(SIZE, SIZE), extra=extra)
    (folder.parent / "lists").mkdir(exist_ok=True)
    for part, number in (("train", 0), ("val", 1)):
        (folder.parent / "lists" / part).write_text(f"{number}\n")
    return folder


def project(source: Path, form: str, *options: str) -> tuple[np.ndarray, list[float], dict[str, Any]]:
    """Prepares frames in the other form; returns the first picture, its box and its entry in the COCO file."""
    output = source.parent / f"{source.name}_{form}"
    lists = source.parent / "lists"
    given = ["--split-files", str(lists / "train"), str(lists / "val")] if not (source / "annotations").exists() else []
    options = ("--projection", form, *given, *options)
    prepare("sonar", source, "--classes", "cube", "--output", output, "--overwrite", *options)
    coco = json.loads((output / "annotations" / "train.json").read_text())
    image = coco["images"][0]
    pixels = cv2.imread(str(output / "images" / image["file_name"]), cv2.IMREAD_UNCHANGED)
    assert (image["width"], image["height"]) == pixels.shape[::-1]
    assert Path(image["file_name"]).suffix == (".tiff" if pixels.dtype == np.float32 else ".png")
    return pixels, coco["annotations"][0]["bbox"], image


def lit_box(pixels: np.ndarray) -> np.ndarray:
    """Returns x, y, width, height around what is as bright as the object."""
    rows, columns = np.nonzero(pixels > 0.5 * pixels.max())
    return np.array([columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1])


@pytest.mark.parametrize("nearest", ["bottom", "top"])
def test_there_and_back_the_middle_of_the_fan_stays_within_a_pixel(tmp_path: Path, nearest: str) -> None:
    source = write_frames(tmp_path / "raw", MIDDLE)
    rows, columns = np.nonzero(INSIDE)
    project(source, "polar", "--nearest", nearest)
    with pytest.raises(UserError, match=r"0\.png: has the form polar already"):
        project(tmp_path / "raw_polar", "polar")
    pixels, box, image = project(tmp_path / "raw_polar", "fan")
    expected = np.array([80.0, 90.0]) - (columns.min(), rows.min())
    found = lit_box(pixels)
    assert np.abs(found[:2] + found[2:] / 2 - expected).max() <= 1
    assert np.abs(np.add(box[:2], np.divide(box[2:], 2)) - expected).max() <= 1
    # The same fan as before, and nothing around it.
    again = INSIDE[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert np.abs(np.subtract(pixels.shape, again.shape)).max() <= 1
    height, width = np.minimum(pixels.shape, again.shape)
    assert ((pixels[:height, :width] > 0) != again[:height, :width]).mean() < 0.02
    assert image["sonar"]["projection"] == "fan" and "nearest" not in image["sonar"]


def test_rows_of_a_polar_frame_are_ranges_and_its_boxes_hold_the_whole_object(tmp_path: Path) -> None:
    source = write_frames(tmp_path / "raw", RIGHT)
    pixels, box, image = project(source, "polar")
    assert pixels.all(), "a polar frame has no dark corners"
    assert np.abs(np.array(box) - lit_box(pixels)).max() <= 1.5
    # Far, so in the upper half; to the right.
    assert box[1] + box[3] / 2 < pixels.shape[0] / 2 and box[0] > pixels.shape[1] / 2
    near, far = image["sonar"]["range_window"]
    assert image["sonar"]["projection"] == "polar" and far == FARTHEST
    assert near == pytest.approx(NEAREST, abs=0.1), "found in the picture"
    upside_down, turned, image = project(source, "polar", "--nearest", "top")
    assert np.abs(upside_down[::-1].astype(int) - pixels).max() <= 1
    assert turned[1] == pytest.approx(pixels.shape[0] - box[1] - box[3])
    assert image["sonar"]["nearest"] == "top"


@pytest.mark.parametrize("white", [4095, 1])
def test_what_is_not_in_the_annotations_comes_from_options(tmp_path: Path, white: float) -> None:
    source = write_frames(tmp_path / "raw", RIGHT, extra="", white=white)
    options = ("--opening-angle", str(OPENING_DEGREES), "--range", str(NEAREST), str(FARTHEST))
    pixels, _, image = project(source, "polar", *options)
    assert pixels.dtype == (np.float32 if white == 1 else np.uint16)
    assert pixels.max() == pytest.approx(250 / 255 * white, abs=1)
    assert image["sonar"]["range_window"] == [NEAREST, FARTHEST]
    with pytest.raises(UserError, match=r"0\.\w+: its annotation tells no .*--opening-angle DEGREES.*--range NEAR FAR"):
        project(source, "polar", "--opening-angle", "60")
    with pytest.raises(UserError, match=r"lit part of the frames, .*is no fan of 150 degrees from 0\.8 to 6 m"):
        project(source, "polar", "--opening-angle", "150", *options[2:])
    with pytest.raises(UserError, match="go with --projection"):
        prepare("sonar", source, "--classes", "cube", "--output", tmp_path / "new", "--nearest", "top")
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".fans-*"))
