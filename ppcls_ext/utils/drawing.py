"""Pictures for people, drawn with Pillow: boxes with labels, predictions beside pictures, contact sheets.

Ours and not supervision's annotators, although those need no torch: they bring PyAV with FFmpeg (tens of megabytes on
the small computers that the runtime is for), draw no broken lines, which mark mistakes here, and put labels where they
hide small targets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ppcls_ext.utils.fonts import font_of, text_width, write

Colour = tuple[int, int, int]
Corners = tuple[float, float, float, float]
RIGHT: Colour = (27, 127, 68)
WRONG: Colour = (192, 41, 43)
UNKNOWN: Colour = (42, 93, 168)
FAINT: Colour = (176, 182, 190)
TRACK: Colour = (232, 235, 239)
INK: Colour = (28, 32, 38)
SUBTLE: Colour = (104, 112, 122)
PAPER: Colour = (255, 255, 255)
DESK: Colour = (240, 242, 245)
BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
# Bright enough for black sonar frames, saturated enough for murky water, and told apart by most colour-blind eyes when
# two neighbours in the list meet.
PALETTE: tuple[Colour, ...] = (
    (255, 196, 0), (0, 188, 255), (255, 92, 92), (72, 214, 110), (214, 130, 255), (255, 143, 43),
    (60, 240, 214), (255, 130, 190), (190, 230, 60), (130, 160, 255), (222, 184, 135), (255, 255, 140),
)  # fmt: skip
PADDING = 10
BAR_HEIGHT = 7
# A picture below this size is enlarged by whole factors, so that its pixels stay visible as squares.
TINY = 96
SHEET_PICTURE = 200
SINGLE_SIDES = (320, 1280)
ROWS = 3
# The longer side of a picture is enlarged to at least this, so that labels have room beside the targets.
READABLE_SIDE = 640
LARGEST_FACTOR = 16
# Brightness from which a label's text is black.
LIGHT = 115
DASH = 7


def line_height(font: ImageFont.FreeTypeFont) -> int:
    """Returns the pixels from the top of the tallest letter to the bottom of the deepest."""
    ascent, descent = font.getmetrics()
    return ascent + descent


def shortened(text: str, font: ImageFont.FreeTypeFont, room: float, keep_end: bool = False) -> str:
    """Cuts ``text`` so that it fits into ``room`` pixels; of a file's name the end says more than the beginning."""
    if text_width(text, font) <= room:
        return text
    for kept in range(len(text) - 1, 0, -1):
        cut = f"…{text[-kept:]}" if keep_end else f"{text[:kept]}…"
        if text_width(cut, font) <= room:
            return cut
    return ""


def class_colour(number: int) -> Colour:
    """Returns the colour of class ``number`` (from 0): the palette, then hues by the golden angle."""
    if number < len(PALETTE):
        return PALETTE[number]
    hue = (number * 0.61803398875) % 1.0
    channels = (abs((hue * 6 + shift) % 6 - 3) - 1 for shift in (0, 4, 2))
    red, green, blue = (round(90 + 165 * min(max(channel, 0.0), 1.0)) for channel in channels)
    return red, green, blue


