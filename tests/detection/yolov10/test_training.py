"""YOLOv10 through the public trainer: a short run, its resumption, other classes, and 16 frames learnt by heart."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.configuration import load_config
from detection.synthetic import CLASSES, write_synthetic
from detection.task import train_config
from ppcls_ext.weights import read_weights
from tests.support.detectors import make_frames, yolov10_run_config
from tests.support.frames import NAMES
from tests.support.runs import same_files

ARRAYS = ("model.pdparams", "ema.pdparams", "optimizer.pdopt")
MIDDLE = "epoch_0001_step_000002"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the report of a run of two epochs that nobody interrupted; one image has no boxes."""
    folder = tmp_path_factory.mktemp("whole")
    frames = make_frames(folder / "data")
    return folder, train_config(load_config(yolov10_run_config(folder, frames.root, len(NAMES), 64, save_steps=2)))


def resumed(whole: tuple[Path, dict[str, Any]], folder: Path, **changes: Any) -> tuple[Path, dict[str, Any]]:
    """Continues the run from the middle of its second epoch; returns the new checkpoints and the report."""
    config = load_config(yolov10_run_config(folder, whole[0] / "data", len(NAMES), 64, save_steps=2, **changes))
    target = config.output_dir / "checkpoints"
    shutil.copytree(whole[0] / "runs" / "run" / "checkpoints" / MIDDLE, target / MIDDLE)
    return target, train_config(config, "auto")


def test_a_run_trains_and_evaluates(whole: tuple[Path, dict[str, Any]]) -> None:
    report = whole[1]
    assert [record["epoch"] for record in report["history"]] == [1, 2]
    for record in report["history"]:
        train, evaluation = record["train"], record["eval"]
        parts = sum(train[name] for name in ("loss_class", "loss_iou", "loss_dfl"))
        assert parts == pytest.approx(train["loss"], rel=1e-5)
        # A picture of 64 pixels has 84 anchors, and each is a detection.
        assert evaluation["detections"] == 6 * 84


def test_a_resumed_run_ends_with_the_same_bits(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    checkpoints, report = resumed(whole, tmp_path)
    expected = whole[0] / "runs" / "run" / "checkpoints" / "epoch_0002"
    assert same_files(expected, checkpoints / "epoch_0002", ARRAYS) == []
    last, before = report["history"][-1], whole[1]["history"][-1]
    assert last["train"]["loss"] == before["train"]["loss"]


def test_weights_for_other_classes_start_all_but_the_class_layers(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    from detection.toolkit import build_model
    from detection.weights import load_start

    weights = whole[0] / "runs" / "run" / "checkpoints" / "epoch_0002" / "ema.pdparams"
    file = yolov10_run_config(tmp_path, whole[0] / "data", len(NAMES) + 70, 64, pretrain_weights=str(weights))
    config = load_config(file)
    model = build_model(config)
    load_start(config, model)
    trained, fresh = read_weights(weights), []
    for name, value in model.state_dict().items():
        if trained[name].shape != tuple(value.shape) or not np.array_equal(trained[name], value.numpy()):
            fresh.append(name)
    assert fresh
    assert all(name.startswith(("yolo_head.one_to_many.classes.", "yolo_head.one_to_one.classes.")) for name in fresh)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_sixteen_frames_are_learnt_by_heart(tmp_path: Path) -> None:
    """Evaluated on the frames that it was trained on.

    The norms' running statistics follow slowly (momentum 0.97), so it takes some 200 steps until evaluation sees what
    training sees: AP50 was 0.37 after 40 epochs and 1.0 after 60.
    """
    write_synthetic(tmp_path / "data", train=16, val=1, seed=0)
    warmup = {"name": "LinearWarmup", "start_factor": 0.1, "steps": 20}
    schedulers = [{"name": "CosineDecay", "max_epochs": 120}, warmup]
    file = yolov10_run_config(
        tmp_path, tmp_path / "data", len(CLASSES), 96, epoch=120, snapshot_epoch=120, keep_checkpoints=1,
        LearningRate={"base_lr": 0.002, "schedulers": schedulers}, EvalDataset__anno_path="annotations/train.json",
    )  # fmt: skip
    assert train_config(load_config(file))["last"]["eval"]["AP50"] > 0.9
