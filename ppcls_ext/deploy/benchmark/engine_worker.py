"""One engine in a process of its own: prepares, then times as many runs as it is told over standard input.

Engines in one process disturb each other: the idle threads of one keep spinning while the other is measured.
Run by ``ppcls_ext.deploy.benchmark.inference``; not meant for people.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

WARM_UP = 3


def open_paddle(folder: str, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Opens an export folder with Paddle Inference and oneDNN: images ``[N, 3, H, W]`` -> logits."""
    from ppcls_ext.runtime import load

    return load(folder, threads=threads).backend.run


def open_onnxruntime(file: str, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Opens an ONNX file with ONNX Runtime on the CPU: images ``[N, 3, H, W]`` -> logits."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def open_detector(folder: str, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Opens a detector's export: the same image again and again -> rows ``[n, 6]``, prepared in the first run only."""
    from ppcls_ext.runtime import load

    predictor = load(folder, threads=threads)
    prepared = []

    def run(image: np.ndarray) -> np.ndarray:
        if not prepared:
            prepared.append(predictor.prepare(image, "image"))
        return predictor.detect(prepared)[0]

    return run


def open_whole_detector(folder: str, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Opens a detector's export: image ``uint8`` RGB ``[H, W, 3]`` -> rows ``[n, 6]``, prepared in every run."""
    from ppcls_ext.runtime import load

    predictor = load(folder, threads=threads)
    return lambda image: predictor.detect([predictor.prepare(image, "image")])[0]


ENGINES = {
    "paddle": open_paddle,
    "onnxruntime": open_onnxruntime,
    "detector": open_detector,
    "whole_detector": open_whole_detector,
}


def main() -> None:
    """Answers each line ``N`` on standard input with the seconds of N runs as JSON; writes the outputs at the start."""
    engine, model, threads, input_file, output_file = sys.argv[1:]
    run = ENGINES[engine](model, int(threads))
    images = np.load(input_file)
    np.save(output_file, run(images))
    _answer(Path(output_file).name)
    for line in sys.stdin:
        for _ in range(WARM_UP):
            run(images)
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            run(images)
            seconds.append(time.perf_counter() - start)
        _answer(seconds)


def _answer(value: object) -> None:
    # Engines print notes of their own: the marker tells our answers from them.
    sys.stdout.write(f"\nENGINE {json.dumps(value)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
