"""One picture of detection data: charts of classes and boxes, what was found, and samples with their boxes drawn."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from detection.check.run import DetectionCheck, scales
from ppcls_ext.check.findings import PART_WORDS, Entry, Picture, count_of
from ppcls_ext.check.images import load_pixels
from ppcls_ext.check.overview import (
    CHART_COLOURS,
    CHART_SUBTLE,
    INNER,
    MARGIN,
    MOST_BARS,
    MOST_POINTS,
    PADDING,
    chart_to_image,
    charts_row,
    crossed_box,
    draw_bars,
    draw_findings,
    draw_heading,
    evenly,
    logarithmic,
    new_chart,
    panel,
    stack,
)
from ppcls_ext.preprocess.decode import ImageError
from ppcls_ext.utils.drawing import DESK, INK, SUBTLE, WRONG, Colour, class_colour, draw_boxes, font_of, shortened

CHART_HEIGHT = 320
NARROW = (INNER - 3 * MARGIN) // 4
# Boxes in one image from which all are counted together.
MANY_BOXES = 15
CELLS = 48
# Rows of samples, their gaps and greatest height, in pixels.
GAP = 8
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


def draw_overview(check: DetectionCheck) -> Image.Image:
    """Draws the overview of a check that could open at least one set; RGB, 1600 pixels wide."""
    facts = [check.facts_about(part) for part in check.sets]
    if check.plan.num_classes is not None:
        facts.append(f"num_classes: {check.plan.num_classes:,}")
    every = np.concatenate(list(check.sizes.values()))
    different = np.unique(every[(every > 0).all(axis=1)], axis=0)
    if len(different):
        several = f"{len(different):,} image sizes"
        facts.append("{} x {} px".format(*different[0]) if len(different) == 1 else several)
    first = next(iter(check.sizes.values()))
    first = first[(first > 0).all(axis=1)]
    aspect = float(np.clip(np.median(first[:, 0] / first[:, 1]), 0.4, 2.5)) if len(first) else 1.0
    shapes = shapes_of(check)
    size = check.plan.evaluation_size
    words = f" at {size.width} x {size.height}" if size else ""

    def caption(picture: Picture) -> str:
        return count_of(int((check.sets[picture.part].rows == picture.index).sum()), "box", "boxes")

    return stack(
        [
            draw_heading(f"Data of {check.name}", facts, check.findings),
            charts_row(
                CHART_HEIGHT,
                [
                    (INNER - MARGIN - NARROW, partial(draw_class_boxes, check)),
                    (NARROW, partial(draw_boxes_per_image, check)),
                ],
            ),
            charts_row(
                CHART_HEIGHT,
                [
                    (NARROW, partial(draw_box_sizes, shapes, words)),
                    (NARROW, partial(draw_widths_and_heights, shapes, words)),
                    (NARROW, partial(draw_aspects, shapes)),
                    (NARROW, partial(draw_positions, shapes, aspect)),
                ],
            ),
            draw_findings(check.findings, check.scan, caption, partial(example_tile, check)),
            *(samples_panel(check, part) for part in check.sets),
        ]
    )


# Charts


class Shapes(NamedTuple):
    """The boxes of a set that can be learnt from.

    Attributes:
        sizes: width and height in pixels at the size of the evaluation, ``float64`` ``[B, 2]``.
        corners: left, top, right and bottom as shares of the image, clipped to it, ``float64`` ``[B, 4]``.
        aspects: width over height in the image as it is, ``float64`` ``[B]``.
    """

    sizes: np.ndarray
    corners: np.ndarray
    aspects: np.ndarray


def shapes_of(check: DetectionCheck) -> dict[str, Shapes]:
    """Returns the boxes by set."""
    result = {}
    for part, coco in check.sets.items():
        images = check.sizes[part]
        chosen = (check.classes.numbers[part] >= 0) & (images[coco.rows] > 0).all(axis=1)
        rows, boxes = coco.rows[chosen], coco.boxes[chosen]
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) / np.tile(images[rows], 2)
        sizes = boxes[:, 2:] * scales(images, check.plan.evaluation_size)[rows]
        result[part] = Shapes(sizes, corners.clip(0.0, 1.0), boxes[:, 2] / boxes[:, 3])
    return result


def draw_class_boxes(check: DetectionCheck, width: int, height: int) -> Image.Image:
    """Draws the boxes of each class in each set; RGB of ``width`` x ``height`` pixels."""
    counts = check.classes.boxes
    shown = np.argsort(-sum(counts.values()), kind="stable")[:MOST_BARS]
    rest = len(check.classes.names) - len(shown)
    if not rest:
        shown = np.arange(len(shown))
    hidden = f"  ({rest} rarer classes not shown)" if rest else ""
    figure, axes = new_chart(width, height, f"Boxes by class{hidden}")
    names = [check.classes.names[number] for number in shown.tolist()]
    bars = {part: values[shown] for part, values in counts.items()}
    draw_bars(axes, names, bars, width, numbers=len(shown) <= MOST_BARS // 2)
    return chart_to_image(figure)


def draw_boxes_per_image(check: DetectionCheck, width: int, height: int) -> Image.Image:
    """Draws how many images have 0, 1, 2, ... boxes."""
    figure, axes = new_chart(width, height, "Boxes per image")
    counts = {}
    for part, coco in check.sets.items():
        rows = coco.rows[check.classes.numbers[part] >= 0]
        counts[part] = np.bincount(rows, minlength=len(coco)).clip(max=MANY_BOXES)
    most = max(int(numbers.max()) for numbers in counts.values())
    names = [f"{number}+" if number == MANY_BOXES else f"{number}" for number in range(most + 1)]
    shares = {part: 100 * np.bincount(numbers, minlength=most + 1) / len(numbers) for part, numbers in counts.items()}
    draw_bars(axes, names, shares, width)
    # The only key stands in the chart of classes; the colours mean the same in all charts.
    axes.get_legend().remove()
    axes.set_ylabel("% of images")
    return chart_to_image(figure)


def draw_box_sizes(shapes: Mapping[str, Shapes], words: str, width: int, height: int) -> Image.Image:
    """Draws a histogram of the square root of the boxes' area; ``words`` tell at which size of the images."""
    figure, axes = new_chart(width, height, "Box size")
    sides = {part: np.sqrt(shape.sizes.prod(axis=1)) for part, shape in shapes.items()}
    if _has_boxes(axes, sides):
        every = np.concatenate(list(sides.values()))
        low, high = np.floor(np.log2(every.min())), np.ceil(np.log2(every.max()) + 1e-9)
        _draw_histogram(axes, sides, 2.0 ** np.linspace(low, max(high, low + 1), 33))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(f"square root of the area (px){words}")
    return chart_to_image(figure)


