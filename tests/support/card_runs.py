"""Run folders, exports and benchmarks as tools leave them, written by hand: figures that a test can look for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ppcls_ext.runtime.description import Artefact, Description
from ppcls_ext.utils.files import write_json
from ppcls_ext.weights import write_weights
from tests.support.runs import small_config

NAMES = ["cube", "ball|tyre", "<b>wall</b>"]
NARROW = [[16] * 3, [16] * 3, [16] * 9, [16] * 3]
ARGUMENTS = {"class_num": len(NAMES), "drop_path_rate": 0.1}


def figures(top1: float) -> dict[str, float]:
    """Returns an evaluation's record."""
    return {"loss": 1.25, "top1": top1, "top5": 1.0, "images": 50}


def history(best: float, averaged: float) -> list[dict[str, Any]]:
    """Returns the records of two epochs, the first of which is the better one."""
    return [
        {"epoch": 1, "lr": 1e-3, "train": {"seconds": 2.0}, "eval": figures(best), "ema": figures(averaged)},
        {"epoch": 2, "lr": 1e-4, "train": {"seconds": 2.0}, "eval": figures(0.1), "ema": figures(0.1)},
    ]


def write_run(folder: Path, evaluated: str = "ema", report: dict[str, Any] | None = None, **config: Any) -> Path:
    """Writes the folder of a finished run of EConvNeXt_mini; returns it.

    Args:
        folder: receives it.
        evaluated: ``ema`` or ``model``, the weights whose figures count.
        report: keys of ``report.json`` to change.
        **config: as of ``small_config``.
    """
    checkpoint = folder / "checkpoints" / "epoch_0001"
    checkpoint.mkdir(parents=True)
    settings = {"Arch__class_num": len(NAMES), "Arch__drop_path_rate": 0.1, **config}
    text = yaml.safe_dump(small_config(folder, **settings), sort_keys=False)
    records = history(0.8125, 0.9375)
    for place in (folder, checkpoint):
        (place / "config.yaml").write_text(text, encoding="utf-8")
    for name in ("model", "ema"):
        write_weights(checkpoint / f"{name}.pdparams", {"weight": np.ones(3, np.float32)})
    state = {
        "epoch": 1, "best_epoch": 1, "evaluated_weights": evaluated, "history": records[:1], "class_names": NAMES,
        "arch": {"name": "EConvNeXt_mini", "arguments": ARGUMENTS}, "data_order": {"seed": 5, "images": 123},
        "teacher": None,
    }  # fmt: skip
    write_json(checkpoint / "state.json", state)
    (folder / "checkpoints" / "best").symlink_to(checkpoint.name)
    content = {
        "model": "EConvNeXt_mini", "arguments": ARGUMENTS, "config": str(folder / "small.yaml"), "epochs": 2,
        "best": {"top1": 0.9375, "epoch": 1}, "seconds": {"training": 7200.0}, "class_names": NAMES, "device": "cpu",
        "processes": 1, "seed": 5, "paddle": "3.2.2", "history": records, "bad_images": ["a.png"], "teacher": None,
    }  # fmt: skip
    write_json(folder / "report.json", content | (report or {}))
    (folder / "train.log").write_text("2026-03-01 10:00:00,000 INFO a\n2026-03-02 11:00:00,000 INFO done\n", "utf-8")
    return folder


def write_export(folder: Path, model: str = "EConvNeXt_mini", names: list[str] = NAMES) -> Path:
    """Writes the description of an export with an int8 network (its files are not there); returns the folder."""
    folder.mkdir(parents=True)
    measured = {
        "calibration_images": 30, "threads": 2, "metric": "top1", "data": "DataLoader.Eval", "images": 50,
        "fp32": 0.9375, "int8": 0.925, "drop_points": 1.25, "latency_ms": {"fp32": 8.0, "int8": 4.5},
        "bytes": {"fp32": 30_000_000, "int8": 8_000_000},
    }  # fmt: skip
    artefacts = [
        Artefact(
            format="openvino", precision=precision, model_file=f"{precision}.xml", weights_file=f"{precision}.bin",
            checksums={f"{precision}.xml": "a" * 64, f"{precision}.bin": "b" * 64}, verification=verification,
        )
        for precision, verification in (("fp32", {}), ("int8", measured))
    ]  # fmt: skip
    description = Description(
        folder=folder, model_name=model, class_num=len(names), input_shape=[-1, 3, 32, 32],
        preprocess=[{"ResizeImage": {"size": 32}}], classes=names, artefacts=artefacts, topk=3,
    )  # fmt: skip
    (folder / "inference.yml").write_text(yaml.safe_dump(description.to_document()), encoding="utf-8")
    return folder


def write_benchmark(file: Path, *models: str, **changes: Any) -> Path:
    """Writes the JSON of a benchmark with one measured and one failed row for each model; returns the file."""
    row = {
        "size": 224, "backend": "openvino", "precision": "bf16", "threads": 2, "batch": 1, "status": "measured",
        "median_ms": 4.375, "p90_ms": 5.5, "images_per_second": 228.5, "architecture": "EConvNeXt_mini",
    }  # fmt: skip
    rows = [{**row, "model": model, **changes} for model in models]
    failed = [{"model": model, "backend": "paddle", "precision": "int8", "status": "failed"} for model in models]
    write_json(file, {"machine": "Some CPU, 2 cores", "models": {"settings": {}, "peaks": [], "rows": rows + failed}})
    return file
