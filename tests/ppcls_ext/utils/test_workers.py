"""Functions in processes of their own, and interleaved measurements; how fast anything is, no test asserts."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ppcls_ext.utils import workers
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.workers import Subject, measure_interleaved, run_in_process


def _fail(how):
    if how == "raise":
        raise RuntimeError("no such\nkernel")
    if how == "user error":
        raise UserError("weights are missing")
    if how == "abort":
        os.write(2, b"terminate called\n")
        os._exit(3)
    time.sleep(60)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", "^RuntimeError: no such kernel$"),
        ("user error", "^weights are missing$"),
        ("abort", "the process ended with exit status 3: terminate called"),
        ("sleep", "no answer within 0.5 s"),
    ],
)
def test_a_process_that_fails_tells_why(how, message):
    with pytest.raises(UserError, match=message):
        run_in_process(_fail, how, seconds=0.5 if how == "sleep" else 60)


def _open_logged(folder, name, fails_after=10**6):
    """Logs each run to a file; fails after some."""
    count = [0]

    def run():
        count[0] += 1
        with open(Path(folder) / "log.txt", "a") as log:
            log.write(name)
        if count[0] > fails_after:
            raise ValueError("it\ndied")

    return run, {"name": name, "threads": os.environ["OMP_NUM_THREADS"]}


def test_every_subject_works_once_a_round_and_failures_are_left_out(tmp_path):
    subjects = [Subject(name, _open_logged, {"folder": str(tmp_path), "name": name}, 2) for name in "abc"]
    subjects[1].arguments["fails_after"] = 6
    measure_interleaved(subjects, rounds=3, runs=3, starts=1)
    first, failed, third = subjects
    assert failed.failure == "ValueError: it died" and len(failed.seconds) == 3
    assert [len(first.seconds), len(third.seconds), len(first.starts)] == [9, 9, 1]
    assert first.facts == {"name": "a", "threads": "2"}
    assert first.peak_bytes > 1e6 and len(first.cores_while_waiting) == 3
    assert first.statistics()["fastest_ms"] <= first.statistics()["median_ms"] <= first.statistics()["p90_ms"]
    text = (tmp_path / "log.txt").read_text()
    assert text.count("a") == text.count("c") == 1 + 3 * (workers.WARM_UP + 3)
    # One at a time, repetitions left out.
    assert sorted([name for name, _ in itertools.groupby(text)][:3]) == ["a", "b", "c"]


def test_processes_are_started_again_where_memory_is_short(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "read_machine", lambda: SimpleNamespace(memory_available=1))
    only = Subject("a", _open_logged, {"folder": str(tmp_path), "name": "a"}, 1)
    measure_interleaved([only], rounds=2, runs=2)
    assert only.failure is None
    assert (len(only.starts), len(only.seconds)) == (3, 4)
