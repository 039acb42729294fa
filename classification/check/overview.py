"""One picture of the data: class counts, image sizes, what was found, and samples of each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

import numpy as np
from PIL import Image, ImageDraw

from classification.check.findings import (
    PART_WORDS,
    Entry,
    Finding,
    Picture,
    Severity,
    count_of,
    count_severities,
)
from classification.check.labels import Classes
from classification.check.overview_charts import draw_class_counts, draw_sizes
from classification.check.overview_tiles import (
    CLEAN,
    SEVERITY_COLOURS,
    draw_badge,
    font_of,
    panel,
    shorten,
    thumbnail,
    wrap,
)
from classification.check.scan import Scan
from ppcls_ext.common.pictures import DESK, INK, PAPER, SUBTLE

WIDTH = 1600
MARGIN = 24
PADDING = 18
INNER = WIDTH - 2 * MARGIN
COLUMN = (INNER - 3 * PADDING) // 2
CHART_HEIGHT = 340
SIZES_WIDTH = 460
FINDINGS_SHOWN = 10
# Classes named where a finding has no pictures.
NOTES = 20
FINDING_TEXT = 270
FINDING_SIDE = 88
FINDING_HEIGHT = FINDING_SIDE + 48
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
        _heading(config_name, findings, scan, classes),
        _charts(scan, classes),
        _findings_panel(findings, scan, classes),
        _samples_panel(scan, classes),
    ]
    sheet = Image.new("RGB", (WIDTH, sum(part.height + MARGIN for part in parts) + MARGIN), DESK)
    y = MARGIN
    for part in parts:
        sheet.paste(part, (MARGIN, y))
        y += part.height + MARGIN
    return sheet


def _heading(config_name: str, findings: Sequence[Finding], scan: Scan, classes: Classes) -> Image.Image:
    image = Image.new("RGB", (INNER, 72), DESK)
    pen = ImageDraw.Draw(image)
    counts = count_severities(findings)
    x = INNER
    for severity, one, many in (
        (Severity.INFORMATION, "note", "notes"),
        (Severity.WARNING, "warning", "warnings"),
        (Severity.ERROR, "error", "errors"),
    ):
        if counts[severity]:
            x = draw_badge(pen, x, 4, count_of(counts[severity], one, many), SEVERITY_COLOURS[severity]) - 10
    if not counts[Severity.ERROR] and not counts[Severity.WARNING]:
        x = draw_badge(pen, x, 4, "clean", CLEAN) - 10
    title = font_of(27, bold=True)
    pen.text((0, 2), shorten(f"Data of {config_name}", title, x - 20, keep_end=True), font=title, fill=INK)
    sets = [
        f"{PART_WORDS[part]}: {count_of(len(dataset), 'image')} in "
        f"{count_of(int((classes.counts[part] > 0).sum()), 'class', 'classes')}"
        for part, dataset in scan.datasets.items()
    ]
    pen.text((0, 44), "   ·   ".join([*sets, f"Arch.class_num: {classes.class_num:,}"]), font=font_of(17), fill=SUBTLE)
    return image


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


def _findings_panel(findings: Sequence[Finding], scan: Scan, classes: Classes) -> Image.Image:
    """Two columns of findings, worst first: what it is on the left, the first examples beside it."""
    shown = findings[:FINDINGS_SHOWN]
    top = PADDING + 34
    rows = (len(shown) + 1) // 2
    image = panel(INNER, top + max(rows * FINDING_HEIGHT, 30) + PADDING // 2)
    pen = ImageDraw.Draw(image)
    rest = len(findings) - len(shown)
    title = "Findings" + (f"  (the {FINDINGS_SHOWN} worst kinds; {rest} more in check.json)" if rest else "")
    pen.text((PADDING, PADDING - 4), title, font=font_of(17), fill=INK)
    if not shown:
        pen.text((PADDING, top - 2), "Nothing to mend, nothing to mention.", font=font_of(16), fill=CLEAN)
    for number, finding in enumerate(shown):
        cell = _finding_cell(finding, scan, classes)
        image.paste(cell, (PADDING + number % 2 * (COLUMN + PADDING), top + number // 2 * FINDING_HEIGHT))
    return image


def _finding_cell(finding: Finding, scan: Scan, classes: Classes) -> Image.Image:
    image = Image.new("RGB", (COLUMN, FINDING_HEIGHT), PAPER)
    pen = ImageDraw.Draw(image)
    colour = SEVERITY_COLOURS[finding.severity]
    pen.rounded_rectangle((0, 0, 5, FINDING_HEIGHT - 18), 2, fill=colour)
    pen.text((18, 0), finding.severity.word, font=font_of(14, bold=True), fill=colour)
    font = font_of(15)
    for number, line in enumerate(wrap(finding.summary, font, FINDING_TEXT - 34, most_lines=4)):
        pen.text((18, 22 + 21 * number), line, font=font, fill=INK)
    x = FINDING_TEXT
    if not finding.entries[0].pictures:
        text = "; ".join(entry.note for entry in finding.entries[:NOTES])
        text += f"; and {finding.count - NOTES:,} more" if finding.count > NOTES else ""
        for number, line in enumerate(wrap(text, font, COLUMN - x, most_lines=4)):
            pen.text((x, 22 + 21 * number), line, font=font, fill=SUBTLE)
    for entry in finding.entries:
        width = len(entry.pictures[:2]) * (FINDING_SIDE + 4)
        if width == 0 or x + width > COLUMN:
            break
        _draw_example(image, entry, x, scan, classes)
        x += width + 14
    return image


def _draw_example(image: Image.Image, entry: Entry, x: int, scan: Scan, classes: Classes) -> None:
    """One or two pictures; below each its file and its class, or below a single one what is wrong with it."""
    pen = ImageDraw.Draw(image)
    font = font_of(11)
    alone = len(entry.pictures) == 1
    for picture in entry.pictures[:2]:
        image.paste(thumbnail(scan, picture, FINDING_SIDE, whole=True), (x, 0))
        name = PurePath(scan.name_of(picture)).name
        text = entry.note if alone and entry.note else classes.name(scan.label_of(picture), picture.part)
        pen.text((x, FINDING_SIDE + 4), shorten(name, font, FINDING_SIDE, keep_end=True), font=font, fill=SUBTLE)
        pen.text((x, FINDING_SIDE + 19), shorten(text, font, FINDING_SIDE), font=font, fill=INK)
        x += FINDING_SIDE + 4


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
    labels = scan.datasets[part].labels[readable]
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
