"""Writes the comparison of a study: ``comparison.md``, ``comparison.json`` and pictures, beside the runs."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from classification.config import load_config
from classification.study.comparison import compare
from classification.study.config import Study
from classification.study.cost import Timing, count_costs, measure_latencies
from classification.study.figures import RowFigures, curve, gather
from classification.study.page import flops_unit, markdown_page, percent
from classification.study.runs import Run
from classification.study.training import Failure
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import write_json, write_text
from ppcls_ext.utils.machine import available_cores, processor_name
from ppcls_ext.utils.plots import Band, Bar, Point, draw_bands, draw_bars, draw_tradeoff

logger = logging.getLogger(__name__)

PAGE, VALUES = "comparison.md", "comparison.json"
CURVES = (
    ("top-1 of the evaluation images (%)", "evaluation", "top1", 100.0),
    ("top-5 of the evaluation images (%)", "evaluation", "top5", 100.0),
    ("loss of the evaluation images", "evaluation", "loss", 1.0),
    ("loss of the training images", "train", "loss", 1.0),
)
TOP1, PARAMETERS = "top-1 (%)", "parameters (M)"


def write_report(
    study: Study, runs: Sequence[Run], timing: Timing | None, failures: Sequence[Failure] = ()
) -> Path:
    """Gathers what the runs left, counts and times the networks, and writes the comparison.

    Args:
        study: the study.
        runs: all its runs, finished or not.
        timing: how the time of an image is measured; None keeps what an earlier comparison measured of the same
            networks.
        failures: runs that failed in this session.

    Returns:
        The page.

    Raises:
        UserError: not one of the networks can be built.
    """
    configs = {row.name: load_config(row.config_file, row.changes) for row in study.rows}
    costs, left_out = count_costs(configs)
    if not costs:
        raise UserError("\n".join(left_out.values()))
    configs = {name: configs[name] for name in costs}
    figures = [each for each in gather(study.rows, runs) if each.row.name in costs]
    folder = study.output_dir
    earlier = _earlier_comparison(folder / VALUES)
    latencies = measure_latencies(configs, timing) if timing else {}
    comparison = compare(study, figures, configs, costs, latencies)
    comparison["left_out"] = left_out
    comparison["failures"] = [
        {"row": each.run.row.name, "seed": each.run.seed, "reason": each.reason} for each in failures
    ]
    if timing:
        comparison |= {"timing": dataclasses.asdict(timing), "machine": _machine()}
    else:
        _keep_latencies(comparison, earlier)
    pictures = _draw(comparison, figures, folder)
    write_json(folder / VALUES, comparison)
    write_text(folder / PAGE, markdown_page(comparison, pictures))
    return folder / PAGE


def _machine() -> str:
    return f"{processor_name()}, {available_cores()} cores"


def _earlier_comparison(path: Path) -> dict[str, Any]:
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return earlier if isinstance(earlier, dict) else {}


def _keep_latencies(comparison: dict[str, Any], earlier: Mapping[str, Any]) -> None:
    """Takes over the times that an earlier comparison measured of the same networks."""
    network = ("name", "model", "arguments", "image_shape")
    known = [row for row in earlier.get("rows", []) if isinstance(row, dict)]
    for row in comparison["rows"]:
        same = [old for old in known if all(old.get(key) == row[key] for key in network)]
        row["latency"] = same[0].get("latency") if same else None
    comparison |= {key: earlier[key] for key in ("timing", "machine") if key in earlier}


def _draw(comparison: Mapping[str, Any], figures: Sequence[RowFigures], folder: Path) -> list[tuple[str, str]]:
    """Draws what there is to draw; returns title and file name of each picture."""
    pictures = []
    title = f"Study {comparison['study']}"
    if any(each.drawn() for each in figures):
        draw_bands(_curves(figures), folder / "curves.png", f"{title}: mean over seeds, band of one standard deviation")
        pictures.append(("top-1, top-5 and loss of all rows by epoch", "curves.png"))
    measured = [row for row in comparison["rows"] if row["top1"]]
    if any(row["base"] is not None for row in measured):
        panels = _bars(comparison["rows"])
        draw_bars(panels, folder / "ablations.png", f"{title}: one change each, against the base")
        pictures.append(("ablations", "ablations.png"))
    if len(measured) > 1:
        draw_tradeoff(_tradeoff(measured), folder / "accuracy_cost.png", title, TOP1)
        pictures.append(("top-1 by FLOPs, parameters and time of an image", "accuracy_cost.png"))
    return pictures


def _curves(figures: Sequence[RowFigures]) -> dict[str, list[Band]]:
    panels = {}
    for heading, part, name, scale in CURVES:
        panels[heading] = [
            Band(_label(each), _scaled(curve(each, part, name), scale), each.row.base is not None)
            for each in figures
            if each.drawn()
        ]
    return panels


def _label(figures: RowFigures) -> str:
    """Returns the name of a row's curve, with the number of runs, or how far the run has come."""
    if figures.finished:
        return f"{figures.row.name} (n={len(figures.finished)})"
    result = figures.drawn()[0]
    return f"{figures.row.name} (epoch {result.epoch} of {result.epochs})"


def _scaled(points: Sequence[tuple[float, float, float]], scale: float) -> list[tuple[float, float, float]]:
    return [(epoch, mean * scale, deviation * scale) for epoch, mean, deviation in points]


def _bars(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Bar]]:
    """Returns the bars of each base and its ablations: differences to the base."""
    top1s, sizes = [], {"parameters": [], "flops": []}
    for base in dict.fromkeys(row["base"] for row in rows if row["base"] is not None):
        for row in rows:
            if base not in (row["name"], row["base"]):
                continue
            is_base, top1 = row["name"] == base, row["top1"]
            against = {"top1": 0.0, **dict.fromkeys(sizes, 0.0)} if is_base else row["against_base"]
            label = f"{row['name']}, n={top1['count'] if top1 else 0}" + (" (base)" if is_base else "")
            points = _percent(against["top1"] if top1 else None)
            text = "" if points is None else f"{percent(top1)} %" if is_base else f"{points:+.2f}"
            top1s.append(Bar(label, points, text, _percent(top1["deviation"]) if top1 else None, is_base))
            for name, bars in sizes.items():
                change = 100 * against[name]
                bars.append(Bar(label, change, "" if is_base else f"{change:+.1f} %", is_base=is_base))
    return {"top-1: difference (points)": top1s, "parameters: change (%)": sizes["parameters"],
            "FLOPs: change (%)": sizes["flops"]}  # fmt: skip


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _tradeoff(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Point]]:
    """Returns the points of each kind of cost that is known of at least one row."""
    prefix, unit = flops_unit(rows)
    panels: dict[str, list[Point]] = {}
    for row in rows:
        costs = {f"FLOPs ({prefix})": row["flops"] / unit, PARAMETERS: row["parameters"] / 1e6}
        if row["latency"] and "median_ms" in row["latency"]:
            costs["ms/image"] = row["latency"]["median_ms"]
        for name, cost in costs.items():
            top1 = row["top1"]
            marker = "s" if row["base"] else "o"
            point = Point(row["name"], cost, 100 * top1["mean"], _percent(top1["deviation"]), marker=marker)
            panels.setdefault(name, []).append(point)
    return panels
