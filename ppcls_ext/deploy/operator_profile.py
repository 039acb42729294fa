"""Which operators of an exported network take the time, as the engines themselves tell.

ONNX Runtime's profile, OpenVINO's performance counters, and for Paddle the log of oneDNN. Each engine runs in a process
of its own; profiling makes networks slower.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from ppcls_ext.deploy import benchmark
from ppcls_ext.deploy.benchmark import FAILED, MATRIX_SIDE, MEASURED, BenchmarkRequest, Exporter
from ppcls_ext.runtime import DetectionDescription, read_description
from ppcls_ext.runtime.backends import choose, compile_openvino, onnxruntime_session, open_backend
from ppcls_ext.runtime.description import Artefact
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.tables import markdown_table
from ppcls_ext.utils.workers import THREAD_VARIABLES, measure_interleaved, run_in_process

logger = logging.getLogger(__name__)
WARM_UP = 3
PROFILE_SECONDS = 600.0
REST = "not told by the engine"
# Types of numbers, as the machine's peak is measured for them.
COMPUTED_IN = {"fp32": "float32", "bf16": "bfloat16"}


class Operator(NamedTuple):
    """One call of an operator; ``flops`` of convolutions and matrix products, two for a multiply-add, of others 0."""

    name: str
    operation: str
    implementation: str
    milliseconds: float
    flops: int


# Milliseconds of a run, and its operators.
Profile = tuple[float, list[Operator]]


def profile_operators(request: BenchmarkRequest, detector_exporter: Exporter | None = None) -> dict[str, Any]:
    """Profiles every combination, one after the other.

    ``request`` says what to profile; its rounds are those of the machine's peak. For ``detector_exporter`` see
    `find_rows`.

    Returns:
        ``runs``, ``peaks`` (what products of large matrices reach, see `peak_row`), ``networks``: for each combination
        its settings and ``status``; if ``measured``, ``milliseconds`` of the median run, ``groups`` (by operation and
        implementation: ``calls``, ``milliseconds`` and ``gflops`` in that run, most expensive first; what the engine
        does not account for comes last) and ``operators``, each with its time and its operations.

    Raises:
        UserError: a name or a number is wrong.
    """
    import pandas

    networks = benchmark.find_rows(request, detector_exporter)
    for network in networks:
        if "folder" not in network:
            continue
        logger.info("profiling %s, %s %s", network["model"], network["backend"], network["precision"])
        variables = dict.fromkeys(THREAD_VARIABLES, str(network["threads"]))
        if network["backend"] == "paddle":
            # Makes oneDNN log each call with its time. Inside OpenVINO it would make the profile fail.
            variables["ONEDNN_VERBOSE"] = "1"
        arguments = [network[key] for key in ("backend", "precision", "threads", "batch")]
        try:
            profiles = run_in_process(profile_export, network.pop("folder"), *arguments, request.runs,
                                      seconds=PROFILE_SECONDS, environment=variables)  # fmt: skip
        except UserError as error:
            network |= {"status": FAILED, "reason": str(error)}
            continue
        # The run that took the median time: its operators belong together.
        milliseconds, operators = sorted(profiles, key=lambda profile: profile[0])[(len(profiles) - 1) // 2]
        table = pandas.DataFrame(operators, columns=Operator._fields)
        table["gflops"], table["calls"] = table["flops"] / 1e9, 1
        groups = table.groupby(["operation", "implementation"])[["calls", "milliseconds", "gflops"]].sum().reset_index()
        rest = {"operation": REST, "implementation": "", "calls": None, "gflops": 0.0,
                "milliseconds": milliseconds - float(table["milliseconds"].sum())}  # fmt: skip
        groups = groups.sort_values("milliseconds", ascending=False).to_dict("records")
        network |= {"status": MEASURED, "milliseconds": milliseconds, "groups": [*groups, rest],
                    "operators": [operator._asdict() for operator in operators]}  # fmt: skip
    peaks = benchmark.peak_subjects(request.threads, any(network["precision"] == "bf16" for network in networks))
    measure_interleaved(peaks, request.rounds, request.runs)
    return {"runs": request.runs, "peaks": [benchmark.peak_row(subject) for subject in peaks], "networks": networks}


def profile_export(folder: Path, backend: str, precision: str, threads: int, batch: int, runs: int) -> list[Profile]:
    """Runs an exported network on noise in this process, ``runs`` times after three to warm up.

    Raises:
        UserError: the export is damaged, has no such artefact, or leaves the size of its input open.
    """
    description = read_description(folder)
    artefact, backend = choose(description, backend, precision)
    artefact.check_files(description.folder)
    shape = [batch, *description.input_shape[1:]]
    if min(shape) < 1:
        raise UserError(f"{description.folder}: leaves the size of its input open; export it with a fixed one")
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    inputs = {"image": images, "scale_factor": np.ones([batch, 2], np.float32)}
    profiler = {"onnxruntime": _profile_onnxruntime, "openvino": _profile_openvino, "paddle": _profile_paddle}[backend]
    return profiler(description, artefact, inputs, threads, WARM_UP + runs)[WARM_UP:]


def _profile_onnxruntime(
    description: Any, artefact: Artefact, inputs: Mapping[str, np.ndarray], threads: int, runs: int
) -> list[Profile]:
    with TemporaryDirectory(prefix="operators-") as folder:
        session = onnxruntime_session(description.folder / artefact.model_file, threads, Path(folder) / "profile")
        taken = {node.name: inputs[node.name] for node in session.get_inputs()}
        for _ in range(runs):
            session.run(None, taken)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels = [event for event in events if event["name"].endswith("_kernel_time")]
    profiles = []
    for run in (event for event in events if event["name"] == "model_run"):
        within = [event for event in kernels if run["ts"] <= event["ts"] < run["ts"] + run["dur"]]
        profiles.append((run["dur"] / 1000, [_operator_of_event(event) for event in within]))
    return profiles


def _operator_of_event(event: Mapping[str, Any]) -> Operator:
    """Reads one event of ONNX Runtime's profile, whose times are microseconds."""
    name, operation, flops = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"], 0
    shapes, results = (
        [next(iter(shape.values())) for shape in event["args"].get(key, []) if shape]
        for key in ("input_type_shape", "output_type_shape")
    )
    if operation in ("Conv", "FusedConv") and results and len(shapes[1]) == 4:
        flops = 2 * math.prod(results[0]) * math.prod(shapes[1][1:])
        operation = _convolution(operation, shapes[1][1] == 1 < shapes[1][0], shapes[1][2])
    elif operation in ("Gemm", "MatMul", "FusedMatMul") and results:
        flops = 2 * math.prod(results[0]) * shapes[0][-1]
    return Operator(name, operation, "NCHWc" if name.endswith("_nchwc") else "", event["dur"] / 1000, flops)


