"""How long the COCO evaluation takes with pycocotools, with faster-coco-eval, and here with everything around it."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from detection.evaluation.metrics import SUMMARY, evaluate_detections
from ppcls_ext.utils.errors import UserError

PYCOCOTOOLS, FASTER, OURS = "pycocotools", "faster-coco-eval", "evaluate_detections"
DETECTIONS = 20_000
CLASSES = 8
# A detector keeps many weak detections of each image; few of them belong to a box.
PER_IMAGE, BOXES_PER_IMAGE = 40, 5
WIDTH, HEIGHT = 640, 480
TOLERANCE = 5e-5


def synthetic_coco(detections: int, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns random annotations and detections, the same ones for the same seed.

    Args:
        detections: how many detections; 40 an image, of which about five lie near annotated boxes.
        seed: chooses the random numbers.

    Returns:
        A COCO object with boxes of eight classes in 640 x 480 pixels, and COCO results.
    """
    generator = np.random.default_rng(seed)
    images = -(-detections // PER_IMAGE)
    annotations: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        boxes, ids = _random_boxes(generator, BOXES_PER_IMAGE), generator.integers(1, CLASSES + 1, BOXES_PER_IMAGE)
        for box, category_id in zip(boxes.tolist(), ids.tolist(), strict=True):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "category_id": category_id, "bbox": box,
                 "area": box[2] * box[3], "iscrowd": 0, "segmentation": []}
            )  # fmt: skip
        near = boxes * generator.normal(1, 0.08, boxes.shape).clip(0.5)
        others = _random_boxes(generator, PER_IMAGE - BOXES_PER_IMAGE)
        labels = np.concatenate([ids, generator.integers(1, CLASSES + 1, len(others))])
        scores = np.concatenate([generator.beta(5, 2, len(near)), generator.beta(1, 6, len(others))])
        for box, category_id, score in zip([*near.tolist(), *others.tolist()], labels.tolist(), scores.tolist(),
                                           strict=True):  # fmt: skip
            found.append({"image_id": image_id, "category_id": category_id, "bbox": box, "score": score})
    data = {
        "images": [{"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT}
                   for number in range(1, images + 1)],
        "categories": [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)],
        "annotations": annotations,
    }  # fmt: skip
    return data, found[:detections]


def _random_boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    """Returns ``[count, 4]`` of x, y, width, height, small to large."""
    sizes = np.exp(generator.uniform(np.log(10), np.log(220), (count, 2)))
    return np.hstack([generator.uniform(0, 1, (count, 2)) * ([WIDTH, HEIGHT] - sizes), sizes])


def run_coco_benchmark(detections: int = DETECTIONS, rounds: int = 5, seed: int = 0) -> dict[str, Any]:
    """Times the three ways by turns, on the same annotations and detections.

    Each turn reads the annotation file, takes the detections and computes the twelve figures. The third way,
    ``evaluate_detections``, also checks the detections and computes figures of each class, the best thresholds and the
    confusion matrix.

    Returns:
        ``detections``, ``images``, ``rounds``, ``seconds`` by way (``median``, ``fastest``), ``speedup`` over
        pycocotools by way, and ``largest_difference`` of any figure from that of pycocotools.

    Raises:
        UserError: figures differ from those of pycocotools in the fourth decimal.
    """
    data, found = synthetic_coco(detections, seed)
    seconds: dict[str, list[float]] = {}
    figures: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        file = Path(folder) / "annotations.json"
        file.write_text(json.dumps(data), encoding="utf-8")
        ways: dict[str, Callable[[list[dict[str, Any]]], np.ndarray]] = {
            PYCOCOTOOLS: lambda records: _by_pycocotools(file, records),
            FASTER: lambda records: _by_faster_coco_eval(file, records),
            OURS: lambda records: np.array(
                [value if value is not None else -1 for value in evaluate_detections(file, records).summary.values()]
            ),
        }
        # A first turn that does not count: it imports the packages.
        for turn in range(rounds + 1):
            for name, way in ways.items():
                records = copy.deepcopy(found)
                start = time.perf_counter()
                figures[name] = way(records)
                if turn:
                    seconds.setdefault(name, []).append(time.perf_counter() - start)
    difference = max(float(np.abs(figures[name] - figures[PYCOCOTOOLS]).max()) for name in (FASTER, OURS))
    if difference > TOLERANCE:
        raise UserError(f"benchmark: figures differ from those of pycocotools by {difference:.2g}")
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    return {
        "detections": detections,
        "images": len(data["images"]),
        "rounds": rounds,
        "seconds": {name: {"median": medians[name], "fastest": min(values)} for name, values in seconds.items()},
        "speedup": {name: medians[PYCOCOTOOLS] / median for name, median in medians.items()},
        "largest_difference": difference,
    }


def _by_pycocotools(file: Path, records: list[dict[str, Any]]) -> np.ndarray:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        judge = COCOeval(truth, truth.loadRes(records), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return np.asarray(judge.stats)


def _by_faster_coco_eval(file: Path, records: list[dict[str, Any]]) -> np.ndarray:
    from faster_coco_eval import COCO, COCOeval_faster

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        judge = COCOeval_faster(truth, truth.loadRes(records), "bbox")
        judge.run()
    return np.asarray(judge.stats)[: len(SUMMARY)]


def markdown_rows(result: dict[str, Any]) -> list[list[str]]:
    """Returns the results as rows of a table, its head first."""
    rows = [["COCO evaluation", "median, s", "fastest, s", "times as fast"]]
    for name, row in result["seconds"].items():
        rows.append([name, f"{row['median']:.3f}", f"{row['fastest']:.3f}", f"{result['speedup'][name]:.1f}"])
    return rows