def draw_aspects(shapes: Mapping[str, Shapes], width: int, height: int) -> Image.Image:
    """Draws a histogram of width over height."""
    figure, axes = new_chart(width, height, "Box shape")
    aspects = {part: np.log2(shape.aspects).clip(-5, 5) for part, shape in shapes.items()}
    if _has_boxes(axes, aspects):
        reach = max(2, int(np.ceil(np.abs(np.concatenate(list(aspects.values()))).max())))
        _draw_histogram(axes, aspects, np.linspace(-reach, reach, 33))
        ticks = range(-reach, reach + 1)
        axes.set_xticks(ticks, [f"1:{2**-tick}" if tick < 0 else f"{2**tick}:1" for tick in ticks])
        axes.set_xlabel("width : height, as in the file")
    return chart_to_image(figure)


def draw_widths_and_heights(shapes: Mapping[str, Shapes], words: str, width: int, height: int) -> Image.Image:
    """Draws a dot for each box, or for evenly chosen ones of very many."""
    figure, axes = new_chart(width, height, "Width and height")
    if _has_boxes(axes, {part: shape.aspects for part, shape in shapes.items()}):
        for part, shape in shapes.items():
            points = shape.sizes[evenly(len(shape.sizes), MOST_POINTS)]
            axes.scatter(points[:, 0], points[:, 1], s=7, alpha=0.35, color=CHART_COLOURS[part], lw=0)
        logarithmic(axes, "{x:g}")
        axes.set_xlabel(f"width (px){words}")
        axes.set_ylabel("height (px)")
        axes.grid(alpha=0.25)
    return chart_to_image(figure)


