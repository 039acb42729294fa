"""A small teacher on the disk, and runs that learn from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paddle

from classification.config import Config, load_config
from classification.task import ClassificationTask
from ppcls_ext import build_model
from ppcls_ext.engine.environment import prepare_environment
from ppcls_ext.engine.recorder import RunFolder
from ppcls_ext.engine.trainer import Trainer
from ppcls_ext.weights import write_weights
from tests.support.runs import small_config, write_config
from tests.support.seeded import seed_weights

# One block in each stage; the student's stages have 8, 16, 24 and 48 channels, the teacher's 16, 24, 48 and 96.
STUDENT = {"depth_multiplier": 0.1, "width_multiplier": 0.0625}
TEACHER = {"depth_multiplier": 0.1, "width_multiplier": 0.125}


def write_teacher(path: Path, favour: float = 0.0) -> Path:
    """Writes weights of a small network whose answers differ from image to image.

    Args:
        path: the weight file.
        favour: what is added to the logit of the first class, which makes another teacher of it.
    """
    model = build_model("EConvNeXt_mini", class_num=10, **TEACHER)
    seed_weights(model)
    with paddle.no_grad():
        model.head.bias[0] += favour
    path.parent.mkdir(parents=True, exist_ok=True)
    write_weights(path, model.state_dict())
    return path


def distilled(output: Path, weights: Path, settings: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Returns a configuration that trains a small student on a few dozen digits.

    Args:
        output, changes: see ``small_config``.
        weights: the teacher's.
        settings: of ``Distillation``, besides the teacher.
    """
    config = small_config(output, **changes)
    config["Arch"].update(STUDENT)
    teacher = {"name": "EConvNeXt_mini", "pretrained": str(weights), **TEACHER}
    config["Distillation"] = {"teacher": teacher, **(settings or {})}
    return config


def loaded(folder: Path, data: dict[str, Any]) -> Config:
    """Writes a configuration and loads it."""
    return load_config(write_config(folder, data))


def trainer_of(config: Config, resume: str | None = None) -> Trainer:
    """Returns what ``tools/train.py`` runs, in this process."""
    task = ClassificationTask(config, prepare_environment("cpu", config.run.seed))
    return Trainer(task, RunFolder(config.output_dir, active=True), resume)
