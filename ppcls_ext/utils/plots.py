"""All charts, drawn by matplotlib without a screen; matplotlib is imported when one is asked for.

Training curves of both worlds, comparisons of runs, bars, trade-offs, and what an evaluation shows: precision over
recall, the confusion matrix, calibration, bars by class. Every function draws a chart under a ``title`` and writes it
as PNG to ``path``, whole or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppcls_ext.utils.drawing import class_colour
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_path
from ppcls_ext.utils.fonts import drawable, prepare_figure

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A part has one colour in every panel.
COLOURS = {"training": "tab:blue", "evaluation": "tab:orange", "evaluation, EMA": "tab:green"}
RUN_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:cyan")
LIGHT_BAR, DARK_BAR = BAR_COLOURS = "#9cc3e6", "#1f5a96"
FEW_EPOCHS = 15
LEGEND_COLUMNS = 4
# Above these numbers of classes, names and counts would be too small to read.
MOST_NAMED_CURVES = 20
MOST_COUNTED_CELLS = 16
MOST_NAMED_CELLS = 40
MOST_PAIRS = 25
LONGEST_NAME = 24
# Class colours are bright, for dark pictures; on white paper the light ones need less light.
PAPER_BRIGHTNESS = 0.62

History = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Line:
    """A line of a panel: its name in the legend (none if empty), its points, further arguments of ``plot``, and the
    deviation at each point, drawn as a band, if there is one."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    style: Mapping[str, Any] = field(default_factory=dict)
    deviations: Sequence[float] = ()


# A panel: its heading, what stands below it, its lines, and the largest value that there can be, if there is one.
Panel = tuple[str, str, Sequence[Line], float | None]