def draw_positions(shapes: Mapping[str, Shapes], aspect: float, width: int, height: int) -> Image.Image:
    """Draws how many boxes cover each place of the image; ``aspect`` is width over height of a typical image."""
    part, shape = next(iter(shapes.items()))
    figure, axes = new_chart(width, height, f"Where boxes lie ({PART_WORDS[part]})")
    if _has_boxes(axes, {part: shape.aspects}):
        shares = 100 * coverage(shape.corners) / len(shape.corners)
        drawn = axes.imshow(shares, cmap="magma", extent=(0, aspect, 1, 0), vmin=0, interpolation="bilinear")
        bar = figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.03)
        bar.set_label("% of boxes here", color=CHART_SUBTLE, fontsize=9)
        bar.outline.set_visible(False)
        bar.ax.tick_params(colors=CHART_SUBTLE, labelsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    return chart_to_image(figure)


def coverage(corners: np.ndarray) -> np.ndarray:
    """Returns how many boxes cover each cell of a grid, ``float64`` ``[CELLS, CELLS]``.

    Args:
        corners: left, top, right, bottom as shares of the image, ``[B, 4]``.
    """
    first = np.floor(corners[:, :2] * CELLS).clip(0, CELLS - 1).astype(np.int64)
    last = np.maximum(np.ceil(corners[:, 2:] * CELLS).astype(np.int64), first + 1)
    steps = np.zeros((CELLS + 1, CELLS + 1))
    # A box raises the sum at its first cell and lowers it behind its last, in both directions.
    for sign, x, y in ((1, first, first), (-1, last, first), (-1, first, last), (1, last, last)):
        np.add.at(steps, (y[:, 1], x[:, 0]), sign)
    return steps.cumsum(axis=0).cumsum(axis=1)[:CELLS, :CELLS]


def _has_boxes(axes: Any, values: Mapping[str, np.ndarray]) -> bool:
    if any(len(numbers) for numbers in values.values()):
        return True
    axes.text(0.5, 0.5, "no boxes", ha="center", va="center", fontsize=16, color=CHART_SUBTLE, transform=axes.transAxes)
    axes.set_axis_off()
    return False


def _draw_histogram(axes: Any, values: Mapping[str, np.ndarray], edges: np.ndarray) -> None:
    for part, numbers in values.items():
        if len(numbers):
            shares = 100 * np.histogram(numbers, edges)[0] / len(numbers)
            axes.stairs(shares, edges, fill=True, alpha=0.25, color=CHART_COLOURS[part])
            axes.stairs(shares, edges, color=CHART_COLOURS[part], lw=1.4)
    axes.set_ylabel("% of boxes")
    axes.grid(axis="y", alpha=0.25)


# Images with their boxes


def load_picture(check: DetectionCheck, picture: Picture) -> Image.Image:
    """Reads an image; a sonar frame, which may be nearly black, is shown as the detector will see it.

    Raises:
        ImageError: it cannot be read.
    """
    pixels = load_pixels(check.sets[picture.part], picture.index)
    enhance = check.plan.enhance
    return Image.fromarray(pixels if enhance is None else enhance(pixels))


def with_boxes(
    check: DetectionCheck, picture: Picture, image: Image.Image, longest: int, named: bool = True
) -> Image.Image:
    """Scales an image to fit into a square of ``longest`` pixels and draws its boxes."""
    coco = check.sets[picture.part]
    factor = longest / max(image.size)
    size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
    chosen = np.flatnonzero((coco.rows == picture.index) & np.isfinite(coco.boxes).all(axis=1)).tolist()
    boxes = coco.boxes[chosen]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    names = [coco.class_name(row) for row in chosen]
    number_of = {name: number for number, name in enumerate(check.classes.names)}
    known = [coco.classes[row] >= 0 for row in chosen]
    return draw_boxes(
        image.resize(size, Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC),
        corners * np.tile(np.divide(size, image.size), 2),
        names if named else [""] * len(names),
        colours=[
            class_colour(number_of[name]) if good else UNKNOWN_CLASS for name, good in zip(names, known, strict=True)
        ],
        smallest=0,
    )


def example_tile(check: DetectionCheck, entry: Entry, picture: Picture, side: int) -> Image.Image:
    """Draws an image of an instance: around its box if it has one, else whole with all boxes.

    Args:
        check: holds the annotations.
        entry: the instance; ``details["bbox"]`` is its box.
        picture: one of its images.
        side: of the square, in pixels.
    """
    try:
        image = load_picture(check, picture)
    except ImageError as error:
        return crossed_box(side, error.cause)
    box = entry.details.get("bbox")
    if box is None or not all(isinstance(value, int | float) for value in box):
        return ImageOps.pad(with_boxes(check, picture, image, side, named=False), (side, side), color=DESK)
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
        longer = max(right - left, bottom - top)
        reach = min(max(AROUND * longer, LEAST_AROUND), 1.1 * max(size))
        reach = max(reach, 1.1 * min(longer, 2 * max(size)))
    return (left + right - reach) / 2, (top + bottom - reach) / 2, reach


def samples_panel(check: DetectionCheck, part: str) -> Image.Image:
    """Draws rows of images of a set with their boxes; rare classes are shown as well as frequent ones."""
    rows = _sample_rows(check, _sample_order(check, part), ROWS[part])
    top = PADDING + 30
    height = sum(row_height + CAPTION + GAP for row_height, _ in rows)
    panel_image = panel(INNER, top + max(height, CAPTION) + PADDING // 2)
    pen = ImageDraw.Draw(panel_image)
    pen.text((PADDING, PADDING - 4), f"Samples, {PART_WORDS[part]}", font=font_of(17), fill=INK)
    font = font_of(11)
    if not rows:
        pen.text((PADDING, top), "no image could be read", font=font_of(15), fill=SUBTLE)
    y = top
    for row_height, pictures in rows:
        x = PADDING
        for picture, width in pictures:
            try:
                image = load_picture(check, picture)
                factor = min(width / image.width, row_height / image.height)
                drawn = with_boxes(check, picture, image, round(factor * max(image.size)))
            except ImageError as error:
                drawn = crossed_box(row_height, error.cause)
            panel_image.paste(DESK, (x, y, x + width, y + row_height))
            panel_image.paste(drawn, (x + (width - drawn.width) // 2, y + (row_height - drawn.height) // 2))
            name = shortened(PurePath(check.scan.name_of(picture)).name, font, width, keep_end=True)
            pen.text((x, y + row_height + 3), name, font=font, fill=SUBTLE)
            x += width + GAP
        y += row_height + CAPTION + GAP
    return panel_image


def _sample_rows(
    check: DetectionCheck, pictures: list[Picture], most: int
) -> list[tuple[int, list[tuple[Picture, int]]]]:
    """Fills up to ``most`` rows with images; each row is stretched to the whole width.

    Returns:
        For each row its height, and its images with their widths, in pixels.
    """
    rows: list[tuple[int, list[tuple[Picture, int]]]] = []
    waiting: list[tuple[Picture, float]] = []
    for picture in pictures:
        width, height = check.sizes[picture.part][picture.index].tolist()
        waiting.append((picture, min(max(width / max(height, 1), SHAPES[0]), SHAPES[1])))
        row_height = (INNER - 2 * PADDING - GAP * (len(waiting) - 1)) / sum(shape for _, shape in waiting)
        if row_height <= SAMPLE_HEIGHT or picture == pictures[-1]:
            row_height = min(row_height, SAMPLE_HEIGHT)
            rows.append((int(row_height), [(each, int(row_height * shape)) for each, shape in waiting]))
            waiting = []
        if len(rows) == most:
            break
    return rows


def _sample_order(check: DetectionCheck, part: str) -> list[Picture]:
    """Returns readable images, first those that show the classes seen least so far."""
    shuffled = np.random.default_rng(0).permutation(check.scan.readable(part))[:CANDIDATES]
    numbers, coco = check.classes.numbers[part], check.sets[part]
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
