"""What a person sees while a model trains: a bar on a terminal, plain lines elsewhere, nothing on other ranks."""

from __future__ import annotations

import io
import logging
import re
import sys

import pytest

from ppcls_ext.utils import display as module
from ppcls_ext.utils.display import Display

LINE = re.compile(r"^epoch 1/3  batch (\d+)/(\d+)  loss 0\.5000  images/s 10\.0  left \d+:\d\d:\d\d$")


class Terminal(io.StringIO):
    """A standard output that says that it is a terminal."""

    def isatty(self) -> bool:
        """Returns true."""
        return True


def show(caplog, total: int, done: int = 0, every: int = 10, active: bool = True) -> list[str]:
    with caplog.at_level(logging.INFO), Display("epoch 1/3", total, done, every, active) as display:
        for _ in range(done, total):
            display.advance(loss="0.5000", **{"images/s": "10.0"})
    return [record.getMessage() for record in caplog.records]


def numbers(lines: list[str]) -> list[int]:
    matches = [LINE.match(line) for line in lines]
    assert all(matches), lines
    return [int(match[1]) for match in matches]


def test_without_a_terminal_there_are_plain_lines_now_and_then_and_at_the_end(caplog, capsys):
    for total, done, shown in ((25, 0, [10, 20, 25]), (20, 0, [10, 20]), (25, 12, [20, 25])):
        caplog.clear()
        assert numbers(show(caplog, total, done)) == shown
    caplog.clear()
    # In evaluation, and on other ranks.
    assert show(caplog, total=25, every=0) == show(caplog, total=25, active=False) == []
    assert capsys.readouterr().out == "", "nothing but the log's lines"


@pytest.mark.parametrize("columns", [60, 160])
def test_on_a_terminal_a_bar_fits_and_keeps_epoch_counts_and_time_left(caplog, monkeypatch, columns):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    figures = {name: "0.5000" for name in ("loss", "loss_cls", "loss_iou", "loss_dfl", "loss_l1", "lr", "images/s")}
    with Display("epoch 12/300", total=4000, done=3998) as display:
        for _ in range(2):
            display.advance(**figures)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    last = re.split(r"[\r\n]", plain.rstrip())[-1].rstrip()
    assert len(last) <= columns
    line = re.fullmatch(r"epoch 12/300 \S{16} 4000/4000 \d:\d\d:\d\d ?(.*)", last)
    shown = re.findall(r"(\S+) 0\.5000", line[1])
    everything = ["loss", "cls", "iou", "dfl", "l1", "lr", "images/s"]
    assert shown == everything[: {60: 1, 160: 7}[columns]]
    assert "  ".join(f"{name} 0.5000" for name in shown) == line[1], "no figure is cut"
    before = terminal.getvalue()
    assert show(caplog, total=5, active=False) == [] and terminal.getvalue() == before, "another rank shows nothing"


def test_time_left_follows_from_the_speed_of_this_session(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    display = Display("epoch", total=100, done=50)
    assert display.time_left() >= 0
    now[0] += 20
    for _ in range(10):
        display.advance()
    assert display.time_left() == pytest.approx(80.0), "10 batches took 20 s, 40 are left"