def _new_figure(width: float, height: float, title: str = "") -> Figure:
    """Returns a figure of ``width`` x ``height`` inches that is drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title)
    return figure


def _save(figure: Figure, path: str | Path) -> None:
    prepare_figure(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="grey")


def draw_curves(
    history: History, path: str | Path, title: str, metrics: Sequence[str] = (), averaged: bool = False
) -> None:
    """Draws a run by epoch: losses, metrics, learning rate and training speed; without metrics losses and rate alone.

    Args:
        history: records with ``epoch``, ``lr``, ``train`` (``loss``, its parts, whose names begin with ``loss_``, and
            ``images_per_second``) and, where evaluated, ``eval`` and ``ema`` (metrics from 0 to 1 and, of a classifier,
            ``loss``). All but the epoch may be missing or None.
        metrics: names of at most four of them.
        averaged: what stands under ``eval`` was measured with the averaged weights.
    """
    parts = {"train": "training", "eval": "evaluation, EMA" if averaged else "evaluation", "ema": "evaluation, EMA"}
    losses = [_line(history, part, "loss", label, color=COLOURS[label]) for part, label in parts.items()]
    kinds = {name: None for record in history for name in record.get("train") or {} if name.startswith("loss_")}
    colours = _many_colours(len(COLOURS) + len(kinds))[len(COLOURS) :]
    losses += [_line(history, "train", name, name, color=each) for name, each in zip(kinds, colours, strict=True)]
    panels: list[Panel] = [
        ("loss", "epoch", losses, None),
        ("learning rate at the end of the epoch", "epoch", [_line(history, "", "lr", "")], None),
    ]
    if metrics:
        measured = [
            _line(history, part, name, f"{name}, {label}", color=COLOURS[label], linestyle=linestyle)
            for name, linestyle in zip(metrics, ("-", "--", ":", "-."), strict=False)
            for part, label in parts.items()
        ]
        panels.insert(1, (", ".join(metrics), "epoch", measured, 1))
        speed = [_line(history, "train", "images_per_second", "")]
        panels.append(("training speed (images per second)", "epoch", speed, None))
    last_epoch = max((record["epoch"] for record in history), default=1)
    _draw_panels(panels, path, title, last_epoch, from_zero=False)


def draw_run_comparison(
    rows: Mapping[str, Sequence[History]], path: str | Path, title: str = "", metrics: Sequence[str] = ("AP", "AP50")
) -> None:
    """Draws two metrics of several runs by epoch, and by the time that was spent on training.

    Of a classifier's run that averaged its weights the metrics of these (``ema``) are drawn, else what was evaluated
    (``eval``): of a detector that averages, its averaged weights. The time is the sum of ``train.seconds`` up to the
    epoch, without evaluation.

    Args:
        rows: label -> the records of its runs (seeds), which have one colour.
    """
    panels: list[Panel] = []
    for name in metrics:
        by_epoch: list[Line] = []
        by_time: list[Line] = []
        for (row, runs), colour in zip(rows.items(), _many_colours(len(rows)), strict=True):
            found = [[_line(history, part, name, row) for part in ("ema", "eval")] for history in runs]
            lines = [averaged if averaged.xs else plain for averaged, plain in found]
            best = [max(line.ys) for line in lines if line.ys]
            seeds = f", mean of {len(best)}" if len(best) > 1 else ""
            style = {"color": colour, "linewidth": 0.9 if seeds else 1.5}
            label = f"{row} (best {np.mean(best):.3f}{seeds})" if best else ""
            for history, line in zip(runs, lines, strict=True):
                by_epoch.append(replace(line, label=label, style=style))
                seconds = [(record.get("train") or {}).get("seconds") for record in history]
                if None not in seconds:
                    spent = dict(zip((record["epoch"] for record in history), np.cumsum(seconds) / 60, strict=True))
                    by_time.append(Line(label, [spent[epoch] for epoch in line.xs], line.ys, style))
                label = ""  # One name in the legend for all seeds.
        panels += [(name, "epoch", by_epoch, 1), (name, "minutes of training", by_time, 1)]
    _draw_panels(panels, path, title)


def _in_legend(text: str) -> str:
    """Returns a name that matplotlib shows in a legend: what begins with an underscore it leaves out."""
    return f" {text}" if text.startswith("_") else text


def _line(history: History, part: str, name: str, label: str, **style: Any) -> Line:
    """Returns ``record[part][name]`` by epoch over the records that have it, of the record itself for an empty part."""
    values = {float(record["epoch"]): ((record.get(part) if part else record) or {}).get(name) for record in history}
    points = {epoch: value for epoch, value in values.items() if value is not None}
    return Line(label, [*points], [*points.values()], style)


def _draw_panels(
    panels: Sequence[Panel], path: str | Path, title: str, last_epoch: int | None = None, from_zero: bool = True,
    one_legend: bool = False,
) -> None:  # fmt: skip
    """Draws up to four panels and writes the picture.

    The horizontal axis spans the epochs up to ``last_epoch``, or begins at 0; ``from_zero`` lets the vertical one too.
    Each panel has its legend, or all of them have ``one_legend`` below.
    """
    from matplotlib.ticker import MaxNLocator

    rows = math.ceil(len(panels) / 2)
    named: dict[str, Any] = {}
    figure = _new_figure(10, 3.5 * rows, title)
    for axes, (heading, unit, lines, most) in zip(figure.subplots(rows, 2).flat, panels, strict=False):
        lines = [line for line in lines if line.xs]
        for line in lines:
            # Few epochs are points, which a thin line alone would hardly show.
            style = {"marker": "o" if len(line.xs) < FEW_EPOCHS else None, "markersize": 3, **line.style}
            (drawn,) = axes.plot(line.xs, line.ys, label=_in_legend(line.label) or None, clip_on=most is None, **style)
            if line.label:
                named[line.label] = drawn
            if line.deviations:
                low, high = (np.add(line.ys, sign * np.array(line.deviations)) for sign in (-1, 1))
                axes.fill_between(line.xs, low, high, color=drawn.get_color(), alpha=0.15, lw=0)
        axes.set_title(heading)
        axes.grid(alpha=0.3)
        if not one_legend and any(line.label for line in lines):
            axes.legend(fontsize="small")
        if not lines:
            _say(axes, "not measured")
        if last_epoch is None:
            axes.set_xlim(left=0)
        else:
            axes.set_xlim(0.5, last_epoch + 0.5)
        if from_zero:
            highest = max((max(line.ys) for line in lines), default=0)
            axes.set_ylim(0, 1.06 * highest if highest > 0 else 1)
        if most is not None and lines:
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, 0), min(high, most))
        axes.set_xlabel(unit)
        if unit == "epoch":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if one_legend:
        figure.set_figheight(3.5 * rows + 0.25 * math.ceil(len(named) / LEGEND_COLUMNS))
        figure.legend([*named.values()], [*named], loc="outside lower center", ncols=LEGEND_COLUMNS, fontsize="small")
    _save(figure, path)


def draw_study_curves(panels: Mapping[str, Sequence[Line]], path: str | Path, title: str) -> None:
    """Draws up to four panels over epochs, with one legend for all of them; a label has one colour in every panel."""
    lines = [line for each in panels.values() for line in each]
    labels = list(dict.fromkeys(line.label for line in lines))
    colours = dict(zip(labels, _many_colours(len(labels)), strict=True))
    coloured: list[Panel] = [
        (name, "epoch", [replace(line, style={**line.style, "color": colours[line.label]}) for line in each], None)
        for name, each in panels.items()
    ]
    last_epoch = int(max((line.xs[-1] for line in lines if line.xs), default=1))
    _draw_panels(coloured, path, title, last_epoch, from_zero=False, one_legend=True)


@dataclass(frozen=True)
class Point:
    """A point of a trade-off, ``value`` with its ``deviation`` at its ``cost``; ``series`` is its name in the legend.

    The label is written at the point, if it is not empty; of several points with one label at the one that costs most.
    """

    label: str
    cost: float
    value: float
    deviation: float | None = None
    series: str = ""
    colour: str = "tab:blue"
    marker: str = "o"
    is_hollow: bool = False


def draw_tradeoff(
    panels: Mapping[str, Sequence[Point]], path: str | Path, title: str, value_name: str, smallest_range: float = 0.0
) -> None:
    """Draws values over costs on a logarithmic scale, one panel for each kind of cost, by its name.

    The axis of the values covers at least ``smallest_range``, so that a small difference looks like one.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    figure = _new_figure(max(7 * len(panels), 8), 6, title)
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
                series.setdefault(_in_legend(point.series), drawn)
            if point.label:
                ends[point.label] = max(ends.get(point.label, (0.0, 0.0)), (point.cost, point.value))
        values = [point.value for point in points]
        # Labels stand so far above their points, out of the way of others beside them, and from each other.
        covered = max(max(values) - min(values), smallest_range) or 1.0
        distance = 0.045 * covered
        taken = -math.inf
        for label, (cost, value) in sorted(ends.items(), key=lambda item: item[1][1]):
            taken = max(value, taken) + distance
            axes.annotate(label, (cost, value), (1.08 * cost, taken), fontsize="small", va="center")
        costs = [point.cost for point in points]
        if covered == smallest_range:
            middle = (max(values) + min(values)) / 2
            axes.set_ylim(middle - 0.55 * covered, middle + 0.55 * covered)
        axes.set_xscale("log")
        axes.set_xlim(0.7 * min(costs), (4 if ends else 1.4) * max(costs))  # Room for labels right of the points.
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    all_axes[0].set_ylabel(value_name)
    if series:
        columns = max(1, min(6, 110 // (8 + max(map(len, series)))))
        figure.legend(list(series.values()), list(series), loc="outside lower center", ncols=columns, fontsize="small")
    _save(figure, path)


def draw_latency(figures: pandas.DataFrame, path: str | Path, title: str = "") -> None:
    """Draws what ``results.figures_of_runs`` returned: AP over the latency of exports, hollow where not in fp32.

    Exports in another precision are drawn where their own AP was measured. The legend names the rows by their colours:
    beside points that lie so close together no labels fit.
    """
    points, others = [], []
    rows = figures.groupby(level=0, sort=False)
    for (label, row), colour in zip(rows, _many_colours(len(rows)), strict=True):
        for head in [head for head in figures if head.endswith(", ms")]:
            precision, cost = head.removesuffix(", ms"), row[head].mean()
            name = "AP" if precision == "fp32" else f"AP, {precision}"
            values = row[name].dropna() if name in row else []
            if cost == cost and len(values):  # Not every run has this export.
                spread = values.std() if len(values) > 1 else None
                points.append(Point("", cost, values.mean(), spread, label, colour, is_hollow=name != "AP"))
                others += [precision] if name != "AP" and precision not in others else []
    if not points:
        raise UserError("no results file holds a latency with its AP: record them with --latency")
    hollow = f" (filled: fp32, hollow: {', '.join(others)})" if others else ""
    draw_tradeoff({f"latency of one image, ms{hollow}": points}, path, title, "AP", smallest_range=0.1)


def _many_colours(count: int) -> list[Any]:
    """Returns colours that differ: those of the runs first, then from a larger map."""
    import matplotlib

    more = [matplotlib.colormaps["tab20"](number) for number in range(1, 20, 2)]
    colours = [*RUN_COLOURS, "tab:olive", "tab:gray", *more]
    return [colours[number % len(colours)] for number in range(count)]


def draw_precision_recall(metrics: Any, path: str | Path, title: str) -> None:
    """Draws precision over recall at IoU 0.5: a curve for each class, the mean in black, dots at the best F1.

    Args:
        metrics: ``detection.evaluation.DetectionMetrics``; where no class has annotated boxes the chart says so.
    """

    def draw(precision: np.ndarray, **style: object) -> None:
        # Only the part that was reached; beyond it COCO counts a precision of 0.
        reached = np.flatnonzero(precision > 0)
        last, recall = int(reached[-1]) if len(reached) else 0, np.linspace(0, 1, len(precision))
        axes.plot([*recall[: last + 1], recall[last]], [*precision[: last + 1], 0], **style)

    figure = _new_figure(9.5, 6)
    axes = figure.add_subplot()
    numbers = metrics.truth.numbers
    curves = [(number, row) for number, row in zip(numbers, metrics.classes, strict=True) if not row["absent"]]
    named = len(curves) <= MOST_NAMED_CURVES
    for number, row in sorted(curves, key=lambda curve: -curve[1]["AP50"]):
        colour = _on_paper(number) if named else "0.75"
        name, best = _cut(drawable(row["name"], number)), row["best_threshold"]
        label = _in_legend(f"{name}  {row['AP50']:.3f}") if named else None
        draw(metrics.precision[row["name"]], color=colour, linewidth=1.4, label=label)
        if best and named:
            axes.plot(best["recall"], best["precision"], "o", color=colour, markersize=5)
    if curves:
        mean = np.mean(list(metrics.precision.values()), axis=0)
        draw(mean, color="black", linewidth=2.6, label=f"all classes  {metrics.ap50:.3f}")
        axes.legend(title="AP50 (dot: best F1)", loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small")
    else:
        _say(axes, "no annotated boxes")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=title)
    axes.grid(alpha=0.3)
    _save(figure, path)


def draw_confusion(
    counts: np.ndarray, names: Sequence[str], path: str | Path, title: str, background: bool = True
) -> None:
    """Draws a confusion matrix: shades are shares of a row, numbers are counts.

    Of many classes the pairs that are confused most often are listed beside it, because the cells have no room for
    numbers; of still more, axes count the classes.

    Args:
        counts: of a detector ``[K + 1, K + 1]``: rows annotated, columns detected, background last. Of a classifier,
            without ``background``, ``[K, K]``: rows true, columns predicted.
        names: of the K classes.
        background: whether the last row and column are nothing.
    """
    from matplotlib.colors import PowerNorm

    side = len(counts)
    inches = min(max(4.5, 2.2 + 0.55 * side), 14)
    listed = side > MOST_COUNTED_CELLS
    figure = _new_figure(inches + (6 if listed else 1.4), inches + 0.6)
    axes, beside = figure.subplots(1, 2, width_ratios=(inches, 5)) if listed else (figure.add_subplot(), None)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # A mistake is a small share of one of many classes, which an even scale would not show.
    shown = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5 if listed else 1, 0, 1))
    figure.colorbar(shown, ax=axes, shrink=0.75, label="share of the row")
    if side <= MOST_COUNTED_CELLS:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                ink = "white" if shares[row, column] > 0.55 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=ink, fontsize="small")
    names = [_cut(name) for name in names]
    rows, columns = ([*names, *extra] for extra in ((["nothing there"], ["missed"]) if background else ([], [])))
    if side <= MOST_NAMED_CELLS:
        axes.set_xticks(range(side), columns, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(side), rows)
    if background:
        # It stands apart: misses on the right, false alarms below.
        axes.axhline(side - 1.5, color="0.4", linewidth=1)
        axes.axvline(side - 1.5, color="0.4", linewidth=1)
    unit = "" if side <= MOST_NAMED_CELLS else " class, by number"
    words = ("detected", "annotated") if background else ("predicted", "true")
    axes.set(xlabel=f"{words[0]}{unit}", ylabel=f"{words[1]}{unit}")
    if beside is not None:
        wrong = counts * ~np.eye(side, dtype=bool)
        most = [divmod(place, side) for place in np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS].tolist()]
        pairs = [pair for pair in most if wrong[pair]]
        lines = [f"{wrong[row, column]:,} of {counts[row].sum():,}: {rows[row]} → {columns[column]}"
                 for row, column in pairs]  # fmt: skip
        beside.text(0, 1, "\n".join(["confused most often (circled):", *lines]), va="top", fontsize="small")
        beside.axis("off")
        true, predicted = np.array(pairs).reshape(-1, 2).T
        axes.scatter(predicted, true, s=90, facecolors="none", edgecolors="tab:red", linewidths=0.8)
    axes.set_title(title, fontsize="medium")
    _save(figure, path)


