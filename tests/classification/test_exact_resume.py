"""An interrupted run ends with the same bits as one that was never interrupted, whatever loads its data."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import time
from pathlib import Path

import pytest

from classification.config import load_config
from classification.task import train_config
from tests.support.runs import run_tool, same_files, start_tool, tiny_config, write_config

TENSORS = ("model.pdparams", "ema.pdparams", "optimizer.pdopt")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs of four batches with a checkpoint after every second batch, never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train_config(load_config(write_config(folder, tiny_config(folder / "run", Global__save_steps=2))))
    return folder / "run"


def step_losses(run: Path) -> list[tuple[int, int, float]]:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(record["epoch"], record["step"], record["loss"]) for record in records if record["kind"] == "step"]


@pytest.mark.parametrize(("workers", "last"), [(1, "epoch_0001"), (2, "epoch_0001_step_000002")])
def test_a_run_continues_bit_for_bit_with_any_number_of_workers(
    whole_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int, last: str
) -> None:
    # As it was on the disk when checkpoint `last` was the newest.
    run = tmp_path / "run"
    shutil.copytree(whole_run, run, symlinks=True)
    for folder in (run / "checkpoints").iterdir():
        if folder.name > last and not folder.is_symlink():
            shutil.rmtree(folder)
    changes = {"Global__save_steps": 2, "DataLoader__Train__loader": {"num_workers": workers}}
    with caplog.at_level(logging.INFO):
        train_config(load_config(write_config(tmp_path, tiny_config(run, **changes))), resume="auto")
    assert f"resuming from {run}/checkpoints/{last}" in caplog.text
    for checkpoint in ("epoch_0001_step_000002", "epoch_0002"):
        assert same_files(run / "checkpoints" / checkpoint, whole_run / "checkpoints" / checkpoint, TENSORS) == []
    assert step_losses(run) == step_losses(whole_run)
    assert len(step_losses(run)) == 4


def test_log_and_report_cover_the_whole_run(whole_run: Path) -> None:
    report = json.loads((whole_run / "report.json").read_text())
    assert [record["epoch"] for record in report["history"]] == [1, 2]
    assert report["optimizer_steps"] == 8
    assert {"loss", "top1", "top5", "images"} <= set(report["last"]["eval"])
    assert report["last"]["ema"]["images"] == report["last"]["eval"]["images"]
    assert report["class_names"] == [str(digit) for digit in range(10)]
    assert (whole_run / "curves.png").stat().st_size > 10_000


def test_a_run_that_is_interrupted_and_killed_continues_bit_for_bit_in_fresh_processes(tmp_path: Path) -> None:
    # The run to compare with has a process of its own, too: sums in other numbers of threads round otherwise.
    configs = {name: write_config(tmp_path / name, tiny_config(tmp_path / name / "run", Global__save_steps=2))
               for name in ("whole", "cut")}  # fmt: skip
    whole, cut = (tmp_path / name / "run" / "checkpoints" for name in configs)
    result = run_tool("train.py", "-c", configs["whole"])
    assert result.returncode == 0, result.stdout + result.stderr

    process = start_tool("train.py", "-c", configs["cut"])
    end = time.monotonic() + 120
    while not (cut / "epoch_0000_step_000002").is_dir():
        assert time.monotonic() < end, "no checkpoint was written"
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "--resume auto" in output.splitlines()[-1] and "Traceback" not in output

    process = start_tool("train.py", "-c", configs["cut"], "--resume", "auto")
    assert any("resuming from" in line for line in process.stdout)
    process.kill()
    process.communicate()
    assert not (cut.parent / "report.json").exists(), "the run was over before it could be killed"
    result = run_tool("train.py", "-c", configs["cut"], "--resume", "auto")
    assert result.returncode == 0, result.stdout + result.stderr
    assert same_files(cut / "epoch_0002", whole / "epoch_0002", TENSORS) == []
