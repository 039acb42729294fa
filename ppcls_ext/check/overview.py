"""Parts of the picture that sums up a check: heading, charts, findings with examples, and how they make one sheet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ppcls_ext.check.findings import PART_WORDS, Entry, Finding, Picture, Severity, count_of, count_severities
from ppcls_ext.check.images import Scan, load_pixels
from ppcls_ext.preprocess.decode import ImageError
from ppcls_ext.utils.drawing import DESK, INK, PAPER, RIGHT, SUBTLE, UNKNOWN, WRONG, Colour, shortened
from ppcls_ext.utils.fonts import font_of, prepare_figure, text_width, write

WIDTH = 1600
MARGIN = 24
PADDING = 18
INNER = WIDTH - 2 * MARGIN
COLUMN = (INNER - 3 * PADDING) // 2
# The content of a card begins so far down, below its title.
TOP = PADDING + 34
SEVERITY_COLOURS = {Severity.ERROR: WRONG, Severity.WARNING: (196, 120, 14), Severity.INFORMATION: UNKNOWN}
FINDINGS_SHOWN = 10
# Classes named where a finding has no pictures.
NOTES = 20
FINDING_TEXT = 270
# The room that a note beside the pictures needs.
LEAST_NOTE = 150
FINDING_SIDE = 88
FINDING_HEIGHT = FINDING_SIDE + 48


def stack(parts: Sequence[Image.Image]) -> Image.Image:
    """Returns one sheet with the parts below each other."""
    sheet = Image.new("RGB", (WIDTH, sum(part.height + MARGIN for part in parts) + MARGIN), DESK)
    y = MARGIN
    for part in parts:
        sheet.paste(part, (MARGIN, y))
        y += part.height + MARGIN
    return sheet


def panel(height: int, title: str = "") -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Returns a white card with a title and round corners on grey ground, and what draws on it."""
    image = Image.new("RGB", (INNER, height), DESK)
    pen = ImageDraw.Draw(image)
    pen.rounded_rectangle((0, 0, INNER - 1, height - 1), 10, fill=PAPER)
    write(pen, (PADDING, PADDING - 4), title, font_of(17), INK)
    return image, pen


def wrap(text: str, font: ImageFont.FreeTypeFont, room: float, most_lines: int) -> str:
    """Breaks ``text`` between words into lines of ``room`` pixels; the last line is cut."""
    lines: list[str] = []
    words = text.split()
    while words:
        count = 1
        while count < len(words) and text_width(" ".join(words[: count + 1]), font) <= room:
            count += 1
        if len(lines) == most_lines - 1:
            count = len(words)
        lines.append(shortened(" ".join(words[:count]), font, room))
        words = words[count:]
    return "\n".join(lines)


