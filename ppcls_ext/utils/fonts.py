"""Fonts for text in any script: whatever draws text, with Pillow or with matplotlib, asks here.

DejaVu Sans has the Latin, Greek, Cyrillic, Arabic and Hebrew letters and more. For what it lacks in a text, such as
Chinese, Japanese, Korean, Devanagari or Thai characters, one more font is taken, of this machine or of an installed
package. Where there is none, a class is drawn as its number (:func:`drawable`), and one line says what to install.

Arabic letters are joined and written from the right. Pillow does so itself if it has raqm
(``PIL.features.check("raqm")``), and then also orders the vowel signs of Indic scripts. matplotlib has no such shaping,
nor has Pillow without raqm: there :func:`visual_order` joins the Arabic letters, and Indic signs stand in the order in
which they are typed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import ImageDraw, ImageFont, features

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

SUFFIXES = (".ttf", ".otf", ".ttc")
# Where systems keep fonts, the user's own first.
FOLDERS = (
    "~/.local/share/fonts", "~/.fonts", "/usr/local/share/fonts", "/usr/share/fonts",
    "~/Library/Fonts", "/Library/Fonts", "/System/Library/Fonts", "C:/Windows/Fonts",
)  # fmt: skip
# Of two fonts with the same characters the plain one is taken; some draw a stand-in for every character.
_FANCY = re.compile(r"bold|black|italic|oblique|light|thin|medium|heavy|mono|serif|cond|narrow|display", re.IGNORECASE)
_STAND_INS = ("lastresort", "adobeblank")
# Size at which fonts are asked for their characters, and one that none has: what is drawn for it means "missing".
_PROBE_SIZE = 24
_NONCHARACTER = "\U0010ffff"
_RIGHT_TO_LEFT = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc"
# From the first to the last letter that is written from the right, with the spaces, digits and signs between.
_FROM_RIGHT = re.compile(rf"[{_RIGHT_TO_LEFT}]+(?:(?:[^\w\n]|[\d_])*[{_RIGHT_TO_LEFT}]+)*")
_NUMBER = re.compile(r"[0-9\u0660-\u0669\u06f0-\u06f9]+(?:[.,:/][0-9\u0660-\u0669\u06f0-\u06f9]+)*")
# A letter, or lam and alef, which are always written as one, and its marks.
_MARKS = "\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed"
_LETTER = re.compile(f"(\u0644[\u0622\u0623\u0625\u0627]|.)([{_MARKS}]*)")


# Which characters can be drawn


@lru_cache(maxsize=32)
def font_of(size: int, layout: ImageFont.Layout | None = None) -> ImageFont.FreeTypeFont:
    """Returns DejaVu Sans, of the system or of matplotlib (it knows most alphabets), else Pillow's own (Latin)."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size, layout_engine=layout)
    except OSError:
        pass
    try:
        from matplotlib import get_data_path
    except ImportError:
        return ImageFont.load_default(size)
    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size, layout_engine=layout)


@lru_cache(maxsize=1024)
def _font(file: str | None, size: int, layout: ImageFont.Layout | None = None) -> ImageFont.FreeTypeFont | None:
    """Returns a font in regular weight, that of :func:`font_of` for no file; ``None`` if Pillow cannot use the file."""
    if file is None:
        return font_of(size, layout)
    try:
        font = ImageFont.truetype(file, size, layout_engine=layout)
    except (OSError, ValueError):
        return None
    with contextlib.suppress(OSError, ValueError, AttributeError, NotImplementedError):
        # Of a variable font; by default some are thin. Other fonts raise.
        font.set_variation_by_name("Regular")
    return font


@cache
def font_files() -> tuple[str, ...]:
    """Returns the font files of this machine and of installed Python packages, plain ones before fancy ones."""
    files = {str(path) for folder in FOLDERS for path in Path(os.path.expanduser(folder)).rglob("*")}
    for package in importlib.metadata.distributions():
        files |= {str(package.locate_file(file)) for file in package.files or () if file.suffix.lower() in SUFFIXES}
    fonts = [
        file
        for file in files
        if file.lower().endswith(SUFFIXES) and not Path(file).name.lower().startswith(_STAND_INS)
    ]
    return tuple(sorted(fonts, key=lambda file: (bool(_FANCY.search(Path(file).stem)), file)))


