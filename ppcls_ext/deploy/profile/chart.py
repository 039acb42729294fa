"""Profiles as a chart: bars of time, multiply-adds and activations, cut by stage and by kind of operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ppcls_ext.deploy.profile.result import KINDS, STAGES, Profile, Sums
from ppcls_ext.utils.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUANTITIES: tuple[tuple[str, Callable[[Sums], float]], ...] = (
    ("time of a forward pass, eager mode (ms)", lambda sums: sums.milliseconds),
    ("multiply-adds for one image (G)", lambda sums: sums.flops / 1e9),
    ("activations of the batch (MB)", lambda sums: sums.activation_bytes / 1e6),
)
# One hue from the images to the deepest stage, others for what is no stage.
STAGE_COLOURS = ("#9e9e9e", "#c6dbef", "#6baed6", "#2171b5", "#08306b", "#74c476", "#fd8d3c", "#e0e0e0")
KIND_COLOURS = (
    "#d62728", "#1f77b4", "#9ecae1", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#bcbd22", "#c7c7c7",
)  # fmt: skip
# Shares below this have no room for their label.
LABELLED_SHARE = 0.07


def draw_profiles(profiles: Sequence[Profile], path: Path) -> None:
    """Draws one bar for each network in six panels: three quantities, by stage and by kind.

    Args:
        profiles: the networks, drawn from top to bottom.
        path: the PNG to write, whole or not at all.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groupings = (
        ("by stage", STAGES, STAGE_COLOURS, [profile.by_stage() for profile in profiles]),
        ("by kind of operation", KINDS, KIND_COLOURS, [profile.by_kind() for profile in profiles]),
    )
    names = [profile.name for profile in profiles]
    figure = Figure(figsize=(15, 3 + 3 * (0.7 + 0.45 * len(profiles))), layout="constrained")
    FigureCanvasAgg(figure)
    sizes = {(profile.batch, *profile.image_shape) for profile in profiles}
    text = ", ".join(" x ".join(map(str, size)) for size in sorted(sizes))
    figure.suptitle(f"Where time, multiply-adds and activations go (images: {text})")
    grid = figure.subplots(len(QUANTITIES), len(groupings), squeeze=False)
    for column, (title, labels, colours, groups) in enumerate(groupings):
        present = {label for group in groups for label in group}
        shown = {label: colour for label, colour in zip(labels, colours, strict=True) if label in present}
        for row, (quantity, value_of) in enumerate(QUANTITIES):
            axes = grid[row][column]
            _draw_bars(axes, names, shown, groups, value_of)
            axes.set_title(f"{quantity} {title}", fontsize="medium")
            axes.tick_params(axis="y", labelleft=column == 0)
        handles, texts = grid[0][column].get_legend_handles_labels()
        grid[-1][column].legend(
            handles, texts, ncols=3, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False
        )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_bars(
    axes: Axes,
    names: Sequence[str],
    colours: Mapping[str, str],
    groups: Sequence[Mapping[str, Sums]],
    value_of: Callable[[Sums], float],
) -> None:
    """Draws one bar for each network, cut by the labels of ``colours``; longer bars have their parts labelled."""
    widest = max((sum(map(value_of, group.values())) for group in groups), default=0.0)
    for position, group in enumerate(groups):
        left = 0.0
        for label, colour in colours.items():
            width = value_of(group[label]) if label in group else 0.0
            axes.barh(
                position, width, left=left, height=0.7, color=colour, edgecolor="white", linewidth=0.5,
                label=label if position == 0 else None,
            )  # fmt: skip
            if widest and width / widest >= LABELLED_SHARE:
                axes.text(
                    left + width / 2, position, _number(width), ha="center", va="center", fontsize="small",
                    color=_ink(colour),
                )  # fmt: skip
            left += width
        axes.text(left + 0.01 * widest, position, _number(left), va="center", fontsize="small", fontweight="bold")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * widest if widest else 1)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _number(value: float) -> str:
    """Returns three significant digits, and no fewer than the whole number."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _ink(colour: str) -> str:
    """Returns black or white, whichever reads better on ``colour`` (``#rrggbb``)."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else "black"
