"""One picture of detection data: charts of classes and boxes, what was found, and samples with their boxes drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image

from detection.check.run import DetectionCheck, evaluation_size, scales
from detection.coco import number_of
from ppcls_ext.check.findings import PART_WORDS, Entry, Picture, count_of
from ppcls_ext.check.images import load_pixels
from ppcls_ext.check.overview import (
    CHART_COLOURS,
    CHART_SUBTLE,
    INNER,
    MOST_BARS,
    MOST_POINTS,
    PADDING,
    charts_panel,
    crossed_box,
    draw_bars,
    draw_findings,
    draw_heading,
    draw_key,
    evenly,
    fitted_square,
    logarithmic,
    panel,
    stack,
    write_instead,
)
from ppcls_ext.preprocess.decode import ImageError
from ppcls_ext.preprocess.sonar import enhancement_of
from ppcls_ext.utils.drawing import DESK, SUBTLE, WRONG, class_colour, draw_boxes, shortened
from ppcls_ext.utils.fonts import drawable, font_of, write

CHART_HEIGHT = 320
# Boxes in one image from which all are counted together.
MANY_BOXES = 15
CELLS = 48
# Rows and columns of samples, and their size in pixels.
ROWS = {"Train": 2, "Eval": 1}
COLUMNS = 5
SAMPLE_HEIGHT = 225
GAP = 8
CAPTION = 28
# What is shown around a box at fault: so many times its longer side, and at least so many pixels.
AROUND = 4.0
LEAST_AROUND = 48.0
CANDIDATES = 2000


def draw_overview(check: DetectionCheck) -> Image.Image:
    """Draws the overview of a check that could open at least one set; RGB, 1600 pixels wide."""
    facts = list(check.facts.values())
    facts.append(f"num_classes: {check.config.num_classes:,}")
    every = np.concatenate([each.sizes for each in check.sets.values()])
    different = np.unique(every[(every > 0).all(axis=1)], axis=0)
    if len(different):
        several = f"{len(different):,} image sizes"
        facts.append("{} x {} px".format(*different[0]) if len(different) == 1 else several)

    def caption(picture: Picture) -> str:
        return count_of(int((check.sets[picture.part].boxes.rows == picture.index).sum()), "box", "boxes")

    return stack(
        [
            draw_heading(f"Data of {check.name}", facts, check.findings),
            *_charts(check),
            draw_findings(check.findings, check.scan, caption, partial(example_tile, check)),
            *(samples_panel(check, part) for part in check.sets),
        ]
    )


def _charts(check: DetectionCheck) -> list[Image.Image]:
    """Draws two rows of charts about the boxes that can be learnt from."""
    # By set: width and height of the boxes in pixels, at the evaluation and in the image as it is, ``[B, 2]``;
    # left, top, right and bottom as shares of the image, clipped to it, ``[B, 4]``.
    sizes, shapes, corners = {}, {}, {}
    size = evaluation_size(check.config.data)
    for part, each in check.sets.items():
        table = each.boxes
        usable = (each.numbers >= 0) & (each.sizes > 0).all(axis=1)[table.rows]
        rows, low, sides = table.rows[usable], table.boxes[usable, :2], table.boxes[usable, 2:]
        shapes[part] = sides
        sizes[part] = sides * scales(each.sizes, size)[rows]
        corners[part] = (np.concatenate([low, low + sides], axis=1) / np.tile(each.sizes[rows], 2)).clip(0.0, 1.0)
    words = f" at {size.width} x {size.height}" if size else ""
    shown = np.argsort(-sum(each.of_class for each in check.sets.values()), kind="stable")
    rest = max(len(shown) - MOST_BARS, 0)
    hidden = f"  ({rest} rarer classes not shown)" if rest else ""
    shown = shown[:MOST_BARS] if rest else np.sort(shown)
    first = next(iter(check.sets))

    def class_boxes(axes: Any) -> None:
        names = [drawable(check.class_names[number], number) for number in shown.tolist()]
        counts = {part: each.of_class[shown] for part, each in check.sets.items()}
        draw_bars(axes, names, counts, numbers=len(shown) <= MOST_BARS // 2)
        # The only key; the colours mean the same in all charts.
        draw_key(axes)

    def boxes_per_image(axes: Any) -> None:
        shares = {}
        for part, each in check.sets.items():
            boxes = np.bincount(each.boxes.rows[each.numbers >= 0], minlength=len(each.coco)).clip(max=MANY_BOXES)
            shares[part] = 100 * np.bincount(boxes, minlength=MANY_BOXES + 1) / len(boxes)
        most = int(np.flatnonzero(sum(shares.values())).max())
        names = [f"{number}+" if number == MANY_BOXES else f"{number}" for number in range(most + 1)]
        draw_bars(axes, names, {part: values[: most + 1] for part, values in shares.items()})
        axes.set_ylabel("% of images")

    def histogram(axes: Any, values: Mapping[str, np.ndarray], edges: np.ndarray) -> None:
        for part, numbers in values.items():
            if len(numbers):
                shares = 100 * np.histogram(numbers, edges)[0] / len(numbers)
                axes.stairs(shares, edges, fill=True, alpha=0.25, color=CHART_COLOURS[part])
                axes.stairs(shares, edges, color=CHART_COLOURS[part], lw=1.4)
        axes.set_ylabel("% of boxes")
        axes.grid(axis="y", alpha=0.25)

    def box_sizes(axes: Any) -> None:
        sides = {part: np.sqrt(values.prod(axis=1)) for part, values in sizes.items()}
        every = np.concatenate(list(sides.values()))
        low, high = np.floor(np.log2(every.min())), np.ceil(np.log2(every.max()) + 1e-9)
        histogram(axes, sides, 2.0 ** np.linspace(low, max(high, low + 1), 33))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(f"square root of the area (px){words}")

    def widths_and_heights(axes: Any) -> None:
        """Draws a dot for each box, or for evenly chosen ones of very many."""
        for part, values in sizes.items():
            points = values[evenly(len(values), MOST_POINTS)]
            axes.scatter(points[:, 0], points[:, 1], s=7, alpha=0.35, color=CHART_COLOURS[part], lw=0)
        logarithmic(axes, "{x:g}")
        axes.set_xlabel(f"width (px){words}")
        axes.set_ylabel("height (px)")
        axes.grid(alpha=0.25)

    def box_shapes(axes: Any) -> None:
        aspects = {part: np.log2(sides[:, 0] / sides[:, 1]).clip(-5, 5) for part, sides in shapes.items()}
        reach = max(2, int(np.ceil(np.abs(np.concatenate(list(aspects.values()))).max())))
        histogram(axes, aspects, np.linspace(-reach, reach, 33))
        ticks = range(-reach, reach + 1)
        axes.set_xticks(ticks, [f"1:{2**-tick}" if tick < 0 else f"{2**tick}:1" for tick in ticks])
        axes.set_xlabel("width : height, as in the file")

    def positions(axes: Any) -> None:
        """Draws how many boxes of the first set cover each place of a typical image."""
        images = check.sets[first].sizes
        images = images[(images > 0).all(axis=1)]
        aspect = float(np.clip(np.median(images[:, 0] / images[:, 1]), 0.4, 2.5))
        covered = np.zeros((CELLS, CELLS))
        starts = np.floor(corners[first][:, :2] * CELLS).clip(0, CELLS - 1).astype(np.int64)
        ends = np.maximum(np.ceil(corners[first][:, 2:] * CELLS).astype(np.int64), starts + 1)
        for (left, top), (right, bottom) in zip(starts.tolist(), ends.tolist(), strict=True):
            covered[top:bottom, left:right] += 100 / len(starts)
        drawn = axes.imshow(covered, cmap="magma", extent=(0, aspect, 1, 0), vmin=0, interpolation="bilinear")
        bar = axes.figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.03)
        bar.set_label("% of boxes here", color=CHART_SUBTLE, fontsize=9)
        bar.outline.set_visible(False)
        bar.ax.tick_params(colors=CHART_SUBTLE, labelsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)

    def or_none(draw: Callable[[Any], None], parts: Iterable[str] = check.sets) -> Callable[[Any], None]:
        return draw if any(len(sizes[part]) for part in parts) else partial(write_instead, text="no boxes")

    upper = [(3.4, f"Boxes by class{hidden}", class_boxes), (1.0, "Boxes per image", boxes_per_image)]
    lower = [
        (1.0, "Box size", or_none(box_sizes)),
        (1.0, "Width and height", or_none(widths_and_heights)),
        (1.0, "Box shape", or_none(box_shapes)),
        (1.0, f"Where boxes lie ({PART_WORDS[first]})", or_none(positions, [first])),
    ]
    return [charts_panel(CHART_HEIGHT, row) for row in (upper, lower)]


# Images with their boxes


def load_picture(check: DetectionCheck, picture: Picture) -> Image.Image:
    """Reads an image; a sonar frame, which may be nearly black, is shown as the detector will see it.

    Raises:
        ImageError: it cannot be read.
    """
    pixels = load_pixels(check.sets[picture.part].coco, picture.index)
    readers = [check.config.data.get(f"{part}Reader") or {} for part in ("Eval", "Train")]
    enhance = next(filter(None, (enhancement_of(reader.get("sample_transforms")) for reader in readers)), None)
    return Image.fromarray(pixels if enhance is None else enhance(pixels))


def with_boxes(
    check: DetectionCheck, picture: Picture, image: Image.Image, longest: int, named: bool = True
) -> Image.Image:
    """Scales an image to fit into a square of ``longest`` pixels and draws its boxes."""
    examined = check.sets[picture.part]
    factor = longest / max(image.size)
    size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
    chosen = np.flatnonzero(examined.boxes.rows == picture.index)
    boxes = examined.boxes.boxes[chosen]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    names = [examined.coco.names[number] for number in examined.boxes.labels[chosen]]
    numbers = [check.class_names.index(name) for name in names]
    return draw_boxes(
        image.resize(size, Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC),
        corners * np.tile(np.divide(size, image.size), 2),
        [drawable(name, number) if named else "" for name, number in zip(names, numbers, strict=True)],
        colours=[class_colour(number) for number in numbers],
        smallest=0,
    )


def example_tile(check: DetectionCheck, entry: Entry, picture: Picture, side: int) -> Image.Image:
    """Draws an image of an instance in a square: around its box (``entry.details``) if it has one, else whole."""
    try:
        image = load_picture(check, picture)
    except ImageError as error:
        return crossed_box(side, error.cause)
    stated = entry.details.get("bbox")
    box = [number_of(value) for value in stated] if isinstance(stated, list) else []
    if len(box) != 4 or None in box:
        drawn = with_boxes(check, picture, image, side, named=False)
        return fitted_square(drawn, side, Image.Resampling.BICUBIC)
    x, y, width, height = box
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
    readable = np.random.default_rng(0).permutation(check.scan.readable(part))[:CANDIDATES]
    examined, learnt = check.sets[part], check.sets[part].numbers >= 0
    shows = np.zeros((len(examined.coco), len(check.class_names)), dtype=bool)
    shows[examined.boxes.rows[learnt], examined.numbers[learnt]] = True
    shows = shows[readable]
    seen, waiting = np.zeros(len(check.class_names)), np.ones(len(readable), dtype=bool)
    count = min(len(readable), COLUMNS * ROWS[part])
    width, height, top = (INNER - 2 * PADDING + GAP) // COLUMNS - GAP, SAMPLE_HEIGHT, PADDING + 30
    rows = max(math.ceil(count / COLUMNS), 1)
    sheet, pen = panel(top + rows * (height + CAPTION) + PADDING // 2, f"Samples, {PART_WORDS[part]}")
    if not count:
        write(pen, (PADDING, top), "no image could be read", font_of(15), SUBTLE)
    for number in range(count):
        # An image is worth more the less its classes were seen; one without boxes is worth nothing.
        worth = np.where(waiting, (shows / (1.0 + seen) ** 2).sum(axis=1) / np.maximum(shows.sum(axis=1), 1) ** 0.5, -1)
        best = int(worth.argmax())
        waiting[best] = False
        seen += shows[best]
        picture = Picture(part, int(readable[best]))
        x, y = PADDING + number % COLUMNS * (width + GAP), top + number // COLUMNS * (height + CAPTION)
        try:
            image = load_picture(check, picture)
            longest = round(min(width / image.width, height / image.height) * max(image.size))
            drawn = with_boxes(check, picture, image, longest)
        except ImageError as error:
            drawn = crossed_box(height, error.cause)
        pen.rectangle((x, y, x + width - 1, y + height - 1), fill=DESK)
        sheet.paste(drawn, (x + (width - drawn.width) // 2, y + (height - drawn.height) // 2))
        name = shortened(PurePath(check.scan.name_of(picture)).name, font_of(11), width, keep_end=True)
        write(pen, (x, y + height + 3), name, font_of(11), SUBTLE)
    return sheet
