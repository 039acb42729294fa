"""Which operators of an exported network take the time, as the engines themselves tell."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Sequence
from typing import Any

from ppcls_ext.benchmark.matrix.exports import Ready, prepare
from ppcls_ext.benchmark.matrix.measure import THREAD_VARIABLES
from ppcls_ext.benchmark.matrix.plan import Combination, choose_pairs, combine, find_sources, pairs_of
from ppcls_ext.benchmark.matrix.processes import run_once
from ppcls_ext.benchmark.matrix.run import FAILED, MEASURED, Wish
from ppcls_ext.common.errors import UserError

logger = logging.getLogger(__name__)
WORKER = "ppcls_ext.benchmark.matrix.operator_worker"
PROFILE_SECONDS = 600.0
# Makes oneDNN, inside Paddle, log each call with its time. Inside OpenVINO it would make the profile fail.
LOGGED = {"paddle": {"ONEDNN_VERBOSE": "1"}}
REST = "not told by the engine"


def profile_operators(wish: Wish, runs: int = 10) -> dict[str, Any]:
    """Profiles every combination, one after the other; profiling itself makes networks slower.

    Args:
        wish: what to profile; its schedule is not used.
        runs: runs of each, after three to warm up.

    Returns:
        ``runs`` and ``networks``: for each combination its settings and ``status``; if ``measured``, ``milliseconds``
        of the median run, ``groups`` (by operation and implementation: ``calls`` and ``milliseconds`` in that run, most
        expensive first; what the engine does not account for comes last) and ``operators``, each with its time.

    Raises:
        UserError: a name or a number is wrong.
    """
    pairs, _ = choose_pairs(wish.backends, wish.precisions)
    sources, missing = find_sources(wish.models, wish.size)
    for name, reason in missing.items():
        logger.warning("%s: %s", name, reason)
    by_source = {source: pairs_of(source, pairs, wish.precisions is not None) for source in sources}
    combinations = combine(by_source, wish.threads, wish.batches)
    exports = {source: prepare(source, of_source, wish.cache) for source, of_source in by_source.items()}
    networks = []
    for combination in combinations:
        export = exports[combination.source][combination.backend, combination.precision]
        networks.append(_profile(combination, export, runs))
    return {"runs": runs, "networks": networks}


def _profile(combination: Combination, export: Ready | str, runs: int) -> dict[str, Any]:
    network: dict[str, Any] = {
        "model": combination.source.label,
        "backend": combination.backend,
        "precision": combination.precision,
        "threads": combination.threads,
        "batch": combination.batch,
    }
    if not isinstance(export, Ready):
        return network | {"status": FAILED, "reason": export}
    logger.info("profiling %s", combination.title)
    request = {key: network[key] for key in ("backend", "precision", "threads", "batch")}
    request |= {"folder": str(export.folder), "runs": runs}
    variables = dict.fromkeys(THREAD_VARIABLES, str(combination.threads)) | LOGGED.get(combination.backend, {})
    try:
        answer = run_once(WORKER, [json.dumps(request)], PROFILE_SECONDS, variables)
    except UserError as error:
        return network | {"status": FAILED, "reason": str(error)}
    run = _median_run(answer["runs"])
    operators = [
        dict(zip(("name", "operation", "implementation", "milliseconds"), operator, strict=True))
        for operator in run["operators"]
    ]
    return network | {
        "status": MEASURED,
        "milliseconds": run["milliseconds"],
        "groups": _groups(operators, run["milliseconds"]),
        "operators": operators,
    }


def _median_run(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the run that took the median time: its operators belong together."""
    middle = statistics.median_low(run["milliseconds"] for run in runs)
    return next(run for run in runs if run["milliseconds"] == middle)


def _groups(operators: Sequence[dict[str, Any]], milliseconds: float) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for operator in operators:
        key = operator["operation"], operator["implementation"]
        group = groups.setdefault(
            key, {"operation": key[0], "implementation": key[1], "calls": 0, "milliseconds": 0.0}
        )
        group["calls"] += 1
        group["milliseconds"] += operator["milliseconds"]
    rest = milliseconds - sum(group["milliseconds"] for group in groups.values())
    ordered = sorted(groups.values(), key=lambda group: -group["milliseconds"])
    return [*ordered, {"operation": REST, "implementation": "", "calls": None, "milliseconds": rest}]


def markdown_rows(result: dict[str, Any]) -> list[list[str]]:
    """Returns one row for each operation and implementation of each network, the head first."""
    rows = [["network", "backend", "precision", "operation", "implementation", "calls", "ms", "of the run"]]
    for network in result["networks"]:
        names = [network["model"], network["backend"], network["precision"]]
        if network["status"] != MEASURED:
            rows.append([*names, f"{network['status']}: {network['reason']}".replace("|", "/"), "", "", "", ""])
            continue
        total = network["milliseconds"]
        rows.append([*names, "whole run", "", "", f"{total:.2f}", "100 %"])
        for group in network["groups"]:
            calls = "" if group["calls"] is None else str(group["calls"])
            times = [f"{group['milliseconds']:.2f}", f"{100 * group['milliseconds'] / total:.0f} %"]
            rows.append([*names, group["operation"], group["implementation"], calls, *times])
    return rows


def markdown_text(result: dict[str, Any]) -> str:
    """Returns what stands above the table."""
    return (
        f"The median of {result['runs']} runs of each network with the engine's own profiler, which slows it down: "
        "ONNX Runtime's profile, OpenVINO's performance counters, and for Paddle the log of oneDNN; what Paddle "
        f"computes without oneDNN is in '{REST}'. The JSON file holds every operator."
    )