def draw_reliability(bins: Any, path: str | Path, title: str) -> None:
    """Draws accuracy by confidence (a reliability diagram: Guo et al., arXiv 1706.04599, figure 1), and below it how
    many images each bin holds.

    Args:
        bins: a pandas table with ``above``, ``to``, ``images``, ``confidence`` and ``accuracy``, NaN in an empty bin.
    """
    figure = _new_figure(6.4, 7.2, title)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    middles, width = (bins["above"] + bins["to"]) / 2, 0.94 / len(bins)
    upper.bar(middles, bins["accuracy"], width, color=DARK_BAR, label="share that is right")
    upper.bar(middles, bins["confidence"] - bins["accuracy"], width, bottom=bins["accuracy"], color="none",
              edgecolor="tab:red", hatch="//", label="gap to the mean confidence")  # fmt: skip
    upper.plot([0, 1], [0, 1], color="0.4", linestyle="--", label="as often right as confident")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
    upper.legend(loc="upper left", fontsize="small")
    lower.bar(middles, bins["images"], width, color=LIGHT_BAR)
    # On a linear scale the few doubtful images would not show beside the many sure ones.
    lower.set(xlabel="confidence (probability of the predicted class)", ylabel="images", yscale="log")
    lower.set_ylim(bottom=0.5)
    _save(figure, path)


