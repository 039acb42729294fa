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
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ppcls_ext.deploy.benchmark import MATRIX_SIDE, fastest_product, peak_row, peak_subjects, peak_table
from ppcls_ext.deploy.benchmark_exports import FAILED, MEASURED, BenchmarkRequest, Exporter, find_rows
from ppcls_ext.runtime import DetectionDescription, read_description
from ppcls_ext.runtime.backends import choose
from ppcls_ext.runtime.description import Artefact
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.tables import markdown_table
from ppcls_ext.utils.workers import THREAD_VARIABLES, measure_interleaved, run_in_process

logger = logging.getLogger(__name__)
WARM_UP = 3
PROFILE_SECONDS = 600.0
# Makes oneDNN, inside Paddle, log each call with its time. Inside OpenVINO it would make the profile fail.
LOGGED = {"paddle": {"ONEDNN_VERBOSE": "1"}}
REST = "not told by the engine"
# Types of numbers, as the machine's peak is measured for them.
COMPUTED_IN = {"fp32": "float32", "bf16": "bfloat16"}
# Of a convolution or an inner product in oneDNN's log: groups, images, channels, height, width and kernel.
SIZES = re.compile(r"(mb|ic|oc|oh|ow|kh|kw|g)(\d+)")
PRODUCT = re.compile(r"(\d+(?:x\d+)*):(\d+(?:x\d+)*)")
# ``name``, ``operation``, ``implementation``, ``milliseconds`` and ``flops`` (of convolutions and matrix products).
Operator = dict[str, Any]


def profile_operators(request: BenchmarkRequest, detector_exporter: Exporter | None = None) -> dict[str, Any]:
    """Profiles every combination, one after the other.

    Args:
        request: what to profile; its rounds are those of the machine's peak.
        detector_exporter: see `find_rows`.

    Returns:
        ``runs``, ``peaks`` (what products of large matrices reach, see `peak_row`), ``networks``: for each combination
        its settings and ``status``; if ``measured``, ``milliseconds`` of the median run, ``groups`` (by operation and
        implementation: ``calls``, ``milliseconds`` and ``gflops`` in that run, most expensive first; what the engine
        does not account for comes last) and ``operators``, each with its time and its operations.

    Raises:
        UserError: a name or a number is wrong.
    """
    networks = [row for row in find_rows(request, detector_exporter) if "threads" in row]
    for network in networks:
        if "folder" not in network:
            continue
        logger.info("profiling %s, %s %s", network["model"], network["backend"], network["precision"])
        variables = dict.fromkeys(THREAD_VARIABLES, str(network["threads"])) | LOGGED.get(network["backend"], {})
        arguments = [network[key] for key in ("backend", "precision", "threads", "batch")]
        try:
            runs = run_in_process(profile_export, network.pop("folder"), *arguments, request.runs,
                                  seconds=PROFILE_SECONDS, environment=variables)  # fmt: skip
        except UserError as error:
            network |= {"status": FAILED, "reason": str(error)}
            continue
        # The run that took the median time: its operators belong together.
        middle = statistics.median_low(milliseconds for milliseconds, _ in runs)
        operators = next(operators for milliseconds, operators in runs if milliseconds == middle)
        network |= {
            "status": MEASURED, "milliseconds": middle, "groups": _groups(operators, middle), "operators": operators,
        }  # fmt: skip
    peaks = peak_subjects(request.threads, any(network["precision"] == "bf16" for network in networks))
    measure_interleaved(peaks, request.rounds, request.runs)
    return {"runs": request.runs, "peaks": [peak_row(subject) for subject in peaks], "networks": networks}


def _groups(operators: Sequence[Operator], milliseconds: float) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for operator in operators:
        key = operator["operation"], operator["implementation"]
        group = groups.setdefault(
            key, {"operation": key[0], "implementation": key[1], "calls": 0, "milliseconds": 0.0, "gflops": 0.0}
        )
        group["calls"] += 1
        group["gflops"] += operator["flops"] / 1e9
        group["milliseconds"] += operator["milliseconds"]
    rest = milliseconds - sum(group["milliseconds"] for group in groups.values())
    ordered = sorted(groups.values(), key=lambda group: -group["milliseconds"])
    return [*ordered, {"operation": REST, "implementation": "", "calls": None, "milliseconds": rest, "gflops": 0.0}]


