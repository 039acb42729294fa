"""Latency of networks in every runtime and precision, beside what the machine reaches at best.

Each combination of network, runtime, precision, threads and batch size has a process of its own, and they are measured
in interleaved rounds (`ppcls_ext.utils.workers`); `ppcls_ext.deploy.benchmark_exports` finds and exports the networks.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.deploy.benchmark_exports import (
    EXPORT_SECONDS,
    FAILED,
    INT8,
    MEASURED,
    BenchmarkRequest,
    Exporter,
    Row,
    export_model,
    find_rows,
)
from ppcls_ext.deploy.formats import FORMATS
from ppcls_ext.runtime import BACKENDS, DetectionDescription, DetectionPredictor, load, read_description
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.tables import markdown_table
from ppcls_ext.utils.workers import Subject, measure_interleaved, run_in_process

logger = logging.getLogger(__name__)
SETTINGS = ("backend", "precision", "threads", "batch")
# The matrices of the measured peak: their product takes many times what starting the threads takes.
MATRIX_SIDE = 1536


# Openers: they run in the processes that are measured


def open_export(
    folder: str, backend: str | None, precision: str | None, threads: int, batch: int, image: np.ndarray,
    whole: bool = False,
) -> tuple[Callable[[], object], dict[str, Any]]:  # fmt: skip
    """Opens an export and predicts one image, as a program would that needs one answer.

    Args:
        folder, backend, precision, threads: see `ppcls_ext.runtime.load`.
        batch: images in a run.
        image: ``uint8`` RGB ``[H, W, 3]``.
        whole: prepare the image in each run; else the network alone runs (of a detector with the choice of boxes).

    Returns:
        The run, and ``computed_in``, the type of the numbers; of a detector also the number of ``boxes``.
    """
    predictor = load(folder, backend, threads, precision=precision)
    predictor(image)
    inputs = [predictor.prepare(image, "image")] * batch
    facts: dict[str, Any] = {"computed_in": predictor.backend.computed_in}
    if isinstance(predictor, DetectionPredictor):
        facts["boxes"] = len(predictor.detect(inputs)[0])
        if whole:
            return lambda: predictor.detect([predictor.prepare(image, "image")] * batch), facts
        return lambda: predictor.detect(inputs), facts
    stacked = np.stack(inputs)
    return lambda: predictor.backend.run(stacked), facts


def open_matrix_product(library: str, precision: str, threads: int) -> tuple[Callable[[], object], dict[str, Any]]:
    """Returns the product of two square matrices by NumPy, or by oneDNN's kernels inside OpenVINO."""
    left, right = np.random.default_rng(0).normal(size=(2, MATRIX_SIDE, MATRIX_SIDE)).astype(np.float32)
    facts = {"computed_in": precision}
    if library == "numpy":
        result = np.empty_like(left)
        return lambda: np.matmul(left, right, out=result), facts
    from ppcls_ext.runtime.backends import DEVICE, import_openvino

    openvino = import_openvino()
    from openvino import opset13

    parameter = opset13.parameter(list(left.shape), np.float32)
    network = openvino.Model([opset13.matmul(parameter, opset13.constant(right), False, False)], [parameter])
    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY"}  # fmt: skip
    compiled = openvino.Core().compile_model(network, DEVICE, settings)
    chosen = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if chosen != hint:
        raise UserError(f"this processor computes in {chosen} instead")
    inference, tensor = compiled.create_infer_request(), openvino.Tensor(left)
    return lambda: inference.infer({0: tensor}), facts


# Measuring


def export_subject(
    folder: Path | str, image: np.ndarray, backend: str | None = None, precision: str | None = None, threads: int = 2,
    batch: int = 1, whole: bool = False,
) -> Subject:  # fmt: skip
    """Returns what `measure_interleaved` takes to measure an export; for the arguments see `open_export`."""
    title = " ".join(filter(None, [f"{folder},", backend, precision, f"threads: {threads}, batch: {batch}"]))
    arguments = {"folder": str(folder), "backend": backend, "precision": precision, "threads": threads, "batch": batch,
                 "image": image, "whole": whole}  # fmt: skip
    return Subject(title, open_export, arguments, threads)


def peak_subjects(threads: Sequence[int], bfloat16: bool) -> list[Subject]:
    """Returns the matrix products that show what the machine reaches at best."""
    kinds = [("numpy", "float32")]
    if importlib.util.find_spec("openvino") is not None:
        kinds += [("openvino", "float32"), *([("openvino", "bfloat16")] if bfloat16 else [])]
    return [
        Subject(f"matrix product, {library} {precision}, threads: {count}", open_matrix_product,
                {"library": library, "precision": precision, "threads": count}, count)
        for count in dict.fromkeys(threads)
        for library, precision in kinds
    ]  # fmt: skip


