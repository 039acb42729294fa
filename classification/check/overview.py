"""One picture of the data: class counts, image sizes, what was found, and samples of each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from classification.check.charts import draw_class_counts
from classification.check.labels import Classes
from PIL import Image, ImageDraw
from ppcls_ext.check.charts import draw_sizes
from ppcls_ext.check.scan import Scan
from ppcls_ext.check.tiles import font_of, panel, shorten, thumbnail

from ppcls_ext.check.findings import PART_WORDS, Finding, Picture, count_of
from ppcls_ext.check.overview import COLUMN, INNER, MARGIN, PADDING, draw_findings, draw_heading, stack
from ppcls_ext.utils.drawing import DESK, INK, SUBTLE

CHART_HEIGHT = 340
SIZES_WIDTH = 460
SAMPLE_CLASSES = 24
SAMPLE_SIDE = 64
SAMPLE_GAP = 4
SAMPLE_TEXT = 140


def draw_overview(config_name: str, findings: Sequence[Finding], scan: Scan, classes: Classes) -> Image.Image:
    """Draws the overview.

    Args:
        config_name: stands in the heading.
        findings: worst first.
        scan: the records and the data sets.
        classes: names and counts.
    """
    parts = [
        draw_heading(f"Data of {config_name}", "   ·   ".join(_facts(scan, classes)), findings),
        _charts(scan, classes),
        draw_findings(findings, scan, classes.name_of),
        _samples_panel(scan, classes),
    ]
    return stack(parts)


def _facts(scan: Scan, classes: Classes) -> list[str]:
    sets = [
        f"{PART_WORDS[part]}: {count_of(len(dataset), 'image')} in "
        f"{count_of(int((classes.counts[part] > 0).sum()), 'class', 'classes')}"
        for part, dataset in scan.datasets.items()
    ]
    return [*sets, f"Arch.class_num: {classes.class_num:,}"]


def _charts(scan: Scan, classes: Classes) -> Image.Image:
    image = Image.new("RGB", (INNER, CHART_HEIGHT), DESK)
    left_width = INNER - SIZES_WIDTH - MARGIN
    for x, width, draw in (
        (0, left_width, lambda width, height: draw_class_counts(classes, width, height)),
        (left_width + MARGIN, SIZES_WIDTH, lambda width, height: draw_sizes(scan, width, height)),
    ):
        card = panel(width, CHART_HEIGHT)
        card.paste(draw(width - 2 * PADDING, CHART_HEIGHT - 2 * PADDING), (PADDING, PADDING))
        image.paste(card, (x, 0))
    return image


def _samples_panel(scan: Scan, classes: Classes) -> Image.Image:
    """Two columns of rows, a class each, with images drawn at random (the same ones every time)."""
    part = next(iter(scan.datasets))
    used = np.flatnonzero(classes.counts[part])
    shown = used[np.unique(np.linspace(0, len(used) - 1, min(len(used), SAMPLE_CLASSES)).astype(np.int64))]
    rows = (len(shown) + 1) // 2
    step = SAMPLE_SIDE + SAMPLE_GAP
    top = PADDING + 34
    image = panel(INNER, top + max(rows * step, step) + PADDING // 2)
    pen = ImageDraw.Draw(image)
    title = f"Samples, {PART_WORDS[part]}"
    title += f"  ({len(shown)} of {len(used):,} classes)" if len(shown) < len(used) else ""
    pen.text((PADDING, PADDING - 4), title, font=font_of(17), fill=INK)
    readable = scan.readable(part)
    labels = classes.datasets[part].labels[readable]
    generator = np.random.default_rng(0)
    for number, label in enumerate(shown.tolist()):
        x = PADDING + (number // rows) * (COLUMN + PADDING)
        y = top + (number % rows) * step
        name = shorten(classes.name(label, part), font_of(15), SAMPLE_TEXT - 12)
        pen.text((x, y + SAMPLE_SIDE // 2 - 10), name, font=font_of(15), fill=INK, anchor="lm")
        count = count_of(int(classes.counts[part][label]), "image")
        pen.text((x, y + SAMPLE_SIDE // 2 + 11), count, font=font_of(12), fill=SUBTLE, anchor="lm")
        members = readable[labels == label]
        places = (COLUMN - SAMPLE_TEXT + SAMPLE_GAP) // step
        for place, index in enumerate(generator.permutation(members)[:places].tolist()):
            tile = thumbnail(scan, Picture(part, index), SAMPLE_SIDE)
            image.paste(tile, (x + SAMPLE_TEXT + place * step, y))
    return image