def _convolution(operation: str, is_depthwise: bool, height: Any) -> str:
    return f"{operation}, {'depthwise ' if is_depthwise else ''}{height}x{height}"


def _profile_openvino(
    description: Any, artefact: Artefact, inputs: Mapping[str, np.ndarray], threads: int, runs: int
) -> list[Profile]:
    compiled = compile_openvino(description.folder, artefact, threads, PERF_COUNT=True)
    flops = {}
    for node in compiled.get_runtime_model().get_ops():
        kind = node.get_rt_info()["layerType"].astype(str)
        if kind in ("Convolution", "FullyConnected", "MatMul"):
            batch, depth = len(inputs["image"]), node.input(0).get_partial_shape()[-1]
            result = [batch if size.is_dynamic else size.get_length() for size in node.get_output_partial_shape(0)]
            # Weights are [O, I, kh, kw], with groups [G, O / G, I / G, kh, kw]: I / G is third from the end.
            inner = (math.prod(list(node.input(1).get_partial_shape().to_shape())[-3:]) if kind == "Convolution"
                     else 0 if depth.is_dynamic else depth.get_length())  # fmt: skip
            flops[node.get_friendly_name()] = 2 * math.prod(result) * inner
    inference = compiled.create_infer_request()
    taken = {port.get_any_name(): inputs[port.get_any_name()] for port in compiled.inputs}
    profiles = []
    for _ in range(runs):
        milliseconds = _milliseconds_of(lambda: inference.infer(taken))
        nodes = [(node, 1000 * node.real_time.total_seconds()) for node in inference.get_profiling_info()]
        operators = [Operator(node.node_name, node.node_type, node.exec_type, took, flops.get(node.node_name, 0))
                     for node, took in nodes if took > 0]  # fmt: skip
        profiles.append((milliseconds, operators))
    return profiles


