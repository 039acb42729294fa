"""The results as a section of a Markdown page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ppcls_ext.deploy.benchmark.matrix.run import FAILED, MEASURED
from ppcls_ext.deploy.benchmark.matrix.worker import MATRIX_SIDE
from ppcls_ext.deploy.benchmark.report import markdown_table

Row = dict[str, Any]


def _number(key: str, digits: int, factor: float = 1.0) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = row.get(key)
        return "" if value is None else f"{value * factor:.{digits}f}"

    return cell


def _precision(row: Row) -> str:
    """Says so where the engine computes in something else than the name of the precision."""
    plain = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}
    computed = row["computed_in"]
    return row["precision"] if computed == plain.get(row["precision"]) else f"{row['precision']} (computes {computed})"


def _accuracy(row: Row) -> str:
    if row.get("top1") is None:
        return ""
    return f"{row['top1']:g}" + ("" if row["top1_size"] == row["size"] else f" (at {row['top1_size']} px)")


COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("model", lambda row: row["model"]),
    ("input, px", lambda row: str(row["size"])),
    ("backend", lambda row: row["backend"]),
    ("precision", _precision),
    ("threads", lambda row: str(row["threads"])),
    ("batch", lambda row: str(row["batch"])),
    ("median, ms", _number("median_ms", 1)),
    ("90th percentile, ms", _number("p90_ms", 1)),
    ("images/s", _number("images_per_second", 1)),
    ("peak memory, MB", _number("peak_memory_mb", 0)),
    ("on disk, MB", _number("file_size_mb", 1)),
    ("cold start, s", _number("cold_start_s", 2)),
    ("G multiply-adds", _number("multiply_adds", 3, 1e-9)),
    ("GFLOP/s", _number("gflops_per_second", 0)),
    ("of the peak", lambda row: f"{100 * row['share_of_peak']:.0f} %" if row.get("share_of_peak") else ""),
    ("top-1, published", _accuracy),
)


def markdown_rows(result: dict[str, Any]) -> list[list[str]]:
    """Returns all combinations as rows of a table, the head first; what was not measured has its reason in the line."""
    titles = [title for title, _ in COLUMNS]
    known = titles.index("median, ms")
    rows = [titles]
    for row in result["rows"]:
        if row["status"] == MEASURED:
            rows.append([cell(row) for _, cell in COLUMNS])
            continue
        given = [str(row.get(key, "")) for key in ("model", "size", "backend", "precision", "threads", "batch")]
        reason = f"{row['status']}: {row['reason']}".replace("|", "/")
        rows.append([*given, reason, *[""] * (len(titles) - known - 1)])
    return rows


def markdown_text(result: dict[str, Any]) -> str:
    """Returns what stands above the table: what was measured and how, the machine's peak, where accuracies are from."""
    settings = result["settings"]
    schedule = settings["schedule"]
    parts = [
        "Each combination has a process of its own; they work by turns, one at a time, in "
        f"{schedule['rounds']} rounds of up to {schedule['runs']} runs, in another order each round. Latency is that "
        "of the network for a prepared batch (of a detector with the choice of boxes). Cold start is the time from the "
        "start of the process to the first prediction from a decoded image, median of "
        f"{schedule['cold_starts']} or more starts, with the files in the system's cache. Memory is the peak of the "
        "whole process. Models given by name have random weights and 1000 classes, detectors given by configuration "
        "random weights, and PP-YOLOE its suppression inside; multiply-adds are those of `paddle.flops`.",
        "The peak of this machine is measured in the same rounds, by the product of two matrices of "
        f"{MATRIX_SIDE} x {MATRIX_SIDE}; 'of the peak' is twice the multiply-adds over the median time, relative to "
        "the fastest library's product of the same type:",
        markdown_table(peak_table(result["peaks"])),
    ]
    sources = {
        row["architecture"]: f"{row['architecture']}: {row['top1']:g} at {row['top1_size']} px ({row['top1_source']})"
        for row in result["rows"]
        if row.get("top1") is not None
    }
    if sources:
        lines = "\n".join(f"- {text}" for text in sources.values())
        parts.append(f"Accuracies are published ones, not measured here:\n\n{lines}")
    return "\n\n".join(parts)


def peak_table(peaks: Sequence[Row]) -> list[list[str]]:
    """Returns what matrix products reached, one row for each library, type and number of threads, the head first."""
    table = [["matrix product", "type", "threads", "GFLOP/s, median", "fastest"]]
    for peak in peaks:
        figures = [
            f"{peak[key]:.0f}" if peak["status"] == MEASURED else ""
            for key in ("gflops_per_second", "fastest_gflops_per_second")
        ]
        if peak["status"] == FAILED:
            figures[0] = f"failed: {peak['reason']}".replace("|", "/")
        table.append([peak["library"], peak["computed_in"], str(peak["threads"]), *figures])
    return table
