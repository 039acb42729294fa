"""Ctrl-C and termination: the first request is noted, the second stops at once, and handlers are put back."""

from __future__ import annotations

import logging
import signal
import threading

import pytest

from ppcls_ext.engine.environment import InterruptWatch
from ppcls_ext.utils.errors import Interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_batch_goes_on(number, caplog):
    with InterruptWatch(world_size=1) as watch:
        assert not watch.stop_after(1)
        with caplog.at_level(logging.WARNING):
            signal.raise_signal(number)
        assert "then saving" in caplog.text, "a user who sees nothing presses again"
        assert watch.stop_after(1)
        assert watch.stop_after(2)


def test_a_second_ctrl_c_stops_at_once():
    with InterruptWatch(world_size=1), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_a_second_termination_does_not_break_the_save():
    with InterruptWatch(world_size=1) as watch:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert watch.stop_after(1)


def test_handlers_are_put_back_also_after_an_error():
    before = [signal.getsignal(number) for number in InterruptWatch.SIGNALS]
    with pytest.raises(ZeroDivisionError), InterruptWatch(world_size=1):
        assert [signal.getsignal(number) for number in InterruptWatch.SIGNALS] != before
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in InterruptWatch.SIGNALS] == before


def test_outside_the_main_thread_the_surrounding_program_decides():
    outcome = []

    def work() -> None:
        with InterruptWatch(world_size=1) as watch:
            outcome.append(watch.stop_after(1))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcome == [False]
    assert signal.getsignal(signal.SIGINT) is before


def test_several_processes_ask_each_other_only_now_and_then(monkeypatch):
    asked = []

    def sum_over_ranks(values, world_size):
        asked.append(values[0])
        return values + 1

    monkeypatch.setattr("ppcls_ext.engine.environment.sum_over_ranks", sum_over_ranks)
    watch = InterruptWatch(world_size=2)
    assert [step for step in range(1, 31) if watch.stop_after(step)] == [10, 20, 30]
    assert len(asked) == 3


def test_an_interruption_is_no_ordinary_error():
    """`except Exception` in a plug-in must not swallow it."""
    assert not issubclass(Interrupted, Exception)
