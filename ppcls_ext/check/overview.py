"""Parts of the picture that sums up a check: its heading, what was found, and how the parts make one sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePath

from PIL import Image, ImageDraw

from ppcls_ext.check.findings import Entry, Finding, Picture, Severity, count_of, count_severities
from ppcls_ext.check.scan import Scan
from ppcls_ext.check.tiles import CLEAN, SEVERITY_COLOURS, draw_badge, font_of, panel, shorten, thumbnail, wrap
from ppcls_ext.utils.drawing import DESK, INK, PAPER, SUBTLE

WIDTH = 1600
MARGIN = 24
PADDING = 18
INNER = WIDTH - 2 * MARGIN
COLUMN = (INNER - 3 * PADDING) // 2
FINDINGS_SHOWN = 10
# Classes named where a finding has no pictures.
NOTES = 20
FINDING_TEXT = 270
# The room that a note beside the pictures needs.
LEAST_NOTE = 150
FINDING_SIDE = 88
FINDING_HEIGHT = FINDING_SIDE + 48
Caption = Callable[[Picture], str]
# Draws an image of an instance as a square of so many pixels.
Tile = Callable[[Entry, Picture, int], Image.Image]


def stack(parts: Sequence[Image.Image]) -> Image.Image:
    """Returns one sheet with the parts below each other."""
    sheet = Image.new("RGB", (WIDTH, sum(part.height + MARGIN for part in parts) + MARGIN), DESK)
    y = MARGIN
    for part in parts:
        sheet.paste(part, (MARGIN, y))
        y += part.height + MARGIN
    return sheet


def draw_heading(title: str, facts: str, findings: Sequence[Finding]) -> Image.Image:
    """Draws the title, one line of facts below it, and on the right how many kinds of faults there are."""
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
    font = font_of(27, bold=True)
    pen.text((0, 2), shorten(title, font, x - 20, keep_end=True), font=font, fill=INK)
    pen.text((0, 44), shorten(facts, font_of(17), INNER), font=font_of(17), fill=SUBTLE)
    return image


def draw_findings(findings: Sequence[Finding], scan: Scan, caption: Caption, tile: Tile | None = None) -> Image.Image:
    """Draws two columns of findings: what it is on the left, the first examples beside it.

    Args:
        findings: worst first.
        scan: reads and names the images.
        caption: what to write below an image besides its name.
        tile: draws an image of an instance; left out, the image as it is.
    """
    tile = tile or (lambda entry, picture, side: thumbnail(scan, picture, side, whole=True))
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
        cell = _finding_cell(finding, scan, caption, tile)
        image.paste(cell, (PADDING + number % 2 * (COLUMN + PADDING), top + number // 2 * FINDING_HEIGHT))
    return image


def _finding_cell(finding: Finding, scan: Scan, caption: Caption, tile: Tile) -> Image.Image:
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
    notes = []
    for entry in finding.entries:
        width = len(entry.pictures[:2]) * (FINDING_SIDE + 4)
        if width == 0 or x + width > COLUMN:
            break
        _draw_example(image, entry, x, scan, caption, tile)
        x += width + 14
        notes.append(entry.note)
    if finding.count == len(notes) and any(notes) and COLUMN - x >= LEAST_NOTE:
        # A picture is too narrow for what is wrong with it; a few pictures leave room beside them.
        text = "; ".join(filter(None, notes))
        for number, line in enumerate(wrap(text, font_of(13), COLUMN - x, most_lines=5)):
            pen.text((x, 18 * number), line, font=font_of(13), fill=SUBTLE)
    return image


def _draw_example(image: Image.Image, entry: Entry, x: int, scan: Scan, caption: Caption, tile: Tile) -> None:
    """One or two pictures; below each its file and its caption, or below a single one what is wrong with it."""
    pen = ImageDraw.Draw(image)
    font = font_of(11)
    alone = len(entry.pictures) == 1
    for picture in entry.pictures[:2]:
        image.paste(tile(entry, picture, FINDING_SIDE), (x, 0))
        name = PurePath(scan.name_of(picture)).name
        text = entry.note if alone and entry.note else caption(picture)
        pen.text((x, FINDING_SIDE + 4), shorten(name, font, FINDING_SIDE, keep_end=True), font=font, fill=SUBTLE)
        pen.text((x, FINDING_SIDE + 19), shorten(text, font, FINDING_SIDE), font=font, fill=INK)
        x += FINDING_SIDE + 4
