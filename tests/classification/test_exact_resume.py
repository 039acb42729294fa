"""An interrupted run ends with the same bits as one that was never interrupted, whatever loads its data."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from classification.config import load_config
from classification.task import train_config
from ppcls_ext.utils.errors import UserError
from tests.support.runs import run_tool, same_files, start_tool, tiny_config, write_config

TENSORS = ("model.pdparams", "ema.pdparams", "optimizer.pdopt")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs of four batches with a checkpoint after every second batch, never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    # A process of its own, as those that are compared with it: sums in other numbers of threads round otherwise.
    result = run_tool("train.py", "-c", write_config(folder, tiny_config(folder / "run", Global__save_steps=2)))
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "run"


def copy_until(run: Path, target: Path, last: str) -> Path:
    """Copies a run as it was on the disk when checkpoint ``last`` was the newest."""
    shutil.copytree(run, target, symlinks=True)
    folders = sorted(path for path in (target / "checkpoints").iterdir() if not path.is_symlink())
    for folder in folders:
        if folder.name > last:
            shutil.rmtree(folder)
    (target / "report.json").unlink()
    return target


def last_losses(run: Path) -> list[tuple[int, int, float]]:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(record["epoch"], record["step"], record["loss"]) for record in records if record["kind"] == "step"]


@pytest.mark.parametrize(("workers", "last"), [(1, "epoch_0001"), (2, "epoch_0001_step_000002")])
def test_fresh_process_continues_bit_for_bit(whole_run: Path, tmp_path: Path, workers: int, last: str) -> None:
    run = copy_until(whole_run, tmp_path / "run", last)
    changes = {"Global__save_steps": 2, "DataLoader__Train__loader": {"num_workers": workers}}
    config = write_config(tmp_path, tiny_config(run, **changes))
    result = run_tool("train.py", "-c", config, "--resume", "auto")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"resuming from {run}/checkpoints/{last}" in result.stdout
    for checkpoint in ("epoch_0001_step_000002", "epoch_0002"):
        assert same_files(run / "checkpoints" / checkpoint, whole_run / "checkpoints" / checkpoint, TENSORS) == []
    assert last_losses(run) == last_losses(whole_run)
    assert last_losses(run), "the log holds no steps to compare"


def test_log_and_report_cover_the_whole_run(whole_run: Path) -> None:
    report = json.loads((whole_run / "report.json").read_text())
    assert [record["epoch"] for record in report["history"]] == [1, 2]
    assert report["optimizer_steps"] == 8
    assert {"loss", "top1", "top5", "images"} <= set(report["last"]["eval"])
    assert report["last"]["ema"]["images"] == report["last"]["eval"]["images"]
    assert report["class_names"] == [str(digit) for digit in range(10)]
    assert (whole_run / "curves.png").stat().st_size > 10_000


def wait_for(run: Path, name: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not (run / "checkpoints" / name).is_dir():
        assert time.monotonic() < end, f"{name} was not written in {seconds} s"
        time.sleep(0.05)


def test_killed_run_continues_bit_for_bit(whole_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = write_config(tmp_path, tiny_config(run, Global__save_steps=2))
    process = start_tool("train.py", "-c", config)
    wait_for(run, "epoch_0000_step_000002")
    process.kill()
    process.wait()
    assert not (run / "report.json").exists(), "the run was over before it could be killed"
    result = run_tool("train.py", "-c", config, "--resume", "auto")
    assert result.returncode == 0, result.stdout + result.stderr
    assert same_files(run / "checkpoints/epoch_0002", whole_run / "checkpoints/epoch_0002", TENSORS) == []


def test_interrupted_run_saves_says_how_and_continues(whole_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = write_config(tmp_path, tiny_config(run, Global__save_steps=2))
    process = start_tool("train.py", "-c", config)
    wait_for(run, "epoch_0000_step_000002")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "--resume auto" in output.splitlines()[-1]
    assert "Traceback" not in output
    result = run_tool("train.py", "-c", config, "--resume", "auto")
    assert result.returncode == 0, result.stdout + result.stderr
    assert same_files(run / "checkpoints/epoch_0002", whole_run / "checkpoints/epoch_0002", TENSORS) == []


def test_a_checkpoint_inside_an_epoch_wants_the_same_batches(whole_run: Path, tmp_path: Path) -> None:
    change = {"DataLoader__Train__sampler": {"batch_size": 4, "shuffle": True}}
    config = load_config(write_config(tmp_path, tiny_config(tmp_path / "run", **change)))
    with pytest.raises(UserError, match="images_per_step 8 -> 4"):
        train_config(config, resume=str(whole_run / "checkpoints/epoch_0000_step_000002"))
