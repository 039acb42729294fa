"""Benchmarks that need detection: loading of training data, COCO evaluation, and exports with random weights."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detection.evaluation.metrics import SUMMARY, evaluate_detections
from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    from detection.configuration import DetectionConfig

PYCOCOTOOLS, FASTER, OURS = "pycocotools", "faster-coco-eval", "evaluate_detections"
# Synthetic detections: a detector keeps many weak ones of each image; few of them belong to a box.
CLASSES, PER_IMAGE, BOXES_PER_IMAGE = 8, 40, 5
WIDTH, HEIGHT = 640, 480
TOLERANCE = 5e-5


def export_detector(config_file: str, size: int, format_name: str, precision: str, folder: Path) -> dict[str, int]:
    """Exports the detector of a configuration with random weights, PP-YOLOE with its suppression inside.

    An `Exporter` of ``ppcls_ext.deploy.benchmark``.

    Args:
        config_file: its configuration.
        size: side of the input in pixels.
        format_name, precision: keys of ``FORMATS`` and ``PRECISIONS``.
        folder: is replaced by the export.

    Returns:
        ``parameters`` (trainable) and ``multiply_adds`` of one image, up to the raw outputs.
    """
    import paddle

    from detection.configuration import load_config
    from detection.counting import count_multiply_adds
    from detection.toolkit import build_model
    from detection.trained import TrainedDetector
    from ppcls_ext.arch.flops import count_parameters

    paddle.seed(0)
    config = load_config(config_file, [f"image_size={size}"])
    detector = TrainedDetector(config, build_model(config, pretrained=False), None)
    detector.model.eval()
    detector.export(folder, formats=[format_name], precisions=[precision])
    return {
        "parameters": count_parameters(detector.model),
        "multiply_adds": count_multiply_adds(detector.model, size),
    }


def measure_loading(
    config: DetectionConfig, rounds: int = 5, images: int = 256, workers: Sequence[int] = (0, 1, 2)
) -> dict[str, Any]:
    """Measures passes over the first training images of an epoch, in interleaved rounds with each number of workers.

    The batches are those of training: read, decoded, augmented, collated, copied into tensors. Each pass sees the same
    samples; the clock starts when the first batch of a pass has come, so that workers are awake.

    Args:
        config: names the data (``TrainDataset``, ``TrainReader``).
        rounds, images: passes with each number of workers, and images of a pass, rounded up to whole batches.
        workers: numbers of worker processes; 0 loads in a thread.

    Returns:
        ``config``, ``data`` (annotation file), ``batch_size``, ``images`` of a pass that were timed, ``rounds``, and
        ``images_per_second`` by number of workers: ``median`` and ``best``.

    Raises:
        UserError: the data are missing, or too few for two batches.
    """
    from detection.configuration import open_part
    from detection.loaders import training_loader
    from detection.task import open_environment
    from detection.toolkit import workspace

    annotations = open_part(config, "Train").path
    environment, chosen = open_environment(config), config.run_keys.worker_num
    rates: dict[int, list[float]] = {number: [] for number in workers}
    loaders = {}
    with workspace(config):
        try:
            for number in workers:
                config.data["worker_num"] = number
                loaders[number] = training_loader(config, environment)
            sampler = loaders[workers[0]].sampler
            batches = min(len(sampler), -(-images // sampler.batch_size) + 1)
            if batches < 2:
                raise UserError(f"{annotations}: too few images for two batches of {sampler.batch_size}")
            for turn in range(rounds):
                for number, loader in loaders.items():
                    loader.sampler.set_position(turn)
                    loaded, start = 0, 0.0
                    for count, batch in enumerate(loader, start=1):
                        if count == 1:
                            start = time.perf_counter()
                        else:
                            loaded += len(batch["image"])
                        if count == batches:
                            break
                    rates[number].append(loaded / (time.perf_counter() - start))
        finally:
            config.data["worker_num"] = chosen
            for loader in loaders.values():
                loader.close()
    return {
        "config": str(config.path),
        "data": str(annotations),
        "batch_size": sampler.batch_size,
        "images": min(batches * sampler.batch_size, sampler.used) - sampler.batch_size,
        "rounds": rounds,
        "images_per_second": {
            number: {"median": float(np.median(values)), "best": max(values)} for number, values in rates.items()
        },
    }


def synthetic_coco(detections: int, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns a random COCO object, boxes of eight classes in 640 x 480 pixels, and that many COCO results.

    There are 40 an image, of which about five lie near annotated boxes.
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


def measure_coco(detections: int = 20_000, rounds: int = 5, seed: int = 0) -> dict[str, Any]:
    """Measures three ways of COCO evaluation in interleaved rounds, on the same annotations and detections.

    Each run reads the annotation file, takes the detections and computes the twelve figures. The third way,
    ``evaluate_detections``, also checks the detections and computes figures of each class and the best thresholds.

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
        # A first round that does not count: it imports the packages.
        for number in range(rounds + 1):
            for name, way in WAYS.items():
                records = copy.deepcopy(found)
                start = time.perf_counter()
                figures[name] = way(file, records)
                if number:
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


