"""Latency of exported detectors, from the prepared input or from the image to the boxes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.deploy.benchmark.inference import measure_by_turns, open_engines, statistics_of
from ppcls_ext.preprocess import read_image
from ppcls_ext.runtime import DetectionDescription, read_description
from ppcls_ext.utils.errors import UserError

# What is measured, and the engine of ``engine_worker`` that does it.
STAGES = {"network": "detector", "whole": "whole_detector"}
# Width and height of the generated image, if no other is given.
GENERATED_SIZE = (640, 480)


def run_detection_benchmark(
    exports: Sequence[str | Path], image: str | Path | None = None, threads: int = 2, rounds: int = 12, runs: int = 10
) -> dict[str, Any]:
    """Measures the latency of exported detectors at batch 1, by turns, each in processes of its own.

    Args:
        exports: folders of ``tools/export_model.py``.
        image: the picture to look at; None generates one. How many boxes it gives matters a little.
        threads: threads of each network.
        rounds: how many turns each gets.
        runs: runs in a turn.

    Returns:
        ``models`` (by folder: ``name``, ``input``, ``in_graph``, ``suppression``, ``boxes``, and ``network`` and
        ``whole`` with ``median_ms``, ``p90_ms`` and ``fastest_ms``: from the prepared input, or from the decoded image,
        to the boxes; the choice of boxes is included in both) and the settings.

    Raises:
        UserError: there is no export, one is of a classifier or damaged, or the image cannot be read.
    """
    names = [str(folder) for folder in exports]
    if not names:
        raise UserError("name the exports of detectors with --model DIR [DIR ...]")
    descriptions = {name: _describe(name) for name in names}
    pixels = generated_image() if image is None else read_image(image)
    models = {f"{stage}: {name}": (engine, name) for name in names for stage, engine in STAGES.items()}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        folder = Path(temporary)
        np.save(folder / "input.npy", pixels)
        with open_engines(models, threads, folder) as engines:
            outputs = {label: np.load(folder / f"output_{number}.npy") for number, label in enumerate(models)}
            seconds = measure_by_turns(engines, rounds, runs)
    return {
        "image": [pixels.shape[0], pixels.shape[1]],
        "batch": 1,
        "threads": threads,
        "samples": rounds * runs,
        "models": {
            name: {
                "name": description.model_name,
                "input": description.input_shape[2:],
                "in_graph": description.form.final,
                "suppression": description.form.suppression,
                "boxes": len(outputs[f"whole: {name}"]),
                **{stage: statistics_of(seconds[f"{stage}: {name}"]) for stage in STAGES},
            }
            for name, description in descriptions.items()
        },
    }


def _describe(folder: str) -> DetectionDescription:
    description = read_description(folder)
    if not isinstance(description, DetectionDescription):
        raise UserError(f"{folder}: is the export of a classifier; this measures detectors")
    return description


def generated_image() -> np.ndarray:
    """Draws an image ``uint8`` RGB: noise of a sonar's background with a few bright spots."""
    width, height = GENERATED_SIZE
    generator = np.random.default_rng(7)
    rows, columns = np.mgrid[0:height, 0:width]
    picture = generator.gamma(2.0, 12.0, size=(height, width))
    for y, x, radius in generator.uniform([0, 0, 6], [height, width, 30], size=(8, 3)):
        picture += 180 * (np.hypot(rows - y, columns - x) < radius)
    return np.repeat(np.clip(picture, 0, 255).astype(np.uint8)[:, :, np.newaxis], 3, axis=2)


def markdown_rows(result: dict[str, Any]) -> list[list[str]]:
    """Returns the results as rows of a table, its head first."""
    rows = [
        [
            "export", "model", "input", "suppression", "boxes", "network and choice of boxes: median, ms",
            "90th percentile, ms", "with preprocessing: median, ms", "90th percentile, ms",
        ]
    ]  # fmt: skip
    for folder, model in result["models"].items():
        rows.append(
            [
                folder,
                model["name"],
                " x ".join(map(str, model["input"])),
                model["suppression"],
                str(model["boxes"]),
                *(f"{model[stage][key]:.1f}" for stage in STAGES for key in ("median_ms", "p90_ms")),
            ]
        )
    return rows
