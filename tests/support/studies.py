"""Small studies for tests: their YAML, and folders of runs as trainings leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from classification.study import Run, Study, load_study, runs_of
from tests.support.runs import small_config, write_config

TINY = {"name": "EConvNeXt_mini", "class_num": 3, "depth_multiplier": 0.25, "width_multiplier": 0.1}


def row_config(folder: Path, archive: Path | str = "none.tar.gz", epochs: int = 2) -> Path:
    """Writes the configuration that the rows of a small study share: a tiny network on CIFAR's archive."""
    config = small_config(folder / "unused", Arch=dict(TINY), Global__epochs=epochs, Global__keep_checkpoints=1)
    config.pop("EMA")
    for part, mode in (("Train", "train"), ("Eval", "test")):
        dataset = config["DataLoader"][part]["dataset"]
        operators = [operator for operator in dataset["transform_ops"] if "NormalizeImage" in operator]
        config["DataLoader"][part]["dataset"] = {
            "name": "Cifar100", "data_file": str(archive), "mode": mode, "transform_ops": operators,
        }  # fmt: skip
    return write_config(folder, config, "row.yaml")


def study_data(folder: Path, config: Path) -> dict[str, Any]:
    """Returns a study of one row with two seeds, another row, and an ablation."""
    return {
        "output_dir": str(folder / "out"),
        "seeds": [0],
        "rows": [
            {"name": "plain", "config": str(config), "seeds": [0, 1]},
            {"name": "wide", "config": str(config), "overrides": {"Arch.width_multiplier": 0.2}},
        ],
        "ablations": [{"name": "relu", "base": "plain", "overrides": {"Arch.activation": "relu"}}],
    }


def write_study(folder: Path, data: dict[str, Any], name: str = "small.yaml") -> Path:
    """Writes the YAML of a study."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def small_study(folder: Path, **changes: Any) -> Study:
    """Returns the study of :func:`study_data`, loaded."""
    return load_study(write_study(folder, study_data(folder, row_config(folder)) | changes))


def all_runs(study: Study) -> list[Run]:
    """Returns every run of a study."""
    return runs_of(study, study.rows)


def epoch_record(epoch: int, top1: float) -> dict[str, Any]:
    """Returns the record of an evaluated epoch as the trainer writes it."""
    return {
        "epoch": epoch,
        "lr": 1e-3,
        "train": {"loss": 3.0 / epoch, "top1": top1, "images_per_second": 50.0, "seconds": 30.0},
        "eval": {"loss": 2.0 / epoch, "top1": top1, "top5": min(1.0, top1 + 0.25), "images": 100},
    }


def pretend_training(run: Run, top1s: list[float]) -> None:
    """Writes what a run leaves after these epochs: its log, its configuration and, after the last one, its report."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "config.yaml").write_text(run.config.to_yaml(), encoding="utf-8")
    history = [epoch_record(number, top1) for number, top1 in enumerate(top1s, start=1)]
    lines = "".join(json.dumps({"kind": "epoch", **record}) + "\n" for record in history)
    # A run that is being written, or was killed, ends amid a line.
    (run.folder / "log.jsonl").write_text(lines + '{"kind": "st', encoding="utf-8")
    if len(top1s) == run.config.run.epochs:
        report = {"epochs": len(top1s), "history": history}
        (run.folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
