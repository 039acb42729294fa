"""Charts of an overview of boxes: how many, how large, of which shape, and where in the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from detection.check.boxes import scales
from detection.check.run import Check
from ppcls_ext.check.charts import COLOURS, INK, SUBTLE, chart_to_image, new_chart
from ppcls_ext.check.findings import PART_WORDS

# More bars than these cannot bear their names.
MOST_BARS = 40
LONGEST_NAME = 18
# Boxes in one image from which all are counted together.
MANY_BOXES = 15
MOST_POINTS = 4000
CELLS = 48


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


def shapes_of(check: Check) -> dict[str, Shapes]:
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


def draw_class_boxes(check: Check, width: int, height: int) -> Image.Image:
    """Draws the boxes of each class in each set; RGB of ``width`` x ``height`` pixels."""
    figure, axes = new_chart(width, height)
    counts = check.classes.boxes
    shown = np.arange(len(check.classes.names))
    if len(shown) > MOST_BARS:
        shown = np.argsort(-sum(counts.values()), kind="stable")[:MOST_BARS]
    bar = 0.8 / len(counts)
    for position, (part, numbers) in enumerate(counts.items()):
        places = np.arange(len(shown)) + (position - (len(counts) - 1) / 2) * bar
        bars = axes.bar(places, numbers[shown], width=bar, color=COLOURS[part], label=PART_WORDS[part])
        if len(shown) <= MOST_BARS // 2:
            axes.bar_label(bars, fmt="{:,.0f}", fontsize=7.5, color=SUBTLE, padding=1)
    names = [check.classes.names[number][:LONGEST_NAME] for number in shown.tolist()]
    # A letter of this size is seven pixels wide; the longest name must fit beside its neighbours.
    crowded = 7 * max(map(len, names), default=0) * len(names) > 0.9 * width
    axes.set_xticks(
        np.arange(len(shown)),
        names,
        rotation=35 if crowded else 0,
        ha="right" if crowded else "center",
        rotation_mode="anchor" if crowded else "default",
        fontsize=9 if len(shown) <= 24 else 7,
    )
    for text in axes.get_xticklabels():
        text.set_parse_math(False)  # A class may be called "US$".
    axes.set_xlim(-0.7, len(shown) - 0.3)
    rest = len(check.classes.names) - len(shown)
    axes.set_title("Boxes by class" + (f"  ({rest} rarer classes not shown)" if rest else ""), **_TITLE)
    # The only key; the colours mean the same in all charts.
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    axes.grid(axis="y", alpha=0.25)
    return chart_to_image(figure)


def draw_boxes_per_image(check: Check, width: int, height: int) -> Image.Image:
    """Draws how many images have 0, 1, 2, ... boxes."""
    figure, axes = new_chart(width, height)
    axes.set_title("Boxes per image", **_TITLE)
    counts = {}
    for part, coco in check.sets.items():
        rows = coco.rows[check.classes.numbers[part] >= 0]
        counts[part] = np.bincount(rows, minlength=len(coco)).clip(max=MANY_BOXES)
    most = max(int(numbers.max()) for numbers in counts.values())
    bar = 0.8 / len(counts)
    for position, (part, numbers) in enumerate(counts.items()):
        shares = 100 * np.bincount(numbers, minlength=most + 1) / len(numbers)
        places = np.arange(most + 1) + (position - (len(counts) - 1) / 2) * bar
        axes.bar(places, shares, width=bar, color=COLOURS[part])
    words = [f"{number}" for number in range(most + 1)]
    if most == MANY_BOXES:
        words[-1] = f"{MANY_BOXES}+"
    axes.set_xticks(np.arange(most + 1), words)
    axes.set_ylabel("% of images")
    axes.grid(axis="y", alpha=0.25)
    return chart_to_image(figure)


def draw_box_sizes(shapes: Mapping[str, Shapes], words: str, width: int, height: int) -> Image.Image:
    """Draws a histogram of the square root of the boxes' area; ``words`` tell at which size of the images."""
    figure, axes = new_chart(width, height)
    axes.set_title("Box size", **_TITLE)
    sides = {part: np.sqrt(shape.sizes.prod(axis=1)) for part, shape in shapes.items()}
    if _has_boxes(axes, sides):
        every = np.concatenate(list(sides.values()))
        low, high = np.floor(np.log2(every.min())), np.ceil(np.log2(every.max()) + 1e-9)
        _draw_histogram(axes, sides, 2.0 ** np.linspace(low, max(high, low + 1), 33))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(f"square root of the area (px){words}")
        axes.set_ylabel("% of boxes")
        axes.grid(axis="y", alpha=0.25)
    return chart_to_image(figure)


