"""Charts, drawn with matplotlib's file backend only when one is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppcls_ext.utils.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A part has one colour in every panel.
COLOURS = {"training": "tab:blue", "evaluation": "tab:orange", "evaluation, EMA": "tab:green"}
FEW_EPOCHS = 15

LOSS_COLOURS = {"loss": "black", "loss_cls": "tab:blue", "loss_iou": "tab:orange", "loss_dfl": "tab:green"}
RUN_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:cyan")

LEGEND_COLUMNS = 4

History = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Curve:
    """One line of a panel.

    Attributes:
        label: its name in the legend; an empty one has none.
        xs, ys: its points.
        style: further arguments of matplotlib's ``plot``.
    """

    label: str
    xs: list[float]
    ys: list[float]
    style: dict[str, Any] = field(default_factory=dict)


def _curve(history: History, part: str, name: str, label: str, scale: float = 1.0, **style: Any) -> Curve | None:
    """Returns ``record[part][name]`` by epoch over the records that have it, None if there are none."""
    points = [(record["epoch"], record[part][name] * scale) for record in history if _has(record, part, name)]
    if not points:
        return None
    style = {"color": COLOURS.get(label), **style}
    return Curve(label, [float(epoch) for epoch, _ in points], [value for _, value in points], style)


def _has(record: Mapping[str, Any], part: str, name: str) -> bool:
    """Whether a record holds the figure; None stands for one that could not be computed."""
    return (record.get(part) or {}).get(name) is not None


def draw_training_curves(history: History, path: str | Path, title: str) -> None:
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
        ("learning rate", [_learning_rate(history)]),
    ]
    _draw_by_epoch(panels, history, path, title)


def draw_detection_curves(history: History, path: str | Path, title: str) -> None:
    """Draws a detector's losses, AP and AP50, learning rate and training speed by epoch.

    Args:
        history: records with ``epoch``, ``lr``, ``train`` (``loss`` and its parts, whose names begin with ``loss_``;
            ``images_per_second``) and, where evaluated, ``eval`` and ``ema`` (``AP``, ``AP50``, between 0 and 1).
            Figures may be missing or None.
        path: the PNG to write, whole or not at all.
        title: heading of the figure.
    """
    names = dict.fromkeys(
        name for record in history for name in (record.get("train") or {})
        if name.startswith("loss_")
    )  # fmt: skip
    losses = [_curve(history, "train", name, name, color=LOSS_COLOURS.get(name)) for name in ("loss", *names)]
    parts = (("eval", "evaluation"), ("ema", "evaluation, EMA"))
    precision = [
        _curve(history, part, name, f"{name}, {label}", color=COLOURS[label], linestyle=linestyle)
        for name, linestyle in (("AP50", "--"), ("AP", "-"))
        for part, label in parts
    ]
    panels = [
        ("training loss and its parts", losses),
        ("average precision", precision),
        ("learning rate", [_learning_rate(history)]),
        ("training speed (images per second)", [_curve(history, "train", "images_per_second", "")]),
    ]
    _draw_by_epoch(panels, history, path, title, from_zero=True)


def draw_run_comparison(runs: Mapping[str, History], path: str | Path, title: str = "") -> None:
    """Draws AP50 and AP of several runs by epoch, and by the minutes that were spent on training.

    The figures of the averaged weights (``ema``) are drawn, or those of the plain ones (``eval``) where a run has no
    others. Minutes are the sum of ``train.seconds`` up to the epoch, without evaluation.

    Args:
        runs: name of the run -> its records, as for :func:`draw_detection_curves`.
        path: the PNG to write, whole or not at all.
        title: heading of the figure.
    """
    panels: dict[tuple[str, str], list[Curve | None]] = {}
    for name in ("AP50", "AP"):
        for number, (run, history) in enumerate(runs.items()):
            part = "ema" if any(_has(record, "ema", name) for record in history) else "eval"
            colour = RUN_COLOURS[number % len(RUN_COLOURS)]
            curve = _curve(history, part, name, run, color=colour)
            if curve is not None:
                curve = replace(curve, label=f"{run} (best {max(curve.ys):.3f})")
            panels.setdefault((name, "epoch"), []).append(curve)
            panels.setdefault((name, "minutes of training"), []).append(_by_minutes(curve, history))
    figure, all_axes = _new_figure(title)
    for axes, ((name, unit), curves) in zip(all_axes, panels.items(), strict=False):
        _draw_panel(axes, name, curves)
        axes.set_xlim(left=0)
        _begin_at_zero(axes)
        if unit == "epoch":
            _label_epochs(axes)
        else:
            axes.set_xlabel(unit)
    _save(figure, path)


@dataclass(frozen=True)
class Band:
    """A curve with its deviation: points ``(x, mean, deviation)``; a secondary one is drawn thin and dashed."""

    label: str
    points: Sequence[tuple[float, float, float]]
    is_secondary: bool = False


def draw_bands(panels: Mapping[str, Sequence[Band]], path: str | Path, title: str) -> None:
    """Draws up to four panels over epochs, with one legend for all of them; a label has one colour in every panel.

    Args:
        panels: heading -> its curves.
        path: the PNG to write, whole or not at all.
        title: heading of the figure.
    """
    labels = list(dict.fromkeys(band.label for bands in panels.values() for band in bands))
    colours = dict(zip(labels, _many_colours(len(labels)), strict=True))
    figure, all_axes = _new_figure(title, height=7 + 0.25 * math.ceil(len(labels) / LEGEND_COLUMNS))
    lines: dict[str, Any] = {}
    for axes, (name, bands) in zip(all_axes, panels.items(), strict=False):
        _draw_panel(axes, name, [])
        for band in bands:
            if not band.points:
                continue
            xs, means, deviations = (np.array(values) for values in zip(*band.points, strict=True))
            style = {"linestyle": "--", "linewidth": 1.0} if band.is_secondary else {"linewidth": 2.0}
            marker = "o" if len(xs) < FEW_EPOCHS else None
            (lines[band.label],) = axes.plot(xs, means, color=colours[band.label], marker=marker, markersize=3, **style)
            axes.fill_between(xs, means - deviations, means + deviations, color=colours[band.label], alpha=0.15, lw=0)
        if any(band.points for band in bands):
            axes.texts[0].remove()
        _label_epochs(axes)
    figure.legend([lines[label] for label in labels if label in lines], [label for label in labels if label in lines],
                  loc="outside lower center", ncols=LEGEND_COLUMNS, fontsize="small")  # fmt: skip
    _save(figure, path)


@dataclass(frozen=True)
class Bar:
    """A bar from zero: what it stands for, its value (None: not measured), its deviation, and what is written at it.

    The deviation of a base, whose own value is 0, is drawn as a band through all bars.
    """

    label: str
    value: float | None
    text: str = ""
    deviation: float | None = None
    is_base: bool = False


def draw_bars(panels: Mapping[str, Sequence[Bar]], path: str | Path, title: str) -> None:
    """Draws horizontal bars of differences, some panels side by side with the same labels in each.

    Args:
        panels: heading -> its bars, from top to bottom.
        path: the PNG to write, whole or not at all.
        title: heading of the figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = max(len(bars) for bars in panels.values())
    figure = Figure(figsize=(12, 1.6 + 0.42 * count), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    all_axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, (name, bars) in zip(all_axes, panels.items(), strict=True):
        _draw_bars(axes, bars)
        axes.set_title(name)
    _save(figure, path)


def _draw_bars(axes: Axes, bars: Sequence[Bar]) -> None:
    ends = [0.0]
    for place, bar in enumerate(bars):
        text = bar.text if bar.value is not None else "not measured"
        value, deviation = bar.value or 0.0, bar.deviation or 0.0
        axes.barh(place, value, color="tab:blue" if value >= 0 else "tab:orange", xerr=deviation or None,
                  error_kw={"capsize": 3, "elinewidth": 1})  # fmt: skip
        axes.annotate(text, (max(value + deviation, 0.0), place), (4, 0), textcoords="offset points", va="center",
                      fontsize="small")  # fmt: skip
        ends += [value - deviation, value + deviation]
        if bar.is_base and deviation:
            axes.axvspan(value - deviation, value + deviation, color="0.45", alpha=0.15, lw=0)
    room = max(ends) - min(ends) or 1.0
    axes.set_xlim(min(ends) - 0.05 * room, max(ends) + 0.42 * room)
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


@dataclass(frozen=True)
class Point:
    """A point of a trade-off.

    Attributes:
        label: its name, written at the point; of several points with one label at the one that costs most.
        cost, value: what it costs and what it reaches.
        deviation: of the value, drawn as a bar.
        series: a name in the legend, none where it is empty.
        colour, marker, is_hollow: how it is drawn.
    """

    label: str
    cost: float
    value: float
    deviation: float | None = None
    series: str = ""
    colour: str = "tab:blue"
    marker: str = "o"
    is_hollow: bool = False


def draw_tradeoff(panels: Mapping[str, Sequence[Point]], path: str | Path, title: str, value_name: str) -> None:
    """Draws values over costs on a logarithmic scale, one panel for each kind of cost.

    Args:
        panels: name of the cost -> its points.
        path: the PNG to write, whole or not at all.
        title: heading of the figure.
        value_name: label of the vertical axis.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(max(7 * len(panels), 8), 6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    series: dict[str, Any] = {}
    all_axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, (name, points) in zip(all_axes, panels.items(), strict=True):
        ends: dict[str, tuple[float, float]] = {}
        for point in points:
            drawn = axes.errorbar(
                point.cost, point.value, yerr=point.deviation, color=point.colour, marker=point.marker, markersize=8,
                markerfacecolor="white" if point.is_hollow else point.colour, capsize=3, linestyle="none", zorder=3,
            )  # fmt: skip
            if point.series:
                series.setdefault(point.series, drawn)
            ends[point.label] = max(ends.get(point.label, (0.0, 0.0)), (point.cost, point.value))
        values = [point.value for point in points]
        # Labels nearer to each other than this part of the axis are moved apart.
        distance = 0.045 * (max(values) - min(values) or 1.0)
        taken = -math.inf
        for label, (cost, value) in sorted(ends.items(), key=lambda item: item[1][1]):
            taken = max(value, taken + distance)
            axes.annotate(label, (cost, value), (1.08 * cost, taken), fontsize="small", va="center")
        costs = [point.cost for point in points]
        axes.set_xscale("log")
        axes.set_xlim(0.7 * min(costs), 4 * max(costs))  # Room for the labels of the rightmost points.
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    all_axes[0].set_ylabel(value_name)
    if series:
        figure.legend(list(series.values()), list(series), loc="outside lower center", ncols=6, fontsize="small")
    _save(figure, path)


def _many_colours(count: int) -> list[Any]:
    """Returns colours that differ: those of the runs first, then from a larger map."""
    import matplotlib

    more = [matplotlib.colormaps["tab20"](number) for number in range(1, 20, 2)]
    colours = [*RUN_COLOURS, "tab:olive", "tab:gray", *more]
    return [colours[number % len(colours)] for number in range(count)]


def _learning_rate(history: History) -> Curve | None:
    points = [(float(record["epoch"]), record["lr"]) for record in history if record.get("lr") is not None]
    return Curve("", [epoch for epoch, _ in points], [rate for _, rate in points]) if points else None


def _by_minutes(curve: Curve | None, history: History) -> Curve | None:
    """Returns a curve over minutes of training, None if the history does not tell the seconds of each epoch."""
    if curve is None or not all(_has(record, "train", "seconds") for record in history):
        return None
    minutes, passed = {}, 0.0
    for record in history:
        passed += record["train"]["seconds"] / 60
        minutes[float(record["epoch"])] = passed
    return Curve(curve.label, [minutes[epoch] for epoch in curve.xs], curve.ys, curve.style)


def _draw_by_epoch(
    panels: Sequence[tuple[str, Sequence[Curve | None]]],
    history: History,
    path: str | Path,
    title: str,
    from_zero: bool = False,
) -> None:
    """Draws four panels over epochs and writes the picture; ``from_zero`` lets every scale begin at 0."""
    figure, all_axes = _new_figure(title)
    for axes, (name, curves) in zip(all_axes, panels, strict=True):
        _draw_panel(axes, name, curves)
        axes.set_xlim(0.5, max((record["epoch"] for record in history), default=1) + 0.5)
        if from_zero:
            _begin_at_zero(axes)
        _label_epochs(axes)
    _save(figure, path)


def _new_figure(title: str, height: float = 7) -> tuple[Figure, list[Axes]]:
    """Returns a figure that is drawn without a screen, and its four panels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, height), layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title)
    return figure, list(figure.subplots(2, 2).flat)


def _draw_panel(axes: Axes, title: str, curves: Sequence[Curve | None]) -> None:
    drawn = [curve for curve in curves if curve is not None]
    for curve in drawn:
        # Few epochs are points, which a thin line alone would hardly show.
        marker = "o" if len(curve.xs) < FEW_EPOCHS else None
        axes.plot(curve.xs, curve.ys, label=curve.label or None, marker=marker, markersize=3, **curve.style)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    if any(curve.label for curve in drawn):
        axes.legend(fontsize="small")
    if not drawn:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes, color="grey")


def _begin_at_zero(axes: Axes) -> None:
    highest = max((max(line.get_ydata()) for line in axes.get_lines()), default=0)
    axes.set_ylim(0, 1.06 * highest if highest > 0 else 1)


def _label_epochs(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _save(figure: Figure, path: str | Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
