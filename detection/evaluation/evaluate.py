"""COCO figures of detections by faster-coco-eval, equal to those of pycocotools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.evaluation.detections import Detection, check_detections
from detection.evaluation.figures import SUMMARY, ClassFigures, Figures
from detection.evaluation.ground_truth import Boxes, GroundTruth, read_ground_truth
from detection.evaluation.matching import IOU_THRESHOLD, BestThreshold, best_thresholds, confusion_matrix

# COCO's limits between small, medium and large boxes, in square pixels, and how many detections of an image count.
SMALL, LARGE = 32**2, 96**2
MOST_DETECTIONS = (1, 10, 100)
IOU_50, IOU_75 = 0, 5
# Where no detection is correct, no threshold is best.
FALLBACK_THRESHOLD = 0.5


def evaluate_detections(
    annotation_file: str | Path,
    detections: Sequence[Detection],
    image_ids: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    score_threshold: float | None = None,
    source: str = "detections",
) -> Figures:
    """Judges detections by an annotation file.

    Args:
        annotation_file: COCO JSON.
        detections: COCO results: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height in pixels), ``score``.
            An empty list gives AP 0.
        image_ids: the images to evaluate; default all of the file, also those without boxes.
        classes: names of the classes to evaluate, in the order of the results; default all, by category id.
        score_threshold: detections below it are left out of the confusion matrix; default: the threshold with the
            highest F1 of all classes together. The COCO figures count all detections.
        source: what messages call ``detections``, for instance their file.

    Raises:
        UserError: the annotation file or a detection is faulty, or they do not belong together.
    """
    truth = read_ground_truth(annotation_file, image_ids, classes)
    found = check_detections(detections, truth, source)
    precision, recall = _accumulate(truth, found)
    of_class, best = best_thresholds(truth, found)
    if score_threshold is None:
        score_threshold = FALLBACK_THRESHOLD if best is None else best.threshold
    rows = _class_figures(truth, found, precision, recall, of_class)
    areas = [boxes.weights[~boxes.crowd] for boxes in truth.boxes.values()]
    areas = np.concatenate(areas) if areas else np.zeros(0)
    return Figures(
        summary=_summary(precision, recall),
        classes=rows,
        images=len(truth.images),
        images_without_boxes=len(truth.images) - len(truth.boxes),
        boxes=len(areas),
        crowds=sum(int(boxes.crowd.sum()) for boxes in truth.boxes.values()),
        detections=sum(len(boxes) for boxes in found.values()),
        boxes_by_size={
            "small": int((areas < SMALL).sum()),
            "medium": int(((areas >= SMALL) & (areas < LARGE)).sum()),
            "large": int((areas >= LARGE).sum()),
        },
        best=best,
        score_threshold=score_threshold,
        iou_threshold=IOU_THRESHOLD,
        confusion=confusion_matrix(truth, found, score_threshold),
        recall=np.linspace(0, 1, 101),
        precision={row.name: precision[IOU_50, :, index, 0, -1] for index, row in enumerate(rows) if not row.absent},
        image_ids=tuple(truth.images),
    )


def _accumulate(truth: GroundTruth, detections: Mapping[int, Boxes]) -> tuple[np.ndarray, np.ndarray]:
    """Returns precision ``[IoU, recall, class, size, limit]`` and recall ``[IoU, class, size, limit]``, -1 for none.

    Classes are in the order of ``truth.classes``; sizes are all, small, medium, large.
    """
    from faster_coco_eval import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    images = [{"id": number} for number in truth.images]
    categories = [{"id": number, "name": name} for number, name in truth.classes.items()]
    # Numbered anew from 1: with an id of 0 a match looks like none.
    data = {"images": images, "categories": categories}
    annotated = COCO({**data, "annotations": _records(truth.boxes, "area")})
    detected = COCO({**data, "annotations": _records(detections, "score")})
    judge = COCOeval_faster(annotated, detected, "bbox", print_function=_silent)
    judge.params.maxDets = list(MOST_DETECTIONS)
    judge.evaluate()
    judge.accumulate()
    order = np.argsort(np.argsort(list(truth.classes)))
    shape = (10, 101, len(order), 4, len(MOST_DETECTIONS))
    precision = np.asarray(judge.eval["precision"], np.float64).reshape(shape)
    recall = np.asarray(judge.eval["recall"], np.float64).reshape(shape[:1] + shape[2:])
    return precision[:, :, order], recall[:, order]


def _silent(*_texts: Any) -> None:
    """Takes the place of print."""


def _records(boxes: Mapping[int, Boxes], weight: str) -> list[dict[str, Any]]:
    """Returns boxes as COCO records; ``weight`` says whether their weights are areas or scores."""
    records = []
    for image_id, found in boxes.items():
        columns = (found.boxes.tolist(), found.category_ids.tolist(), found.weights.tolist(), found.crowd.tolist())
        for box, category_id, value, crowd in zip(*columns, strict=True):
            record = {
                "id": len(records) + 1,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(crowd),
            }
            record[weight] = value
            records.append(record)
    return records


def _summary(precision: np.ndarray, recall: np.ndarray) -> dict[str, float | None]:
    """Returns the twelve COCO figures of the classes in the arrays."""
    values = (
        _mean(precision[:, :, :, 0, -1]),
        _mean(precision[IOU_50, :, :, 0, -1]),
        _mean(precision[IOU_75, :, :, 0, -1]),
        *(_mean(precision[:, :, :, size, -1]) for size in (1, 2, 3)),
        *(_mean(recall[:, :, 0, limit]) for limit in (0, 1, 2)),
        *(_mean(recall[:, :, size, -1]) for size in (1, 2, 3)),
    )
    return dict(zip(SUMMARY, values, strict=True))


def _mean(values: np.ndarray) -> float | None:
    """Returns the mean of the entries that exist (-1 marks those without annotated boxes)."""
    values = values[values > -1]
    return float(values.mean()) if values.size else None


def _class_figures(
    truth: GroundTruth,
    detections: Mapping[int, Boxes],
    precision: np.ndarray,
    recall: np.ndarray,
    best: Mapping[int, BestThreshold],
) -> tuple[ClassFigures, ...]:
    annotated = [boxes.category_ids[~boxes.crowd] for boxes in truth.boxes.values()]
    boxes, images = _counts(annotated), _counts([np.unique(ids) for ids in annotated])
    named = _counts([found.category_ids for found in detections.values()])
    rows = []
    for index, (category_id, name) in enumerate(truth.classes.items()):
        rows.append(
            ClassFigures(
                category_id=category_id,
                name=name,
                boxes=boxes.get(category_id, 0),
                images=images.get(category_id, 0),
                detections=named.get(category_id, 0),
                figures=_summary(precision[:, :, index : index + 1], recall[:, index : index + 1]),
                best=best.get(category_id),
            )
        )
    return tuple(rows)


def _counts(parts: Sequence[np.ndarray]) -> dict[int, int]:
    """Returns how often each id occurs."""
    ids, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *parts]), return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))
