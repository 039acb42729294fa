"""Latency of the exported network: Paddle Inference with oneDNN, its mean-pooled form, and ONNX Runtime."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    from paddle import nn

logger = logging.getLogger(__name__)
ADAPTIVE = "Paddle Inference, oneDNN"
MEAN_POOLED = "Paddle Inference, oneDNN, mean-pooled form"
ONNX_RUNTIME = "ONNX Runtime"
TOLERANCE = 1e-4
# OpenMP threads of a finished run spin this long before they sleep; until then they slow the next engine down.
SETTLE_SECONDS = 0.25


class EngineProcess:
    """A running ``engine_worker``.

    Args:
        name: for messages.
        arguments: of the worker: engine, model, threads, input file, output file.
    """

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.name = name
        root = Path(__file__).resolve().parents[3]
        search_path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ppcls_ext.deploy.benchmark.engine_worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": search_path},
        )

    def answer(self) -> Any:
        """Waits for the next answer.

        Raises:
            UserError: the process died.
        """
        for line in self._process.stdout or ():
            if line.startswith("ENGINE "):
                return json.loads(line.removeprefix("ENGINE "))
        raise UserError(f"benchmark: {self.name} stopped with exit status {self._process.wait()}")

    def measure(self, runs: int) -> list[float]:
        """Returns the seconds of ``runs`` runs."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(f"{runs}\n")
        stdin.flush()
        return self.answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()


def run_inference_benchmark(
    model_name: str = "EConvNeXt_mini", size: int = 224, threads: int = 2, rounds: int = 12, runs: int = 10
) -> dict[str, Any]:
    """Measures latency, batch 1, of one network in several engines, by turns.

    Args:
        model_name: a name of ``list_models()``; random weights.
        size: side of the input.
        threads: threads of each engine.
        rounds: how many turns each engine gets.
        runs: runs in a turn.

    Returns:
        ``engines`` (by name: ``median_ms``, ``p90_ms``, ``fastest_ms``, ``relative_error`` to the first engine),
        ``ratios`` (to the first engine's median), ``skipped`` (engine -> why), and the settings.

    Raises:
        UserError: an engine fails or computes something else.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        models, skipped = _prepare_models(model_name, size, folder)
        images = np.random.default_rng(0).normal(size=(1, 3, size, size)).astype(np.float32)
        np.save(folder / "input.npy", images)
        with open_engines(models, threads, folder) as engines:
            errors = _compare_outputs(list(models), folder)
            seconds = measure_by_turns(engines, rounds, runs)
    engines_result = {
        name: {**statistics_of(values), "relative_error": errors[name]} for name, values in seconds.items()
    }
    first = engines_result[ADAPTIVE]["median_ms"]
    return {
        "model": model_name,
        "size": size,
        "batch": 1,
        "threads": threads,
        "samples": rounds * runs,
        "engines": engines_result,
        "ratios": {name: row["median_ms"] / first for name, row in engines_result.items()},
        "skipped": skipped,
    }


def _prepare_models(model_name: str, size: int, folder: Path) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """Exports the network in all forms; returns (engine, file) by name, and what was skipped and why."""
    import paddle

    from ppcls_ext.arch.registry import build_model
    from ppcls_ext.deploy.export import export_classifier
    from ppcls_ext.deploy.formats import FORMATS

    preprocess = [{"ResizeImage": {"size": size}}, {"NormalizeImage": {"order": ""}}]
    paddle.seed(0)
    model = build_model(model_name, class_num=1000)
    missing = [package for package in FORMATS["onnx"].packages if importlib.util.find_spec(package) is None]
    models: dict[str, tuple[str, str]] = {}
    for name, stem in ((ADAPTIVE, "adaptive"), (MEAN_POOLED, "mean_pooled")):
        if name == MEAN_POOLED:
            use_mean_pooling(model)
        export_classifier(
            model,
            folder / stem,
            model_name=model_name,
            class_num=1000,
            image_shape=[3, size, size],
            preprocess=preprocess,
            formats=["paddle"] if missing or name == MEAN_POOLED else ["paddle", "onnx"],
        )
        models[name] = ("paddle", str(folder / stem))
    if missing:
        return models, {ONNX_RUNTIME: f"{' and '.join(missing)} not installed (requirements-deploy.txt)"}
    models[ONNX_RUNTIME] = ("onnxruntime", str(folder / "adaptive" / "inference.onnx"))
    return models, {}


def use_mean_pooling(model: nn.Layer) -> None:
    """Puts ``x.mean([2, 3])``, as the paper's code has it, in the place of every global average pool of ``model``."""
    import paddle

    from ppcls_ext.arch.layers import GlobalAveragePool

    class MeanPool(paddle.nn.Layer):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            """``[N, C, H, W]`` -> ``[N, C, 1, 1]``."""
            return x.mean([2, 3], keepdim=True)

    for layer in model.sublayers(include_self=True):
        for name, child in list(layer.named_children()):
            if isinstance(child, GlobalAveragePool):
                setattr(layer, name, MeanPool())


