"""Images with their boxes drawn: examples of a fault, and rows of samples that show every class."""

from __future__ import annotations

from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from detection.check.run import Check
from ppcls_ext.check.findings import PART_WORDS, Entry, Picture
from ppcls_ext.check.overview import INNER, PADDING
from ppcls_ext.check.tiles import crossed_box, font_of, load_picture, panel, shorten
from ppcls_ext.preprocess.decode import ImageError
from ppcls_ext.utils.drawing import DESK, INK, SUBTLE, WRONG, Colour, class_colour, draw_boxes

GAP = 8
# The greatest height of a row.
SAMPLE_HEIGHT = 290
CAPTION = 20
ROWS = {"Train": 2, "Eval": 1}
# Images beyond these shapes (width over height) are padded to them.
SHAPES = (0.5, 2.2)
# What is shown around a box at fault: so many times its longer side, and at least so many pixels.
AROUND = 4.0
LEAST_AROUND = 48.0
UNKNOWN_CLASS: Colour = (190, 190, 190)
CANDIDATES = 2000
MOST_SAMPLES = 40


def example_tile(check: Check, entry: Entry, picture: Picture, side: int) -> Image.Image:
    """Draws an image of an instance: around its box if it has one, else whole with all boxes.

    Args:
        check: holds the annotations.
        entry: the instance; ``details["bbox"]`` is its box.
        picture: one of its images.
        side: of the square, in pixels.
    """
    try:
        image = _picture(check, picture)
    except ImageError as error:
        return crossed_box(side, error.cause)
    box = entry.details.get("bbox")
    if box is None or not all(isinstance(value, int | float) for value in box):
        return ImageOps.pad(_with_boxes(check, picture, image, side, named=False), (side, side), color=DESK)
    x, y, width, height = (float(value) for value in box)
    left, top, reach = _view(image.size, (x, y, x + width, y + height))
    factor = side / reach
    canvas = Image.new("RGB", (side, side), DESK)
    mapping = (1 / factor, 0, left, 0, 1 / factor, top)
    view = image.transform((side, side), Image.Transform.AFFINE, mapping, Image.Resampling.BILINEAR)
    inside = Image.new("L", image.size, 255).transform((side, side), Image.Transform.AFFINE, mapping)
    canvas.paste(view, (0, 0), inside)
    corners = np.array([[x - left, y - top, x + width - left, y + height - top]]) * factor
    return draw_boxes(canvas, corners, [""], colours=[WRONG], smallest=0)


def _picture(check: Check, picture: Picture) -> Image.Image:
    """Reads an image; a sonar frame, which may be nearly black, is shown as the detector will see it."""
    image = load_picture(check.scan, picture)
    enhance = check.plan.enhance
    return image if enhance is None else Image.fromarray(enhance(np.asarray(image)))


def _view(size: tuple[int, int], box: tuple[float, float, float, float]) -> tuple[float, float, float]:
    """Returns left, top and side of the square that shows a box: close by, or all of the image if outside."""
    left, right = sorted((box[0], box[2]))
    top, bottom = sorted((box[1], box[3]))
    if right <= 0 or bottom <= 0 or left >= size[0] or top >= size[1]:
        # As far as three images away; beyond that nothing could be seen of either.
        left, right = max(min(left, 0), -size[0]), min(max(right, size[0]), 2 * size[0])
        top, bottom = max(min(top, 0), -size[1]), min(max(bottom, size[1]), 2 * size[1])
        reach = 1.05 * max(right - left, bottom - top)
    else:
        reach = min(max(AROUND * max(right - left, bottom - top), LEAST_AROUND), 1.1 * max(size))
        reach = max(reach, 1.1 * min(max(right - left, bottom - top), 2 * max(size)))
    return (left + right - reach) / 2, (top + bottom - reach) / 2, reach


def _with_boxes(check: Check, picture: Picture, image: Image.Image, longest: int, named: bool = True) -> Image.Image:
    """Scales an image to fit into a square and draws its boxes."""
    coco = check.sets[picture.part]
    factor = longest / max(image.size)
    size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
    chosen = np.flatnonzero((coco.rows == picture.index) & np.isfinite(coco.boxes).all(axis=1))
    boxes = coco.boxes[chosen]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) * np.tile(
        np.divide(size, image.size), 2
    )
    numbers = [check.classes.names.index(coco.class_name(row)) if coco.classes[row] >= 0 else None for row in chosen]
    return draw_boxes(
        image.resize(size, Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC),
        corners,
        [coco.class_name(row) if named else "" for row in chosen.tolist()],
        colours=[UNKNOWN_CLASS if number is None else class_colour(number) for number in numbers],
        smallest=0,
    )