def profile_export(
    folder: Path, backend: str, precision: str, threads: int, batch: int, runs: int
) -> list[tuple[float, list[Operator]]]:
    """Runs an exported network on noise in this process.

    Returns:
        Of each of the ``runs`` runs after three to warm up its milliseconds and its operators.

    Raises:
        UserError: the export is damaged, has no such artefact, or leaves the size of its input open.
    """
    description = read_description(folder)
    artefact, backend = choose(description, backend, precision)
    artefact.check_files(description.folder)
    shape = [batch, *description.input_shape[1:]]
    if min(shape) < 1:
        raise UserError(f"{description.folder}: leaves the size of its input open; export it with a fixed one")
    inputs = {"image": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    if isinstance(description, DetectionDescription) and description.form.scaled:
        inputs["scale_factor"] = np.ones([batch, 2], np.float32)
    profiler = {"onnxruntime": _profile_onnxruntime, "openvino": _profile_openvino, "paddle": _profile_paddle}[backend]
    return profiler(description, artefact, inputs, threads, WARM_UP + runs)[WARM_UP:]


def _profile_onnxruntime(
    description: Any, artefact: Artefact, inputs: Mapping[str, np.ndarray], threads: int, runs: int
) -> list[tuple[float, list[Operator]]]:
    import onnxruntime

    with TemporaryDirectory(prefix="operators-") as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(
            str(description.folder / artefact.model_file), options, providers=["CPUExecutionProvider"]
        )
        taken = {node.name: inputs[node.name] for node in session.get_inputs()}
        for _ in range(runs):
            session.run(None, taken)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels = [event for event in events if event["name"].endswith("_kernel_time")]
    found = []
    for run in (event for event in events if event["name"] == "model_run"):
        within = [event for event in kernels if run["ts"] <= event["ts"] < run["ts"] + run["dur"]]
        found.append((run["dur"] / 1000, [_operator_of_event(event) for event in within]))
    return found


def _operator_of_event(event: Mapping[str, Any]) -> Operator:
    """Reads one event of ONNX Runtime's profile, whose times are microseconds."""
    name, operation = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]
    shapes, results = (
        [next(iter(shape.values())) for shape in event["args"].get(key, []) if shape]
        for key in ("input_type_shape", "output_type_shape")
    )
    flops = 0
    if operation in ("Conv", "FusedConv") and len(shapes) > 1 and len(shapes[1]) == 4:
        outputs, inputs, height, _ = shapes[1]
        operation = f"{operation}, {'depthwise ' if inputs == 1 < outputs else ''}{height}x{height}"
        flops = 2 * math.prod(results[0]) * math.prod(shapes[1][1:]) if results else 0
    elif operation in ("Gemm", "MatMul", "FusedMatMul") and shapes and results:
        flops = 2 * math.prod(results[0]) * shapes[0][-1]
    layout = "NCHWc" if name.endswith("_nchwc") else ""
    return _operator(name, operation, layout, event["dur"] / 1000, flops)


def _operator(name: str, operation: str, implementation: str, milliseconds: float, flops: int) -> Operator:
    return {"name": name, "operation": operation, "implementation": implementation, "milliseconds": milliseconds,
            "flops": flops}  # fmt: skip


