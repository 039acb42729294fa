"""A process: its device, rank and seeds, and what Ctrl-C and termination do to it."""

from __future__ import annotations

import io
import logging
import signal
import threading

import paddle
import pytest

from ppcls_ext.engine.environment import InterruptWatch, choose_device, derive_seed
from ppcls_ext.utils.errors import Interrupted


@pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="has a GPU: nothing to fall back from")
def test_a_device_that_is_not_there_falls_back_to_the_cpu_in_one_line(caplog):
    with caplog.at_level(logging.INFO):
        assert choose_device("gpu") == "cpu"
    (line,) = caplog.messages
    assert line.startswith("Global.device is 'gpu', but Paddle ") and line.endswith(": running on the CPU")


def test_seeds_depend_on_every_part_and_stay_the_same_for_ever():
    """A changed number would silently change every run that is resumed."""
    assert derive_seed(0, "batch", 0, 3, 17) == 459009808
    parts = [(seed, rank, epoch, step) for seed in (0, 1) for rank in (0, 1) for epoch in (0, 1) for step in range(50)]
    assert len({derive_seed(*part) for part in parts}) == len(parts)
    assert derive_seed(1, 23) != derive_seed(12, 3)
    assert all(0 <= derive_seed(number) < 2**31 for number in range(200))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_the_batch_goes_on_and_handlers_are_put_back(number, ctrl_c, capfd):
    before = [signal.getsignal(number) for number in InterruptWatch.SIGNALS]
    with pytest.raises(ZeroDivisionError), InterruptWatch(world_size=1) as watch:
        assert [signal.getsignal(number) for number in InterruptWatch.SIGNALS] != before
        assert not watch.stop_after(1)
        signal.raise_signal(number)
        assert "then saving" in capfd.readouterr().err, "a user who sees nothing presses again"
        assert watch.stop_after(1) and watch.stop_after(2)
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in InterruptWatch.SIGNALS] == before


def test_a_signal_in_the_middle_of_a_log_line_does_no_harm(ctrl_c, capfd):
    class Stream(io.StringIO):
        def flush(self) -> None:
            if not watch.stop_after(1):
                signal.raise_signal(signal.SIGINT)

    stream = Stream()
    logger, handler = logging.getLogger("ppcls_ext"), logging.StreamHandler(stream)
    logger.addHandler(handler)
    try:
        with InterruptWatch(world_size=1) as watch:
            logger.warning("a line")
            assert watch.stop_after(1)
    finally:
        logger.removeHandler(handler)
    assert stream.getvalue() == "a line\n", "the stream that is being written gets no second line"
    assert "then saving" in capfd.readouterr().err


def test_a_second_ctrl_c_stops_at_once_but_a_second_termination_does_not_break_the_save(ctrl_c):
    with InterruptWatch(world_size=1) as watch:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert watch.stop_after(1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    # `except Exception` in a plug-in must not swallow the other end of a run.
    assert not issubclass(Interrupted, Exception)


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
