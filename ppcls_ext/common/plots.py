"""Charts, drawn with matplotlib's file backend only when one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppcls_ext.common.files import atomic_path

# A part has one colour in every panel.
COLOURS = {"training": "tab:blue", "evaluation": "tab:orange", "evaluation, EMA": "tab:green"}
FEW_EPOCHS = 15

Curve = tuple[str, list[float], list[float]]


def _curve(history: Sequence[dict[str, Any]], part: str, name: str, label: str, scale: float = 1.0) -> Curve | None:
    """Returns label, epochs and values of ``record[part][name]`` over the records that have it."""
    points = [(record["epoch"], record[part][name] * scale) for record in history if name in record.get(part, {})]
    return (label, [float(epoch) for epoch, _ in points], [value for _, value in points]) if points else None


def draw_training_curves(history: Sequence[dict[str, Any]], path: str | Path, title: str) -> None:
    """Draws loss, top-1, top-5 and learning rate by epoch.

    Args:
        history: records with ``epoch``, ``lr``, ``train`` (``loss``, ``top1``) and, where evaluated, ``eval`` and
            ``ema`` (``loss``, ``top1``, ``top5``).
        path: the PNG to write, whole or not at all.
        title: heading of the figure.
    """
    parts = (("train", "training"), ("eval", "evaluation"), ("ema", "evaluation, EMA"))
    panels = [
        ("loss", [_curve(history, part, "loss", label) for part, label in parts]),
        ("top-1 (%)", [_curve(history, part, "top1", label, 100) for part, label in parts]),
        ("top-5 (%)", [_curve(history, part, "top5", label, 100) for part, label in parts]),
        ("learning rate", [("", [float(r["epoch"]) for r in history], [r["lr"] for r in history])]),
    ]
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axes, (name, curves) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        drawn = [curve for curve in curves if curve is not None]
        for label, epochs, values in drawn:
            # Few epochs are points, which a thin line alone would hardly show.
            marker = "o" if len(epochs) < FEW_EPOCHS else None
            axes.plot(epochs, values, label=label or None, color=COLOURS.get(label), marker=marker, markersize=3)
        axes.set_xlim(0.5, max((record["epoch"] for record in history), default=1) + 0.5)
        axes.set_title(name)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        if any(label for label, _, _ in drawn):
            axes.legend(fontsize="small")
        if not drawn:
            axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes, color="grey")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
