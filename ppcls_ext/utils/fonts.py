"""Fonts for text in any script: whatever draws text, with Pillow or with matplotlib, asks here.

DejaVu Sans has the Latin, Greek, Cyrillic, Arabic and Hebrew letters and more. For characters that it lacks, such as
Chinese, Japanese, Korean, Devanagari or Thai ones, a font of this machine or of an installed package is used. Where
there is none, a class is drawn as its number (:func:`drawable`), and one line says what to install.

Arabic letters are joined and written from the right. Pillow does so itself if it has raqm
(``PIL.features.check("raqm")``), and then also orders the vowel signs of Indic scripts. matplotlib has no such shaping,
nor has Pillow without raqm: there :func:`visual_order` joins the Arabic letters, and Indic signs stand in the order in
which they are typed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont, features

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

SUFFIXES = (".ttf", ".otf", ".ttc")
# Names the font that is tried first, and the only one for plain text.
BASE = ""
_MATPLOTLIB_FILE = "fonts/ttf/DejaVuSans.ttf"
# Of two fonts with the same characters the plain one is taken.
_FANCY = re.compile(r"bold|black|italic|oblique|light|thin|medium|heavy|mono|serif|cond|narrow|display", re.IGNORECASE)
# Size at which fonts are asked for their characters, and one that none has: what is drawn for it means "missing".
_PROBE_SIZE = 24
_NONCHARACTER = "\U0010ffff"
_CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO")
_RIGHT_TO_LEFT = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc"
# From the first to the last letter that is written from the right, with the spaces, digits and signs between.
_FROM_RIGHT = re.compile(rf"[{_RIGHT_TO_LEFT}]+(?:(?:[^\w\n]|[\d_])*[{_RIGHT_TO_LEFT}]+)*")
_NUMBER = re.compile(r"[0-9\u0660-\u0669\u06f0-\u06f9]+(?:[.,:/][0-9\u0660-\u0669\u06f0-\u06f9]+)*")
_LAM, _ALEFS = "\u0644", "\u0622\u0623\u0625\u0627"
# Fonts that draw a stand-in for every character.
_STAND_INS = ("lastresort", "adobeblank")


@lru_cache(maxsize=32)
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """Returns DejaVu Sans, of the system or of matplotlib (it knows most alphabets), else Pillow's own (Latin)."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        pass
    try:
        from matplotlib import get_data_path
    except ImportError:
        return ImageFont.load_default(size)
    return ImageFont.truetype(f"{get_data_path()}/{_MATPLOTLIB_FILE}", size)


# Which characters can be drawn


