"""Which operators of an exported network take the time, as the engines themselves tell."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Sequence
from typing import Any

from ppcls_ext.deploy.benchmark.matrix.exports import Ready, prepare
from ppcls_ext.deploy.benchmark.matrix.measure import THREAD_VARIABLES, Rotation, Schedule, peak_subjects
from ppcls_ext.deploy.benchmark.matrix.plan import Combination, choose_pairs, combine, find_sources, pairs_of
from ppcls_ext.deploy.benchmark.matrix.processes import run_once
from ppcls_ext.deploy.benchmark.matrix.report import peak_table
from ppcls_ext.deploy.benchmark.matrix.run import FAILED, MEASURED, Wish, fastest_product, has_openvino, peak_row
from ppcls_ext.deploy.benchmark.report import markdown_table
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)
WORKER = "ppcls_ext.deploy.benchmark.matrix.operator_worker"
PROFILE_SECONDS = 600.0
# Makes oneDNN, inside Paddle, log each call with its time. Inside OpenVINO it would make the profile fail.
LOGGED = {"paddle": {"ONEDNN_VERBOSE": "1"}}
REST = "not told by the engine"
GIGA = 1e9
# Types of numbers, as the machine's peak is measured for them.
COMPUTED_IN = {"fp32": "float32", "bf16": "bfloat16"}


def profile_operators(wish: Wish, runs: int = 10) -> dict[str, Any]:
    """Profiles every combination, one after the other; profiling itself makes networks slower.

    Args:
        wish: what to profile; of its schedule only the rounds of the machine's peak are used.
        runs: runs of each, after three to warm up.

    Returns:
        ``runs``, ``peaks`` (what a product of large matrices reaches, by library, type and threads: rows as of
        `run_benchmark`) and ``networks``: for each combination its settings and ``status``; if ``measured``,
        ``milliseconds`` of the median run, ``groups`` (by operation and implementation: ``calls``, ``milliseconds`` and
        ``gflops`` in that run, most expensive first; what the engine does not account for comes last) and
        ``operators``, each with its time and its operations.

    Raises:
        UserError: a name or a number is wrong.
    """
    pairs, _ = choose_pairs(wish.backends, wish.precisions)
    sources, missing = find_sources(wish.models, wish.size, wish.defaults)
    for name, reason in missing.items():
        logger.warning("%s: %s", name, reason)
    by_source = {source: pairs_of(source, pairs, wish.precisions is not None) for source in sources}
    combinations = combine(by_source, wish.threads, wish.batches)
    exports = {source: prepare(source, of_source, wish.cache) for source, of_source in by_source.items()}
    networks = []
    for combination in combinations:
        export = exports[combination.source][combination.backend, combination.precision]
        networks.append(_profile(combination, export, runs))
    peaks = peak_subjects(wish.threads, has_openvino(), any(precision == "bf16" for _, precision in pairs))
    Rotation(peaks, Schedule(rounds=wish.schedule.rounds, cold_starts=0)).run()
    return {"runs": runs, "peaks": [peak_row(subject) for subject in peaks], "networks": networks}


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
        dict(zip(("name", "operation", "implementation", "milliseconds", "flops"), operator, strict=True))
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
            key, {"operation": key[0], "implementation": key[1], "calls": 0, "milliseconds": 0.0, "gflops": 0.0}
        )
        group["calls"] += 1
        group["gflops"] += operator["flops"] / GIGA
        group["milliseconds"] += operator["milliseconds"]
    rest = milliseconds - sum(group["milliseconds"] for group in groups.values())
    ordered = sorted(groups.values(), key=lambda group: -group["milliseconds"])
    return [*ordered, {"operation": REST, "implementation": "", "calls": None, "milliseconds": rest, "gflops": 0.0}]


def markdown_rows(result: dict[str, Any]) -> list[list[str]]:
    """Returns one row for each operation and implementation of each network, the head first."""
    head = ["network", "backend", "precision", "operation", "implementation", "calls", "ms", "of the run"]
    rows = [[*head, "GFLOP", "GFLOP/s", "of the peak"]]
    for network in result["networks"]:
        names = [network["model"], network["backend"], network["precision"]]
        if network["status"] != MEASURED:
            reason = f"{network['status']}: {network['reason']}".replace("|", "/")
            rows.append([*names, reason, *[""] * 7])
            continue
        peak = fastest_product(result["peaks"], COMPUTED_IN.get(network["precision"], ""), network["threads"])
        total = network["milliseconds"]
        gflops = sum(group["gflops"] for group in network["groups"])
        rows.append([*names, "whole run", "", "", f"{total:.2f}", "100 %", *_speed(gflops, total, peak)])
        for group in network["groups"]:
            calls = "" if group["calls"] is None else str(group["calls"])
            times = [f"{group['milliseconds']:.2f}", f"{100 * group['milliseconds'] / total:.0f} %"]
            speed = _speed(group["gflops"], group["milliseconds"], peak)
            rows.append([*names, group["operation"], group["implementation"], calls, *times, *speed])
    return rows


def _speed(gflops: float, milliseconds: float, peak: float | None) -> list[str]:
    """Returns the cells for operations, operations a second, and their part of the peak; empty where unknown."""
    if not gflops or not milliseconds:
        return [""] * 3
    speed = 1000 * gflops / milliseconds
    return [f"{gflops:.3f}", f"{speed:.0f}", "" if peak is None else f"{100 * speed / peak:.0f} %"]


def markdown_text(result: dict[str, Any]) -> str:
    """Returns what stands above the table."""
    return (
        f"The median of {result['runs']} runs of each network with the engine's own profiler, which slows it down: "
        "ONNX Runtime's profile, OpenVINO's performance counters, and for Paddle the log of oneDNN; what Paddle "
        f"computes without oneDNN is in '{REST}'. Operations are those of convolutions and matrix products, two for a "
        "multiply-add; 'of the peak' compares them with a product of two large matrices on this machine:\n\n"
        f"{markdown_table(peak_table(result['peaks']))}\n\nThe JSON file holds every operator."
    )