def draw_boxes(
    image: np.ndarray | Image.Image,
    boxes: np.ndarray | Sequence[Sequence[float]],
    labels: Sequence[str],
    scores: Sequence[float] | None = None,
    classes: Sequence[int] | None = None,
    colours: Sequence[Colour] | None = None,
    dashed: Sequence[bool] | None = None,
    smallest: int = READABLE_SIDE,
) -> Image.Image:
    """Draws boxes and their labels on a copy of a picture; strong detections lie on top of weak ones.

    Args:
        image: ``uint8`` RGB ``[H, W, 3]`` or grey ``[H, W]``, or a Pillow image.
        boxes: ``[N, 4]`` of ``x_min, y_min, x_max, y_max`` in pixels of ``image``; they are clipped to it, and those
            that lie outside are left out.
        labels, scores: N texts, and N numbers between 0 and 1 that are written behind them as per cent.
        classes, colours: N class numbers from 0, which choose the colours (the first one unless given), or N colours.
        dashed: N marks of boxes to be drawn with a broken line.
        smallest: a picture whose longer side is shorter than this is enlarged by a whole factor; 0 keeps its size.

    Returns:
        A new RGB picture, as large as ``image`` or a whole number of times larger.

    Raises:
        ValueError: an image of another shape.
    """
    picture, factor = enlarged(image, smallest)
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    count = len(corners)
    colours = colours or [class_colour(int(number)) for number in (classes if classes is not None else [0] * count)]
    assert all(values is None or len(values) == count for values in (labels, scores, colours, dashed))

    pen = ImageDraw.Draw(picture)
    line = max(2, round(max(picture.size) / 320))
    font = font_of(min(max(12, round(max(picture.size) / 45)), 34))
    margin = max(2, line)
    height = line_height(font) + margin
    # The weakest first, so that the strongest ends on top; labels choose their places in the other order.
    drawn: list[tuple[int, Corners]] = []
    for index in range(count) if scores is None else sorted(range(count), key=lambda index: scores[index]):
        left, right = sorted(corners[index, [0, 2]] * factor)
        top, bottom = sorted(corners[index, [1, 3]] * factor)
        if right >= 0 and bottom >= 0 and left <= picture.width and top <= picture.height:
            left, top = max(left, 0.0), max(top, 0.0)
            right, bottom = max(min(right, picture.width - 1.0), left), max(min(bottom, picture.height - 1.0), top)
            drawn.append((index, (left, top, right, bottom)))
    for index, place in drawn:
        _draw_outline(pen, place, colours[index], line, dashed is not None and bool(dashed[index]))
    grounds: list[Corners] = []
    places = np.array([place for _, place in drawn]).reshape(-1, 4)
    texts = []
    for index, place in reversed(drawn):
        text = labels[index] if scores is None else f"{labels[index]} {100 * scores[index]:.0f} %"
        text = shortened(text, font, picture.width - 2 * margin)
        if text:
            size = (math.ceil(text_width(text, font)) + 2 * margin, height)
            grounds.append(_label_place(place, size, picture.size, grounds, places))
            texts.append((text, colours[index], grounds[-1]))
    # Labels above all lines, so that no line crosses a label.
    for text, colour, (x, y, right, bottom) in reversed(texts):
        pen.rectangle((x, y, right - 1, bottom - 1), fill=colour)
        brightness = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
        ink = BLACK if brightness > LIGHT else WHITE
        write(pen, (x + margin, (y + bottom) / 2), text, font, ink, anchor="lm")
    return picture


def enlarged(image: np.ndarray | Image.Image, smallest: int = READABLE_SIDE) -> tuple[Image.Image, int]:
    """Returns an RGB copy whose longer side has at least ``smallest`` pixels, and the whole factor it grew by.

    Raises:
        ValueError: the array is not ``uint8`` ``[H, W]`` or ``[H, W, 3]``, or it is empty.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.size == 0 or not (image.ndim == 2 or image.shape[2:] == (3,)):
            raise ValueError(f"image: need uint8 [H, W, 3] or [H, W], not {image.dtype} {list(image.shape)}")
        image = Image.fromarray(np.ascontiguousarray(image))
    picture = image.copy() if image.mode == "RGB" else image.convert("RGB")
    longer = max(picture.size)
    factor = min(max(math.ceil(smallest / longer), 1), LARGEST_FACTOR)
    if factor > 1:
        method = Image.Resampling.NEAREST if longer <= TINY else Image.Resampling.BICUBIC
        picture = picture.resize((picture.width * factor, picture.height * factor), method)
    return picture, factor


def _draw_outline(pen: ImageDraw.ImageDraw, corners: Corners, colour: Colour, line: int, dashed: bool) -> None:
    """Draws the sides of a box above a thin dark shadow, which keeps light colours visible on light ground."""
    left, top, right, bottom = corners
    if not dashed:
        pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=BLACK, width=line + 2)
        pen.rectangle(corners, outline=colour, width=line)
        return
    dash = DASH * line / 2
    for x1, y1, x2, y2 in ((left, top, right, top), (left, bottom, right, bottom),
                           (left, top, left, bottom), (right, top, right, bottom)):  # fmt: skip
        length = math.hypot(x2 - x1, y2 - y1)
        # An odd number of strokes and gaps, so that both corners are drawn.
        pieces = max(1, round(length / dash)) | 1
        for piece in range(0, pieces, 2):
            begin, end = piece / pieces, (piece + 1) / pieces
            stroke = (x1 + (x2 - x1) * begin, y1 + (y2 - y1) * begin, x1 + (x2 - x1) * end, y1 + (y2 - y1) * end)
            pen.line(stroke, fill=BLACK, width=line + 2)
            pen.line(stroke, fill=colour, width=line)


def _label_place(
    box: Corners, label: tuple[float, float], size: tuple[int, int], taken: Sequence[Corners], boxes: np.ndarray
) -> Corners:
    """Chooses where a label hides least: around the box or, if there is no room, just inside it."""
    width, height = label
    labels = np.array(taken, np.float64).reshape(-1, 4)
    # Whole pixels, away from the box: a label that cut into its own box by a fraction would seem to hide it.
    left, top = (math.floor(value) for value in box[:2])
    right, bottom = (math.ceil(value) for value in box[2:])
    candidates = [(x, y) for y in (top - height, bottom + 1) for x in (left, right + 1 - width)]
    candidates += [(right + 2, top), (left - width - 1, top), (left, top), (left, bottom - height)]
    best, least = (0, 0, width, height), math.inf
    for rank, (x, y) in enumerate(candidates):
        x, y = min(max(x, 0), size[0] - width), min(max(y, 0), size[1] - height)
        place = (x, y, x + width, y + height)
        cost = 4 * _hidden(place, labels) + _hidden(place, boxes) + rank
        if cost < least:
            best, least = place, cost
    return best


def _hidden(place: Corners, others: np.ndarray) -> float:
    """Returns the areas that a place has in common with boxes ``[N, 4]``, summed, in square pixels."""
    sides = np.minimum(others[:, 2:], place[2:]) - np.maximum(others[:, :2], place[:2])
    areas = np.maximum(sides, 0.0).prod(axis=1)
    return sum(areas[areas > 0].tolist())


@dataclass
class Card:
    """One picture, ``uint8`` RGB ``[H, W, 3]``, and what was predicted for it: the best classes, best first.

    Where ``truth``, the true class, is known, the first label is drawn green or red. Captions are file names.
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
    height, width = (min(largest, max(smallest, side)) for side in card.image.shape[:2])
    picture = fitted(card.image, width, height)
    return _card(card, picture, max(picture.width, smallest))