def samples_panel(check: Check, part: str) -> Image.Image:
    """Draws rows of images of a set with their boxes; rare classes are shown as well as frequent ones."""
    rows = _layout([(picture, _shape(check, picture)) for picture in _order(check, part)], ROWS[part])
    top = PADDING + 30
    height = sum(row.height + CAPTION + GAP for row in rows)
    image = panel(INNER, top + max(height, CAPTION) + PADDING // 2)
    pen = ImageDraw.Draw(image)
    pen.text((PADDING, PADDING - 4), f"Samples, {PART_WORDS[part]}", font=font_of(17), fill=INK)
    font = font_of(11)
    if not rows:
        pen.text((PADDING, top), "no image could be read", font=font_of(15), fill=SUBTLE)
    y = top
    for row in rows:
        x = PADDING
        for picture, width in row.pictures:
            image.paste(_sample(check, picture, width, row.height), (x, y))
            name = PurePath(check.name_of(picture)).name
            pen.text((x, y + row.height + 3), shorten(name, font, width, keep_end=True), font=font, fill=SUBTLE)
            x += width + GAP
        y += row.height + CAPTION + GAP
    return image


class _Row(NamedTuple):
    """Images beside each other with their widths, all of one height, in pixels."""

    height: int
    pictures: list[tuple[Picture, int]]


def _layout(shapes: list[tuple[Picture, float]], most: int) -> list[_Row]:
    """Fills up to ``most`` rows with images of given width over height; each row is stretched to the whole width."""
    rows: list[_Row] = []
    waiting: list[tuple[Picture, float]] = []
    for position, (picture, shape) in enumerate(shapes):
        waiting.append((picture, shape))
        room = INNER - 2 * PADDING - GAP * (len(waiting) - 1)
        height = room / sum(shape for _, shape in waiting)
        last = position == len(shapes) - 1
        if height <= SAMPLE_HEIGHT or last:
            height = min(height, SAMPLE_HEIGHT)
            rows.append(_Row(int(height), [(each, int(height * shape)) for each, shape in waiting]))
            waiting = []
        if len(rows) == most:
            break
    return rows


def _shape(check: Check, picture: Picture) -> float:
    width, height = check.sizes[picture.part][picture.index].tolist()
    return min(max(width / max(height, 1), SHAPES[0]), SHAPES[1])


def _sample(check: Check, picture: Picture, width: int, height: int) -> Image.Image:
    try:
        image = _picture(check, picture)
    except ImageError as error:
        return ImageOps.pad(crossed_box(height, error.cause), (width, height), color=DESK)
    factor = min(width / image.width, height / image.height)
    drawn = _with_boxes(check, picture, image, round(factor * max(image.size)))
    sheet = Image.new("RGB", (width, height), DESK)
    sheet.paste(drawn, ((width - drawn.width) // 2, (height - drawn.height) // 2))
    return sheet


def _order(check: Check, part: str) -> list[Picture]:
    """Returns readable images, first those that show the classes seen least so far."""
    readable = check.scan.readable(part)
    shuffled = np.random.default_rng(0).permutation(readable)[:CANDIDATES]
    numbers = check.classes.numbers[part]
    coco = check.sets[part]
    shows = np.zeros((len(coco), len(check.classes.names)), dtype=bool)
    shows[coco.rows[numbers >= 0], numbers[numbers >= 0]] = True
    shows = shows[shuffled]
    seen = np.zeros(len(check.classes.names))
    waiting = np.ones(len(shuffled), dtype=bool)
    order = []
    for _ in range(min(len(shuffled), MOST_SAMPLES)):
        # An image is worth more the less its classes were seen; one without boxes is worth nothing.
        worth = np.where(waiting, (shows / (1.0 + seen) ** 2).sum(axis=1) / np.maximum(shows.sum(axis=1), 1) ** 0.5, -1)
        best = int(worth.argmax())
        waiting[best] = False
        seen += shows[best]
        order.append(Picture(part, int(shuffled[best])))
    return order
