"""Runs side by side in processes of their own, with a short script in the place of tools/train.py."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from classification.study import Run, load_study, open_study, refuse_changed_runs, refuse_other_study, train_runs
from ppcls_ext.utils.errors import ConfigError, Interrupted, UserError
from ppcls_ext.utils.files import lock_folder
from tests.support.runs import NORMALIZE
from tests.support.studies import all_runs, pretend_training, row_config, small_study

# Notes that it was started, obeys a plan (file beside it), leaves a report, or waits for a signal and notes that.
SCRIPT = """
import json, os, pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
folder = next(value.split("=", 1)[1] for value in sys.argv if value.startswith("Global.output_dir="))
folder = pathlib.Path(json.loads(folder))
with open(here / "started.txt", "a") as stream:
    devices = [os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES")]
    stream.write(json.dumps([folder.parent.name, folder.name, devices, sys.argv[-2:]]) + chr(10))
plan = json.loads((here / "plan.json").read_text()).get(folder.parent.name, "finish")
if plan == "fail":
    sys.exit("error: no such data" + chr(10) + "error: and more")
if plan == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if plan == "garble":
    (folder / "process.txt").write_text(str(os.getpid()))
    (folder / "log.jsonl").write_text(json.dumps({"kind": "epoch"}) + chr(10))
    time.sleep(60)
if plan in ("wait", "hang"):
    def leave(number, frame):
        (folder / "saved.txt").write_text(signal.Signals(number).name)
        if plan == "wait":
            sys.exit(130)
    signal.signal(signal.SIGTERM, leave)
    (folder / "waiting.txt").touch()
    time.sleep(60)
while plan == "together" and len(list(here.glob("together_*"))) < 2:
    (here / f"together_{folder.parent.name}_{folder.name}").touch()
    time.sleep(0.02)
(folder / "report.json").write_text(json.dumps({"epochs": 2, "history": []}))
"""


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of threads is the study's own choice here, and there is no GPU."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def script(folder: Path, **plan: str) -> Path:
    """Writes the script and what it does for each row."""
    (folder / "plan.json").write_text(json.dumps(plan))
    path = folder / "fake_train.py"
    path.write_text(SCRIPT)
    return path


def started(folder: Path) -> list[list[Any]]:
    """Returns row, folder, threads and last arguments of each process, in the order of their starts."""
    file = folder / "started.txt"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def runs_in(folder: Path) -> list[Run]:
    return all_runs(small_study(folder))


@contextlib.contextmanager
def meanwhile(ready: Callable[[], bool], act: Callable[[], object]) -> Iterator[None]:
    """Calls ``act`` in a thread, as soon as it is ``ready``, while the body runs."""

    def wait() -> None:
        until = time.monotonic() + 60
        while not ready() and time.monotonic() < until:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join()


def test_each_run_is_trained_once_and_resumes_what_it_finds(tmp_path: Path) -> None:
    runs = runs_in(tmp_path)
    pretend_training(runs[1], [0.2, 0.3])
    pretend_training(runs[2], [0.2])
    assert train_runs(runs, script(tmp_path)) == []
    assert [(row, seed) for row, seed, *_ in started(tmp_path)] == [
        ("plain", "seed_0"), ("relu", "seed_0"), ("plain", "seed_1"),
    ], "all but the one that has its report"  # fmt: skip
    assert all(last == ["--resume", "auto"] for *_, last in started(tmp_path))
    train_runs(runs, script(tmp_path))
    assert len(started(tmp_path)) == 3


def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    runs = runs_in(tmp_path)
    failures = train_runs(runs, script(tmp_path, wide="fail", relu="die"))
    assert [(run.row.name, reason.partition(";")[0]) for run, reason in failures] == [
        ("wide", "no such data"), ("relu", "signal SIGKILL"),
    ]  # fmt: skip
    assert len(started(tmp_path)) == 4
    ((_, reason),) = train_runs(runs[1:2], script(tmp_path, wide="die"))
    assert "SIGKILL" in reason and "console.log" in reason, "an old error is not taken for the present one"


def test_runs_side_by_side_share_the_threads_and_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classification.study.available_cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    runs = runs_in(tmp_path)
    # Each of the two ends only when the other has been started.
    train_runs(runs[:2], script(tmp_path, plain="together", wide="together"), jobs=2)
    assert sorted(devices for _, _, devices, _ in started(tmp_path)) == [["4", "2"], ["4", "5"]]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    train_runs(runs[2:3], script(tmp_path), jobs=2)
    assert started(tmp_path)[2][2] == ["3", "2"], "what the user has chosen stays"


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_lets_every_run_under_way_save_and_starts_no_other(tmp_path: Path, ctrl_c: None) -> None:
    runs = runs_in(tmp_path)
    with (
        meanwhile(lambda: sum((run.folder / "waiting.txt").exists() for run in runs) == 2, interrupt),
        pytest.raises(Interrupted, match="continue with the same command"),
    ):
        train_runs(runs, script(tmp_path, plain="wait", wide="wait"), jobs=2)
    # Once, and not the SIGINT that would stop a trainer at once if it came second.
    assert [(run.folder / "saved.txt").read_text() for run in runs[:2]] == ["SIGTERM", "SIGTERM"]
    assert len(started(tmp_path)) == 2


def test_a_second_ctrl_c_ends_at_once_what_does_not_leave(tmp_path: Path, ctrl_c: None) -> None:
    (run, *_) = runs = runs_in(tmp_path)
    with (
        meanwhile((run.folder / "waiting.txt").exists, interrupt),
        meanwhile((run.folder / "saved.txt").exists, interrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        train_runs(runs, script(tmp_path, plain="hang"))
    assert len(started(tmp_path)) == 1


def test_an_error_of_the_study_itself_ends_it_and_what_it_trains(tmp_path: Path) -> None:
    (run, *_) = runs = runs_in(tmp_path)
    # The next run must not wait for ever for the place of the first.
    with pytest.raises(KeyError, match="train"):
        train_runs(runs, script(tmp_path, plain="garble"))
    with pytest.raises(ProcessLookupError):
        os.kill(int((run.folder / "process.txt").read_text()), 0)


def test_what_outlived_a_killed_study_is_waited_for_not_trained_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of two runs that another process trains, one comes to its end and the other, killed as well, is continued."""
    runs = runs_in(tmp_path)
    locks = [lock_folder(run.folder, "in use", "output_dir") for run in runs[:2]]
    seen = []

    def end() -> None:
        seen.extend(started(tmp_path))
        pretend_training(runs[0], [0.2, 0.3])
        for lock in locks:
            lock.close()

    others_end = meanwhile(lambda: all((run.folder / "report.json").exists() for run in runs[2:]), end)
    with others_end, caplog.at_level(logging.INFO):
        failures = train_runs(runs, script(tmp_path), jobs=3)
    assert caplog.text.count("plain, seed 0: another process trains it") == 1
    assert sorted(row for row, *_ in seen) == ["plain", "relu"], "the others go on meanwhile"
    assert [(row, seed) for row, seed, *_ in started(tmp_path)[2:]] == [("wide", "seed_0")]
    assert failures == []


def test_a_changed_row_is_refused_in_one_line_whether_finished_or_not(tmp_path: Path) -> None:
    runs = runs_in(tmp_path)
    pretend_training(runs[0], [0.2, 0.3])
    pretend_training(runs[1], [0.2])
    refuse_changed_runs(runs)
    data = {"overrides": {"Optimizer.lr.learning_rate": 0.5, "Global.print_batch_step": 7}}
    with pytest.raises(UserError) as caught:
        refuse_changed_runs(all_runs(small_study(tmp_path, **data)))
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [str(run.folder) for run in runs[:2]]
    assert "Optimizer.lr.learning_rate 0.001 -> 0.5" in lines[0]
    assert "print_batch_step" not in lines[0], "no figure depends on it"


def test_a_range_that_a_run_has_found_is_no_change(tmp_path: Path) -> None:
    def runs_with(bits: int | str) -> list[Run]:
        operators = {"DataLoader.Train.dataset.transform_ops": [{"DecodeImage": {"bits": bits}}, NORMALIZE]}
        row = {"name": "plain", "config": str(row_config(tmp_path)), "overrides": operators}
        return all_runs(small_study(tmp_path, rows=[row], ablations=[]))

    pretend_training(runs_with(12)[0], [0.2])
    refuse_changed_runs(runs_with("auto"))
    with pytest.raises(ConfigError, match="DecodeImage.bits 12 -> 10"):
        refuse_changed_runs(runs_with(10))


def test_data_that_were_moved_matter_to_those_who_train_only(tmp_path: Path) -> None:
    pretend_training(runs_in(tmp_path)[0], [0.2, 0.3])
    moved = all_runs(small_study(tmp_path, overrides={"DataLoader.Train.dataset.data_file": "elsewhere.tar.gz"}))
    refuse_changed_runs(moved, training=False)
    with pytest.raises(UserError, match="elsewhere.tar.gz"):
        refuse_changed_runs(moved)


def test_a_folder_belongs_to_one_study_and_to_one_process(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    with open_study(study), pytest.raises(UserError, match="another process is training a study"), open_study(study):
        raise AssertionError("two processes train in one folder")
    rows = [{"name": name, "config": study.rows[0].config_file} for name in ("plain", "new")]
    with open_study(small_study(tmp_path, rows=rows, ablations=[])):
        pass  # A study may get rows.
    with pytest.raises(UserError, match="holds the study 'small' with the rows plain, new"):
        refuse_other_study(small_study(tmp_path, rows=[{**rows[0], "name": "third"}], ablations=[]))
    other = load_study((tmp_path / "small.yaml").rename(tmp_path / "other.yaml"))
    with pytest.raises(UserError, match="holds the study 'small'"), open_study(other):
        raise AssertionError("two studies in one folder")
