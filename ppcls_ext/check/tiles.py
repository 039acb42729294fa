"""Building blocks of the overview: fonts, text that fits, and pictures of one size."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ppcls_ext.check.findings import Picture, Severity
from ppcls_ext.check.scan import Scan
from ppcls_ext.preprocess.decode import ImageError, decode_image
from ppcls_ext.utils.drawing import DESK, INK, PAPER, RIGHT, SUBTLE, UNKNOWN, WRONG, Colour

SEVERITY_COLOURS: dict[Severity, Colour] = {
    Severity.ERROR: WRONG,
    Severity.WARNING: (196, 120, 14),
    Severity.INFORMATION: UNKNOWN,
}
CLEAN = RIGHT
CORNER = 10


@lru_cache(maxsize=16)
def font_of(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Returns DejaVu Sans, which comes with matplotlib and knows most alphabets."""
    from matplotlib import get_data_path

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans{'-Bold' if bold else ''}.ttf", size)


def shorten(text: str, font: ImageFont.FreeTypeFont, room: float, keep_end: bool = False) -> str:
    """Cuts ``text`` to ``room`` pixels; of a path the end says more than the beginning."""
    if font.getlength(text) <= room:
        return text
    low, high = 0, len(text)
    while low < high:
        kept = (low + high + 1) // 2
        if font.getlength(_cut(text, kept, keep_end)) <= room:
            low = kept
        else:
            high = kept - 1
    return _cut(text, low, keep_end)


def _cut(text: str, kept: int, keep_end: bool) -> str:
    return f"…{text[len(text) - kept :]}" if keep_end else f"{text[:kept]}…"


def wrap(text: str, font: ImageFont.FreeTypeFont, room: float, most_lines: int) -> list[str]:
    """Breaks ``text`` between words into lines of ``room`` pixels; the last line is cut."""
    lines: list[str] = []
    words = text.split()
    while words:
        if len(lines) == most_lines - 1:
            return [*lines, shorten(" ".join(words), font, room)]
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= room:
            count += 1
        lines.append(shorten(" ".join(words[:count]), font, room))
        words = words[count:]
    return lines


def panel(width: int, height: int) -> Image.Image:
    """Returns a white card with round corners on the colour of the desk."""
    image = Image.new("RGB", (width, height), DESK)
    ImageDraw.Draw(image).rounded_rectangle((0, 0, width - 1, height - 1), CORNER, fill=PAPER)
    return image


def draw_badge(pen: ImageDraw.ImageDraw, right: int, y: int, text: str, colour: Colour) -> int:
    """Writes ``text`` in white on a coloured pill that ends at ``right``; returns where it begins."""
    font = font_of(16, bold=True)
    left = right - round(font.getlength(text)) - 28
    pen.rounded_rectangle((left, y, right, y + 32), 16, fill=colour)
    pen.text(((left + right) / 2, y + 16), text, font=font, fill=PAPER, anchor="mm")
    return left


def load_picture(scan: Scan, picture: Picture) -> Image.Image:
    """Reads an image again.

    Raises:
        ImageError: it cannot be read.
    """
    dataset = scan.datasets[picture.part]
    data = dataset.load(picture.index)[0]
    pixels = decode_image(data, dataset.name_of(picture.index)) if isinstance(data, bytes) else data
    return Image.fromarray(np.ascontiguousarray(pixels))


def thumbnail(scan: Scan, picture: Picture, side: int, whole: bool = False) -> Image.Image:
    """Returns an image as a square, its middle or (``whole``) all of it; a box that says why if it cannot be read."""
    try:
        image = load_picture(scan, picture)
    except ImageError as error:
        return crossed_box(side, error.cause)
    # Tiny pictures keep their pixels visible as squares.
    method = Image.Resampling.NEAREST if max(image.size) <= side // 2 else Image.Resampling.LANCZOS
    if whole:
        return ImageOps.pad(image, (side, side), method, color=DESK)
    return ImageOps.fit(image, (side, side), method)


def crossed_box(side: int, cause: str) -> Image.Image:
    """Returns the square that stands for an image which cannot be read, and says why."""
    box = Image.new("RGB", (side, side), DESK)
    pen = ImageDraw.Draw(box)
    pen.rectangle((0, 0, side - 1, side - 1), outline=SUBTLE)
    middle, arm, line = side // 2, 6, 13
    for slope in (1, -1):
        pen.line((middle - arm, 14 - slope * arm, middle + arm, 14 + slope * arm), fill=WRONG, width=3)
    for number, words in enumerate(wrap(cause, font_of(10), side - 8, most_lines=max((side - 30) // line, 1))):
        pen.text((middle, 28 + number * line), words, font=font_of(10), fill=INK, anchor="ma")
    return box
