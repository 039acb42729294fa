"""Names in any script are drawn with a font that has them, else as class numbers, and nobody is warned about glyphs."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ppcls_ext.utils import fonts
from ppcls_ext.utils.drawing import Card, draw_boxes, draw_card
from ppcls_ext.utils.plots import draw_confusion, draw_run_comparison

NAMES = ["海参", "ヒトデ", "불가사리", "ปลาดาว", "तारा", "نجم البحر", "звезда", "αστερίας"]
# DejaVu Sans has the letters of these.
KNOWN = NAMES[5:]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A machine with no fonts but DejaVu Sans; returns what installs one with the letters of some names."""

    def forget() -> None:
        fonts.font_files.cache_clear()
        fonts._files_of.cache_clear()
        fonts._told.clear()

    def install(*names: str) -> Path:
        file = write_font(tmp_path / "fonts" / "Some Sans.ttf", "".join(names))
        forget()
        return file

    monkeypatch.setattr(fonts, "font_folders", lambda: [tmp_path / "fonts"])
    monkeypatch.setattr(fonts.importlib.metadata, "distributions", lambda: [])
    forget()
    yield install
    forget()


def write_font(file: Path, characters: str) -> Path:
    """Writes a font that draws each of the characters as a black block of the same height."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    builder = FontBuilder(1000, isTTF=True)
    names = {ord(character): f"u{ord(character):04X}" for character in sorted(set(characters)) if character != " "}
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap(names)

    def block(height: int):
        pen = TTGlyphPen(None)
        pen.moveTo((50, 0))
        for place in ((50, height), (850, height), (850, 0)):
            pen.lineTo(place)
        pen.closePath()
        return pen.glyph()

    builder.setupGlyf({".notdef": block(100), **{name: block(700) for name in names.values()}})
    builder.setupHorizontalMetrics({name: (900, 50) for name in [".notdef", *names.values()]})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Some Sans", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, sTypoDescender=-200, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    file.parent.mkdir(exist_ok=True)
    builder.save(file)
    return file


def ink(text: str, size: int = 20) -> float:
    """Returns the share of black pixels of a text."""
    picture = Image.new("L", (400, 60), 255)
    fonts.write(ImageDraw.Draw(picture), (200, 30), text, fonts.font_of(size), 0, anchor="mm")
    return float((np.asarray(picture) < 128).mean())


def test_names_are_drawn_with_the_fonts_of_the_machine(machine) -> None:
    file = machine(*NAMES[:5])
    assert [fonts.drawable(name, number) for number, name in enumerate(NAMES)] == NAMES
    assert fonts.font_files() == (str(file),)
    # Blocks that are 900 thousandths of the size wide stand in the middle of DejaVu Sans.
    font = fonts.font_of(20)
    expected = font.getlength("a ") + 2 * 18 + font.getlength(" 87 %")
    assert fonts.text_width("a 海参 87 %", font) == pytest.approx(expected, abs=1)
    assert ink("海参ヒトデ") == pytest.approx(5 * 16 * 14 / (400 * 60), rel=0.15)


def test_without_a_font_numbers_stand_for_classes_and_one_line_says_so(machine, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        shown = [fonts.drawable(name, number) for number, name in enumerate(NAMES)]
    assert shown == [*(f"class {number}" for number in range(5)), *KNOWN]
    (line,) = caplog.messages
    assert "'海参'" in line and "apt install fonts-noto-cjk" in line
    # Where nobody knows a number, and in a mixture.
    assert fonts.drawable("a海b.png") == "a?b.png"
    assert fonts.drawable("tab\there\u200d") == "tab here\u200d"
    assert fonts.drawable("half of a character \udce6") == "half of a character ?"
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("installed", [True, False])
def test_pictures_and_charts_have_no_missing_glyphs(machine, tmp_path: Path, installed: bool) -> None:
    if installed:
        machine(*NAMES[:5])
    count = len(NAMES)
    counts = np.eye(count + 1, dtype=np.int64)
    history = [{"epoch": 1, "train": {"seconds": 1.0}, "eval": {"AP": 0.5, "AP50": 0.7}}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_confusion(counts, NAMES, tmp_path / "confusion.png", "".join(NAMES))
        draw_run_comparison({name: [history] for name in [*NAMES, "tab\there"]}, tmp_path / "runs.png", NAMES[0])
    boxes = [[10, 30 + 40 * number, 60, 50 + 40 * number] for number in range(count)]
    labels = [fonts.drawable(name, number) for number, name in enumerate(NAMES)]
    assert draw_boxes(np.zeros((400, 400, 3), np.uint8), boxes, labels, [0.5] * count).size == (800, 800)
    assert draw_card(Card(np.zeros((90, 90, 3), np.uint8), "图.png", labels, [0.1] * count, labels[0])).width > 90


def test_ticks_of_charts_are_drawn_in_the_order_in_which_they_are_seen(machine) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.set_xticks(range(2), ["سلام 12", "sea star"], rotation=30)
    axes.set_title("סרטן")
    fonts.prepare_figure(figure)
    figure.canvas.draw()
    # Lam and alef are one sign; meem stands alone behind alef; numbers keep their order.
    assert [label.get_text() for label in axes.get_xticklabels()] == ["\ufee1\ufefc\ufeb3 12", "sea star"]
    assert axes.get_title() == "ןטרס"
    assert axes.get_xticklabels()[0].get_rotation() == 30