@cache
def _drawn(file: str | None, character: str) -> bytes:
    # Shaping would put something else in the place of what is missing.
    font = _font(file, _PROBE_SIZE, ImageFont.Layout.BASIC)
    return b"" if font is None else bytes(font.getmask(character))


def has_character(file: str | None, character: str) -> bool:
    """Tells whether a font (None: that of :func:`font_of`) draws a character otherwise than one that it lacks."""
    # Lone surrogates ("Cs") stand for bytes of file names that are no text; nothing can draw them.
    if unicodedata.category(character) == "Cs":
        return False
    return (file is None and character.isascii()) or _drawn(file, character) != _drawn(file, _NONCHARACTER)


@cache
def _chart_family(file: str) -> str | None:
    """Returns the name by which matplotlib finds a font from now on, ``None`` for a file that it cannot use."""
    from matplotlib import font_manager

    try:
        if file not in {entry.fname for entry in font_manager.fontManager.ttflist}:
            font_manager.fontManager.addfont(file)
        return font_manager.FontProperties(fname=file).get_name()
    except (OSError, RuntimeError, ValueError):
        return None  # a variable font of the newer kind, or damaged


def _lacking(text: str, file: str | None = None) -> list[str]:
    """Returns the characters that a font lacks, without those that show nothing: spaces, control and format characters,
    variation selectors."""
    return [
        character
        for character in dict.fromkeys(text)
        if not (
            unicodedata.category(character) in ("Cc", "Cf", "Zs", "Zl", "Zp")
            or "\ufe00" <= character <= "\ufe0f"
            or has_character(file, character)
        )
    ]


@lru_cache(maxsize=4096)
def _second_font(text: str) -> str | None:
    """Returns the font file with most of the characters that DejaVu Sans lacks, one that matplotlib can use as well, if
    that is there; ``None`` if nothing is lacking, or no font has it."""
    lacking = "".join(_lacking(text))
    in_charts = importlib.util.find_spec("matplotlib") is not None
    for file in sorted(font_files(), key=lambda file: len(_lacking(lacking, file))) if lacking else ():
        if len(_lacking(lacking, file)) == len(lacking):
            break
        if not in_charts or _chart_family(file) is not None:
            return file
    return None


def drawable(text: str, number: int | None = None) -> str:
    """Returns ``text`` if there are fonts for all of it; else, with one line in the log, what stands for it.

    For the name of a class, whose ``number`` from 0 is given, that is ``class 7``; else each character that cannot be
    drawn becomes a question mark. Tabulators and the like become spaces.
    """
    if _is_plain(text):
        return text
    text = "".join(" " if unicodedata.category(one) == "Cc" and one != "\n" else one for one in text)
    missing = _lacking(text)
    if missing and (file := _second_font(text)):
        missing = _lacking("".join(missing), file)
    if not missing:
        return text
    _tell("".join(missing))
    if number is not None:
        return f"class {number}"
    return "".join("?" if character in missing else character for character in text)


def _is_plain(text: str) -> bool:
    """Tells whether any font draws a text as it is."""
    return text.isascii() and text.replace("\n", "").isprintable()


_told: list[str] = []


def _tell(characters: str) -> None:
    """Says once in a process why names are not drawn, and what to install."""
    if _told:
        return
    _told.append(characters)
    logger.warning(
        "no font here has '%s': in pictures class numbers or question marks stand for such names; install a font "
        "that has them (Debian, Ubuntu: apt install fonts-noto-cjk fonts-noto-core) or put its .ttf, .otf or .ttc "
        "file into %s", characters.encode("utf-8", "replace").decode(), os.path.expanduser(FOLDERS[0]),
    )  # fmt: skip


# The order of letters that are written from the right


@cache
def _arabic_forms() -> dict[tuple[str, str], str]:
    """Returns the forms of Arabic letters that DejaVu Sans has, by letter and kind (``<initial>``, ``<medial>``,
    ``<final>``, ``<isolated>``), from Unicode's presentation forms."""
    forms = {}
    for character in map(chr, [*range(0xFB50, 0xFBB2), *range(0xFE70, 0xFEFD)]):
        kind, *letters = unicodedata.decomposition(character).split() or [""]
        if has_character(None, character):
            forms["".join(chr(int(letter, 16)) for letter in letters), kind] = character
    return forms


