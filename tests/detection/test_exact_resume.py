"""A run that was interrupted and resumed ends with the same bits as one that was not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from detection.configuration import DetectionConfig, load_config
from detection.task import train_config
from ppcls_ext.utils.errors import UserError
from tests.support.detector_runs import STEPS, make_frames, run_config
from tests.support.runs import same_files

ARRAYS = ("model.pdparams", "ema.pdparams", "optimizer.pdopt")


def figures(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history without what a clock decides."""
    return [
        {
            "epoch": record["epoch"],
            "lr": record["lr"],
            "losses": {name: value for name, value in record["train"].items() if name.startswith("loss")},
            "eval": {name: value for name, value in record["eval"].items() if name != "seconds"},
        }
        for record in history
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the report of a run that nobody interrupted, with a checkpoint after each batch."""
    folder = tmp_path_factory.mktemp("whole")
    config = load_config(run_config(folder, make_frames(folder / "data"), save_steps=1))
    return folder, train_config(config)


def continue_from(whole_folder: Path, folder: Path, checkpoint: str, **changes: Any) -> tuple[Path, dict[str, Any]]:
    """Copies one checkpoint of the whole run into a new run and resumes there; returns checkpoints and report."""
    config = load_config(run_config(folder, make_frames(whole_folder / "data"), save_steps=1, **changes))
    target = config.output_dir / "checkpoints"
    shutil.copytree(whole_folder / "runs" / "run" / "checkpoints" / checkpoint, target / checkpoint)
    return target, train_config(config, "auto")


@pytest.mark.parametrize(
    ("checkpoint", "workers"), [("epoch_0000_step_000003", 2), ("epoch_0001", 0), ("epoch_0001_step_000002", 1)]
)
def test_resumed_run_ends_with_the_same_bits(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, checkpoint: str, workers: int
) -> None:
    folder, report = whole
    checkpoints, resumed = continue_from(folder, tmp_path, checkpoint, worker_num=workers)
    assert same_files(folder / "runs" / "run" / "checkpoints" / "epoch_0002", checkpoints / "epoch_0002", ARRAYS) == []
    assert figures(resumed["history"]) == figures(report["history"])
    assert resumed["best"] == report["best"]


def test_a_run_leaves_what_its_docstring_says(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, report = whole
    run = folder / "runs" / "run"
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "train.log", "log.jsonl", "report.json", "curves.png"} <= names
    assert json.loads((run / "report.json").read_text(encoding="utf-8"))["epochs"] == 2
    assert (run / "checkpoints" / "latest").resolve().name == "epoch_0002"
    steps = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["step"] for record in steps if record["kind"] == "step"] == [2, 4, 2, 4]
    assert len([path for path in (run / "checkpoints").iterdir() if "_step_" in path.name]) == 2 * (STEPS - 1)


def test_averaged_weights_are_evaluated_and_differ_from_the_trained_ones(whole: tuple[Path, dict[str, Any]]) -> None:
    checkpoint = whole[0] / "runs" / "run" / "checkpoints" / "epoch_0002"
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    assert state["evaluated_weights"] == "ema"
    assert state["average"]["step"] == 2 * STEPS
    assert (checkpoint / "ema.pdparams").read_bytes() != (checkpoint / "model.pdparams").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_ema": False}, "was trained with an average; set use_ema: true"),
        ({"EConvNeXt__arch": "tiny"}, "is of PPYOLOE with EConvNeXt mini.* but .* is of PPYOLOE with EConvNeXt tiny"),
        ({"width_mult": 0.5}, "width_mult 0.25, but .*width_mult 0.5"),
        ({"TrainReader__batch_size": 2}, "stands inside an epoch whose batches are cut.*images_per_step 4 -> 2"),
        (
            {"OptimizerBuilder__optimizer": {"type": "Momentum", "momentum": 0.9}},
            "was trained with OptimizerBuilder.optimizer.type=AdamW, now it is Momentum",
        ),
    ],
)  # fmt: skip
def test_resume_refuses_to_do_less(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        continue_from(whole[0], tmp_path, "epoch_0001_step_000002", **changes)


def test_resume_refuses_a_weight_file(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    config = load_config(run_config(tmp_path, make_frames(whole[0] / "data")))
    weights = whole[0] / "runs" / "run" / "checkpoints" / "epoch_0002" / "model.pdparams"
    with pytest.raises(UserError, match="--resume wants a checkpoint folder.*pretrain_weights"):
        train_config(config, str(weights))


def test_resume_refuses_a_checkpoint_without_optimizer(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    from ppcls_ext.engine.checkpoint import read_checkpoint, write_checkpoint

    checkpoint = read_checkpoint(whole[0] / "runs" / "run" / "checkpoints" / "epoch_0001")
    checkpoint.optimizer = None
    stripped = write_checkpoint(tmp_path / "stripped", checkpoint, keep=1, best=False)
    config = load_config(run_config(tmp_path, make_frames(whole[0] / "data")))
    with pytest.raises(UserError, match="holds no optimizer state"):
        train_config(config, str(stripped))


def test_a_second_run_in_the_same_folder_is_refused(whole: tuple[Path, dict[str, Any]]) -> None:
    config = load_config(whole[0] / "run.yml")
    with pytest.raises(UserError, match="already holds a run .*--resume auto"):
        train_config(config)


def test_changed_keys_are_listed(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import logging

    for name in ("detection", "ppcls_ext"):
        logging.getLogger(name).propagate = True
    # Nothing is left to train.
    continue_from(whole[0], tmp_path, "epoch_0002", LearningRate__base_lr=0.0005)
    assert "LearningRate.base_lr 0.001 -> 0.0005" in caplog.text
    assert "worker_num" not in caplog.text


READER = {
    "sample_transforms": [
        {"Decode": {}}, {"MosaicPerspective": {"target_size": 64, "degrees": 5.0}}, {"RandomHSV": {}},
        {"RandomFlip": {}},
    ],
    "batch_transforms": [
        {"NormalizeImage": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "norm_type": "none"}}, {"Permute": {}},
        {"PadGT": {}}, {"LabelsToInt64": {}},
    ],
    "batch_size": 4, "shuffle": True, "drop_last": True, "mosaic_epoch": 1,
}  # fmt: skip
DETECTOR = {"architecture": "YOLOv10", "scale": "N", "ema_decay_type": "exponential"}


def mosaic_config(folder: Path, data: Path, workers: int) -> DetectionConfig:
    """Two epochs, of which the first sees mosaics; a checkpoint before the last batch of each."""
    changes: dict[str, Any] = {"TrainReader": READER, "save_steps": STEPS - 1, "eval_interval": 2}
    file = run_config(folder, make_frames(data), worker_num=workers, **changes)
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    for name in [name for name in settings if name in ("depth_mult", "width_mult") or name.startswith("PPYOLOE")]:
        del settings[name]
    file.write_text(yaml.safe_dump({**settings, **DETECTOR}), encoding="utf-8")
    return load_config(file)


@pytest.mark.slow
def test_a_run_interrupted_between_mosaics_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = mosaic_config(tmp_path / "whole", tmp_path / "data", workers=0)
    train_config(whole)
    resumed = mosaic_config(tmp_path / "resumed", tmp_path / "data", workers=2)
    checkpoint = f"epoch_0000_step_{STEPS - 1:06d}"
    first, second = (config.output_dir / "checkpoints" for config in (whole, resumed))
    shutil.copytree(first / checkpoint, second / checkpoint)
    train_config(resumed, "auto")
    assert same_files(first / "epoch_0002", second / "epoch_0002", ARRAYS) == []
