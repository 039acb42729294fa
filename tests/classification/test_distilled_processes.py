"""Two processes with a teacher do what one does with twice the batch, the projections included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_ext import build_model
from ppcls_ext.weights import read_weights, write_weights
from tests.support.distillation import STUDENT, distilled, loaded, trainer_of, write_teacher
from tests.support.runs import NORMALIZE, launch_tool, write_config
from tests.support.seeded import seed_weights


def plain_config(folder: Path, name: str, batch_size: int) -> dict[str, Any]:
    """A run that does not depend on how a batch is cut: frozen norms, no drop path, no mixing, plain SGD."""
    settings = {"features": {"stages": [3, 4]}, "weight": 0.5}
    start = {"Global__pretrained_model": str(folder / "start.pdparams"), "Arch__drop_path_rate": 0.0}
    config = distilled(
        folder / name, folder / "teacher.pdparams", settings, Global__freeze_norm=True, Global__epochs=1, **start
    )
    config["Optimizer"] = {"name": "SGD", "lr": {"name": "ConstLR", "learning_rate": 0.01}}
    dataset = config["DataLoader"]["Train"]["dataset"]
    dataset["transform_ops"] = [NORMALIZE]
    del dataset["batch_transform_ops"]
    config["DataLoader"]["Train"]["sampler"]["batch_size"] = batch_size
    return config


@pytest.mark.slow
def test_losses_and_weights_equal_those_of_one_process(tmp_path):
    write_teacher(tmp_path / "teacher.pdparams")
    student = build_model("EConvNeXt_mini", class_num=10, **STUDENT)
    seed_weights(student)
    write_weights(tmp_path / "start.pdparams", student.state_dict())
    trainer_of(loaded(tmp_path, plain_config(tmp_path, "one", 12))).run()
    config = write_config(tmp_path, plain_config(tmp_path, "two", 6), "two.yaml")
    double = launch_tool("train.py", "-c", config, log=tmp_path / "log")
    assert double.returncode == 0, double.stdout + double.stderr
    one, two = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    # A divergence near nothing is a difference of larger numbers.
    for name, limit in (("loss", 1e-5), ("loss_label", 1e-5), ("loss_distillation", 1e-4), ("loss_features", 1e-5)):
        assert two["last"]["train"][name] == pytest.approx(one["last"]["train"][name], rel=limit), name
    assert two["teacher"]["eval"]["images"] == one["teacher"]["eval"]["images"]
    assert two["teacher"]["eval"]["loss"] == pytest.approx(one["teacher"]["eval"]["loss"], rel=1e-5)
    for file in ("model.pdparams", "auxiliary.pdparams"):
        expected, weights = (read_weights(tmp_path / name / "checkpoints/epoch_0001" / file) for name in ("one", "two"))
        assert weights.keys() == expected.keys()
        for name, value in weights.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