def peak_row(subject: Subject) -> Row:
    """Returns what a matrix product reached: a product of two n x n matrices takes 2 n^3 operations."""
    asked = subject.arguments
    row = {"library": asked["library"], "computed_in": asked["precision"], "threads": asked["threads"]}
    if subject.failure is not None:
        return row | {"status": FAILED, "reason": subject.failure}
    statistics, operations = subject.statistics(), 2 * MATRIX_SIDE**3
    return row | {
        "status": MEASURED,
        "gflops_per_second": operations / statistics["median_ms"] / 1e6,
        "fastest_gflops_per_second": operations / statistics["fastest_ms"] / 1e6,
    }


def fastest_product(peaks: Sequence[Row], computed_in: str, threads: int) -> float | None:
    """Returns what the fastest library reaches with a product of large matrices, in GFLOP/s; None if not measured."""
    known = [peak["gflops_per_second"] for peak in peaks if peak["status"] == MEASURED
             and (peak["computed_in"], peak["threads"]) == (computed_in, threads)]  # fmt: skip
    return max(known, default=None)


def measure_models(
    request: BenchmarkRequest, image: np.ndarray | None = None, detector_exporter: Exporter | None = None
) -> dict[str, Any]:
    """Measures every combination in interleaved rounds.

    Args:
        request: what to measure.
        image: ``uint8`` RGB ``[H, W, 3]``; None draws one.
        detector_exporter: see `find_rows`.

    Returns:
        ``settings``; ``peaks``: matrix products by library, type and threads; ``rows``: one for each combination, with
        ``status`` ``measured``, ``failed`` or ``unsupported``, the last two with ``reason``.

    Raises:
        UserError: see `find_rows`.
    """
    rows = find_rows(request, detector_exporter)
    image = generated_image() if image is None else image
    peaks = peak_subjects(request.threads, any(row["precision"] == "bf16" for row in rows))
    measured = [row for row in rows if "folder" in row]
    subjects = [export_subject(row.pop("folder"), image, **{key: row[key] for key in SETTINGS}) for row in measured]
    logger.info("measuring %d combinations in interleaved rounds", len(subjects))
    measure_interleaved([*peaks, *subjects], request.rounds, request.runs, request.starts)
    peak_rows = [peak_row(subject) for subject in peaks]
    for row, subject in zip(measured, subjects, strict=True):
        if subject.failure is not None:
            row |= {"status": FAILED, "reason": subject.failure}
            continue
        statistics = subject.statistics()
        row |= {
            "status": MEASURED,
            # Layers that quantisation left out, and what lies between layers, are in float32.
            "computed_in": INT8 if row["precision"] == INT8 else subject.facts["computed_in"],
            **statistics,
            "samples": len(subject.seconds),
            "images_per_second": 1000 * row["batch"] / statistics["mean_ms"],
            "peak_memory_mb": None if subject.peak_bytes is None else subject.peak_bytes / 1e6,
            "cold_start_s": float(np.median(subject.starts)),
            "slowest_cold_start_s": max(subject.starts),
            "cold_starts": len(subject.starts),
            "restarts": subject.restarts,
            "cores_while_waiting": max(subject.cores_while_waiting),
        }
        if "multiply_adds" in row:
            # A multiply-add is two operations.
            row["gflops_per_second"] = 2 * row["multiply_adds"] * row["batch"] / row["median_ms"] / 1e6
            peak = fastest_product(peak_rows, row["computed_in"], row["threads"])
            if peak is not None:
                row["share_of_peak"] = row["gflops_per_second"] / peak
    return {"settings": asdict(request) | {"cache": str(request.cache)}, "peaks": peak_rows, "rows": rows}


def measure_inference(
    model_name: str = "EConvNeXt_mini", size: int = 224, threads: int = 2, rounds: int = 12, runs: int = 10
) -> dict[str, Any]:
    """Measures one network (random weights, batch 1) in Paddle Inference, as it is and mean-pooled, and ONNX Runtime.

    Each export was compared with the network that it was made of when it was written.

    Returns:
        ``engines`` (by name: statistics of `Subject` and ``ratio`` to the first engine's median), ``skipped`` (engine
        -> why), and the settings.

    Raises:
        UserError: an export or an engine fails.
    """
    engines = {
        "Paddle Inference, oneDNN": ("paddle", False),
        "Paddle Inference, oneDNN, mean-pooled form": ("paddle", True),
        "ONNX Runtime": ("onnxruntime", False),
    }
    missing = [package for package in FORMATS["onnx"].packages if importlib.util.find_spec(package) is None]
    skipped = {}
    if missing:
        del engines["ONNX Runtime"]
        skipped["ONNX Runtime"] = f"{' and '.join(missing)} not installed (requirements-deploy.txt)"
    subjects = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        for number, (name, (backend, mean_pooled)) in enumerate(engines.items()):
            folder = Path(temporary) / str(number)
            run_in_process(export_model, model_name, size, BACKENDS[backend].format, "fp32", folder, mean_pooled,
                           seconds=EXPORT_SECONDS)  # fmt: skip
            subjects[name] = export_subject(folder, generated_image(), backend, "fp32", threads)
        measure_interleaved(list(subjects.values()), rounds, runs)
    for name, subject in subjects.items():
        if subject.failure is not None:
            raise UserError(f"{name}: {subject.failure}")
    figures = {name: subject.statistics() for name, subject in subjects.items()}
    first = next(iter(figures.values()))["median_ms"]
    return {
        "model": model_name,
        "size": size,
        "batch": 1,
        "threads": threads,
        "samples": rounds * runs,
        "engines": {name: {**row, "ratio": row["median_ms"] / first} for name, row in figures.items()},
        "skipped": skipped,
    }