def draw_sheet(
    cards: Sequence[Card], title: str = "", side: int = SHEET_PICTURE, columns: int | None = None
) -> Image.Image:
    """Draws many pictures in a grid, each fitted into a square of ``side`` pixels, with ``title`` above.

    Without ``columns`` the sheet becomes somewhat wider than high.

    Raises:
        ValueError: there are no cards.
    """
    if not cards:
        raise ValueError("cards: need at least one")
    drawn = []
    for card in cards:
        picture, square = fitted(card.image, side, side), Image.new("RGB", (side, side), DESK)
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        drawn.append(_card(card, square, side))
    return contact_sheet(drawn, columns or math.ceil(math.sqrt(1.6 * len(drawn))), title)


def contact_sheet(
    pictures: Sequence[Image.Image], columns: int, title: str = "", subtitle: str = "", title_size: int = 20,
    subtitle_colour: Colour = SUBTLE,
) -> Image.Image:  # fmt: skip
    """Puts pictures, at least one, into a grid of up to ``columns`` columns below a title and a subtitle."""
    width, height = max(picture.width for picture in pictures), max(picture.height for picture in pictures)
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    heading, small = font_of(title_size), font_of(15)
    top = PADDING + (line_height(heading) + PADDING if title else 0) + (line_height(small) + 4 if subtitle else 0)
    sheet = Image.new("RGB", (PADDING + columns * (width + PADDING), top + rows * (height + PADDING)), DESK)
    pen, room = ImageDraw.Draw(sheet), sheet.width - 2 * PADDING
    write(pen, (PADDING, PADDING), shortened(title, heading, room), heading, INK)
    below = PADDING + line_height(heading) + 4
    write(pen, (PADDING, below), shortened(subtitle, small, room), small, subtitle_colour)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        sheet.paste(picture, (PADDING + column * (width + PADDING), top + row * (height + PADDING)))
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

    def line(y: int, left: str, right: str, gap: int, font: ImageFont.FreeTypeFont, colours: Sequence[Colour],
             keep_end: bool = False) -> None:  # fmt: skip
        right_width = math.ceil(text_width(right, font))
        left = shortened(left, font, width - right_width - gap, keep_end)
        write(pen, (PADDING, y), left, font, colours[0])
        write(pen, (PADDING + width - right_width, y), right, font, colours[1])

    y = PADDING + picture.height + 6
    truth = "" if card.truth is None else shortened(f"true: {card.truth}", small, width // 2)
    line(y, card.caption, truth, PADDING if truth else 0, small, (SUBTLE, card.colour), keep_end=True)
    y += line_height(small) + 6
    for number, (label, score) in enumerate(ranking):
        ink, bar = (INK, card.colour) if number == 0 else (SUBTLE, FAINT)
        line(y, label, f"{100 * score:.1f} %", PADDING, font, (ink, ink))
        top = y + line_height(font) + 2
        pen.rectangle((PADDING, top, PADDING + width - 1, top + BAR_HEIGHT - 1), fill=TRACK)
        filled = round(width * min(max(score, 0.0), 1.0))
        if filled:
            pen.rectangle((PADDING, top, PADDING + filled - 1, top + BAR_HEIGHT - 1), fill=bar)
        y += row_height
    if card.truth is not None:
        pen.rectangle((0, 0, result.width - 1, result.height - 1), outline=card.colour, width=3)
    return result


def fitted(image: np.ndarray, width: int, height: int) -> Image.Image:
    """Scales a picture to fit into ``width`` x ``height``, its sides' ratio kept."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    factor = min(width / picture.width, height / picture.height)
    method = Image.Resampling.LANCZOS
    if max(picture.size) <= TINY and factor >= 1:
        factor, method = math.floor(factor), Image.Resampling.NEAREST
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, method)
