"""One picture of detection data: classes, boxes, what was found, and samples with their boxes drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from detection.check.charts import (
    draw_aspects,
    draw_box_sizes,
    draw_boxes_per_image,
    draw_class_boxes,
    draw_positions,
    draw_widths_and_heights,
    shapes_of,
)
from detection.check.run import Check, facts_about
from detection.check.samples import example_tile, samples_panel
from ppcls_ext.check.findings import Picture, count_of
from ppcls_ext.check.overview import INNER, MARGIN, PADDING, draw_findings, draw_heading, stack
from ppcls_ext.check.tiles import panel
from ppcls_ext.utils.drawing import DESK

CHART_HEIGHT = 320
NARROW = (INNER - 3 * MARGIN) // 4
Draw = Callable[[int, int], Image.Image]


def draw_overview(check: Check) -> Image.Image:
    """Draws the overview of a check that could open at least one set."""
    shapes = shapes_of(check)
    size = check.plan.evaluation_size
    words = f" at {size.width} x {size.height}" if size else ""
    upper: list[tuple[int, Draw]] = [
        (INNER - MARGIN - NARROW, partial(draw_class_boxes, check)),
        (NARROW, partial(draw_boxes_per_image, check)),
    ]
    lower: list[tuple[int, Draw]] = [
        (NARROW, partial(draw_box_sizes, shapes, words)),
        (NARROW, partial(draw_widths_and_heights, shapes, words)),
        (NARROW, partial(draw_aspects, shapes)),
        (NARROW, partial(draw_positions, shapes, _typical_aspect(check))),
    ]
    return stack(
        [
            draw_heading(f"Data of {check.plan.name}", "   ·   ".join(_facts(check)), check.findings),
            _row(upper),
            _row(lower),
            draw_findings(check.findings, check.scan, partial(_caption, check), partial(example_tile, check)),
            *(samples_panel(check, part) for part in check.sets),
        ]
    )


def _facts(check: Check) -> list[str]:
    facts = [facts_about(check, part) for part in check.sets]
    if check.plan.num_classes is not None:
        facts.append(f"num_classes: {check.plan.num_classes:,}")
    sizes = _image_sizes(check)
    if len(sizes) == 1:
        facts.append(f"{sizes[0][0]} x {sizes[0][1]} px")
    elif len(sizes):
        facts.append(f"{len(sizes):,} image sizes")
    return facts


def _image_sizes(check: Check) -> np.ndarray:
    every = np.concatenate(list(check.sizes.values()))
    return np.unique(every[(every > 0).all(axis=1)], axis=0)


def _typical_aspect(check: Check) -> float:
    sizes = next(iter(check.sizes.values()))
    sizes = sizes[(sizes > 0).all(axis=1)]
    return float(np.clip(np.median(sizes[:, 0] / sizes[:, 1]), 0.4, 2.5)) if len(sizes) else 1.0


def _row(charts: list[tuple[int, Draw]]) -> Image.Image:
    """Draws charts beside each other, each on a card of its own."""
    image = Image.new("RGB", (INNER, CHART_HEIGHT), DESK)
    x = 0
    for width, draw in charts:
        card = panel(width, CHART_HEIGHT)
        card.paste(draw(width - 2 * PADDING, CHART_HEIGHT - 2 * PADDING), (PADDING, PADDING))
        image.paste(card, (x, 0))
        x += width + MARGIN
    return image


def _caption(check: Check, picture: Picture) -> str:
    boxes = int((check.sets[picture.part].rows == picture.index).sum())
    return count_of(boxes, "box", "boxes")
