"""Asks an engine, in a process of its own, what each operator of an exported network takes.

Run by ``ppcls_ext.deploy.benchmark.matrix.operators``; not meant for people. It gives one answer, a line of JSON after
``ANSWER``: ``runs``, each with ``milliseconds`` of the whole run and ``operators``, lists of name, operation,
implementation, milliseconds and floating-point operations (of convolutions and matrix products, else 0).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.runtime import DetectionDescription, read_description
from ppcls_ext.runtime.backends import choose
from ppcls_ext.runtime.description import Artefact
from ppcls_ext.utils.errors import UserError

WARM_UP = 3
# Fields of a line of oneDNN's log, counted from the end or the beginning, and what is read from its problem.
VERBOSE_PREFIX = "onednn_verbose,"
KERNEL_SIZE = re.compile(r"kh(\d+)")
# Of a convolution or an inner product: groups, images, channels of input and output, height, width and kernel.
SIZES = re.compile(r"(mb|ic|oc|oh|ow|kh|kw|g)(\d+)")
PRODUCT = re.compile(r"(\d+(?:x\d+)*):(\d+(?:x\d+)*)")
Operator = tuple[str, str, str, float, int]


def main() -> None:
    """Reads the request from the command line and answers."""
    request = json.loads(sys.argv[1])
    try:
        answer: dict[str, Any] = {"runs": profile(request)}
    except UserError as error:
        answer = {"error": str(error)}
    sys.stdout.write(f"\nANSWER {json.dumps(answer)}\n")


def profile(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Runs the network ``WARM_UP`` and then ``runs`` times on noise.

    Raises:
        UserError: the export is damaged, has no such artefact, or leaves the size of its input open.
    """
    description = read_description(request["folder"])
    artefact, backend = choose(description, request["backend"], request["precision"])
    artefact.check_files(description.folder)
    shape = [request["batch"], *description.input_shape[1:]]
    if min(shape) < 1:
        raise UserError(f"{description.folder}: leaves the size of its input open; export it with a fixed one")
    inputs = {"image": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    if isinstance(description, DetectionDescription) and description.form.scaled:
        inputs["scale_factor"] = np.ones([request["batch"], 2], np.float32)
    return PROFILERS[backend](description, artefact, inputs, request)


def profile_onnxruntime(
    description: Any, artefact: Artefact, inputs: dict[str, np.ndarray], request: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Uses the profiler of ONNX Runtime."""
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="operators-") as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = request["threads"]
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(
            str(description.folder / artefact.model_file), options, providers=["CPUExecutionProvider"]
        )
        taken = {node.name: inputs[node.name] for node in session.get_inputs()}
        for _ in range(WARM_UP + request["runs"]):
            session.run(None, taken)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return runs_of_events(events)[WARM_UP:]


def runs_of_events(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sorts the events of ONNX Runtime's profile, in microseconds, into its runs."""
    runs = []
    kernels = [event for event in events if event["name"].endswith("_kernel_time")]
    for run in (event for event in events if event["name"] == "model_run"):
        end = run["ts"] + run["dur"]
        operators = [_operator_of_event(event) for event in kernels if run["ts"] <= event["ts"] < end]
        runs.append({"milliseconds": run["dur"] / 1000, "operators": operators})
    return runs


def _operator_of_event(event: Mapping[str, Any]) -> Operator:
    name = event["name"].removesuffix("_kernel_time")
    operation = event["args"]["op_name"]
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
    return name, operation, "NCHWc" if name.endswith("_nchwc") else "", event["dur"] / 1000, flops


def profile_openvino(
    description: Any, artefact: Artefact, inputs: dict[str, np.ndarray], request: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Uses the performance counters of OpenVINO."""
    from ppcls_ext.runtime.backends import DEVICE, FLOAT32_HINT, HINTS, import_openvino, read_network

    settings = {
        "PERF_COUNT": True,
        "INFERENCE_PRECISION_HINT": HINTS["bf16"] if artefact.precision == "bf16" else FLOAT32_HINT,
        "INFERENCE_NUM_THREADS": request["threads"],
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = import_openvino().Core()
    compiled = core.compile_model(read_network(description.folder, artefact), DEVICE, settings)
    flops = _flops_of_nodes(compiled.get_runtime_model(), request["batch"])
    inference = compiled.create_infer_request()
    taken = {port.get_any_name(): inputs[port.get_any_name()] for port in compiled.inputs}
    runs = []
    for _ in range(WARM_UP + request["runs"]):
        start = time.perf_counter()
        inference.infer(taken)
        milliseconds = 1000 * (time.perf_counter() - start)
        operators = [
            (
                node.node_name,
                node.node_type,
                node.exec_type,
                1000 * node.real_time.total_seconds(),
                flops.get(node.node_name, 0),
            )
            for node in inference.get_profiling_info()
            if node.real_time.total_seconds() > 0
        ]
        runs.append({"milliseconds": milliseconds, "operators": operators})
    return runs[WARM_UP:]


def _flops_of_nodes(runtime_model: Any, batch: int) -> dict[str, int]:
    """Returns the operations of convolutions and matrix products of OpenVINO's compiled graph, by name."""
    flops = {}
    for node in runtime_model.get_ops():
        kind = node.get_rt_info()["layerType"].astype(str)
        if kind not in ("Convolution", "FullyConnected", "MatMul"):
            continue
        result = [batch if size.is_dynamic else size.get_length() for size in node.get_output_partial_shape(0)]
        if kind == "Convolution":
            # Weights are [O, I, kh, kw], with groups [G, O / G, I / G, kh, kw]: I / G is third from the end.
            weights = list(node.input(1).get_partial_shape().to_shape())
            flops[node.get_friendly_name()] = 2 * math.prod(result) * math.prod(weights[-3:])
        else:
            depth = node.input(0).get_partial_shape()[-1]
            flops[node.get_friendly_name()] = 0 if depth.is_dynamic else 2 * math.prod(result) * depth.get_length()
    return flops


def profile_paddle(
    description: Any, artefact: Artefact, inputs: dict[str, np.ndarray], request: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Reads the log of oneDNN (the parent switches it on): what Paddle computes without it is not in there."""
    from ppcls_ext.runtime.backends import open_backend

    engine = open_backend(description, artefact, "paddle", request["threads"])
    scale_factors = inputs.get("scale_factor", np.ones([request["batch"], 2], np.float32))
    runs = []
    for _ in range(WARM_UP + request["runs"]):
        with _caught_output() as lines:
            start = time.perf_counter()
            if isinstance(description, DetectionDescription):
                engine.detect(inputs["image"], scale_factors)
            else:
                engine.run(inputs["image"])
            milliseconds = 1000 * (time.perf_counter() - start)
        operators = [_operator_of_line(number, line) for number, line in enumerate(_executed(lines))]
        runs.append({"milliseconds": milliseconds, "operators": operators})
    return runs[WARM_UP:]


@contextlib.contextmanager
def _caught_output() -> Iterator[list[str]]:
    """Catches what native code writes to standard output; the list is filled at the end."""
    lines: list[str] = []
    sys.stdout.flush()
    before = os.dup(1)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 1)
        try:
            yield lines
        finally:
            os.dup2(before, 1)
            os.close(before)
        caught.seek(0)
        lines += caught.read().decode(errors="replace").splitlines()


def _executed(lines: Sequence[str]) -> list[list[str]]:
    fields = [line.split(",") for line in lines if line.startswith(VERBOSE_PREFIX)]
    return [each for each in fields if "exec" in each]


def _operator_of_line(number: int, fields: Sequence[str]) -> Operator:
    """Reads one line of oneDNN's log: ..., exec, engine, primitive, implementation, ..., problem, milliseconds."""
    place = fields.index("exec")
    operation, implementation, problem = fields[place + 2], fields[place + 3], fields[-2]
    size = KERNEL_SIZE.search(problem)
    if operation == "convolution" and size:
        depthwise = "depthwise " if problem.startswith("g") else ""
        operation = f"{operation}, {depthwise}{size[1]}x{size[1]}"
    flops = flops_of_problem(fields[place + 2], problem)
    return f"{number}: {problem}", operation, implementation, float(fields[-1]), flops


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


PROFILERS = {"onnxruntime": profile_onnxruntime, "openvino": profile_openvino, "paddle": profile_paddle}

if __name__ == "__main__":
    main()
