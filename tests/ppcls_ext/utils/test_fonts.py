"""Names in any script are drawn with a font that has them, else as class numbers, and nobody is warned about glyphs."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw

from ppcls_ext.utils import fonts
from ppcls_ext.utils.drawing import Card, draw_boxes, draw_card
from ppcls_ext.utils.plots import draw_confusion, draw_run_comparison

NAMES = ["海参", "ヒトデ", "불가사리", "ปลาดาว", "तारा", "نجم البحر", "звезда", "αστερίας"]
# DejaVu Sans has the letters of these.
KNOWN = NAMES[5:]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A machine with no fonts but DejaVu Sans; returns what installs one that draws the letters of names as squares."""

    def forget() -> None:
        fonts.font_files.cache_clear()
        fonts._second_font.cache_clear()
        fonts._told.clear()

    def install(*names: str) -> Path:
        font = TTFont(fonts.font_of(20).path)
        square = font.getBestCmap()[ord("\u25a0")]
        for table in font["cmap"].tables:
            table.cmap = dict.fromkeys(map(ord, "".join(names)), square)
        for record in font["name"].names:
            record.string = "Some Sans"
        file = tmp_path / "Some Sans.ttf"
        font.save(file)
        forget()
        return file

    monkeypatch.setattr(fonts, "FOLDERS", (str(tmp_path),))
    monkeypatch.setattr(fonts.importlib.metadata, "distributions", lambda: [])
    forget()
    yield install
    forget()


def ink(text: str) -> int:
    """Returns the number of black pixels of a text."""
    picture = Image.new("L", (400, 60), 255)
    fonts.write(ImageDraw.Draw(picture), (200, 30), text, fonts.font_of(20), 0, anchor="mm")
    return int((np.asarray(picture) < 128).sum())


def test_names_are_drawn_with_the_fonts_of_the_machine(machine) -> None:
    file = machine(*NAMES[:5])
    assert [fonts.drawable(name, number) for number, name in enumerate(NAMES)] == NAMES
    assert fonts.font_files() == (str(file),)
    font = fonts.font_of(20)
    assert fonts.text_width("a 海参 87 %", font) == pytest.approx(font.getlength("a \u25a0\u25a0 87 %"), abs=1)
    assert ink("a 海参 87 %") == pytest.approx(ink("a \u25a0\u25a0 87 %"), rel=0.05)


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