@contextlib.contextmanager
def open_engines(models: dict[str, tuple[str, str]], threads: int, folder: Path) -> Iterator[list[EngineProcess]]:
    """Starts a worker for each of ``models`` (name -> engine, file), and ends them all at the end.

    ``folder`` holds ``input.npy`` and gets the first outputs, ``output_0.npy``, ...
    """
    engines: list[EngineProcess] = []
    try:
        for number, (name, (engine, file)) in enumerate(models.items()):
            output = folder / f"output_{number}.npy"
            engines.append(EngineProcess(name, [engine, file, str(threads), str(folder / "input.npy"), str(output)]))
            engines[-1].answer()
        yield engines
    finally:
        for engine in engines:
            engine.close()


def _compare_outputs(names: list[str], folder: Path) -> dict[str, float]:
    from ppcls_ext.deploy.verify import relative_error

    outputs = [np.load(folder / f"output_{number}.npy") for number in range(len(names))]
    errors = {name: relative_error(output, outputs[0]) for name, output in zip(names, outputs, strict=True)}
    for name, error in errors.items():
        if not error <= TOLERANCE:
            raise UserError(f"benchmark: {name} computes something else (relative error {error:.1e})")
    return errors


def measure_by_turns(engines: list[EngineProcess], rounds: int, runs: int) -> dict[str, list[float]]:
    """Returns the seconds of ``rounds`` x ``runs`` runs of each engine, by its name."""
    seconds: dict[str, list[float]] = {engine.name: [] for engine in engines}
    for turn in range(rounds):
        # Each round begins with another engine, so that none always follows the same one.
        for engine in engines[turn % len(engines) :] + engines[: turn % len(engines)]:
            time.sleep(SETTLE_SECONDS)
            seconds[engine.name] += engine.measure(runs)
    return seconds


def statistics_of(seconds: list[float]) -> dict[str, float]:
    """Returns median, 90th percentile and minimum, in milliseconds."""
    milliseconds = 1000 * np.array(seconds)
    return {
        "median_ms": float(np.median(milliseconds)),
        "p90_ms": float(np.percentile(milliseconds, 90)),
        "fastest_ms": float(milliseconds.min()),
    }


def markdown_rows(result: dict[str, Any]) -> list[list[str]]:
    """Returns the results as rows of a table, its head first."""
    rows = [["engine", "median, ms", "90th percentile, ms", "fastest, ms", "time relative to the first"]]
    for name, row in result["engines"].items():
        figures = [f"{row[key]:.1f}" for key in ("median_ms", "p90_ms", "fastest_ms")]
        rows.append([name, *figures, f"{result['ratios'][name]:.2f}"])
    rows += [[name, "not measured", why, "", ""] for name, why in result["skipped"].items()]
    return rows
