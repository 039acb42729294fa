"""Training and evaluation of a configuration, from its file to its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detection.configuration import DetectionConfig
from detection.configuration.config import warn_of_other_contrast


def open_environment(config: DetectionConfig) -> Any:
    """Chooses the device and joins the other processes; returns the ``Environment``."""
    from ppcls_ext.engine.environment import prepare_environment

    device = "gpu" if config.data.get("use_gpu", True) else "cpu"
    return prepare_environment(device, config.data.get("seed", 0), key="use_gpu")


def train_config(config: DetectionConfig, resume: str | None = None) -> dict[str, Any]:
    """Trains a detector; returns the report that also stands in ``report.json``.

    Args:
        config: the configuration.
        resume: ``auto``, the path of a checkpoint folder, or ``None`` for a fresh run.

    Raises:
        Interrupted: the user stopped the run; it has been saved.
        UserError: something that the user can mend.
    """
    from detection.engine.trainer import Trainer
    from detection.toolkit import workspace

    warn_of_other_contrast(config, "Eval")
    environment = open_environment(config)
    with workspace(config) as settings:
        return Trainer(config, settings, environment, resume).run()


def default_evaluation_folder(config: DetectionConfig) -> Path:
    """Returns where an evaluation writes if nobody says otherwise."""
    return config.output_dir / "evaluation"
