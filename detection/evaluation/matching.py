"""Which detection means which annotated box, the confusion matrix that follows, and the best score threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from detection.evaluation.ground_truth import NO_BOXES, Boxes, GroundTruth

IOU_THRESHOLD = 0.5
FREE, IGNORED = -1, -2


@dataclass(frozen=True)
class Matches:
    """Which boxes of one image belong together.

    Attributes:
        box_of: ``int64`` ``[detections]``: index of the annotated box; -1 for none, -2 for one that lies in a crowd.
        detection_of: ``int64`` ``[boxes]``: index of the detection; -1 for none, -2 for crowds, which need none.
    """

    box_of: np.ndarray
    detection_of: np.ndarray


@dataclass(frozen=True)
class BestThreshold:
    """The score threshold with the highest F1 (harmonic mean of precision and recall) at IoU 0.5.

    It is chosen on the very images that it is judged on, so its figures are a little better than on new images.

    Attributes:
        threshold: keep detections whose score is at least this.
        f1, precision, recall: what it gives.
    """

    threshold: float
    f1: float
    precision: float
    recall: float


def overlaps(detections: Boxes, truth: Boxes) -> np.ndarray:
    """Returns ``float64`` ``[detections, boxes]``: common area over union; for crowds over the detection's own area."""
    first, second = detections.boxes[:, None, :], truth.boxes[None, :, :]
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=-1)
    own, other = np.prod(first[..., 2:], axis=-1), np.prod(second[..., 2:], axis=-1)
    union = np.where(truth.crowd[None, :], own, own + other - common)
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def match_boxes(
    detections: Boxes, truth: Boxes, iou_threshold: float = IOU_THRESHOLD, own_class_only: bool = False
) -> Matches:
    """Matches one image greedily: the detection with the highest score chooses first.

    It takes, among the boxes that are still free and overlap by at least ``iou_threshold``, one of its own class if
    there is one, else any (with ``own_class_only``: none); of several the one with the greatest overlap. A detection
    that finds none but lies in a crowd of its class is ignored.
    """
    box_of = np.full(len(detections), FREE, np.int64)
    detection_of = np.where(truth.crowd, IGNORED, FREE).astype(np.int64)
    if not len(detections) or not len(truth):
        return Matches(box_of, detection_of)
    iou = overlaps(detections, truth)
    near = iou >= iou_threshold
    same = detections.category_ids[:, None] == truth.category_ids[None, :]
    if own_class_only:
        near &= same
    # A box of the same class comes before any box of another one.
    preference = np.where(near & ~truth.crowd[None, :], iou + same, 0.0)
    order = np.argsort(-detections.weights, kind="stable")
    for index in order[near[order].any(axis=1)]:
        wishes = np.where(detection_of == FREE, preference[index], 0.0)
        best = int(np.argmax(wishes))
        if wishes[best] > 0:
            box_of[index], detection_of[best] = best, index
        elif (near[index] & same[index] & truth.crowd).any():
            box_of[index] = IGNORED
    return Matches(box_of, detection_of)


def confusion_matrix(
    truth: GroundTruth, detections: Mapping[int, Boxes], score_threshold: float, iou_threshold: float = IOU_THRESHOLD
) -> np.ndarray:
    """Counts what each annotated box was taken for.

    Returns:
        ``int64`` ``[K + 1, K + 1]``: rows are annotated classes, columns detected ones, in the order of
        ``truth.classes``; the last row counts detections where there is nothing (false alarms), the last column boxes
        that were missed. The corner is 0.
    """
    position = {number: index for index, number in enumerate(truth.classes)}
    background = len(position)
    matrix = np.zeros((background + 1, background + 1), np.int64)
    for image_id in truth.images:
        boxes, found = truth.of(image_id), detections.get(image_id, NO_BOXES)
        found = found.part(found.weights >= score_threshold)
        matches = match_boxes(found, boxes, iou_threshold)
        for category_id, box in zip(found.category_ids, matches.box_of, strict=True):
            if box != IGNORED:
                row = background if box == FREE else position[int(boxes.category_ids[box])]
                matrix[row, position[int(category_id)]] += 1
        for category_id in boxes.category_ids[matches.detection_of == FREE]:
            matrix[position[int(category_id)], background] += 1
    return matrix


def best_thresholds(
    truth: GroundTruth, detections: Mapping[int, Boxes], iou_threshold: float = IOU_THRESHOLD
) -> tuple[dict[int, BestThreshold], BestThreshold | None]:
    """Finds the score threshold with the highest F1 of each class, and of all classes together.

    Each class is matched on its own, as COCO does.

    Returns:
        Category id -> its best threshold, without classes that have no box or no correct detection; and that of all
        detections together, None if none of them is correct.
    """
    scores, labels, correct = [], [], []
    for image_id, found in detections.items():
        matched = match_boxes(found, truth.of(image_id), iou_threshold, own_class_only=True).box_of
        counted = matched != IGNORED
        scores.append(found.weights[counted])
        labels.append(found.category_ids[counted])
        correct.append(matched[counted] >= 0)
    if not scores:
        return {}, None
    scores, labels, correct = np.concatenate(scores), np.concatenate(labels), np.concatenate(correct)
    annotated = [boxes.category_ids[~boxes.crowd] for boxes in truth.boxes.values()]
    wanted = np.concatenate(annotated) if annotated else np.zeros(0, np.int64)
    of_class = {}
    for category_id in truth.classes:
        own = labels == category_id
        best = _best(scores[own], correct[own], int((wanted == category_id).sum()))
        if best is not None:
            of_class[category_id] = best
    return of_class, _best(scores, correct, len(wanted))


def _best(scores: np.ndarray, correct: np.ndarray, total: int) -> BestThreshold | None:
    """Returns the best threshold for judged detections (scores ``[N]``, correct or not ``[N]``) of ``total`` boxes."""
    if total == 0 or not correct.any():
        return None
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(correct[order])
    kept = np.arange(1, len(scores) + 1)
    # Detections of equal score are kept or dropped together: only the last of them is a possible end.
    f1 = np.where(np.append(scores[1:] != scores[:-1], True), 2 * hits / (kept + total), 0.0)
    best = int(np.argmax(f1))
    return BestThreshold(
        float(scores[best]), float(f1[best]), float(hits[best] / kept[best]), float(hits[best] / total)
    )
