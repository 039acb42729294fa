"""Pictures with predictions drawn beside them: single cards, and many of them on one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
RIGHT: Colour = (27, 127, 68)
WRONG: Colour = (192, 41, 43)
UNKNOWN: Colour = (42, 93, 168)
FAINT: Colour = (176, 182, 190)
TRACK: Colour = (232, 235, 239)
INK: Colour = (28, 32, 38)
SUBTLE: Colour = (104, 112, 122)
PAPER: Colour = (255, 255, 255)
DESK: Colour = (240, 242, 245)
PADDING = 10
BAR_HEIGHT = 7
# A picture below this size is enlarged by whole factors, so that its pixels stay visible as squares.
TINY = 96
SHEET_PICTURE = 200
SINGLE_SIDES = (320, 1280)
ROWS = 3


@dataclass
class Card:
    """One picture and what was predicted for it.

    Attributes:
        image: ``uint8`` RGB ``[H, W, 3]``.
        caption: usually the file's name.
        labels, scores: the best classes, best first.
        truth: the true class where it is known; the first label is then drawn green or red.
    """

    image: np.ndarray
    caption: str
    labels: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    truth: str | None = None

    @property
    def colour(self) -> Colour:
        """Green if the prediction is right, red if it is wrong, blue if nobody knows."""
        if self.truth is None or not self.labels:
            return UNKNOWN
        return RIGHT if self.labels[0] == self.truth else WRONG


def draw_card(card: Card) -> Image.Image:
    """Draws one picture in its own size (tiny ones enlarged, huge ones reduced) with its predictions below."""
    smallest, largest = SINGLE_SIDES
    height, width = card.image.shape[:2]
    picture = _fitted(card.image, min(largest, max(smallest, width)), min(largest, max(smallest, height)))
    return _card(card, picture, max(picture.width, smallest))


def draw_sheet(cards: Sequence[Card], title: str = "", side: int = SHEET_PICTURE) -> Image.Image:
    """Draws many pictures in a grid, each fitted into a square of ``side`` pixels, with ``title`` above.

    Raises:
        ValueError: there are no cards.
    """
    if not cards:
        raise ValueError("cards: need at least one")
    drawn = [_card(card, _boxed(card.image, side), side) for card in cards]
    columns = min(len(drawn), math.ceil(math.sqrt(1.6 * len(drawn))))
    rows = math.ceil(len(drawn) / columns)
    card_width, card_height = drawn[0].width, max(card.height for card in drawn)
    top = PADDING + (line_height(font_of(20)) + PADDING if title else 0)
    sheet = Image.new(
        "RGB",
        (PADDING + columns * (card_width + PADDING), top + rows * (card_height + PADDING)),
        DESK,
    )
    if title:
        pen = ImageDraw.Draw(sheet)
        heading = font_of(20)
        pen.text((PADDING, PADDING), shortened(title, heading, sheet.width - 2 * PADDING), fill=INK, font=heading)
    for number, picture in enumerate(drawn):
        row, column = divmod(number, columns)
        sheet.paste(picture, (PADDING + column * (card_width + PADDING), top + row * (card_height + PADDING)))
    return sheet


def _card(card: Card, picture: Image.Image, width: int) -> Image.Image:
    """Puts the picture above its predictions; a frame in the card's colour says right or wrong at a glance."""
    font, small = font_of(15), font_of(12)
    row_height = line_height(font) + BAR_HEIGHT + 8
    ranking = list(zip(card.labels, card.scores, strict=True))[:ROWS]
    panel = 6 + line_height(small) + 6 + len(ranking) * row_height
    result = Image.new("RGB", (width + 2 * PADDING, picture.height + 2 * PADDING + panel), PAPER)
    result.paste(picture, (PADDING + (width - picture.width) // 2, PADDING))
    pen = ImageDraw.Draw(result)
    y = PADDING + picture.height + 6
    _draw_caption(pen, card, y, width, small)
    y += line_height(small) + 6
    for number, entry in enumerate(ranking):
        colours = (INK, card.colour) if number == 0 else (SUBTLE, FAINT)
        _draw_row(pen, entry, y, width, font, colours)
        y += row_height
    if card.truth is not None:
        pen.rectangle((0, 0, result.width - 1, result.height - 1), outline=card.colour, width=3)
    return result


def _draw_caption(pen: ImageDraw.ImageDraw, card: Card, y: int, width: int, font: ImageFont.FreeTypeFont) -> None:
    truth = f"true: {card.truth}" if card.truth is not None else ""
    truth = shortened(truth, font, width // 2)
    truth_width = math.ceil(font.getlength(truth))
    room = width - truth_width - (PADDING if truth else 0)
    pen.text((PADDING, y), shortened(card.caption, font, room, keep_end=True), fill=SUBTLE, font=font)
    pen.text((PADDING + width - truth_width, y), truth, fill=card.colour, font=font)


def _draw_row(
    pen: ImageDraw.ImageDraw,
    entry: tuple[str, float],
    y: int,
    width: int,
    font: ImageFont.FreeTypeFont,
    colours: tuple[Colour, Colour],
) -> None:
    """Draws one class: its name on the left, its probability on the right, a bar below."""
    label, score = entry
    percent = f"{100 * score:.1f} %"
    percent_width = math.ceil(font.getlength(percent))
    pen.text((PADDING, y), shortened(label, font, width - percent_width - PADDING), fill=colours[0], font=font)
    pen.text((PADDING + width - percent_width, y), percent, fill=colours[0], font=font)
    top = y + line_height(font) + 2
    pen.rectangle((PADDING, top, PADDING + width - 1, top + BAR_HEIGHT - 1), fill=TRACK)
    filled = round(width * min(max(score, 0.0), 1.0))
    if filled:
        pen.rectangle((PADDING, top, PADDING + filled - 1, top + BAR_HEIGHT - 1), fill=colours[1])


def _fitted(image: np.ndarray, width: int, height: int) -> Image.Image:
    """Scales a picture to fit into ``width`` x ``height``, its sides' ratio kept."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    factor = min(width / picture.width, height / picture.height)
    method = Image.Resampling.LANCZOS
    if max(picture.size) <= TINY and factor >= 1:
        factor, method = math.floor(factor), Image.Resampling.NEAREST
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, method)


def _boxed(image: np.ndarray, side: int) -> Image.Image:
    picture = _fitted(image, side, side)
    box = Image.new("RGB", (side, side), DESK)
    box.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return box


@lru_cache(maxsize=8)
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans knows most alphabets; where it is absent, Pillow's own font knows Latin."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def line_height(font: ImageFont.FreeTypeFont) -> int:
    """Returns the pixels from the top of the tallest letter to the bottom of the deepest."""
    ascent, descent = font.getmetrics()
    return ascent + descent


def shortened(text: str, font: ImageFont.FreeTypeFont, room: float, keep_end: bool = False) -> str:
    """Cuts ``text`` so that it fits into ``room`` pixels; of a file's name the end says more than the beginning."""
    if font.getlength(text) <= room:
        return text
    for kept in range(len(text) - 1, 0, -1):
        cut = f"…{text[-kept:]}" if keep_end else f"{text[:kept]}…"
        if font.getlength(cut) <= room:
            return cut
    return ""