def font_folders() -> list[Path]:
    """Returns the folders in which this system keeps fonts, the user's own first."""
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        own = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / "Microsoft" / "Windows" / "Fonts"
        return [own, Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts"]
    if sys.platform == "darwin":
        return [home / "Library" / "Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    data = [os.environ.get("XDG_DATA_HOME") or str(home / ".local" / "share")]
    data += (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":")
    return [*(Path(folder) / "fonts" for folder in data), home / ".fonts"]


@cache
def font_files() -> tuple[str, ...]:
    """Returns the font files of this machine and of installed Python packages, plain ones before fancy ones."""
    files = {str(path) for folder in font_folders() if folder.is_dir() for path in folder.rglob("*")}
    for package in importlib.metadata.distributions():
        files |= {str(package.locate_file(file)) for file in package.files or () if file.suffix.lower() in SUFFIXES}
    files = {
        file
        for file in files
        if file.lower().endswith(SUFFIXES) and not Path(file).name.lower().startswith(_STAND_INS)
    }
    return tuple(sorted(files, key=lambda file: (bool(_FANCY.search(Path(file).stem)), file)))


@lru_cache(maxsize=1024)
def _sized(file: str, size: int, layout: ImageFont.Layout | None = None) -> ImageFont.FreeTypeFont | None:
    """Returns a font in regular weight, ``None`` for a file that Pillow cannot use."""
    if file == BASE:
        file = font_of(size).path
        if layout is None or not isinstance(file, str):  # Pillow's own font comes from no file
            return font_of(size)
    try:
        font = ImageFont.truetype(file, size, layout_engine=layout)
    except (OSError, ValueError):
        return None
    with contextlib.suppress(OSError, ValueError, AttributeError, NotImplementedError):
        # Of a variable font; by default some are thin. Other fonts raise.
        font.set_variation_by_name("Regular")
    return font


@cache
def _chart_family(file: str) -> str | None:
    """Returns the name by which matplotlib finds a font from now on, ``None`` for a file that it cannot use."""
    from matplotlib import font_manager

    if file == BASE:
        return "DejaVu Sans"
    try:
        if file not in {entry.fname for entry in font_manager.fontManager.ttflist}:
            font_manager.fontManager.addfont(file)
        return font_manager.FontProperties(fname=file).get_name()
    except (OSError, RuntimeError, ValueError):
        return None  # a variable font of the newer kind, or damaged


@cache
def _drawn(file: str, character: str) -> bytes:
    picture = Image.new("L", (2 * _PROBE_SIZE, 2 * _PROBE_SIZE))
    # Shaping would put something else in the place of what is missing.
    font = _sized(file, _PROBE_SIZE, ImageFont.Layout.BASIC)
    if font is not None:
        ImageDraw.Draw(picture).text((_PROBE_SIZE // 2, _PROBE_SIZE // 4), character, font=font, fill=255)
    return picture.tobytes()


def has_character(file: str, character: str) -> bool:
    """Tells whether a font draws a character otherwise than one that it lacks."""
    return (character.isascii() and file == BASE) or _drawn(file, character) != _drawn(file, _NONCHARACTER)


def _is_blank(character: str) -> bool:
    """Tells whether a character shows nothing: spaces, control and format characters, variation selectors."""
    kind = unicodedata.category(character)
    return kind in ("Cc", "Cf") or kind[0] == "Z" or "\ufe00" <= character <= "\ufe0f"


@lru_cache(maxsize=4096)
def _files_of(text: str, in_chart: bool) -> dict[str, str]:
    """Returns the font for each visible character that has one; matplotlib (``in_chart``) cannot use all fonts."""
    # Lone surrogates ("Cs") stand for bytes of file names that are no text; nothing can draw them.
    visible = {
        character for character in text if not _is_blank(character) and unicodedata.category(character) != "Cs"
    }
    base = BASE
    if in_chart:
        from matplotlib import get_data_path

        # The system's may be newer.
        base = f"{get_data_path()}/{_MATPLOTLIB_FILE}"
    found = {character: BASE for character in visible if has_character(base, character)}
    missing = visible - found.keys()
    files = [file for file in font_files() if not in_chart or _chart_family(file)] if missing else []
    while missing:
        file = max(files, key=lambda file: sum(has_character(file, one) for one in missing), default=BASE)
        covered = {character for character in missing if has_character(file, character)}
        if not covered:
            break
        found |= dict.fromkeys(covered, file)
        missing -= covered
    return found


def drawable(text: str, number: int | None = None, in_chart: bool = False) -> str:
    """Returns ``text`` if there are fonts for all of it (in matplotlib's hands if ``in_chart``); else, with one line in
    the log, what stands for it.

    For the name of a class, whose ``number`` from 0 is given, that is ``class 7``; else each character that cannot be
    drawn becomes a question mark. Tabulators and the like become spaces.
    """
    if text.isascii() and text.isprintable():
        return text
    text = "".join(" " if unicodedata.category(one) == "Cc" and one != "\n" else one for one in text)
    files = _files_of(text, in_chart)
    missing = [character for character in text if not _is_blank(character) and character not in files]
    if not missing:
        return text
    _tell("".join(dict.fromkeys(missing)), in_chart)
    if number is not None:
        return f"class {number}"
    return "".join("?" if character in missing else character for character in text)


_told: list[str] = []


def _tell(characters: str, in_chart: bool) -> None:
    """Says once in a process why names are not drawn, and what to install."""
    if _told:
        return
    _told.append(characters)
    package = "fonts-noto-cjk" if unicodedata.name(characters[0], "").startswith(_CJK) else "fonts-noto-core"
    logger.warning(
        "no font here%s has '%s': in pictures class numbers or question marks stand for such names; install a font "
        "that has them (Debian, Ubuntu: apt install %s) or put its .ttf, .otf or .ttc file into %s",
        " that matplotlib can read" if in_chart else "", characters.encode("utf-8", "replace").decode(), package,
        font_folders()[0],
    )  # fmt: skip


# The order of letters that are written from the right


def shapes_text() -> bool:
    """Tells whether Pillow itself joins letters and writes from the right."""
    return features.check("raqm")


def visual_order(text: str) -> str:
    """Returns text as it is seen from left to right: Arabic letters joined, what is written from the right reversed.

    For what draws one character after the other. A line is taken to run from the left; each stretch of it that is
    written from the right is turned in its place.
    """

    def turned(match: re.Match[str]) -> str:
        letters = "".join(reversed(_joined(match[0])))
        return _NUMBER.sub(lambda number: number[0][::-1], letters)

    return _FROM_RIGHT.sub(turned, text)


@cache
def _form(letters: str, form: str) -> str | None:
    """Returns a form of an Arabic letter, or of lam and alef together, if Unicode and the base font have it."""
    names = [unicodedata.name(letter, "") for letter in letters]
    name = names[0] if len(names) == 1 else names[1].replace("ARABIC LETTER", "ARABIC LIGATURE LAM WITH")
    try:
        found = unicodedata.lookup(f"{name} {form} FORM")
    except KeyError:
        return None
    return found if has_character(BASE, found) else None


def _joined(text: str) -> list[str]:
    """Returns the letters, the Arabic ones in their initial, medial, final and isolated forms, each with its marks."""
    letters: list[str] = []
    marks: list[str] = []
    for character in text:
        if letters and unicodedata.category(character) == "Mn":
            marks[-1] += character
        elif letters and letters[-1] == _LAM and character in _ALEFS and not marks[-1]:
            letters[-1] += character  # always written as one
        else:
            letters.append(character)
            marks.append("")
    found = []
    for letter, before, after, mark in zip(letters, ["", *letters], [*letters[1:], ""], marks, strict=False):
        from_before = bool(before and _form(before, "INITIAL") and _form(letter, "FINAL"))
        to_after = bool(after and _form(letter, "INITIAL") and _form(after, "FINAL"))
        form = {(True, True): "MEDIAL", (True, False): "FINAL", (False, True): "INITIAL"}.get((from_before, to_after))
        found.append((_form(letter, form or "ISOLATED") or letter) + mark)
    return found


# Drawing with Pillow


def _runs(text: str, font: ImageFont.FreeTypeFont) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """Cuts a text into stretches of one font each."""
    if text.isascii():
        return [(text, font)]
    text = drawable(text)
    text = text if shapes_text() else visual_order(text)
    files, runs = _files_of(text, in_chart=False), []
    for character in text:
        current, kind = runs[-1][1] if runs else BASE, unicodedata.category(character)
        file = files.get(character, BASE)
        # What joins letters, accents and spaces stay with the letters before them.
        if kind == "Cf" or (kind[0] in "MZ" and has_character(current, character)):
            file = current
        if runs and file == current:
            runs[-1] = (runs[-1][0] + character, file)
        else:
            runs.append((character, file))
    return [(part, font if file == BASE else _sized(file, round(font.size))) for part, file in runs]


def text_width(text: str, font: ImageFont.FreeTypeFont) -> float:
    """Returns the pixels that one line of text takes when :func:`write` draws it."""
    return sum(own.getlength(part, direction=_direction(part)) for part, own in _runs(text, font))


def _direction(text: str) -> str | None:
    """Returns the direction of a line for Pillow: from the left, whatever its first letter; words may run otherwise."""
    return None if text.isascii() or not shapes_text() else "ltr"


def write(
    pen: ImageDraw.ImageDraw, place: Sequence[float], text: str, font: ImageFont.FreeTypeFont, fill: Any,
    anchor: str = "la", spacing: float = 4,
) -> None:  # fmt: skip
    """Draws text as Pillow's ``ImageDraw.text``, with other fonts for the characters that ``font`` lacks.

    Args:
        pen, place: draws on a picture; the point that ``anchor`` is about, in pixels.
        text: one line, or several between line feeds.
        font, fill: of :func:`font_of`; the colour.
        anchor: ``l`` or ``m``, and ``a`` or ``m`` (of the first line), as Pillow has them.
        spacing: pixels between two lines.
    """
    x, y = place
    ascent, descent = font.getmetrics()
    step = font.getbbox("A")[3] + spacing
    for number, line in enumerate(text.split("\n")):
        runs, top = _runs(line, font), y + number * step
        if len(runs) == 1 and runs[0][1] is font:
            pen.text((x, top), runs[0][0], fill=fill, font=font, anchor=anchor, direction=_direction(line))
            continue
        left = x - (text_width(line, font) / 2 if anchor[0] == "m" else 0)
        baseline = top + ((ascent - descent) / 2 if anchor[1] == "m" else ascent)
        for part, own in runs:
            pen.text((left, baseline), part, fill=fill, font=own, anchor="ls", direction=_direction(part))
            left += own.getlength(part, direction=_direction(part))


# Drawing with matplotlib


def prepare_figure(figure: Figure) -> None:
    """Gives each text of a figure the fonts that it needs, and the order in which it is seen; call it once, before the
    figure is drawn."""
    from matplotlib.text import Text
    from matplotlib.ticker import FixedLocator

    done = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            # The texts of ticks are written again whenever they are drawn.
            labels = axis.get_ticklabels() if isinstance(axis.get_major_locator(), FixedLocator) else []
            if not all(_is_plain(label.get_text()) for label in labels):
                axis.set_ticklabels([_for_chart(label.get_text()) for label in labels])
                for label in labels:
                    _choose_families(label)
            done.update(labels)
    for text in figure.findobj(Text):
        if text not in done and not _is_plain(text.get_text()):
            text.set_text(_for_chart(text.get_text()))
            _choose_families(text)


def _is_plain(text: str) -> bool:
    """Tells whether any font draws a text as it is."""
    return text.isascii() and text.replace("\n", "").isprintable()


def _for_chart(text: str) -> str:
    """Returns text that matplotlib draws without a warning."""
    if _is_plain(text):
        return text
    text = visual_order(drawable(text, in_chart=True))
    return "".join(character for character in text if character == "\n" or unicodedata.category(character) != "Cf")


def _choose_families(text: Any) -> None:
    """Sets the fonts of a text of matplotlib, one after the other for what the one before lacks."""
    files = sorted(set(_files_of(text.get_text(), in_chart=True).values()) - {BASE})
    if files:
        text.set_fontfamily([*text.get_fontfamily(), *map(_chart_family, files)])
