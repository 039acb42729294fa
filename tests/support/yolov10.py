"""YOLOv10 with numbers that every machine makes alike, batches for it, and its rules once more, slow and plain."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import paddle

from tests.support.seeded import seed_weights, seeded_array

CLASSES = 3
SIZE = 64
# Boxes (left, top, right, bottom) and their classes in four images; the third image shows nothing.
SHOWN = (
    [((4.0, 6.0, 40.0, 30.0), 0), ((30.0, 20.0, 60.0, 62.0), 2), ((10.0, 34.0, 26.0, 58.0), 1)],
    [((8.0, 8.0, 56.0, 60.0), 1)],
    [],
    [((20.0, 2.0, 62.0, 24.0), 2), ((2.0, 30.0, 30.0, 50.0), 0)],
)


def make_model(seeded: bool = True, norms_frozen: bool = False) -> Any:
    """Returns a YOLOv10-N for :data:`CLASSES` classes in training mode.

    Args:
        seeded: with weights by which scores and boxes depend on the image; else fresh ones.
        norms_frozen: with batch norms in evaluation mode, so that images do not depend on each other.
    """
    from detection import toolkit

    toolkit.register()
    from detection.yolov10.head import YOLOv10, YOLOv10Head
    from detection.yolov10.network import YOLOv10Backbone, YOLOv10Neck

    backbone = YOLOv10Backbone("N")
    neck = YOLOv10Neck(**YOLOv10Neck.from_config({}, backbone.out_shape), scale="N")
    head = YOLOv10Head(**YOLOv10Head.from_config({}, neck.out_shape), num_classes=CLASSES)
    model = YOLOv10(backbone, neck, head)
    if seeded:
        seed_weights(model)
    model.train()
    if norms_frozen:
        for layer in model.sublayers():
            if isinstance(layer, paddle.nn.BatchNorm2D):
                layer.eval()
    return model


def make_batch(shown: Any = SHOWN, size: int = SIZE) -> dict[str, paddle.Tensor]:
    """Returns a batch as the loader makes one: padded boxes and ``image`` ``[N, 3, size, size]``."""
    most = max(1, *(len(objects) for objects in shown))
    boxes = np.zeros((len(shown), most, 4), np.float32)
    labels = np.zeros((len(shown), most, 1), np.int64)
    mask = np.zeros((len(shown), most, 1), np.float32)
    for image, objects in enumerate(shown):
        for number, (box, label) in enumerate(objects):
            boxes[image, number], labels[image, number], mask[image, number] = box, label, 1
    images = np.stack([seeded_array(f"image {number}", (3, size, size)) for number in range(len(shown))])
    arrays = {
        "image": images, "gt_bbox": boxes, "gt_class": labels, "pad_gt_mask": mask,
        "is_crowd": np.zeros((len(shown), most, 1), np.int32),
    }  # fmt: skip
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def iou_parts(first: Any, second: Any) -> tuple[float, float, float]:
    """Of two boxes, in double precision: plain IoU, what the distance costs, and the difference of the proportions."""
    (l1, t1, r1, b1), (l2, t2, r2, b2) = np.asarray(first, float), np.asarray(second, float)
    shared = max(0.0, min(r1, r2) - max(l1, l2)) * max(0.0, min(b1, b2) - max(t1, t2))
    iou = shared / ((r1 - l1) * (b1 - t1) + (r2 - l2) * (b2 - t2) - shared)
    diagonal = (max(r1, r2) - min(l1, l2)) ** 2 + (max(b1, b2) - min(t1, t2)) ** 2
    centres = ((l1 + r1) / 2 - (l2 + r2) / 2) ** 2 + ((t1 + b1) / 2 - (t2 + b2) / 2) ** 2
    skew = 4 / math.pi**2 * (math.atan((r1 - l1) / (b1 - t1)) - math.atan((r2 - l2) / (b2 - t2))) ** 2
    return iou, centres / diagonal, skew


def slow_iou(first: Any, second: Any) -> float:
    """Complete IoU of two boxes, in double precision."""
    iou, apart, skew = iou_parts(first, second)
    return iou - apart - (skew**2 / (1 - iou + skew) if skew else 0.0)


def slow_assignment(
    scores: np.ndarray, boxes: np.ndarray, points: np.ndarray, objects: list[tuple[Any, int]], most: int
) -> dict[int, tuple[int, float]]:
    """Assigns the objects of one image by the words of the description, one pair after the other.

    Args:
        scores: ``[A, K]``.
        boxes: predicted corners ``[A, 4]``.
        points: anchors ``[A, 2]``.
        objects: corners and class of each.
        most: anchors for each object.

    Returns:
        For each positive anchor the number of its object and the score that it has to learn.
    """
    wanted: dict[int, list[tuple[float, int, float]]] = {}
    for number, ((left, top, right, bottom), label) in enumerate(objects):
        candidates = []
        for anchor, (x, y) in enumerate(points):
            if left < x < right and top < y < bottom:
                overlap = max(0.0, slow_iou(boxes[anchor], (left, top, right, bottom)))
                metric = float(scores[anchor, label]) ** 0.5 * overlap**6
                if metric > 0:
                    candidates.append((-metric, anchor, overlap))
        for metric, anchor, overlap in sorted(candidates)[:most]:
            wanted.setdefault(anchor, []).append((-overlap, number, -metric))
    owners = {anchor: min(claims) for anchor, claims in wanted.items()}
    result = {}
    for anchor, (_, number, metric) in owners.items():
        of_box = [(own_metric, -own) for own, own_number, own_metric in owners.values() if own_number == number]
        best_metric = max(value for value, _ in of_box)
        best_overlap = max(value for _, value in of_box)
        result[anchor] = (number, metric / best_metric * best_overlap)
    return result
