"""Charts of an overview: their common look, and how large the images are."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from ppcls_ext.check.findings import PART_WORDS
from ppcls_ext.check.scan import Scan

DOTS_PER_INCH = 100
COLOURS = {"Train": "#2a5da8", "Eval": "#e08a1e"}
INK, SUBTLE = "#1c2026", "#68707a"
MOST_POINTS = 4000
# Sides that differ more than so many times are drawn on logarithmic axes.
WIDE_RANGE = 6.0


def draw_sizes(scan: Scan, width: int, height: int) -> Image.Image:
    """Draws width and height of the images; RGB of ``width`` x ``height`` pixels."""
    figure, axes = new_chart(width, height)
    axes.set_title("Image sizes", loc="left", fontsize=12, color=INK)
    sizes = {
        part: np.stack([scan.records[part][side][scan.readable(part)] for side in ("width", "height")], axis=1)
        for part in scan.records
    }
    every = np.concatenate(list(sizes.values()))
    if len(every) == 0 or (every == every[0]).all():
        text = f"{every[0][0]} x {every[0][1]}" if len(every) else "none"
        axes.text(0.5, 0.56, text, ha="center", va="center", fontsize=26, color=INK, transform=axes.transAxes)
        words = "all images have this size" if len(every) else "no image could be read"
        axes.text(0.5, 0.36, words, ha="center", va="center", fontsize=10, color=SUBTLE, transform=axes.transAxes)
        axes.set_axis_off()
        return chart_to_image(figure)
    for part, points in sizes.items():
        if len(points):
            _draw_points(axes, part, points)
    if every.max() > WIDE_RANGE * every.min():
        for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
            scale("log", base=2)
            axis.set_major_formatter("{x:.0f}")
    axes.set_xlabel("width (px)")
    axes.set_ylabel("height (px)")
    axes.grid(alpha=0.25)
    return chart_to_image(figure)


def _draw_points(axes: Any, part: str, points: np.ndarray) -> None:
    """Draws a dot for each size, the larger the more images have it."""
    sizes, counts = np.unique(points, axis=0, return_counts=True)
    if len(sizes) > MOST_POINTS:
        # Evenly spaced ones: enough to see the shape of the cloud, and the same in every run.
        chosen = np.linspace(0, len(sizes) - 1, MOST_POINTS).astype(np.int64)
        sizes, counts = sizes[chosen], counts[chosen]
    area = 14 + 180 * np.sqrt(counts / len(points)) * (counts > 1)
    axes.scatter(sizes[:, 0], sizes[:, 1], s=area, alpha=0.5, color=COLOURS[part], label=PART_WORDS[part], lw=0)


def new_chart(width: int, height: int) -> tuple[Any, Any]:
    """Returns an empty figure of ``width`` x ``height`` pixels and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DOTS_PER_INCH, height / DOTS_PER_INCH), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b0b6be")
    axes.tick_params(colors=SUBTLE, labelsize=9)
    axes.xaxis.label.set_color(SUBTLE)
    axes.yaxis.label.set_color(SUBTLE)
    return figure, axes


def chart_to_image(figure: Any) -> Image.Image:
    """Draws a figure; RGB."""
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[:, :, :3].copy())
