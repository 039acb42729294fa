"""One picture of detection data: charts of classes and boxes, what was found, and samples with their boxes drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from detection.check.run import DetectionCheck, resizers_of, scales
from detection.coco import number_of
from ppcls_ext.check.findings import Entry, Picture
from ppcls_ext.check.overview import CHART_COLOURS, card_of, draw_charts, draw_class_counts
from ppcls_ext.check.overview import draw_overview as draw_sheet
from ppcls_ext.preprocess.sonar import enhancement_of
from ppcls_ext.utils.drawing import WRONG, Card, class_colour, draw_boxes
from ppcls_ext.utils.fonts import drawable

CHART_HEIGHT = 320
# Boxes in one image from which all are counted together, and dots of a chart.
MANY_BOXES, MOST_POINTS = 15, 4000
# Rows and columns of samples, and the longer side of what is drawn, in pixels.
ROWS, COLUMNS = {"Train": 2, "Eval": 1}, 5
SIDE = 288
# What is shown around a box at fault: so many times its longer side, and at least so many pixels.
AROUND, LEAST_AROUND = 1.5, 20.0


def draw_overview(check: DetectionCheck) -> Image.Image:
    """Draws the overview of a check that could open at least one set; RGB, 1600 pixels wide."""
    samples = {part: _samples(check, part) for part in check.sets}
    return draw_sheet(check, _charts(check), samples, COLUMNS, lambda picture, entry: _example(check, picture, entry))


def _charts(check: DetectionCheck) -> Image.Image:
    """Draws the classes, and sizes, shapes and places of the boxes that can be learnt from."""
    # By set: the width and height of boxes in pixels, at the evaluation and in the image as it is, and their centres
    # as shares of the image, ``[B, 2]`` each; and the number of boxes of each image, ``[N]``.
    sizes, shapes, centres, numbers = {}, {}, {}, {}
    data = check.config.data
    for part, each in check.sets.items():
        learnt = each.numbers >= 0
        boxes = each.boxes.part(learnt & (each.sizes > 0).all(axis=1)[each.boxes.rows])
        shapes[part] = boxes.boxes[:, 2:]
        sizes[part] = shapes[part] * scales(each.sizes, data)[boxes.rows]
        centres[part] = (boxes.boxes[:, :2] + shapes[part] / 2) / each.sizes[boxes.rows]
        numbers[part] = np.bincount(each.boxes.rows[learnt], minlength=len(each.coco)).clip(max=MANY_BOXES)
    resizers = resizers_of(data, "Eval")
    words = " at {1} x {0}".format(*resizers[-1].target_size) if resizers else ""

    def histogram(axes: Any, values: Mapping[str, np.ndarray], edges: np.ndarray, unit: str, label: str) -> None:
        for part, each in values.items():
            shares = np.full(len(each), 100 / max(len(each), 1))
            axes.hist(each, edges, weights=shares, histtype="stepfilled", alpha=0.5, color=CHART_COLOURS[part])
        axes.set(xlabel=label, ylabel=f"% of {unit}")

    def classes(axes: Any) -> None:
        names = [drawable(name, number) for number, name in enumerate(check.class_names)]
        draw_class_counts(axes, names, {part: each.of_class for part, each in check.sets.items()})

    def boxes_of_images(axes: Any) -> None:
        histogram(axes, numbers, np.arange(MANY_BOXES + 2) - 0.5, "images", f"boxes ({MANY_BOXES}: or more)")

    def box_sizes(axes: Any) -> None:
        sides = {part: np.sqrt(values.prod(axis=1)) for part, values in sizes.items()}
        histogram(axes, sides, 2.0 ** np.arange(0, 12.25, 0.25), "boxes", f"square root of the area (px){words}")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")

    def widths_and_heights(axes: Any) -> None:
        for part, values in sizes.items():
            points = values[:: max(len(values) // MOST_POINTS, 1)]
            axes.scatter(points[:, 0], points[:, 1], s=7, alpha=0.35, color=CHART_COLOURS[part], lw=0)
        axes.set(xlabel=f"width (px){words}", ylabel="height (px)")

    def box_shapes(axes: Any) -> None:
        aspects = {part: np.log2(sides[:, 0] / sides[:, 1]) for part, sides in shapes.items()}
        histogram(axes, aspects, np.linspace(-5, 5, 41), "boxes", "width : height, as in the file")
        axes.set_xticks([-4, -2, 0, 2, 4], ["1:16", "1:4", "1:1", "4:1", "16:1"])

    def places(axes: Any) -> None:
        x, y = np.concatenate(list(centres.values())).T
        axes.hist2d(x, y, bins=24, range=[[0, 1], [0, 1]], cmap="magma")
        axes.set(xlabel="of the width", ylabel="of the height")
        axes.invert_yaxis()

    upper = {"Boxes by class": classes, "Boxes per image": boxes_of_images}
    lower = {"Box size": box_sizes, "Width and height": widths_and_heights, "Box shape": box_shapes,
             "Centres of boxes": places}  # fmt: skip
    rows = [["Boxes by class"] * 3 + ["Boxes per image"], [*lower]]
    return draw_charts(CHART_HEIGHT, rows, upper | lower)


def _load(check: DetectionCheck, picture: Picture) -> np.ndarray:
    """Reads an image, ``uint8`` ``[H, W, 3]``; a sonar frame, which may be nearly black, is shown as the detector will
    see it.

    Raises:
        ImageError: it cannot be read.
    """
    pixels = check.scan.load(picture)
    readers = [check.config.data.get(f"{part}Reader") or {} for part in ("Eval", "Train")]
    enhance = next(filter(None, (enhancement_of(reader.get("sample_transforms")) for reader in readers)), None)
    return pixels if enhance is None else enhance(pixels)


def _with_boxes(check: DetectionCheck, picture: Picture) -> np.ndarray:
    """Returns an image with its boxes, made small or large first, so that lines and names keep their size."""
    image, examined = Image.fromarray(_load(check, picture)), check.sets[picture.part]
    factor = SIDE / max(image.size)
    size = [max(round(side * factor), 1) for side in image.size]
    boxes = examined.boxes.part(examined.boxes.rows == picture.index)
    corners = np.concatenate([boxes.boxes[:, :2], boxes.boxes[:, :2] + boxes.boxes[:, 2:]], axis=1)
    names = [examined.coco.names[label] for label in boxes.labels]
    numbers = [check.class_names.index(name) for name in names]
    return np.asarray(draw_boxes(
        image.resize(size, Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC),
        corners * np.tile(np.divide(size, image.size), 2),
        [drawable(name, number) for name, number in zip(names, numbers, strict=True)],
        colours=[class_colour(number) for number in numbers], smallest=0,
    ))  # fmt: skip


def _example(check: DetectionCheck, picture: Picture, entry: Entry) -> np.ndarray:
    """Returns what is around the box of an instance (``entry.details``), where it has one inside of its image, else the
    image with its boxes."""
    stated = entry.details.get("bbox")
    box = [number_of(value) for value in stated] if isinstance(stated, list) else []
    if len(box) != 4 or None in box:
        return _with_boxes(check, picture)
    pixels, (x, y, width, height) = _load(check, picture), box
    reach = max(AROUND * max(abs(width), abs(height)), LEAST_AROUND)
    middle = np.array([x + width / 2, y + height / 2])
    left, top = np.maximum(middle - reach, 0).astype(int)
    right, bottom = np.minimum(middle + reach, pixels.shape[1::-1]).astype(int)
    if left >= right or top >= bottom:
        return _with_boxes(check, picture)
    corners = np.array([[x - left, y - top, x + width - left, y + height - top]])
    return np.asarray(draw_boxes(pixels[top:bottom, left:right], corners, [""], colours=[WRONG], smallest=SIDE // 2))


def _samples(check: DetectionCheck, part: str) -> list[Card]:
    """Returns images of a set with their boxes, drawn at random, those with rare classes more often."""
    readable, examined = check.scan.readable(part), check.sets[part]
    learnt = examined.numbers >= 0
    rarity = np.full(len(examined.coco), 1e-6)
    np.maximum.at(rarity, examined.boxes.rows[learnt], 1 / examined.images_of_class[examined.numbers[learnt]])
    count = min(ROWS[part] * COLUMNS, len(readable))
    shares = rarity[readable] / rarity[readable].sum()
    chosen = np.random.default_rng(0).choice(readable, count, replace=False, p=shares) if count else []
    return [
        card_of(check.scan, Picture(part, int(index)), "", lambda picture: _with_boxes(check, picture))
        for index in chosen
    ]
