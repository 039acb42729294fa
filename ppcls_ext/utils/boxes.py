"""Boxes with labels on pictures: one fixed colour for each class, labels inside the picture and beside each other."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ppcls_ext.utils.pictures import TINY, Colour, font_of, line_height, shortened

# Bright enough for black sonar frames, saturated enough for murky water, and told apart by most colour-blind eyes when
# two neighbours in the list meet.
PALETTE: tuple[Colour, ...] = (
    (255, 196, 0),
    (0, 188, 255),
    (255, 92, 92),
    (72, 214, 110),
    (214, 130, 255),
    (255, 143, 43),
    (60, 240, 214),
    (255, 130, 190),
    (190, 230, 60),
    (130, 160, 255),
    (222, 184, 135),
    (255, 255, 140),
)
BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
# The longer side of a picture is enlarged to at least this, so that labels have room beside the targets.
READABLE_SIDE = 640
LARGEST_FACTOR = 16
LIGHT = 115
DASH = 7


@dataclass(frozen=True)
class _Box:
    """One box to draw: corners in pixels of the enlarged picture, clipped to it."""

    corners: tuple[float, float, float, float]
    text: str
    colour: Colour
    dashed: bool


def class_colour(number: int) -> Colour:
    """Returns the colour of class ``number`` (from 0): the palette, then hues by the golden angle."""
    if number < len(PALETTE):
        return PALETTE[number]
    hue = (number * 0.61803398875) % 1.0
    channels = (abs((hue * 6 + shift) % 6 - 3) - 1 for shift in (0, 4, 2))
    red, green, blue = (round(90 + 165 * min(max(channel, 0.0), 1.0)) for channel in channels)
    return red, green, blue


def draw_boxes(
    image: np.ndarray | Image.Image,
    boxes: np.ndarray | Sequence[Sequence[float]],
    labels: Sequence[str],
    scores: Sequence[float] | None = None,
    classes: Sequence[int] | None = None,
    colours: Sequence[Colour] | None = None,
    dashed: Sequence[bool] | None = None,
    smallest: int = READABLE_SIDE,
) -> Image.Image:
    """Draws boxes and their labels on a copy of a picture; strong detections lie on top of weak ones.

    Args:
        image: ``uint8`` RGB ``[H, W, 3]`` or grey ``[H, W]``, or a Pillow image.
        boxes: ``[N, 4]`` of ``x_min, y_min, x_max, y_max`` in pixels of ``image``; they are clipped to it, and those
            that lie outside are left out.
        labels: N texts, usually class names.
        scores: N scores between 0 and 1, written behind the labels as per cent.
        classes: N class numbers from 0, which choose the colours; without them the label's text does.
        colours: N colours, instead of those of the classes.
        dashed: N marks of boxes to be drawn with a broken line.
        smallest: a picture whose longer side is shorter than this is enlarged by a whole factor; 0 keeps its size.

    Returns:
        A new RGB picture, as large as ``image`` or a whole number of times larger.

    Raises:
        ValueError: lists of different lengths, boxes that are not four finite numbers, or an image of another shape.
    """
    picture, factor = enlarged(image, smallest)
    corners = _checked_corners(boxes)
    count = len(corners)
    for name, values in (
        ("labels", labels), ("scores", scores), ("classes", classes), ("colours", colours), ("dashed", dashed)
    ):  # fmt: skip
        if values is not None and len(values) != count:
            raise ValueError(f"{name}: {len(values)} for {count} boxes")
    if colours is None:
        numbers = classes if classes is not None else [zlib.crc32(label.encode()) for label in labels]
        colours = [class_colour(int(number)) for number in numbers]
    order = range(count) if scores is None else sorted(range(count), key=lambda index: scores[index])
    drawn = []
    for index in order:
        inside = _clipped(corners[index] * factor, picture.size)
        if inside is not None:
            text = labels[index] if scores is None else f"{labels[index]} {100 * scores[index]:.0f} %"
            drawn.append(_Box(inside, text, colours[index], dashed is not None and bool(dashed[index])))
    _draw(picture, drawn)
    return picture


def enlarged(image: np.ndarray | Image.Image, smallest: int = READABLE_SIDE) -> tuple[Image.Image, int]:
    """Returns an RGB copy whose longer side has at least ``smallest`` pixels, and the whole factor it grew by.

    Raises:
        ValueError: the array is not ``uint8`` ``[H, W]`` or ``[H, W, 3]``, or it is empty.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.size == 0 or not (image.ndim == 2 or image.shape[2:] == (3,)):
            raise ValueError(f"image: need uint8 [H, W, 3] or [H, W], not {image.dtype} {list(image.shape)}")
        image = Image.fromarray(np.ascontiguousarray(image))
    picture = image.convert("RGB")
    if picture is image:
        picture = image.copy()
    longer = max(picture.size)
    factor = min(max(math.ceil(smallest / longer), 1), LARGEST_FACTOR)
    if factor > 1:
        method = Image.Resampling.NEAREST if longer <= TINY else Image.Resampling.BICUBIC
        picture = picture.resize((picture.width * factor, picture.height * factor), method)
    return picture, factor