def _profile_openvino(
    description: Any, artefact: Artefact, inputs: Mapping[str, np.ndarray], threads: int, runs: int
) -> list[tuple[float, list[Operator]]]:
    from ppcls_ext.runtime.backends import DEVICE, FLOAT32_HINT, HINTS, import_openvino, read_network

    settings = {
        "PERF_COUNT": True,
        "INFERENCE_PRECISION_HINT": HINTS["bf16"] if artefact.precision == "bf16" else FLOAT32_HINT,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = import_openvino().Core().compile_model(read_network(description.folder, artefact), DEVICE, settings)
    flops = {}
    for node in compiled.get_runtime_model().get_ops():
        kind = node.get_rt_info()["layerType"].astype(str)
        if kind not in ("Convolution", "FullyConnected", "MatMul"):
            continue
        batch = len(inputs["image"])
        result = [batch if size.is_dynamic else size.get_length() for size in node.get_output_partial_shape(0)]
        if kind == "Convolution":
            # Weights are [O, I, kh, kw], with groups [G, O / G, I / G, kh, kw]: I / G is third from the end.
            weights = list(node.input(1).get_partial_shape().to_shape())
            flops[node.get_friendly_name()] = 2 * math.prod(result) * math.prod(weights[-3:])
        else:
            depth = node.input(0).get_partial_shape()[-1]
            flops[node.get_friendly_name()] = 0 if depth.is_dynamic else 2 * math.prod(result) * depth.get_length()
    inference = compiled.create_infer_request()
    taken = {port.get_any_name(): inputs[port.get_any_name()] for port in compiled.inputs}
    found = []
    for _ in range(runs):
        milliseconds = _milliseconds_of(lambda: inference.infer(taken))
        operators = [
            _operator(node.node_name, node.node_type, node.exec_type, 1000 * node.real_time.total_seconds(),
                      flops.get(node.node_name, 0))
            for node in inference.get_profiling_info()
            if node.real_time.total_seconds() > 0
        ]  # fmt: skip
        found.append((milliseconds, operators))
    return found


def _profile_paddle(
    description: Any, artefact: Artefact, inputs: Mapping[str, np.ndarray], threads: int, runs: int
) -> list[tuple[float, list[Operator]]]:
    """Reads the log that oneDNN writes to standard output, which is a file in a worker process."""
    from ppcls_ext.runtime.backends import open_backend

    engine = open_backend(description, artefact, "paddle", threads)
    images = inputs["image"]
    if isinstance(description, DetectionDescription):
        scale_factors = inputs.get("scale_factor", np.ones([len(images), 2], np.float32))
        run: Callable[[], object] = lambda: engine.detect(images, scale_factors)  # noqa: E731
    else:
        run = lambda: engine.run(images)  # noqa: E731
    found = []
    for _ in range(runs):
        begin = os.lseek(1, 0, os.SEEK_CUR)
        milliseconds = _milliseconds_of(run)
        log = os.pread(1, os.lseek(1, 0, os.SEEK_CUR) - begin, begin).decode(errors="replace")
        fields = [line.split(",") for line in log.splitlines() if line.startswith("onednn_verbose,")]
        executed = [each for each in fields if "exec" in each]
        found.append((milliseconds, [_operator_of_line(number, each) for number, each in enumerate(executed)]))
    return found


def _operator_of_line(number: int, fields: Sequence[str]) -> Operator:
    """Reads one line of oneDNN's log: ..., exec, engine, primitive, implementation, ..., problem, milliseconds."""
    place = fields.index("exec")
    primitive, implementation, problem = fields[place + 2], fields[place + 3], fields[-2]
    operation, height = primitive, re.search(r"kh(\d+)", problem)
    if primitive == "convolution" and height:
        operation = f"{primitive}, {'depthwise ' if problem.startswith('g') else ''}{height[1]}x{height[1]}"
    flops = flops_of_problem(primitive, problem)
    return _operator(f"{number}: {problem}", operation, implementation, float(fields[-1]), flops)


def flops_of_problem(primitive: str, problem: str) -> int:
    """Returns the floating-point operations of a oneDNN problem that is a convolution or a matrix product, else 0.

    Args:
        primitive: ``convolution``, ``inner_product``, ``matmul`` or another.
        problem: as in oneDNN's log: ``g96mb1_ic96oc96_ih56oh56kh7..._iw56ow56kw7...``, ``mb1ic768oc1000`` or
            ``1x768:768x1000``.
    """
    sizes = {name: int(number) for name, number in SIZES.findall(problem)}
    if {"mb", "ic", "oc"} <= sizes.keys():
        places = math.prod(sizes.get(name, 1) for name in ("mb", "oc", "oh", "ow", "kh", "kw"))
        return 2 * places * sizes["ic"] // sizes.get("g", 1)
    product = PRODUCT.match(problem) if primitive == "matmul" else None
    if product:
        left, right = ([int(size) for size in side.split("x")] for side in product.groups())
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
            table.append([*names, f"{network['status']}: {network['reason']}".replace("|", "/"), *[""] * 7])
            continue
        peak = fastest_product(result["peaks"], COMPUTED_IN.get(network["precision"], ""), network["threads"])
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
        f"this machine:\n\n{peak_table(result['peaks'])}\n\nThe JSON file holds every operator."
    )
    return f"{text}\n\n{markdown_table(columns, table)}"
