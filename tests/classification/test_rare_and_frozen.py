"""Class weights, class sampling, frozen stages and learning rates by depth in whole runs of a classifier."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classification.check import check_config_data
from classification.config import load_config
from classification.task import train_config
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import read_weights
from tests.support.runs import launch_tool, same_files, tiny_config, write_config

TENSORS = ("model.pdparams", "ema.pdparams", "optimizer.pdopt")
CHANGES: dict[str, Any] = {
    "Global__class_weights": "effective_number", "Global__class_sampling": "full", "Global__freeze_stages": 1,
    "Global__freeze_epochs": 1, "Global__backbone_lr_mult": 0.5, "Global__layer_decay": 0.8, "Global__save_steps": 2,
}  # fmt: skip
HELD = ("stem.", "stages.0.")


def run_of(folder: Path, **changes: Any) -> Any:
    return load_config(write_config(folder, tiny_config(folder / "run", **{**CHANGES, **changes})))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all of it that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train_config(run_of(folder))
    return folder / "run"


def weights_of(run: Path, checkpoint: str, kind: str = "model") -> dict[str, np.ndarray]:
    return read_weights(run / "checkpoints" / checkpoint / f"{kind}.pdparams")


def test_frozen_weights_and_statistics_stay_and_learn_afterwards(whole: Path) -> None:
    early, first, last = (weights_of(whole, name) for name in ("epoch_0000_step_000002", "epoch_0001", "epoch_0002"))
    held = [name for name in first if name.startswith(HELD)]
    assert all(np.array_equal(early[name], first[name]) for name in held)
    moved = {name for name in first if not np.array_equal(early[name], first[name])}
    assert {"head.weight", "stages.1.entry.norm._mean"} <= moved
    freed = {name for name in held if not np.array_equal(first[name], last[name])}
    assert {"stem.0.conv.weight", "stem.0.norm._mean", "stages.0.blocks.0.norm._variance"} <= freed
    average = weights_of(whole, "epoch_0001", "ema")
    assert all(np.array_equal(average[name], first[name]) for name in held)
    assert not np.array_equal(average["head.weight"], first["head.weight"])


def test_a_run_with_all_of_it_resumes_to_the_same_bits_and_says_what_it_does(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    last = "epoch_0000_step_000002"
    shutil.copytree(whole / "checkpoints" / last, tmp_path / "run" / "checkpoints" / last)
    with caplog.at_level(logging.INFO):
        train_config(run_of(tmp_path, DataLoader__Train__loader={"num_workers": 1}), resume="auto")
    target = "checkpoints/epoch_0002"
    assert same_files(whole / target, tmp_path / "run" / target, TENSORS) == []
    assert "freezes random weights" not in caplog.text, "those of the checkpoint are not"
    assert "class_sampling full: an epoch shows 39 images" in caplog.text
    assert "class_weights, effective_number: " in caplog.text
    rates = "stem 0.164, stage 1 0.205, stage 2 0.256, stage 3 0.32, stage 4 0.4, the rest 1"
    assert f"learning-rate factors: {rates}" in caplog.text
    lines = ("epoch 1: stem and stage 1 (1,040 parameters) frozen to the end of epoch 1", "epoch 2: stem and stage 1 (")
    assert all(line in caplog.text for line in lines)


def test_another_sampling_inside_an_epoch_is_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="class_sampling full -> None"):
        config = run_of(tmp_path, Global__class_sampling=None)
        train_config(config, resume=str(whole / "checkpoints/epoch_0000_step_000002"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("class_weights", "balancd", "class_weights: must be balanced, .* .did you mean 'balanced'"),
        ("freeze_stages", None, "freeze_epochs: needs freeze_stages"),
        ("to_static", True, "freeze_stages: needs to_static: False"),
    ],
)
def test_mistakes_are_told_by_key(tmp_path: Path, key: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"Global.{message}"):
        run_of(tmp_path, **{f"Global__{key}": value})


def test_the_data_check_tells_the_images_of_an_epoch(tmp_path: Path) -> None:
    check = check_config_data(run_of(tmp_path), limit=1)
    assert "class_sampling full: an epoch shows 39 images, each so often: 8 1.3 (of 3)" in check.facts["Train"]


@pytest.mark.slow
def test_two_processes_freeze_and_free_alike(tmp_path: Path) -> None:
    """Two processes with batches of 6 end where one with batches of 12 does, but for rounding."""
    found = []
    for processes in (1, 2):
        config = tiny_config(
            tmp_path / f"run_{processes}", **CHANGES, Global__freeze_norm=True, Arch__drop_path_rate=0.0,
            DataLoader__Train__sampler={"batch_size": 12 // processes, "shuffle": True, "drop_last": True},
        )  # fmt: skip
        config["Optimizer"] = {"name": "SGD", "weight_decay": 0.1, "lr": {"name": "ConstLR", "learning_rate": 0.01}}
        del config["DataLoader"]["Train"]["dataset"]["batch_transform_ops"]
        result = launch_tool(
            "train.py", "-c", write_config(tmp_path, config, f"{processes}.yaml"), log=tmp_path / f"log_{processes}",
            processes=processes,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr
        found.append(weights_of(tmp_path / f"run_{processes}", "epoch_0002"))
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-4, atol=1e-5, err_msg=name)
