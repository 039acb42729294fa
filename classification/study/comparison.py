"""The comparison of a study's rows as plain values: what ``comparison.json`` holds and the page is written from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from classification.config import Config
from classification.study.config import Study
from classification.study.figures import Result, RowFigures, Spread

SIZES = ("parameters", "flops")


def compare(
    study: Study,
    figures: Sequence[RowFigures],
    configs: Mapping[str, Config],
    costs: Mapping[str, Mapping[str, int]],
    latencies: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Returns the comparison.

    Args:
        study: the study.
        figures: the results by row.
        configs: the configuration of each row.
        costs: ``parameters`` and ``flops`` of each row.
        latencies: of each row that was timed ``median_ms``, ... or ``reason``.

    Returns:
        ``study``, ``file``, ``rows``: for each its settings, costs, figures as ``{mean, deviation, count}`` over the
        finished seeds, the state of each seed, published figures, and for an ablation the differences to its base.
    """
    rows = [_row(each, configs[each.row.name], costs[each.row.name], latencies) for each in figures]
    by_name = {row["name"]: row for row in rows}
    for row in rows:
        # The network of a base may be one that cannot be built.
        row["base"] = row["base"] if row["base"] in by_name else None
        if row["base"] is not None:
            row["against_base"] = _against_base(row, by_name[row["base"]])
    return {"study": study.name, "file": str(study.path), "output_dir": str(study.output_dir), "rows": rows}


def _row(
    figures: RowFigures, config: Config, cost: Mapping[str, int], latencies: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    row = figures.row
    return {
        "name": row.name,
        "base": row.base,
        "differences": list(row.differences),
        "config": row.config_file,
        "model": config.arch.name,
        "arguments": config.arch.arguments,
        "image_shape": config.run.image_shape,
        "epochs": config.run.epochs,
        "averaged_weights": config.ema is not None,
        **cost,
        "latency": dict(latencies.get(row.name, {})) or None,
        "top1": _plain(figures.spread("top1")),
        "top5": _plain(figures.spread("top5")),
        "loss": _plain(figures.spread("loss")),
        "best_top1": _plain(figures.best_top1()),
        "training_seconds": _plain(figures.seconds()),
        "published": dataclasses.asdict(row.published) if row.published else None,
        "seeds": [_seed(result) for result in figures.results],
    }


def _plain(spread: Spread | None) -> dict[str, Any] | None:
    return dataclasses.asdict(spread) if spread else None


def _seed(result: Result) -> dict[str, Any]:
    state = "finished" if result.finished else "under way" if result.is_begun else "not begun"
    return {
        "seed": result.seed,
        "state": state,
        "epoch": result.epoch,
        "epochs": result.epochs,
        "last": result.last,
        "best_top1": result.best_top1,
        "training_seconds": result.seconds,
    }


def _against_base(row: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns top-1 less that of the base, and each size as a share that is added to the base's."""
    known = row["top1"] and base["top1"]
    return {
        "top1": row["top1"]["mean"] - base["top1"]["mean"] if known else None,
        **{name: row[name] / base[name] - 1 for name in SIZES},
    }