def draw_aspects(shapes: Mapping[str, Shapes], width: int, height: int) -> Image.Image:
    """Draws a histogram of width over height."""
    figure, axes = new_chart(width, height)
    axes.set_title("Box shape", **_TITLE)
    aspects = {part: np.log2(shape.aspects).clip(-5, 5) for part, shape in shapes.items()}
    if _has_boxes(axes, aspects):
        reach = max(2, int(np.ceil(np.abs(np.concatenate(list(aspects.values()))).max())))
        _draw_histogram(axes, aspects, np.linspace(-reach, reach, 33))
        ticks = range(-reach, reach + 1)
        axes.set_xticks(ticks, [f"1:{2**-tick}" if tick < 0 else f"{2**tick}:1" for tick in ticks])
        axes.set_xlabel("width : height, as in the file")
        axes.set_ylabel("% of boxes")
        axes.grid(axis="y", alpha=0.25)
    return chart_to_image(figure)


def draw_widths_and_heights(shapes: Mapping[str, Shapes], words: str, width: int, height: int) -> Image.Image:
    """Draws a dot for each box, or for evenly chosen ones of very many."""
    figure, axes = new_chart(width, height)
    axes.set_title("Width and height", **_TITLE)
    if _has_boxes(axes, {part: shape.aspects for part, shape in shapes.items()}):
        for part, shape in shapes.items():
            chosen = np.unique(
                np.linspace(0, len(shape.sizes) - 1, min(len(shape.sizes), MOST_POINTS)).astype(np.int64)
            )
            points = shape.sizes[chosen]
            axes.scatter(points[:, 0], points[:, 1], s=7, alpha=0.35, color=COLOURS[part], lw=0)
        for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
            scale("log", base=2)
            axis.set_major_formatter("{x:g}")
        axes.set_xlabel(f"width (px){words}")
        axes.set_ylabel("height (px)")
        axes.grid(alpha=0.25)
    return chart_to_image(figure)


def draw_positions(shapes: Mapping[str, Shapes], aspect: float, width: int, height: int) -> Image.Image:
    """Draws how many boxes cover each place of the image; ``aspect`` is width over height of a typical image."""
    figure, axes = new_chart(width, height)
    part, shape = next(iter(shapes.items()))
    axes.set_title(f"Where boxes lie ({PART_WORDS[part]})", **_TITLE)
    if _has_boxes(axes, {part: shape.aspects}):
        shares = 100 * coverage(shape.corners) / len(shape.corners)
        drawn = axes.imshow(shares, cmap="magma", extent=(0, aspect, 1, 0), vmin=0, interpolation="bilinear")
        bar = figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.03)
        bar.set_label("% of boxes here", color=SUBTLE, fontsize=9)
        bar.outline.set_visible(False)
        bar.ax.tick_params(colors=SUBTLE, labelsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
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


_TITLE: dict[str, Any] = {"loc": "left", "fontsize": 12, "color": INK}


def _has_boxes(axes: Any, values: Mapping[str, np.ndarray]) -> bool:
    if any(len(numbers) for numbers in values.values()):
        return True
    axes.text(0.5, 0.5, "no boxes", ha="center", va="center", fontsize=16, color=SUBTLE, transform=axes.transAxes)
    axes.set_axis_off()
    return False


def _draw_histogram(axes: Any, values: Mapping[str, np.ndarray], edges: np.ndarray) -> None:
    for part, numbers in values.items():
        if len(numbers):
            shares = 100 * np.histogram(numbers, edges)[0] / len(numbers)
            axes.stairs(shares, edges, fill=True, alpha=0.25, color=COLOURS[part])
            axes.stairs(shares, edges, color=COLOURS[part], lw=1.4)