def measure_detectors(
    exports: Sequence[str | Path], image: np.ndarray | None = None, threads: int = 2, rounds: int = 12, runs: int = 10
) -> dict[str, Any]:
    """Measures exported detectors at batch 1, from the prepared input (``network``) and from the image (``whole``).

    Args:
        exports: folders of ``tools/export_model.py``.
        image: ``uint8`` RGB ``[H, W, 3]``; None draws one. How many boxes it gives matters a little.
        threads, rounds, runs: see `measure_interleaved`.

    Returns:
        ``models`` (by folder: ``name``, ``input``, ``in_graph``, ``suppression``, ``boxes``, and the statistics of
        ``network`` and ``whole``; the choice of boxes is included in both) and the settings.

    Raises:
        UserError: there is no export, one is of a classifier or damaged.
    """
    if not exports:
        raise UserError("name the exports of detectors with --model DIR [DIR ...]")
    image = generated_image() if image is None else image
    models: dict[str, Row] = {}
    subjects = {}
    for folder in map(str, exports):
        description = read_description(folder)
        if not isinstance(description, DetectionDescription):
            raise UserError(f"{folder}: is the export of a classifier; this measures detectors")
        models[folder] = {
            "name": description.model_name,
            "input": description.input_shape[2:],
            "in_graph": description.form.final,
            "suppression": description.form.suppression,
        }
        for stage in ("network", "whole"):
            subjects[folder, stage] = export_subject(folder, image, threads=threads, whole=stage == "whole")
    measure_interleaved(list(subjects.values()), rounds, runs)
    for (folder, stage), subject in subjects.items():
        if subject.failure is not None:
            raise UserError(f"{folder}: {subject.failure}")
        models[folder] |= {"boxes": subject.facts["boxes"], stage: subject.statistics()}
    samples = rounds * runs
    return {"image": list(image.shape[:2]), "batch": 1, "threads": threads, "samples": samples, "models": models}


def generated_image() -> np.ndarray:
    """Draws an image ``uint8`` RGB ``[480, 640, 3]``: noise of a sonar's background with a few bright spots."""
    width, height = 640, 480
    generator = np.random.default_rng(7)
    rows, columns = np.mgrid[0:height, 0:width]
    picture = generator.gamma(2.0, 12.0, size=(height, width))
    for y, x, radius in generator.uniform([0, 0, 6], [height, width, 30], size=(8, 3)):
        picture += 180 * (np.hypot(rows - y, columns - x) < radius)
    return np.repeat(np.clip(picture, 0, 255).astype(np.uint8)[:, :, np.newaxis], 3, axis=2)


# Reports


