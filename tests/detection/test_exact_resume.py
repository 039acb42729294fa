"""A run that was interrupted and resumed ends with the same bits as one that was not; what resuming refuses."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from detection.configuration import DetectionConfig, load_config
from detection.task import train_config
from ppcls_ext.engine.checkpoint import read_checkpoint, write_checkpoint
from ppcls_ext.utils.errors import UserError
from tests.support.detectors import STEPS, make_frames, run_config
from tests.support.runs import same_files

ARRAYS = ("model.pdparams", "ema.pdparams", "optimizer.pdopt")


def figures(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history without what a clock decides."""
    timed = ("seconds", "images_per_second")
    return [
        {"lr": record["lr"], **{
            f"{part}/{name}": value for part in ("train", "eval") for name, value in record[part].items()
            if name not in timed
        }}
        for record in history
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the report of a run that nobody interrupted, with a checkpoint after each batch."""
    folder = tmp_path_factory.mktemp("whole")
    config = load_config(run_config(folder, make_frames(folder / "data"), save_steps=1))
    return folder / "runs" / "run", train_config(config)


def resume(whole: Path, config: DetectionConfig, checkpoint: str) -> tuple[Path, dict[str, Any]]:
    """Copies one checkpoint of the whole run into a new run and resumes there; returns checkpoints and report."""
    target = config.output_dir / "checkpoints"
    shutil.copytree(whole / "checkpoints" / checkpoint, target / checkpoint)
    return target, train_config(config, "auto")


def config_of(whole: Path, folder: Path, **changes: Any) -> DetectionConfig:
    """The configuration of the whole run, for another folder."""
    return load_config(run_config(folder, make_frames(whole.parents[1] / "data"), save_steps=1, **changes))


@pytest.mark.parametrize(("checkpoint", "workers"), [("epoch_0000_step_000003", 2), ("epoch_0001", 0)])
def test_resumed_run_ends_with_the_same_bits(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, checkpoint: str, workers: int
) -> None:
    run, report = whole
    # A checkpoint holds all weights: those that the backbone once started from are not needed again.
    gone = str(tmp_path / "gone.pdparams")
    config = config_of(run, tmp_path, worker_num=workers, EConvNeXt__pretrained=gone)
    checkpoints, resumed = resume(run, config, checkpoint)
    assert same_files(run / "checkpoints" / "epoch_0002", checkpoints / "epoch_0002", ARRAYS) == []
    assert figures(resumed["history"]) == figures(report["history"])
    assert resumed["best"] == report["best"]


def test_a_run_leaves_what_the_documentation_says(whole: tuple[Path, dict[str, Any]]) -> None:
    run, report = whole
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "train.log", "log.jsonl", "report.json", "curves.png"} <= names
    assert json.loads((run / "report.json").read_text(encoding="utf-8"))["epochs"] == report["epochs"] == 2
    latest = run / "checkpoints" / "latest"
    assert latest.resolve().name == "epoch_0002"
    steps = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["step"] for record in steps if record["kind"] == "step"] == [2, 4, 2, 4]
    assert len([path for path in latest.parent.iterdir() if "_step_" in path.name]) == 2 * (STEPS - 1)
    # The averaged weights are evaluated, and are others than the trained ones.
    state = json.loads((latest / "state.json").read_text(encoding="utf-8"))
    assert state["evaluated_weights"] == "ema" and state["average"]["step"] == 2 * STEPS
    assert (latest / "ema.pdparams").read_bytes() != (latest / "model.pdparams").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_ema": False, "EConvNeXt__arch": "tiny"}, "another run .arch mini -> tiny; use_ema True -> False.,"),
        ({"TrainReader__batch_size": 2}, "its batches would now hold other images.*images_per_step 4 -> 2"),
    ],
)  # fmt: skip
def test_resume_refuses_to_do_less(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        resume(whole[0], config_of(whole[0], tmp_path, **changes), "epoch_0001_step_000002")


def test_resume_refuses_weights_alone_and_a_run_is_not_begun_twice(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    checkpoints = whole[0] / "checkpoints"
    config = config_of(whole[0], tmp_path)
    with pytest.raises(UserError, match="--resume wants a checkpoint folder.*pretrain_weights"):
        train_config(config, str(checkpoints / "epoch_0002" / "model.pdparams"))
    checkpoint = read_checkpoint(checkpoints / "epoch_0001")
    checkpoint.optimizer = None
    stripped = write_checkpoint(tmp_path / "stripped", checkpoint, keep=1, best=False)
    with pytest.raises(UserError, match="holds no optimizer state"):
        train_config(config, str(stripped))
    checkpoint = read_checkpoint(checkpoints / "epoch_0001")
    checkpoint.state["class_names"] = ["ball", "cube", "tyre"]
    others = write_checkpoint(tmp_path / "others", checkpoint, keep=1, best=False)
    with pytest.raises(UserError, match=r"is of another run \(class 0 'ball' -> 'cube'\), not of "):
        train_config(config, str(others))
    with pytest.raises(UserError, match="already holds a run .*--resume auto"):
        train_config(load_config(whole[0].parents[1] / "run.yml"))


def test_more_epochs_are_planned_anew(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("detection", "ppcls_ext"):
        logging.getLogger(name).propagate = True
    caplog.set_level(logging.INFO, "ppcls_ext")
    longer = load_config(config_of(whole[0], tmp_path).path, ["epoch=4", "tuned_batch_size=8"])
    _, report = resume(whole[0], longer, "epoch_0002")
    assert "epoch 2 -> 4: PPYOLOEHead.static_assigner_epoch 1 -> 2, LearningRate.schedulers[0]" in caplog.text
    assert "learning rate 0.001 -> 0.0005: it was tuned for 8 images a step" in caplog.text
    assert "planned anew, over 4 epochs: after epoch 2 it goes on at 0.000452 (before: 9.55e-05)" in caplog.text
    assert [record["lr"] > 1e-4 for record in report["history"]] == [True, False, True, False]
    # That of each epoch's last step, not of the one behind it.
    assert [f"{record['lr']:.3g}" for record in report["history"][2:]] == ["0.00025", "1.22e-05"]
    assert report["learning_rate"]["used"] == 0.0005