def visual_order(text: str) -> str:
    """Returns text as it is seen from left to right: Arabic letters joined, what is written from the right reversed.

    For what draws one character after the other. A line is taken to run from the left; each stretch of it that is
    written from the right is turned in its place.
    """

    def turned(match: re.Match[str]) -> str:
        letters = "".join(reversed(_joined(match[0])))
        return _NUMBER.sub(lambda number: number[0][::-1], letters)

    return _FROM_RIGHT.sub(turned, text)


def _joined(text: str) -> list[str]:
    """Returns the letters, the Arabic ones in their initial, medial, final and isolated forms, each with its marks."""
    forms, found = _arabic_forms(), []
    pairs = _LETTER.findall(text)
    letters = ["", *(letter for letter, _ in pairs), ""]
    for before, (letter, marks), after in zip(letters, pairs, letters[2:], strict=False):
        from_before = (before, "<initial>") in forms and (letter, "<final>") in forms
        to_after = (letter, "<initial>") in forms and (after, "<final>") in forms
        kind = {(True, True): "<medial>", (True, False): "<final>", (False, True): "<initial>"}
        found.append(forms.get((letter, kind.get((from_before, to_after), "<isolated>")), letter) + marks)
    return found


# Drawing with Pillow


def _runs(text: str, font: ImageFont.FreeTypeFont) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """Cuts a line of text into stretches of one font each."""
    if text.isascii():
        return [(text, font)]
    text = drawable(text)
    text = text if features.check("raqm") else visual_order(text)
    second = _second_font(text)
    if second is None:
        return [(text, font)]
    other, runs = _font(second, round(font.size)), [("", font)]
    for character in text:
        part, current = runs[-1]
        # What joins letters, and marks on letters, stay with the letters before them.
        if unicodedata.category(character) not in ("Cf", "Mn", "Mc", "Me"):
            wanted = font if has_character(None, character) else other
            if wanted is not current:
                part, current = "", wanted
                runs.append((part, current))
        runs[-1] = (part + character, current)
    return runs


def text_width(text: str, font: ImageFont.FreeTypeFont) -> float:
    """Returns the pixels that one line of text takes when :func:`write` draws it."""
    return sum(own.getlength(part) for part, own in _runs(text, font))


def write(
    pen: ImageDraw.ImageDraw, place: Sequence[float], text: str, font: ImageFont.FreeTypeFont, fill: Any,
    anchor: str = "la", spacing: float = 4,
) -> None:  # fmt: skip
    """Draws text as Pillow's ``ImageDraw.text``, with another font for the characters that ``font`` lacks.

    Args:
        pen, place: draws on a picture; the point that ``anchor`` is about, in pixels.
        text: one line, or several between line feeds.
        font, fill: of :func:`font_of`; the colour.
        anchor: ``l`` or ``m``, and ``a`` or ``m`` (of the first line), as Pillow has them.
        spacing: pixels between two lines.
    """
    ascent, descent = font.getmetrics()
    baseline = place[1] + (ascent if anchor[1] == "a" else (ascent - descent) / 2)
    for line in text.split("\n"):
        left = place[0] - (text_width(line, font) / 2 if anchor[0] == "m" else 0)
        for part, own in _runs(line, font):
            pen.text((left, baseline), part, fill=fill, font=own, anchor="ls")
            left += own.getlength(part)
        baseline += font.getbbox("A")[3] + spacing


# Drawing with matplotlib


def prepare_figure(figure: Figure) -> None:
    """Gives each text of a figure the fonts that it needs, and the order in which it is seen; call it once, before the
    figure is drawn."""
    from matplotlib.text import Text
    from matplotlib.ticker import FixedLocator

    for text in figure.findobj(Text):
        if not _is_plain(text.get_text()):
            text.set_text(_for_chart(text.get_text()))
            if file := _second_font(text.get_text()):
                text.set_fontfamily([*text.get_fontfamily(), _chart_family(file)])
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        # The texts of ticks are written again whenever they are drawn.
        labels = [label.get_text() for label in axis.get_ticklabels()]
        if isinstance(axis.get_major_locator(), FixedLocator) and not all(map(_is_plain, labels)):
            axis.set_ticklabels([_for_chart(label) for label in labels])


def _for_chart(text: str) -> str:
    """Returns text that matplotlib draws without a warning."""
    text = visual_order(drawable(text))
    return "".join(character for character in text if unicodedata.category(character) != "Cf")