def models_page(result: Mapping[str, Any]) -> str:
    """Returns the result of `measure_models` as Markdown: how it was measured, the machine's peak, the table."""
    settings = result["settings"]
    parts = [
        "Each combination has a process of its own; they are measured in "
        f"{settings['rounds']} interleaved rounds of up to {settings['runs']} runs, in another order each round. "
        "Latency is that of the network for a prepared batch (of a detector with the choice of boxes). Cold start is "
        "the time from the start of the process to the first prediction from a decoded image, median of "
        f"{settings['starts']} or more starts, with the files in the system's cache. Memory is the peak of the whole "
        "process. Models given by name have random weights and 1000 classes, detectors given by configuration random "
        "weights, and PP-YOLOE its suppression inside; multiply-adds are those of `paddle.flops`.",
        "The peak of this machine is measured in the same rounds, by the product of two matrices of "
        f"{MATRIX_SIDE} x {MATRIX_SIDE}; 'of the peak' is twice the multiply-adds over the median time, relative to "
        "the fastest library's product of the same type:",
        peak_table(result["peaks"]),
    ]
    sources = {
        row["architecture"]: f"{row['architecture']}: {row['top1']:g} at {row['top1_size']} px ({row['top1_source']})"
        for row in result["rows"]
        if row.get("top1") is not None
    }
    if sources:
        lines = "\n".join(f"- {text}" for text in sources.values())
        parts.append(f"Accuracies are published ones, not measured here:\n\n{lines}")

    def number(row: Row, key: str, digits: int, factor: float = 1.0) -> str:
        value = row.get(key)
        return "" if value is None else f"{value * factor:.{digits}f}"

    plain = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}
    keys = ("model", "size", "backend", "precision", "threads", "batch")
    columns = ["model", "input, px", "backend", "precision", "threads", "batch", "median, ms", "90th percentile, ms",
               "images/s", "peak memory, MB", "on disk, MB", "cold start, s", "G multiply-adds", "GFLOP/s",
               "of the peak", "top-1, published"]  # fmt: skip
    table = []
    for row in result["rows"]:
        cells = [row.get(key) for key in keys]
        if row["status"] != MEASURED:
            reason = f"{row['status']}: {row['reason']}".replace("|", "/")
            table.append([*cells, reason, *[""] * (len(columns) - len(keys) - 1)])
            continue
        if row["computed_in"] != plain.get(row["precision"]):
            cells[3] = f"{row['precision']} (computes {row['computed_in']})"
        accuracy = "" if row.get("top1") is None else f"{row['top1']:g}"
        if accuracy and row["top1_size"] != row["size"]:
            accuracy += f" (at {row['top1_size']} px)"
        share = f"{100 * row['share_of_peak']:.0f} %" if row.get("share_of_peak") else ""
        table.append([
            *cells, number(row, "median_ms", 1), number(row, "p90_ms", 1), number(row, "images_per_second", 1),
            number(row, "peak_memory_mb", 0), number(row, "file_size_mb", 1), number(row, "cold_start_s", 2),
            number(row, "multiply_adds", 3, 1e-9), number(row, "gflops_per_second", 0), share, accuracy,
        ])  # fmt: skip
    return "\n\n".join([*parts, markdown_table(columns, table)])


def peak_table(peaks: Sequence[Row]) -> str:
    """Returns what matrix products reached as a Markdown table, one row for each library, type and thread number."""
    table = []
    for peak in peaks:
        if peak["status"] == MEASURED:
            figures = [f"{peak['gflops_per_second']:.0f}", f"{peak['fastest_gflops_per_second']:.0f}"]
        else:
            figures = [f"failed: {peak['reason']}".replace("|", "/"), ""]
        table.append([peak["library"], peak["computed_in"], peak["threads"], *figures])
    return markdown_table(["matrix product", "type", "threads", "GFLOP/s, median", "fastest"], table)


def draw_models(result: Mapping[str, Any], path: Path) -> bool:
    """Draws published accuracy over latency and over multiply-adds: most threads, smallest batch.

    A hollow mark says that the accuracy was published for images of another size than the measured ones.

    Args:
        result: of `measure_models`.
        path: the PNG to write, whole or not at all.

    Returns:
        False, and nothing is written, if no measured row has a published accuracy.
    """
    from ppcls_ext.utils.plots import Point, draw_tradeoff

    rows = [row for row in result["rows"] if row["status"] == MEASURED and row.get("top1") is not None]
    threads, batch = max((row["threads"] for row in rows), default=0), min((row["batch"] for row in rows), default=0)
    rows = [row for row in rows if (row["threads"], row["batch"]) == (threads, batch)]
    if not rows:
        return False
    colours = {"paddle": "tab:blue", "onnxruntime": "tab:orange", "openvino": "tab:green"}
    markers = {"fp32": "o", "fp16": "s", "bf16": "^", "int8": "D"}
    latency, operations = [], {}
    for row in rows:
        same_size = row["top1_size"] == row["size"]
        name = row["model"].replace("_patch4_window7_224", "")
        label = name if same_size else f"{name} (accuracy at {row['top1_size']} px)"
        latency.append(
            Point(label, row["median_ms"], row["top1"], series=f"{row['backend']} {row['precision']}",
                  colour=colours.get(row["backend"], "black"), marker=markers.get(row["precision"], "x"),
                  is_hollow=not same_size)
        )  # fmt: skip
        if "multiply_adds" in row:
            operations[label] = Point(label, row["multiply_adds"] / 1e9, row["top1"], colour="0.3",
                                      is_hollow=not same_size)  # fmt: skip
    panels = {"median latency, ms (further left is faster)": latency}
    if operations:
        panels["multiply-adds of one image, G"] = list(operations.values())
    title = f"Published top-1 accuracy against what was measured here: {threads} threads, batch {batch}"
    draw_tradeoff(panels, path, title, "top-1 on ImageNet-1k, % (published)")
    return True