def draw_class_bars(metrics: Any, size_names: Mapping[str, str], path: str | Path, title: str) -> None:
    """Draws bars of AP and AP50 for each class, best first, with broken lines for those of all classes, and beside
    them, half as wide, bars of AP and AR100 by box size.

    Args:
        metrics: ``detection.evaluation.DetectionMetrics``.
        size_names: COCO's name of each size -> what it means, from small to large.
    """
    classes = zip(metrics.truth.names, metrics.truth.numbers, strict=True)
    names = {name: _shortened(drawable(name, number)) for name, number in classes}
    present = sorted((row for row in metrics.classes if not row["absent"]), key=lambda row: row["AP"] or 0)
    absent = ", ".join(names[row["name"]] for row in metrics.classes if row["absent"])
    figure = _new_figure(11, min(max(4.2, 1.9 + 0.42 * len(present)), 24), title)
    by_class, by_size = figure.subplots(1, 2, width_ratios=(2, 1))
    rows = [f"{names[row['name']]} ({row['boxes']:,})" for row in present]
    bars = {name: [row[name] for row in present] for name in ("AP50", "AP")}
    _draw_bars(by_class, "by class (annotated boxes); broken: all", rows, bars, longest=1)
    for name, colour in zip(bars, BAR_COLOURS, strict=True):
        if metrics.summary[name] is not None:
            by_class.axvline(metrics.summary[name], color=colour, linestyle="--", linewidth=1)
    by_class.set_xlabel(_cut(f"no annotated boxes: {absent}" if absent else "", 90), fontsize="small")
    boxes, sizes = metrics.counts["boxes_by_size"], list(size_names)[::-1]
    rows = [f"{size} ({boxes[size]:,})\n{size_names[size]}" for size in sizes]
    bars = {name: [metrics.summary[f"{key}_{size}"] for size in sizes] for name, key in (("AR100", "AR"), ("AP", "AP"))}
    _draw_bars(by_size, "by box size", rows, bars, longest=1)
    _save(figure, path)