def _profile_paddle(
    description: Any, artefact: Artefact, inputs: Mapping[str, np.ndarray], threads: int, runs: int
) -> list[Profile]:
    """Reads the log that oneDNN writes to standard output, which is a file in a worker process."""
    engine = open_backend(description, artefact, "paddle", threads)
    if isinstance(description, DetectionDescription):
        run = partial(engine.detect, inputs["image"], inputs["scale_factor"])
    else:
        run = partial(engine.run, inputs["image"])
    profiles = []
    for _ in range(runs):
        begin = os.lseek(1, 0, os.SEEK_CUR)
        milliseconds = _milliseconds_of(run)
        log = os.pread(1, os.lseek(1, 0, os.SEEK_CUR) - begin, begin).decode(errors="replace")
        operators = []
        for line in log.splitlines():
            # ..., exec, engine, primitive, implementation, ..., problem, milliseconds
            fields = line.split(",")
            if fields[0] == "onednn_verbose" and "exec" in fields:
                operation, implementation = fields[fields.index("exec") + 2 :][:2]
                problem, height = fields[-2], re.search(r"kh(\d+)", fields[-2])
                flops = flops_of_problem(operation, problem)
                if operation == "convolution" and height:
                    operation = _convolution(operation, problem.startswith("g"), height[1])
                name = f"{len(operators)}: {problem}"
                operators.append(Operator(name, operation, implementation, float(fields[-1]), flops))
        profiles.append((milliseconds, operators))
    return profiles


def flops_of_problem(primitive: str, problem: str) -> int:
    """Returns the floating-point operations of a convolution or a matrix product in oneDNN's log, else 0: of problems
    such as ``g96mb1_ic96oc96_ih56oh56kh7..._iw56ow56kw7...``, ``mb1ic768oc1000`` or ``1x768:768x1000``.
    """
    # Groups, images, channels, height, width and kernel.
    sizes = {name: int(number) for name, number in re.findall(r"(mb|ic|oc|oh|ow|kh|kw|g)(\d+)", problem)}
    if {"mb", "ic", "oc"} <= sizes.keys():
        places = math.prod(sizes.get(name, 1) for name in ("mb", "oc", "oh", "ow", "kh", "kw"))
        return 2 * places * sizes["ic"] // sizes.get("g", 1)
    if primitive == "matmul":
        left, right = ([int(size) for size in side.split("x")] for side in problem.split(":")[:2])
        return 2 * math.prod(left) * right[-1]
    return 0


def _milliseconds_of(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def operators_page(result: Mapping[str, Any]) -> str:
    """Returns the result of `profile_operators` as Markdown: how it was measured, the machine's peak, the table."""
    columns = ["network", "backend", "precision", "operation", "implementation", "calls", "ms", "of the run", "GFLOP",
               "GFLOP/s", "of the peak"]  # fmt: skip
    table: list[list[Any]] = []
    for network in result["networks"]:
        names = [network["model"], network["backend"], network["precision"]]
        if network["status"] != MEASURED:
            table.append([*names, benchmark.reason_cell(network), *[""] * 7])
            continue
        peak = benchmark.fastest_product(result["peaks"], COMPUTED_IN.get(network["precision"], ""), network["threads"])
        total = network["milliseconds"]
        gflops = sum(group["gflops"] for group in network["groups"])
        whole = {"operation": "whole run", "implementation": "", "calls": "", "milliseconds": total, "gflops": gflops}
        for group in [whole, *network["groups"]]:
            speed = ["", "", ""]
            if group["gflops"] and group["milliseconds"]:
                rate = 1000 * group["gflops"] / group["milliseconds"]
                share = "" if peak is None else f"{100 * rate / peak:.0f} %"
                speed = [f"{group['gflops']:.3f}", f"{rate:.0f}", share]
            times = [f"{group['milliseconds']:.2f}", f"{100 * group['milliseconds'] / total:.0f} %"]
            table.append([*names, group["operation"], group["implementation"], group["calls"], *times, *speed])
    text = (
        f"The median of {result['runs']} runs of each network with the engine's own profiler, which slows it down: "
        "ONNX Runtime's profile, OpenVINO's performance counters, and for Paddle the log of oneDNN; what Paddle "
        f"computes without oneDNN is in '{REST}'. Operations are those of convolutions and matrix products, two for a "
        f"multiply-add; 'of the peak' compares them with a product of two matrices of {MATRIX_SIDE} x {MATRIX_SIDE} on "
        f"this machine:\n\n{benchmark.peak_table(result['peaks'])}\n\nThe JSON file holds every operator."
    )
    return f"{text}\n\n{markdown_table(columns, table)}"
