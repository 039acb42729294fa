"""The whole run: find, export, measure, gather."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.deploy.benchmark.detection import generated_image
from ppcls_ext.deploy.benchmark.matrix.exports import Ready, prepare
from ppcls_ext.deploy.benchmark.matrix.measure import Rotation, Schedule, Subject, peak_subjects, subject_of, with_image
from ppcls_ext.deploy.benchmark.matrix.plan import (
    DEFAULT_MODELS,
    INT8,
    Combination,
    choose_pairs,
    combine,
    find_sources,
    pairs_of,
)
from ppcls_ext.deploy.benchmark.matrix.worker import MATRIX_SIDE
from ppcls_ext.deploy.published import PUBLISHED

logger = logging.getLogger(__name__)
MEASURED, FAILED, UNSUPPORTED = "measured", "failed", "unsupported"
EVERY_MODEL = "every model"


@dataclass(frozen=True)
class Wish:
    """What a user asks for; None takes the defaults of ``ppcls_ext.deploy.benchmark.matrix.plan``.

    Attributes:
        models: names and configurations of detectors, ``NAME@SIZE``, and export folders.
        defaults: what is measured if no models are named.
        backends, precisions: see ``choose_pairs``.
        threads, batches: every one is measured with every other.
        size: side of the images of models that do not say it.
        cache: folder that keeps exports for the next run.
        schedule: how much is measured.
    """

    models: Sequence[str] | None = None
    defaults: Sequence[str] = DEFAULT_MODELS
    backends: Sequence[str] | None = None
    precisions: Sequence[str] | None = None
    threads: Sequence[int] = (2,)
    batches: Sequence[int] = (1,)
    size: int = 224
    cache: Path = Path("output/benchmark")
    schedule: Schedule = Schedule()


def run_matrix(wish: Wish, image: np.ndarray | None = None) -> dict[str, Any]:
    """Measures every combination by turns in one run.

    Args:
        wish: what to measure.
        image: ``uint8`` RGB ``[H, W, 3]``; None draws one.

    Returns:
        ``settings``; ``peaks``: matrix products by library, type and threads; ``rows``: one for each combination, with
        ``status`` ``measured``, ``failed`` or ``unsupported``, the last two with ``reason``.

    Raises:
        UserError: a name or a number is wrong; all of it is told before any work.
    """
    pairs, refused = choose_pairs(wish.backends, wish.precisions)
    sources, missing = find_sources(wish.models, wish.size, wish.defaults)
    by_source = {source: pairs_of(source, pairs, wish.precisions is not None) for source in sources}
    combinations = combine(by_source, wish.threads, wish.batches)
    exports = {source: prepare(source, of_source, wish.cache) for source, of_source in by_source.items()}
    found = [exports[one.source][one.backend, one.precision] for one in combinations]
    peaks = peak_subjects(wish.threads, has_openvino(), any(precision == "bf16" for _, precision in pairs))
    subjects: list[Subject | None] = []

    def measure(file: Path) -> None:
        for combination, export in zip(combinations, found, strict=True):
            subjects.append(subject_of(combination, export, file) if isinstance(export, Ready) else None)
        measurable = [subject for subject in subjects if subject is not None]
        logger.info("measuring %d combinations by turns", len(measurable))
        Rotation([*peaks, *measurable], wish.schedule).run()

    with_image(generated_image() if image is None else image, measure)
    peak_rows = [peak_row(subject) for subject in peaks]
    rows = [_row(*each, peak_rows) for each in zip(combinations, found, subjects, strict=True)]
    for (backend, precision), reason in refused.items():
        rows.append({"model": EVERY_MODEL, "backend": backend, "precision": precision} | _failure(UNSUPPORTED, reason))
    rows += [{"model": name, "backend": "", "precision": ""} | _failure(FAILED, why) for name, why in missing.items()]
    settings = dataclasses.asdict(wish) | {"cache": str(wish.cache)}
    return {"settings": settings, "peaks": peak_rows, "rows": rows}


def has_openvino() -> bool:
    """Returns whether OpenVINO is installed; it is not imported."""
    return importlib.util.find_spec("openvino") is not None


def _failure(status: str, reason: str) -> dict[str, str]:
    return {"status": status, "reason": reason}


def peak_row(subject: Subject) -> dict[str, Any]:
    """Returns what a matrix product reached: a product of two n x n matrices takes 2 n^3 operations."""
    request = subject.request
    row = {"library": request["kind"], "computed_in": request["precision"], "threads": request["threads"]}
    if subject.reason is not None:
        return row | _failure(FAILED, subject.reason)
    statistics = subject.statistics()
    operations = 2 * MATRIX_SIDE**3
    return row | {
        "status": MEASURED,
        "gflops_per_second": operations / statistics["median_ms"] / 1e6,
        "fastest_gflops_per_second": operations / statistics["fastest_ms"] / 1e6,
        "cores_while_waiting": _largest(subject.cores_while_waiting),
    }


def _row(
    combination: Combination, export: Ready | str, subject: Subject | None, peaks: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    source = combination.source
    row: dict[str, Any] = {
        "model": source.label,
        "architecture": source.model,
        "size": source.size,
        "backend": combination.backend,
        "precision": combination.precision,
        "threads": combination.threads,
        "batch": combination.batch,
    }
    if not isinstance(export, Ready):
        return row | _failure(FAILED, export)
    assert subject is not None
    if subject.reason is not None:
        return row | _failure(FAILED, subject.reason)
    statistics = subject.statistics()
    images_per_second = 1000 * combination.batch / statistics["mean_ms"]
    row |= {
        "status": MEASURED,
        # Layers that quantisation left out, and what lies between layers, are in float32.
        "computed_in": INT8 if combination.precision == INT8 else subject.computed_in,
        **statistics,
        "samples": len(subject.seconds),
        "images_per_second": images_per_second,
        "peak_memory_mb": None if subject.peak_bytes is None else subject.peak_bytes / 1e6,
        "file_size_mb": export.size_bytes / 1e6,
        "cold_start_s": float(np.median(subject.starts)),
        "slowest_cold_start_s": max(subject.starts),
        "cold_starts": len(subject.starts),
        "restarts": subject.restarts,
        "cores_while_waiting": _largest(subject.cores_while_waiting),
        "parameters": export.parameters,
        "multiply_adds": export.flops,
    }
    published = PUBLISHED.get(source.model) if source.description is None else None
    if published is not None:
        row |= {"top1": published.top1, "top1_size": published.size, "top1_source": published.source}
    return row | _speed(row, peaks)


def _speed(row: dict[str, Any], peaks: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns operations a second, and which part that is of the fastest matrix product of the same type and threads.

    A multiply-add is two operations.
    """
    if not row["multiply_adds"]:
        return {}
    speed = 2 * row["multiply_adds"] * row["batch"] / row["median_ms"] / 1e6
    peak = fastest_product(peaks, row["computed_in"], row["threads"])
    shares = {} if peak is None else {"share_of_peak": speed / peak}
    return {"gflops_per_second": speed, **shares}


def fastest_product(peaks: Sequence[dict[str, Any]], computed_in: str, threads: int) -> float | None:
    """Returns what the fastest library reaches with a product of large matrices, in GFLOP/s; None if not measured."""
    known = [
        peak["gflops_per_second"]
        for peak in peaks
        if peak["status"] == MEASURED and (peak["computed_in"], peak["threads"]) == (computed_in, threads)
    ]
    return max(known, default=None)


def _largest(values: Sequence[float]) -> float | None:
    return max(values) if values else None
