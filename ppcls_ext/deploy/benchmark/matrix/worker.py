"""One combination in a process of its own: loads the runtime, predicts once, then times runs when it is told to.

Run by ``ppcls_ext.deploy.benchmark.matrix.measure``.
Every answer is a line of JSON after ``ANSWER``:
first one that says it has predicted, then one for each line ``RUNS SECONDS`` on standard input.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.utils.errors import UserError

WARM_UP = 2
LEAST_RUNS = 2
# The matrices of the measured peak: large enough that their product takes many times what starting the threads takes.
MATRIX_SIDE = 1536
MATRIX_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def open_export(request: dict[str, Any]) -> tuple[Callable[[], object], str]:
    """Opens an export and predicts one image, as a program would that needs one answer.

    Returns:
        What runs the network on a prepared batch (of a detector with the choice of boxes), and the type of the numbers
        that the engine computes with.
    """
    from ppcls_ext.runtime import DetectionPredictor, load

    predictor = load(request["folder"], request["backend"], request["threads"], precision=request["precision"])
    image = np.load(request["image"])
    predictor(image)
    prepared = predictor.prepare(image, "image")
    if isinstance(predictor, DetectionPredictor):
        inputs = [prepared] * request["batch"]
        return lambda: predictor.detect(inputs), predictor.backend.computed_in
    batch = np.stack([prepared] * request["batch"])
    return lambda: predictor.backend.run(batch), predictor.backend.computed_in


def open_numpy_product(request: dict[str, Any]) -> tuple[Callable[[], object], str]:
    """Returns NumPy's product of two square matrices of float32."""
    left, right = _matrices()
    result = np.empty_like(left)
    return lambda: np.matmul(left, right, out=result), "float32"


def open_openvino_product(request: dict[str, Any]) -> tuple[Callable[[], object], str]:
    """Returns the product of two square matrices by oneDNN's kernels inside OpenVINO."""
    from ppcls_ext.runtime.backends import DEVICE, import_openvino

    openvino = import_openvino()
    from openvino import opset13

    left, right = _matrices()
    parameter = opset13.parameter(list(left.shape), np.float32)
    network = openvino.Model([opset13.matmul(parameter, opset13.constant(right), False, False)], [parameter])
    settings = {
        "INFERENCE_PRECISION_HINT": MATRIX_HINTS[request["precision"]],
        "INFERENCE_NUM_THREADS": request["threads"],
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(network, DEVICE, settings)
    chosen = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if chosen != settings["INFERENCE_PRECISION_HINT"]:
        raise UserError(f"this processor computes in {chosen} instead")
    inference = compiled.create_infer_request()
    tensor = openvino.Tensor(left)
    return lambda: inference.infer({0: tensor}), request["precision"]


def _matrices() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, MATRIX_SIDE, MATRIX_SIDE)).astype(np.float32)


KINDS: dict[str, Callable[[dict[str, Any]], tuple[Callable[[], object], str]]] = {
    "export": open_export,
    "numpy": open_numpy_product,
    "openvino": open_openvino_product,
}


def main() -> None:
    """Answers until standard input ends."""
    request = json.loads(sys.argv[1])
    try:
        run, computed_in = KINDS[request["kind"]](request)
        run()
    except UserError as error:
        _answer({"error": str(error)})
        return
    _answer({"computed_in": computed_in})
    waiting_since, busy_until = time.perf_counter(), time.process_time()
    for line in sys.stdin:
        waited = time.perf_counter() - waiting_since
        idle = (time.process_time() - busy_until) / waited
        runs, seconds = line.split()
        times = _time(run, int(runs), float(seconds))
        _answer({"seconds": times, "peak_bytes": peak_bytes(), "cores_while_waiting": idle})
        waiting_since, busy_until = time.perf_counter(), time.process_time()


def _time(run: Callable[[], object], runs: int, seconds: float) -> list[float]:
    """Times ``runs`` runs, fewer when they take more than ``seconds`` together."""
    for _ in range(WARM_UP):
        run()
    times: list[float] = []
    while len(times) < runs and (len(times) < LEAST_RUNS or sum(times) < seconds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def peak_bytes() -> int | None:
    """Returns the largest resident memory of this process so far, None where the system does not tell.

    ``getrusage`` would also count what the parent had at the moment when it started this process.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _answer(value: object) -> None:
    sys.stdout.write(f"\nANSWER {json.dumps(value)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
