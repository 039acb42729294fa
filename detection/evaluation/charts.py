"""Charts of an evaluation: precision over recall, confusion matrix, figures by class and by size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detection.evaluation.figures import SIZES, ClassFigures, Figures
from ppcls_ext.utils.boxes import class_colour
from ppcls_ext.utils.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Above these numbers of classes, names and counts would be too small to read.
MOST_NAMED_CURVES = 20
MOST_COUNTED_CELLS = 16
MOST_NAMED_CELLS = 40
LONGEST_NAME = 24
# Class colours are bright, for dark pictures; on white paper the light ones need less light.
PAPER_BRIGHTNESS = 0.62


def draw_precision_recall(figures: Figures, path: str | Path, title: str) -> None:
    """Draws precision over recall at IoU 0.5: a curve for each class, the mean in black, dots at the best F1.

    Args:
        figures: what to draw; without any annotated box the chart says so.
        path: the PNG to write, whole or not at all.
        title: heading.
    """
    figure = _new_figure(9.5, 6)
    axes = figure.add_subplot()
    present = [row for row in figures.classes if not row.absent]
    named = len(present) <= MOST_NAMED_CURVES
    for row in sorted(present, key=lambda row: -(row.figures["AP50"] or 0)):
        number = figures.classes.index(row)
        colour = _on_paper(number) if named else "0.75"
        label = f"{_name(row)}  {row.figures['AP50']:.3f}" if named else None
        _curve(axes, figures.recall, figures.precision[row.name], color=colour, linewidth=1.4, label=label)
        if row.best is not None and named:
            axes.plot(row.best.recall, row.best.precision, "o", color=colour, markersize=5)
    if present:
        mean = np.mean(list(figures.precision.values()), axis=0)
        _curve(axes, figures.recall, mean, color="black", linewidth=2.6, label=f"all classes  {figures.ap50:.3f}")
        axes.legend(title="AP50 (dot: best F1)", loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small")
    else:
        _say(axes, "no annotated boxes")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=title)
    axes.grid(alpha=0.3)
    _save(figure, path)


def _curve(axes: Axes, recall: np.ndarray, precision: np.ndarray, **style: object) -> None:
    """Draws the part of a curve that was reached; beyond it COCO counts a precision of 0."""
    reached = np.flatnonzero(precision > 0)
    if len(reached):
        last = int(reached[-1])
        axes.plot([*recall[: last + 1], recall[last]], [*precision[: last + 1], 0], **style)
    else:
        axes.plot([0], [0], **style)


def draw_confusion(figures: Figures, path: str | Path, title: str) -> None:
    """Draws the confusion matrix: shades are shares of a row, numbers are counts.

    Args:
        figures: what to draw.
        path: the PNG to write, whole or not at all.
        title: heading.
    """
    counts = figures.confusion
    side = len(counts)
    inches = min(max(4.5, 2.2 + 0.55 * side), 14)
    figure = _new_figure(inches + 1.4, inches + 0.6)
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shown, ax=axes, shrink=0.75, label="share of the row")
    if side <= MOST_COUNTED_CELLS:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                ink = "white" if shares[row, column] > 0.55 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=ink, fontsize="small")
    if side <= MOST_NAMED_CELLS:
        names = [_name(row) for row in figures.classes]
        axes.set_xticks(range(side), [*names, "missed"], rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(side), [*names, "nothing there"])
    # The background stands apart: misses on the right, false alarms below.
    axes.axhline(side - 1.5, color="0.4", linewidth=1)
    axes.axvline(side - 1.5, color="0.4", linewidth=1)
    axes.set(xlabel="detected", ylabel="annotated")
    limits = f"score at least {figures.score_threshold:.2f}, IoU at least {figures.iou_threshold:.2f}"
    axes.set_title(f"{title}\n{limits}", fontsize="medium")
    _save(figure, path)


def draw_class_figures(figures: Figures, path: str | Path, title: str) -> None:
    """Draws bars of AP and AP50 for each class, best first, and of AP and AR100 by box size.

    Args:
        figures: what to draw; classes without annotated boxes are listed below, without bars.
        path: the PNG to write, whole or not at all.
        title: heading.
    """
    present = sorted((row for row in figures.classes if not row.absent), key=lambda row: row.figures["AP"] or 0)
    absent = [_name(row) for row in figures.classes if row.absent]
    figure = _new_figure(11, min(max(4.2, 1.9 + 0.42 * len(present)), 24))
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    figure.suptitle(title)
    names = [f"{_name(row)} ({row.boxes:,})" for row in present]
    _bars(left, names, [("AP50", [row.figures["AP50"] for row in present]),
                        ("AP", [row.figures["AP"] for row in present])])  # fmt: skip
    for value, colour in ((figures.summary["AP50"], LIGHT_BAR), (figures.summary["AP"], DARK_BAR)):
        if value is not None:
            left.axvline(value, color=colour, linestyle="--", linewidth=1)
    left.set_title("by class (annotated boxes); broken: all", fontsize="medium", loc="left")
    if absent:
        left.set_xlabel(_cut(f"no annotated boxes: {', '.join(absent)}", 90), fontsize="small")
    sizes = list(SIZES)[::-1]
    names = [f"{size} ({figures.boxes_by_size[size]:,})\n{SIZES[size]}" for size in sizes]
    _bars(right, names, [("AR100", [figures.summary[f"AR_{size}"] for size in sizes]),
                         ("AP", [figures.summary[f"AP_{size}"] for size in sizes])])  # fmt: skip
    right.set_title("by box size", fontsize="medium", loc="left")
    _save(figure, path)


DARK_BAR, LIGHT_BAR = "#1f5a96", "#9cc3e6"


def _bars(axes: Axes, names: Sequence[str], series: Sequence[tuple[str, Sequence[float | None]]]) -> None:
    """Draws two horizontal bars for each name, the first of ``series`` above the second and lighter."""
    positions = np.arange(len(names))
    for shift, colour, (label, values) in zip((0.19, -0.19), (LIGHT_BAR, DARK_BAR), series, strict=True):
        axes.barh(positions + shift, [value or 0 for value in values], height=0.36, color=colour, label=label)
        for position, value in zip(positions, values, strict=True):
            text = "none annotated" if value is None else f"{value:.3f}"
            ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
            place = ((value or 0) + 0.012, position + shift)
            axes.text(*place, text, va="center", fontsize="x-small", color="0.25", bbox=ground)
    if not names:
        _say(axes, "no annotated boxes")
    axes.set_yticks(positions, names, fontsize="small")
    axes.set_xlim(0, 1.12)
    axes.set_xticks(np.arange(0, 1.01, 0.2))
    axes.set_ylim(-0.6, max(len(names), 1) - 0.4)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", bbox_to_anchor=(1.01, 0.995), ncols=2, fontsize="small", frameon=False)


def _new_figure(width: float, height: float) -> Figure:
    """Returns a figure of ``width`` x ``height`` inches that is drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: str | Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="grey")


def _name(row: ClassFigures) -> str:
    return _cut(row.name, LONGEST_NAME)


def _cut(text: str, length: int) -> str:
    # A dollar sign would begin a formula.
    text = text.replace("$", r"\$")
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _on_paper(number: int) -> tuple[float, float, float]:
    """Returns the colour of a class for white ground, as matplotlib takes it."""
    red, green, blue = (channel / 255 for channel in class_colour(number))
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    factor = min(1.0, PAPER_BRIGHTNESS / light)
    return red * factor, green * factor, blue * factor
