"""Latency and multiply-adds against published accuracy, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppcls_ext.deploy.benchmark.matrix.run import MEASURED
from ppcls_ext.utils.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
COLOURS = {"paddle": "tab:blue", "onnxruntime": "tab:orange", "openvino": "tab:green"}
MARKERS = {"fp32": "o", "fp16": "s", "bf16": "^", "int8": "D"}
# Labels nearer than this part of the axis would overlap.
LABEL_DISTANCE = 0.045


def drawable_rows(result: Mapping[str, Any]) -> list[Row]:
    """Returns the measured rows with a published accuracy that one chart holds: most threads, smallest batch."""
    rows = [row for row in result["rows"] if row["status"] == MEASURED and row.get("top1") is not None]
    threads, batch = max((row["threads"] for row in rows), default=0), min((row["batch"] for row in rows), default=0)
    return [row for row in rows if (row["threads"], row["batch"]) == (threads, batch)]


def draw_chart(result: Mapping[str, Any], path: Path) -> bool:
    """Draws accuracy over latency and over multiply-adds.

    Args:
        result: of ``run_matrix``.
        path: the PNG to write, whole or not at all.

    Returns:
        False, and nothing is written, if no row has a published accuracy.
    """
    rows = drawable_rows(result)
    if not rows:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    first = rows[0]
    figure.suptitle(
        f"Published top-1 accuracy against what was measured here: {first['threads']} threads, batch {first['batch']}"
    )
    _draw_latency(left, rows)
    _draw_operations(right, rows)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize="small", frameon=False)
    left.set_ylabel("top-1 on ImageNet-1k, % (published)")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return True


def _fair(row: Row) -> bool:
    """Whether the accuracy was published for images of the measured size."""
    return row["top1_size"] == row["size"]


def _draw_latency(axes: Axes, rows: Sequence[Row]) -> None:
    ends: dict[str, tuple[float, float]] = {}
    for row in rows:
        colour = COLOURS.get(row["backend"], "black")
        axes.plot(
            row["median_ms"], row["top1"], marker=MARKERS.get(row["precision"], "x"), color=colour, markersize=8,
            markerfacecolor=colour if _fair(row) else "white", linestyle="none", zorder=3,
        )  # fmt: skip
        label = _label(row)
        ends[label] = max(ends.get(label, (0.0, 0.0)), (row["median_ms"], row["top1"]))
    for label, (_, top1) in ends.items():
        times = [row["median_ms"] for row in rows if _label(row) == label]
        axes.plot([min(times), max(times)], [top1, top1], color="0.8", linewidth=1, zorder=1)
    _write_labels(axes, ends, [row["median_ms"] for row in rows])
    for backend, precision in dict.fromkeys((row["backend"], row["precision"]) for row in rows):
        axes.plot([], [], marker=MARKERS.get(precision, "x"), color=COLOURS.get(backend, "black"), linestyle="none",
                  label=f"{backend} {precision}")  # fmt: skip
    if not all(_fair(row) for row in rows):
        axes.plot([], [], marker="o", color="0.4", markerfacecolor="white", linestyle="none",
                  label="accuracy published for another size of images")  # fmt: skip
    axes.set_xlabel("median latency, ms (further left is faster)")


def _draw_operations(axes: Axes, rows: Sequence[Row]) -> None:
    points = {_label(row): row for row in rows if row.get("multiply_adds")}
    for row in points.values():
        axes.plot(
            row["multiply_adds"] / 1e9, row["top1"], marker="o", color="0.3", markersize=8, linestyle="none",
            markerfacecolor="0.3" if _fair(row) else "white",
        )  # fmt: skip
    places = {label: (row["multiply_adds"] / 1e9, row["top1"]) for label, row in points.items()}
    _write_labels(axes, places, [x for x, _ in places.values()])
    axes.set_xlabel("multiply-adds of one image, G")


def _label(row: Row) -> str:
    name = row["model"].replace("_patch4_window7_224", "")
    return name if _fair(row) else f"{name} (accuracy at {row['top1_size']} px)"


def _write_labels(axes: Axes, points: Mapping[str, tuple[float, float]], values: Sequence[float]) -> None:
    """Writes each label right of its point; those at nearly one height are moved apart. ``values`` span the axis."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    axes.grid(alpha=0.3, which="both")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if not points:
        return
    # Room for the labels of the rightmost points.
    axes.set_xlim(0.7 * min(values), 4 * max(values))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    heights = [y for _, y in points.values()]
    distance = LABEL_DISTANCE * max(max(heights) - min(heights), 1.0)
    taken = float("-inf")
    for label, (x, y) in sorted(points.items(), key=lambda item: item[1][1]):
        place = max(y, taken + distance)
        taken = place
        axes.annotate(label, (x, y), (1.08 * x, place), fontsize="small", va="center")
