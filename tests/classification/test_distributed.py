"""Two processes do what one does with twice the batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classification.config import load_config
from classification.task import train_config
from ppcls_ext import build_model
from ppcls_ext.weights import read_weights, write_weights
from tests.support.distillation import distilled, write_teacher
from tests.support.runs import NORMALIZE, TINY, launch_tool, same_files, tiny_config, write_config
from tests.support.seeded import seed_weights


def plain_config(output: Path, batch_size: int, **changes: Any) -> dict[str, Any]:
    """A run whose losses and gradients do not depend on how a batch is cut: frozen norms, no drop path, no mixing.

    Plain SGD makes the change of a weight its gradient times 0.01.
    """
    config = tiny_config(output, Global__freeze_norm=True, Global__save_steps=1, Arch__drop_path_rate=0.0, **changes)
    config["Optimizer"] = {"name": "SGD", "lr": {"name": "ConstLR", "learning_rate": 0.01}}
    dataset = config["DataLoader"]["Train"]["dataset"]
    dataset["transform_ops"] = [NORMALIZE]
    del dataset["batch_transform_ops"]
    config["DataLoader"]["Train"]["sampler"]["batch_size"] = batch_size
    config["Global"]["epochs"] = 1
    return config


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights through which signals and gradients pass; with frozen norms, fresh ones let them fade away."""
    model = build_model(**TINY)
    seed_weights(model)
    path = tmp_path_factory.mktemp("start") / "seeded.pdparams"
    write_weights(path, model.state_dict())
    return path


def train(run: Path, config: dict[str, Any], processes: int, *arguments: str) -> None:
    """Trains in this process, or in several."""
    file = write_config(run.parent, config, f"{run.name}.yaml")
    if processes == 1:
        train_config(load_config(file))
        return
    result = launch_tool("train.py", "-c", file, *arguments, log=run.parent / f"log_{run.name}")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, start: Path) -> tuple[Path, Path]:
    """One process with batches of 12, and two with batches of 6."""
    folder = tmp_path_factory.mktemp("runs")
    one, two = folder / "one", folder / "two"
    for run, processes in ((one, 1), (two, 2)):
        train(run, plain_config(run, 12 // processes, Global__pretrained_model=str(start)), processes)
    return one, two


def report_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "report.json").read_text())


def test_losses_and_metrics_equal_those_of_one_process(runs: tuple[Path, Path]) -> None:
    one, two = (report_of(run)["last"] for run in runs)
    assert two["train"]["loss"] == pytest.approx(one["train"]["loss"], rel=1e-5)
    assert two["train"]["top1"] == pytest.approx(one["train"]["top1"], abs=1e-9)
    for part in ("eval", "ema"):
        assert two[part]["images"] == one[part]["images"], "an image was left out or counted twice"
        assert two[part]["loss"] == pytest.approx(one[part]["loss"], rel=1e-5)
        assert two[part]["top1"] == pytest.approx(one[part]["top1"], abs=1e-9)
    # Only the first process writes.
    assert {path.name for path in runs[1].iterdir()} == {path.name for path in runs[0].iterdir()}
    records = [json.loads(line) for line in (runs[1] / "log.jsonl").read_text().splitlines()]
    assert [record["kind"] for record in records].count("epoch") == 1


def test_gradients_equal_those_of_one_process(runs: tuple[Path, Path]) -> None:
    one, two = (
        [read_weights(run / "checkpoints" / f"epoch_0000_step_{step:06d}" / "model.pdparams") for step in (1, 2)]
        for run in runs
    )
    compared = 0
    for name, first in one[0].items():
        gradient, other = one[1][name] - first, two[1][name] - two[0][name]
        scale = np.abs(gradient).max()
        if scale > 1e-4:
            compared += 1
            # Weights near 1 carry rounding of 6e-8 themselves.
            np.testing.assert_allclose(other, gradient, rtol=0, atol=1e-5 * scale + 2e-7, err_msg=name)
    assert compared > 15


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_accumulated_gradients_equal_those_of_a_larger_batch(
    runs: tuple[Path, Path], start: Path, tmp_path: Path, processes: int
) -> None:
    """Two batches of 6 images in all for one step do what one batch of 12 does."""
    run = tmp_path / "accumulated"
    changes = {"Global__update_freq": 2, "Global__pretrained_model": str(start)}
    train(run, plain_config(run, 6 // processes, **changes), processes)
    assert report_of(run)["optimizer_steps"] == report_of(runs[0])["optimizer_steps"]
    expected = read_weights(runs[0] / "checkpoints/epoch_0001/model.pdparams")
    for name, value in read_weights(run / "checkpoints/epoch_0001/model.pdparams").items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_two_processes_resume_to_the_same_bits(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    tensors = ("model.pdparams", "ema.pdparams", "optimizer.pdopt")
    train(whole, tiny_config(whole, Global__save_steps=2), 2)
    shutil.copytree(whole, cut, symlinks=True)
    shutil.rmtree(cut / "checkpoints/epoch_0002")
    train(cut, tiny_config(cut, Global__save_steps=2), 2, "--resume", "auto")
    assert same_files(whole / "checkpoints/epoch_0002", cut / "checkpoints/epoch_0002", tensors) == []
    expected, found = (report_of(run)["last"]["train"] for run in (whole, cut))
    assert [found[name] for name in ("loss", "top1")] == pytest.approx([expected["loss"], expected["top1"]], rel=1e-9)


@pytest.mark.slow
def test_a_student_and_its_projections_learn_alike(start: Path, tmp_path: Path) -> None:
    weights = write_teacher(tmp_path / "teacher.pdparams")
    runs = tmp_path / "one", tmp_path / "two"
    for processes, run in enumerate(runs, start=1):
        config = plain_config(run, 12 // processes, Global__pretrained_model=str(start))
        settings = {"features": {"stages": [3, 4]}, "weight": 0.5}
        config["Distillation"] = distilled(run, weights, settings)["Distillation"]
        train(run, config, processes)
    one, two = (report_of(run) for run in runs)
    # A divergence near nothing is a difference of larger numbers.
    for name, limit in (("loss", 1e-5), ("loss_label", 1e-5), ("loss_distillation", 1e-4), ("loss_features", 1e-5)):
        assert two["last"]["train"][name] == pytest.approx(one["last"]["train"][name], rel=limit), name
    assert two["teacher"]["eval"]["images"] == one["teacher"]["eval"]["images"]
    assert two["teacher"]["eval"]["loss"] == pytest.approx(one["teacher"]["eval"]["loss"], rel=1e-5)
    expected, found = (read_weights(run / "checkpoints/epoch_0001/auxiliary.pdparams") for run in runs)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
