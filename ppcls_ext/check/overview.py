"""The picture that sums up a check, for every task: heading, charts, findings with their first images, and samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ppcls_ext.check.findings import PART_WORDS, Entry, Picture, Severity
from ppcls_ext.check.images import Scan
from ppcls_ext.check.report import DataCheck
from ppcls_ext.preprocess.decode import ImageError
from ppcls_ext.utils.drawing import (
    DESK,
    INK,
    PADDING,
    SUBTLE,
    UNKNOWN,
    WRONG,
    Card,
    Colour,
    draw_sheet,
    fitted,
    shortened,
)
from ppcls_ext.utils.fonts import font_of, prepare_figure, write

WIDTH = 1600
COLOURS = {Severity.ERROR: WRONG, Severity.WARNING: (196, 120, 14), Severity.INFORMATION: UNKNOWN}
MOST_FINDINGS = 10
# Pictures of a finding: one row.
COLUMNS, SIDE = 9, 146
# Longest side of a picture of a card, that of detectors' samples: photographs in their own size would fill the memory.
LARGEST_SIDE = 288
Draw = Callable[[Picture, Entry], np.ndarray]


def draw_overview(
    check: DataCheck, charts: Image.Image, samples: Mapping[str, Sequence[Card]], columns: int, draw: Draw
) -> Image.Image:
    """Draws heading, charts, the worst findings with their first images, and samples, below each other.

    Args:
        check: of which at least one set could be opened.
        charts: see :func:`draw_charts`.
        samples, columns: by set, what :func:`card_of` returned, and how many stand beside each other.
        draw: returns an image of an instance of a finding as ``uint8`` ``[H, W, 3]``, or raises an ``ImageError``.
    """
    facts = "   ·   ".join([*check.facts.values(), check.summary()])
    parts = [_section(f"Data of {check.name}", facts, size=27), charts]
    for finding in check.findings[:MOST_FINDINGS]:
        shown = [(entry, picture) for entry in finding.entries[:COLUMNS] for picture in entry.pictures[:2]][:COLUMNS]
        cards = [card_of(check.scan, picture, "", lambda each, entry=entry: draw(each, entry))
                 for entry, picture in shown]  # fmt: skip
        title = f"{finding.severity.word}: {finding.summary}"
        parts.append(_section(title, check.examples(finding), cards, colour=COLOURS[finding.severity]))
    if (rest := len(check.findings) - MOST_FINDINGS) > 0:
        parts.append(_section(f"{rest} more kinds in check.json"))
    side = (WIDTH - PADDING) // columns - 3 * PADDING
    parts += [_section(f"Samples, {PART_WORDS[part]}", "", cards, side, columns) for part, cards in samples.items()]
    sheet = Image.new("RGB", (WIDTH, sum(part.height for part in parts)), DESK)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def _section(
    title: str, text: str = "", cards: Sequence[Card] = (), side: int = SIDE, columns: int = COLUMNS,
    size: int = 17, colour: Colour = INK,
) -> Image.Image:  # fmt: skip
    """Draws a title and a line of text above pictures in a grid."""
    grid = draw_sheet(cards, "", side, columns) if cards else Image.new("RGB", (1, 1), DESK)
    lines = [(title, font_of(size), colour)] + ([(text, font_of(14), SUBTLE)] if text else [])
    section = Image.new("RGB", (WIDTH, PADDING + sum(font.size + 8 for _, font, _ in lines) + grid.height), DESK)
    pen, y = ImageDraw.Draw(section), PADDING
    for words, font, ink in lines:
        write(pen, (PADDING, y), shortened(words, font, WIDTH - 2 * PADDING), font, ink)
        y += font.size + 8
    section.paste(grid, (0, y))
    return section


def card_of(scan: Scan, picture: Picture, caption: str, draw: Callable[[Picture], np.ndarray]) -> Card:
    """Returns an image of at most :data:`LARGEST_SIDE` with its file name and a caption; an empty square and the cause
    if it cannot be read."""
    name = PurePath(scan.name_of(picture)).name
    try:
        image = draw(picture)
        if max(image.shape[:2]) > LARGEST_SIDE:
            image = np.asarray(fitted(image, LARGEST_SIDE, LARGEST_SIDE))
        return Card(image, f"{name}  {caption}")
    except ImageError as error:
        return Card(np.full((SIDE, SIDE, 3), DESK, np.uint8), f"{name}: {error.cause}")


# Charts

DOTS_PER_INCH = 100
CHART_COLOURS = {"Train": "#2a5da8", "Eval": "#e08a1e"}
# More bars than these cannot bear their names; of so few there is room for their numbers.
MOST_BARS, FEW_BARS = 40, 20
LONGEST_NAME = 18
# So many letters fit below a wide chart.
MOST_LETTERS = 130


def draw_charts(height: int, rows: Sequence[Sequence[str]], charts: Mapping[str, Callable[[Any], None]]) -> Image.Image:
    """Draws charts in rows of ``height`` pixels.

    Args:
        height: of a row.
        rows: the titles of the charts from left to right; one that stands there several times is so much wider.
        charts: by title, what draws it on given axes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = (WIDTH / DOTS_PER_INCH, height * len(rows) / DOTS_PER_INCH)
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for title, axes in figure.subplot_mosaic([list(row) for row in rows]).items():
        axes.set_title(title, loc="left")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        charts[title](axes)
    prepare_figure(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy())


def draw_class_counts(axes: Any, names: Sequence[str], counts: Mapping[str, np.ndarray]) -> None:
    """Draws how often each class occurs in each set (``counts``, one a name), and which colour is which set: bars, or
    curves where there are too many classes."""
    for position, (part, values) in enumerate(counts.items()):
        style = {"color": CHART_COLOURS[part], "label": PART_WORDS[part]}
        if len(names) > MOST_BARS:
            axes.stairs(np.sort(values)[::-1], **style)
            axes.set_xlabel("classes, largest first")
            continue
        bar = 0.8 / len(counts)
        bars = axes.bar(np.arange(len(names)) + (position - (len(counts) - 1) / 2) * bar, values, bar, **style)
        if len(names) <= FEW_BARS:
            axes.bar_label(bars, fmt="{:,.0f}", fontsize=7.5, padding=1)
    if len(names) <= MOST_BARS:
        names = [name[:LONGEST_NAME] for name in names]
        # The longest name must fit beside its neighbours.
        crowded = max(map(len, names), default=0) * len(names) > MOST_LETTERS
        tilted = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
        axes.set_xticks(np.arange(len(names)), names, fontsize=9 if len(names) <= FEW_BARS else 7, **tilted)
        for text in axes.get_xticklabels():
            text.set_parse_math(False)  # A class may be called "US$".
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0))


def draw_sizes(scan: Scan, axes: Any) -> None:
    """Draws width and height of the images: a dot for each size, the larger the more images have it."""
    for part in scan.records:
        places, counts = np.unique(scan.sizes(part), axis=0, return_counts=True)
        area = 14 + 180 * np.sqrt(counts / max(counts.sum(), 1))
        axes.scatter(places[:, 0], places[:, 1], s=area, alpha=0.5, color=CHART_COLOURS[part], lw=0)
    axes.set(xlabel="width (px)", ylabel="height (px)", xlim=(0, None), ylim=(0, None))