def _checked_corners(boxes: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
    """Returns the boxes as ``float64`` ``[N, 4]``."""
    corners = np.asarray(boxes, dtype=np.float64)
    if corners.size == 0:
        return np.zeros((0, 4))
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise ValueError(f"boxes: need [N, 4], not {list(corners.shape)}")
    if not np.isfinite(corners).all():
        raise ValueError("boxes: need finite numbers")
    return corners


def _clipped(corners: np.ndarray, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """Returns the part of a box that lies in a picture of ``size`` (width, height), or None where there is none."""
    width, height = size
    left, right = sorted((float(corners[0]), float(corners[2])))
    top, bottom = sorted((float(corners[1]), float(corners[3])))
    if right < 0 or bottom < 0 or left > width or top > height:
        return None
    return max(left, 0.0), max(top, 0.0), min(right, width - 1.0), min(bottom, height - 1.0)


def _draw(picture: Image.Image, boxes: Sequence[_Box]) -> None:
    """Draws all lines, then all labels, so that no line crosses a label."""
    pen = ImageDraw.Draw(picture)
    line = max(2, round(max(picture.size) / 320))
    for box in boxes:
        _outline(pen, box, line)
    font = font_of(min(max(12, round(max(picture.size) / 45)), 34))
    margin = max(2, line)
    height = line_height(font) + margin
    taken: list[tuple[float, float, float, float]] = []
    # The best detection chooses its place first, and is drawn last.
    places = []
    for box in reversed(boxes):
        text = shortened(box.text, font, picture.width - 2 * margin)
        if not text:
            continue
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        width = math.ceil(right - left) + 2 * margin
        place = _label_place(box, (width, height), picture.size, taken, boxes)
        taken.append(place)
        places.append((box, text, place))
    for box, text, (x, y, right, bottom) in reversed(places):
        pen.rectangle((x, y, right - 1, bottom - 1), fill=box.colour)
        brightness = 0.299 * box.colour[0] + 0.587 * box.colour[1] + 0.114 * box.colour[2]
        ink = BLACK if brightness > LIGHT else WHITE
        pen.text((x + margin, (y + bottom) / 2), text, fill=ink, font=font, anchor="lm")


def _outline(pen: ImageDraw.ImageDraw, box: _Box, line: int) -> None:
    """Draws the sides of a box above a thin dark shadow, which keeps light colours visible on light ground."""
    left, top, right, bottom = box.corners
    if not box.dashed:
        pen.rectangle((left - 1, top - 1, max(right, left) + 1, max(bottom, top) + 1), outline=BLACK, width=line + 2)
        pen.rectangle((left, top, max(right, left), max(bottom, top)), outline=box.colour, width=line)
        return
    dash = DASH * line / 2
    for x1, y1, x2, y2 in ((left, top, right, top), (left, bottom, right, bottom),
                           (left, top, left, bottom), (right, top, right, bottom)):  # fmt: skip
        length = math.hypot(x2 - x1, y2 - y1)
        # An odd number of strokes and gaps, so that both corners are drawn.
        pieces = max(1, round(length / dash)) | 1
        for piece in range(0, pieces, 2):
            begin, end = piece / pieces, (piece + 1) / pieces
            stroke = (x1 + (x2 - x1) * begin, y1 + (y2 - y1) * begin, x1 + (x2 - x1) * end, y1 + (y2 - y1) * end)
            pen.line(stroke, fill=BLACK, width=line + 2)
            pen.line(stroke, fill=box.colour, width=line)


def _label_place(
    box: _Box,
    label: tuple[float, float],
    size: tuple[int, int],
    taken: Sequence[tuple[float, float, float, float]],
    boxes: Sequence[_Box],
) -> tuple[float, float, float, float]:
    """Chooses where a label hides least: around the box or, if there is no room, just inside it."""
    width, height = label
    # Whole pixels, away from the box: a label that cut into its own box by a fraction would seem to hide it.
    left, top = (math.floor(value) for value in box.corners[:2])
    right, bottom = (math.ceil(value) for value in box.corners[2:])
    candidates = [(x, y) for y in (top - height, bottom + 1) for x in (left, right + 1 - width)]
    candidates += [(right + 2, top), (left - width - 1, top), (left, top), (left, bottom - height)]
    best, least = (0, 0, width, height), math.inf
    for rank, (x, y) in enumerate(candidates):
        x, y = min(max(x, 0), size[0] - width), min(max(y, 0), size[1] - height)
        place = (x, y, x + width, y + height)
        labels = sum(_overlap(place, other) for other in taken)
        targets = sum(_overlap(place, other.corners) for other in boxes)
        cost = 4 * labels + targets + rank
        if cost < least:
            best, least = place, cost
    return best


def _overlap(first: tuple[float, float, float, float], second: tuple[float, float, float, float]) -> float:
    """Returns the common area of two boxes, in square pixels."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0.0) * max(height, 0.0)