def draw_losses(metrics: Any, path: str | Path, title: str) -> None:
    """Draws what each kind of error costs and, where frames tell their range, figures by distance from the sonar.

    ``metrics``: a `DetectionMetrics` of ``detection.evaluation``.
    """
    figure = _new_figure(11 if metrics.rings else 7, 4.2, title)
    errors, *by_range = np.atleast_1d(figure.subplots(1, 2 if metrics.rings else 1))
    names, values = list(metrics.errors)[::-1], list(metrics.errors.values())[::-1]
    _draw_bars(errors, "AP50 lost to errors (TIDE)", names, {"AP50": values})
    for axes in by_range:
        rings = metrics.rings[::-1]
        rows = [f"{ring['nearest']:g} to {ring['farthest']:g} m ({ring['boxes']:,})" for ring in rings]
        bars = {"recall": [ring["recall"] for ring in rings], "AP50": [ring["ap50"] for ring in rings]}
        _draw_bars(axes, "by distance from the sonar (annotated boxes)", rows, bars, longest=1)
    _save(figure, path)


def _draw_bars(
    axes: Axes, heading: str, rows: Sequence[str], bars: Mapping[str, Sequence[float | None]],
    longest: float | None = None,
) -> None:  # fmt: skip
    """Draws a dark bar for each row, from bottom to top, or a light one above it, with their values beside them.

    Args:
        axes: where.
        heading: above the chart.
        rows: their names.
        bars: name in the legend -> a value for each row, ``None`` where there is none; the light ones first.
        longest: the largest value that there can be, if there is one.
    """
    places, width = np.arange(len(rows)), 0.76 / len(bars)
    for number, (name, values) in enumerate(bars.items(), start=1):
        colour = BAR_COLOURS[number - len(bars) - 1]
        lengths = [value or 0 for value in values]
        drawn = axes.barh(places + 0.38 - (number - 0.5) * width, lengths, width, color=colour, label=name)
        texts = ["none annotated" if value is None else f"{value:.3f}" for value in values]
        axes.bar_label(drawn, texts, padding=3, fontsize="x-small", color="0.25")
    known = [0.0, *(value or 0.0 for values in bars.values() for value in values)]
    axes.set_xlim(min(known), 1.15 * (longest or max(0.01, *known)))
    axes.set_ylim(-0.6, max(len(rows), 1) - 0.4)
    axes.set_yticks(places, [_cut(row, 60) for row in rows], fontsize="small")
    axes.set_title(heading, fontsize="medium", loc="left")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    if not rows:
        _say(axes, "no annotated boxes")
    if len(bars) > 1:
        axes.legend(loc="lower right", bbox_to_anchor=(1.01, 0.995), ncols=2, fontsize="small", frameon=False)


def _shortened(text: str, length: int = LONGEST_NAME) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _cut(text: str, length: int = LONGEST_NAME) -> str:
    """Cuts a text to ``length`` characters; a dollar sign would begin a formula."""
    return _shortened(text, length).replace("$", r"\$")


def _on_paper(number: int) -> tuple[float, float, float]:
    """Returns the colour of a class for white ground, as matplotlib takes it."""
    red, green, blue = (channel / 255 for channel in class_colour(number))
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    factor = min(1.0, PAPER_BRIGHTNESS / light)
    return red * factor, green * factor, blue * factor