def crossed_box(side: int, cause: str) -> Image.Image:
    """Returns the square that stands for an image which cannot be read, and says why."""
    box = Image.new("RGB", (side, side), DESK)
    pen = ImageDraw.Draw(box)
    pen.rectangle((0, 0, side - 1, side - 1), outline=SUBTLE)
    middle, arm = side // 2, 6
    for slope in (1, -1):
        pen.line((middle - arm, 14 - slope * arm, middle + arm, 14 + slope * arm), fill=WRONG, width=3)
    text = wrap(cause, font_of(10), side - 8, most_lines=max((side - 30) // 13, 1))
    write(pen, (middle, 28), text, font_of(10), INK, anchor="ma")
    return box


def thumbnail(scan: Scan, picture: Picture, side: int, whole: bool = False) -> Image.Image:
    """Returns an image as a square, its middle or (``whole``) all of it; a box that says why if it cannot be read."""
    try:
        image = Image.fromarray(load_pixels(scan.datasets[picture.part], picture.index))
    except ImageError as error:
        return crossed_box(side, error.cause)
    # Tiny pictures keep their pixels visible as squares.
    method = Image.Resampling.NEAREST if max(image.size) <= side // 2 else Image.Resampling.LANCZOS
    if whole:
        return fitted_square(image, side, method)
    return ImageOps.fit(image, (side, side), method)


def fitted_square(image: Image.Image, side: int, method: Image.Resampling) -> Image.Image:
    """Returns a square with all of an image in its middle; of a long, narrow one at least a line is seen."""
    width, height = (max(1, round(length * side / max(image.size))) for length in image.size)
    square = Image.new("RGB", (side, side), DESK)
    square.paste(image.resize((width, height), method), (round((side - width) / 2), round((side - height) / 2)))
    return square


def draw_heading(title: str, facts: Sequence[str], findings: Sequence[Finding]) -> Image.Image:
    """Draws the title, one line of facts below it, and on the right how many kinds of faults there are."""
    image = Image.new("RGB", (INNER, 72), DESK)
    pen = ImageDraw.Draw(image)
    counts = count_severities(findings)
    words = {Severity.INFORMATION: "note", Severity.WARNING: "warning", Severity.ERROR: "error"}
    badges = [(count_of(counts[key], word), SEVERITY_COLOURS[key]) for key, word in words.items() if counts[key]]
    if not counts[Severity.ERROR] and not counts[Severity.WARNING]:
        badges.append(("clean", RIGHT))
    x = INNER
    for text, colour in badges:
        left = x - round(font_of(16).getlength(text)) - 28
        pen.rounded_rectangle((left, 4, x, 36), 16, fill=colour)
        write(pen, ((left + x) / 2, 20), text, font_of(16), PAPER, anchor="mm")
        x = left - 10
    write(pen, (0, 2), shortened(title, font_of(27), x - 20, keep_end=True), font_of(27), INK)
    write(pen, (0, 44), shortened("   ·   ".join(facts), font_of(17), INNER), font_of(17), SUBTLE)
    return image


def draw_findings(
    findings: Sequence[Finding],
    scan: Scan,
    caption: Callable[[Picture], str],
    tile: Callable[[Entry, Picture, int], Image.Image] | None = None,
) -> Image.Image:
    """Draws two columns of findings, worst first: what it is on the left, the first examples beside it.

    ``caption`` says what to write below an image besides its name; ``tile`` draws an image of an instance as a square
    of so many pixels, left out the image as it is.
    """
    tile = tile or (lambda entry, picture, side: thumbnail(scan, picture, side, whole=True))
    shown = findings[:FINDINGS_SHOWN]
    rest = len(findings) - len(shown)
    title = "Findings" + (f"  (the {FINDINGS_SHOWN} worst kinds; {rest} more in check.json)" if rest else "")
    image, pen = panel(TOP + max((len(shown) + 1) // 2 * FINDING_HEIGHT, 30) + PADDING // 2, title)
    if not shown:
        write(pen, (PADDING, TOP - 2), "Nothing to mend, nothing to mention.", font_of(16), RIGHT)

    def paragraph(text: str, x: int, y: int, size: int, colour: Colour, room: int, lines: int) -> None:
        write(pen, (x, y), wrap(text, font_of(size), room, lines), font_of(size), colour, spacing=6)

    for number, finding in enumerate(shown):
        left, y = PADDING + number % 2 * (COLUMN + PADDING), TOP + number // 2 * FINDING_HEIGHT
        colour = SEVERITY_COLOURS[finding.severity]
        pen.rounded_rectangle((left, y, left + 5, y + FINDING_HEIGHT - 18), 2, fill=colour)
        write(pen, (left + 18, y), finding.severity.word, font_of(14), colour)
        paragraph(finding.summary, left + 18, y + 22, 15, INK, FINDING_TEXT - 34, 4)
        x, end = left + FINDING_TEXT, left + COLUMN
        if not finding.entries[0].pictures:
            text = "; ".join(entry.note for entry in finding.entries[:NOTES])
            text += f"; and {finding.count - NOTES:,} more" if finding.count > NOTES else ""
            paragraph(text, x, y + 22, 15, SUBTLE, end - x, 4)
            continue
        notes = []
        for entry in finding.entries:
            pictures = entry.pictures[:2]
            if not pictures or x + len(pictures) * (FINDING_SIDE + 4) > end:
                break
            # Below each its file and its caption, or below a single one what is wrong with it.
            for picture in pictures:
                image.paste(tile(entry, picture, FINDING_SIDE), (x, y))
                name = PurePath(scan.name_of(picture)).name
                text = entry.note if len(entry.pictures) == 1 and entry.note else caption(picture)
                for line, (words, ink) in enumerate(((name, SUBTLE), (text, INK))):
                    words = shortened(words, font_of(11), FINDING_SIDE, keep_end=line == 0)
                    write(pen, (x, y + FINDING_SIDE + 4 + 15 * line), words, font_of(11), ink)
                x += FINDING_SIDE + 4
            x += 14
            notes.append(entry.note)
        if finding.count == len(notes) and any(notes) and end - x >= LEAST_NOTE:
            # A picture is too narrow for what is wrong with it; a few pictures leave room beside them.
            paragraph("; ".join(filter(None, notes)), x, y, 13, SUBTLE, end - x, 5)
    return image


# Charts

DOTS_PER_INCH = 100
CHART_COLOURS = {"Train": "#2a5da8", "Eval": "#e08a1e"}
CHART_INK, CHART_SUBTLE = "#1c2026", "#68707a"
MOST_POINTS = 4000
# Sides that differ more than so many times are drawn on logarithmic axes.
WIDE_RANGE = 6.0
# More bars than these cannot bear their names.
MOST_BARS = 40
LONGEST_NAME = 18
# So many letters fit below a wide chart.
MOST_LETTERS = 130


def charts_panel(height: int, charts: Sequence[tuple[float, str, Callable[[Any], None]]]) -> Image.Image:
    """Draws charts beside each other on a card of ``height`` pixels: for each its share of the width, its title, and
    what draws it on given axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = ((INNER - 2 * PADDING) / DOTS_PER_INCH, (height - 2 * PADDING) / DOTS_PER_INCH)
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    row = figure.subplots(1, len(charts), squeeze=False, width_ratios=[share for share, _, _ in charts])[0]
    for axes, (_, title, draw) in zip(row, charts, strict=True):
        axes.set_title(title, loc="left", fontsize=12, color=CHART_INK)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#b0b6be")
        axes.tick_params(colors=CHART_SUBTLE, labelsize=9)
        for axis in (axes.xaxis, axes.yaxis):
            axis.label.set_color(CHART_SUBTLE)
        draw(axes)
    prepare_figure(figure)
    canvas.draw()
    card, _ = panel(height)
    card.paste(Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy()), (PADDING, PADDING))
    return card


def draw_key(axes: Any) -> None:
    """Draws which colour is which set, above the chart on the right."""
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0))


def draw_bars(axes: Any, names: Sequence[str], counts: Mapping[str, np.ndarray], numbers: bool = False) -> None:
    """Draws a bar for each name and set (``counts``, one a name); ``numbers`` writes the counts above the bars."""
    bar = 0.8 / len(counts)
    for position, (part, values) in enumerate(counts.items()):
        places = np.arange(len(names)) + (position - (len(counts) - 1) / 2) * bar
        bars = axes.bar(places, values, width=bar, color=CHART_COLOURS[part], label=PART_WORDS[part])
        if numbers:
            axes.bar_label(bars, fmt="{:,.0f}", fontsize=7.5, color=CHART_SUBTLE, padding=1)
    names = [name[:LONGEST_NAME] for name in names]
    # The longest name must fit beside its neighbours.
    crowded = max(map(len, names), default=0) * len(names) > MOST_LETTERS
    tilted = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(np.arange(len(names)), names, fontsize=9 if len(names) <= 24 else 7, **tilted)
    for text in axes.get_xticklabels():
        text.set_parse_math(False)  # A class may be called "US$".
    axes.set_xlim(-0.7, len(names) - 0.3)
    axes.grid(axis="y", alpha=0.25)


def write_instead(axes: Any, text: str, explanation: str = "") -> None:
    """Writes a few words where a chart would have nothing to show."""
    centred = {"ha": "center", "va": "center", "transform": axes.transAxes}
    axes.text(0.5, 0.56, text, fontsize=20, color=CHART_INK, **centred)
    axes.text(0.5, 0.36, explanation, fontsize=10, color=CHART_SUBTLE, **centred)
    axes.set_axis_off()


def logarithmic(axes: Any, form: str) -> None:
    """Makes both axes logarithmic to base 2, with ticks written as ``form``."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter(form)
    axes.yaxis.set_major_formatter(form)


def evenly(count: int, most: int) -> np.ndarray:
    """Returns all numbers below ``count``, or ``most`` of them at equal distances, ``int64`` ``[n]``.

    Enough to see the shape of a cloud of points, and the same in every run.
    """
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def draw_sizes(scan: Scan, axes: Any) -> None:
    """Draws width and height of the images."""
    sizes = {part: scan.sizes(part) for part in scan.records}
    every = np.concatenate(list(sizes.values()))
    if len(every) == 0:
        return write_instead(axes, "none", "no image could be read")
    if (every == every[0]).all():
        return write_instead(axes, "{} x {}".format(*every[0]), "all images have this size")
    for part, points in sizes.items():
        # A dot for each size, the larger the more images have it.
        places, counts = np.unique(points, axis=0, return_counts=True)
        chosen = evenly(len(places), MOST_POINTS)
        places, counts = places[chosen], counts[chosen]
        area = 14 + 180 * np.sqrt(counts / max(len(points), 1)) * (counts > 1)
        axes.scatter(places[:, 0], places[:, 1], s=area, alpha=0.5, color=CHART_COLOURS[part], lw=0)
    if every.max() > WIDE_RANGE * every.min():
        logarithmic(axes, "{x:.0f}")
    axes.set_xlabel("width (px)")
    axes.set_ylabel("height (px)")
    axes.grid(alpha=0.25)
    return None