def _official_metrics(coco: str, module: str, evaluator: str, file: Path, records: list[dict[str, Any]]) -> np.ndarray:
    """Returns the twelve figures of pycocotools or of faster-coco-eval: modules of ``COCO`` and of the evaluator."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = importlib.import_module(coco).COCO(str(file))
        judge = getattr(importlib.import_module(module), evaluator)(truth, truth.loadRes(records), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return np.asarray(judge.stats)[: len(SUMMARY)]


def _our_metrics(file: Path, records: list[dict[str, Any]]) -> np.ndarray:
    summary = evaluate_detections(file, records).summary
    return np.array([-1 if value is None else value for value in summary.values()])


WAYS: dict[str, Callable[[Path, list[dict[str, Any]]], np.ndarray]] = {
    PYCOCOTOOLS: partial(_official_metrics, "pycocotools.coco", "pycocotools.cocoeval", "COCOeval"),
    FASTER: partial(_official_metrics, "faster_coco_eval", "faster_coco_eval", "COCOeval_faster"),
    OURS: _our_metrics,
}


def open_training_step(config_file: str, size: int, batch: int, kernels: str) -> tuple[Callable[[], object], dict]:
    """Returns a `training_step` of a configuration's detector on random frames with three boxes each, and its FLOPs."""
    import paddle

    from detection.configuration import load_config
    from detection.counting import count_multiply_adds
    from detection.toolkit import build_model
    from ppcls_ext.deploy.benchmark import training_step

    paddle.seed(0)
    config = load_config(config_file)
    flops = 6.0 * batch * count_multiply_adds(build_model(config, pretrained=False), size)
    model = build_model(config, pretrained=False)
    generator, boxes = np.random.default_rng(0), 3
    corners = generator.uniform(0, 0.6 * size, (batch, boxes, 2))
    sides = generator.uniform(0.1 * size, 0.4 * size, (batch, boxes, 2))
    frames = {
        "image": generator.standard_normal((batch, 3, size, size)).astype(np.float32),
        "gt_bbox": np.concatenate([corners, corners + sides], axis=2).astype(np.float32),
        "gt_class": generator.integers(0, config.data["num_classes"], (batch, boxes, 1)),
        "pad_gt_mask": np.ones((batch, boxes, 1), np.float32),
        "gt_score": np.ones((batch, boxes, 1), np.float32),
        "im_id": np.zeros((batch, 1), np.int64),
        "im_shape": np.full((batch, 2), size, np.float32),
        "scale_factor": np.ones((batch, 2), np.float32),
    }
    inputs = {name: paddle.to_tensor(values) for name, values in frames.items()}
    step, used = training_step(model, lambda: model({**inputs, "epoch_id": 0})["loss"], kernels, 2e-4, 5e-4)
    return step, {"flops": flops, "kernels": used}
