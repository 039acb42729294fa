"""COCO metrics of detections, by faster-coco-eval: equal to those of pycocotools, several times faster.

:func:`evaluate_detections` gives :class:`DetectionMetrics`: average precision and recall, of all classes and of each,
and the score thresholds with the highest F1; on demand the confusion matrix, what each kind of error costs (TIDE), and
figures by distance from the sonar. Charts and panels are in ``detection.evaluation.report``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from detection.coco import CocoSet
from detection.evaluation.coco import NO_BOXES, Boxes, Detection, GroundTruth, check_detections, read_ground_truth
from detection.fan import fan_of, opening_and_range

# Raised with every change of what a metric means: results files of two versions are not compared.
EVALUATION_VERSION = 1
# Names of the twelve COCO metrics, in COCO's order.
SUMMARY = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
SIZES = {"small": "below 32² px", "medium": "32² to 96² px", "large": "above 96² px"}
# COCO's limits between small, medium and large boxes, in square pixels, and how many detections of an image count.
SMALL, LARGE = 32**2, 96**2
MOST_DETECTIONS = (1, 10, 100)
IOU_50, IOU_75 = 0, 5
IOU_THRESHOLD = 0.5
RECALLS = np.linspace(0, 1, 101)
# Where no detection is correct, no threshold is best.
FALLBACK_THRESHOLD = 0.5
FREE, IGNORED = -1, -2
NAME_WIDTH = 28
# Kinds of errors, and below which overlap a detection has nothing to do with a box.
ERRORS = ("classification", "localisation", "both", "duplicate", "background", "missed")
FALSE_POSITIVES, FALSE_NEGATIVES = "all false positives", "all false negatives"
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(ERRORS))
CORRECT = -1
BACKGROUND_IOU = 0.1
# So many rings at most, of a width that begins with one of these digits.
MOST_RINGS, RING_WIDTHS = 6, (1, 2, 5, 10)


@dataclass(frozen=True)
class BestThreshold:
    """The score threshold (keep what has at least it) with the highest F1 at IoU 0.5, and what it gives.

    It is chosen on the very images that it is judged on, so its numbers are a little better than on new images.
    """

    threshold: float
    f1: float
    precision: float
    recall: float


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class.

    Attributes:
        number: of the class in the model, from 0, by which pictures choose its colour.
        boxes, images: annotated boxes (without crowds), and images that hold some.
        detections: how many detections name the class, whatever their score.
        metrics: the twelve COCO metrics by name, of this class alone; None where there is no annotated box.
        best: the score threshold with the highest F1; None if no detection is correct.
    """

    category_id: int
    name: str
    number: int
    boxes: int
    images: int
    detections: int
    metrics: dict[str, float | None]
    best: BestThreshold | None

    @property
    def absent(self) -> bool:
        """Whether no image holds an annotated box of this class; it then counts in no average."""
        return self.boxes == 0


@dataclass(frozen=True)
class RingMetrics:
    """Figures of the objects whose centre is ``nearest`` to ``farthest`` metres from the sonar.

    ``boxes`` counts those annotated, without crowds. AP at IoU 0.5 to 0.95 and at 0.5, and recall at IoU 0.5 with 100
    detections an image, are means over classes; ``None`` without boxes.
    """

    nearest: float
    farthest: float
    boxes: int
    ap: float | None
    ap50: float | None
    recall: float | None


@dataclass(frozen=True)
class DetectionMetrics:
    """Results of one evaluation.

    Attributes:
        summary: the twelve COCO metrics by name (``AP``, ``AP50``, ... ``AR_large``), between 0 and 1; None where
            there is no annotated box that could count, such as no small ones.
        images, images_without_boxes, boxes, crowds, detections: counts.
        boxes_by_size: annotated boxes (without crowds) that COCO calls small, medium and large.
        best: the score threshold with the highest F1 of all classes together; None if no detection is correct.
        score_threshold: what the confusion matrix is counted with.
        precision: class name -> interpolated precision ``[101]`` at IoU 0.5; classes without boxes are left out.
        recall: ``[101]``: the recalls at which precision is known.
    """

    truth: GroundTruth = field(repr=False)
    found: dict[int, Boxes] = field(repr=False)
    summary: dict[str, float | None]
    classes: tuple[ClassMetrics, ...]
    images: int
    images_without_boxes: int
    boxes: int
    crowds: int
    detections: int
    boxes_by_size: dict[str, int]
    best: BestThreshold | None
    score_threshold: float
    precision: dict[str, np.ndarray] = field(repr=False)
    recall = RECALLS

    @cached_property
    def confusion(self) -> np.ndarray:
        """See :func:`confusion_matrix`."""
        return confusion_matrix(self.truth, self.found, self.score_threshold)

    @cached_property
    def errors(self) -> dict[str, float]:
        """AP50 lost to each kind of ``ERRORS``, then to all false positives and negatives: :func:`error_breakdown`."""
        return error_breakdown(self.truth, self.found)

    @cached_property
    def rings(self) -> tuple[RingMetrics, ...]:
        """Figures by distance from the sonar; empty where no frame says its range."""
        return by_ring(self.truth, self.found)

    @property
    def ap(self) -> float | None:
        """AP at IoU 0.5 to 0.95, what runs are compared by; ``None``, undefined, if nothing is annotated."""
        return self.summary["AP"]

    @property
    def ap50(self) -> float | None:
        """AP at IoU 0.5; ``None`` if nothing is annotated."""
        return self.summary["AP50"]

    def as_json(self) -> dict[str, Any]:
        """Returns all figures as plain numbers, lists and dictionaries; absent metrics are None."""
        counts = ("images", "images_without_boxes", "boxes", "crowds", "detections", "boxes_by_size")
        plain = ("category_id", "name", "absent", "boxes", "images", "detections")
        return {
            "summary": self.summary,
            "counts": {name: getattr(self, name) for name in counts},
            "best_threshold": _threshold_json(self.best),
            "classes": [
                {**{name: getattr(row, name) for name in plain}, **row.metrics,
                 "best_threshold": _threshold_json(row.best)}
                for row in self.classes
            ],  # fmt: skip
            "confusion": {
                "score_threshold": self.score_threshold,
                "iou_threshold": IOU_THRESHOLD,
                "rows": "annotated",
                "columns": "detected",
                "names": [*(row.name for row in self.classes), "background"],
                "counts": self.confusion.tolist(),
            },
            "precision_recall": {
                "iou_threshold": IOU_THRESHOLD,
                "recall": np.round(self.recall, 2).tolist(),
                "precision": {name: np.round(values, 5).tolist() for name, values in self.precision.items()},
            },
            "errors_ap50_lost": self.errors,
            **({"rings": [vars(ring) for ring in self.rings]} if self.rings else {}),
        }

    def table(self) -> str:
        """Returns the metrics as text for a terminal: one row a class, then AP and AR by box size."""
        rows = [("class", "boxes", "detections", "AP", "AP50", "AP75", "AR100", "best F1", "at score")]
        of_all = ("all", self.boxes, self.detections, self.summary, self.best)
        for name, boxes, detections, metrics, best in [
            *((row.name, row.boxes, row.detections, row.metrics, row.best) for row in self.classes), of_all
        ]:  # fmt: skip
            name = name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"
            cells = [figure_text(metrics[metric]) for metric in rows[0][3:7]]
            best_cells = ("-", "-") if best is None else (f"{best.f1:.3f}", f"{best.threshold:.2f}")
            rows.append((name, f"{boxes:,}", f"{detections:,}", *cells, *best_cells))
        size_rows = [("box size", "", "boxes", "AP", "AR100")]
        for size, text in SIZES.items():
            cells = [figure_text(self.summary[f"{name}_{size}"]) for name in ("AP", "AR")]
            size_rows.append((size, text, f"{self.boxes_by_size[size]:,}", *cells))
        lines = [*_aligned(rows, left=1, rules=(1, len(rows) - 1)), "", *_aligned(size_rows, left=2, rules=(1,))]
        if self.rings:
            ring_rows = [("metres from the sonar", "boxes", "AP", "AP50", "recall")]
            for ring in self.rings:
                cells = map(figure_text, (ring.ap, ring.ap50, ring.recall))
                ring_rows.append((f"{ring.nearest:g} to {ring.farthest:g}", f"{ring.boxes:,}", *cells))
            lines += ["", *_aligned(ring_rows, left=1, rules=(1,))]
        if self.errors:
            error_rows = [("error", "AP50 lost")]
            error_rows += [(name, figure_text(loss)) for name, loss in self.errors.items()]
            lines += ["", *_aligned(error_rows, left=1, rules=(1, 1 + len(ERRORS)))]
        absent = [row.name for row in self.classes if row.absent]
        if absent:
            lines += ["", f"without annotated boxes, in no average: {', '.join(absent)}"]
        empty = f", {self.images_without_boxes:,} of them without boxes" if self.images_without_boxes else ""
        lines += ["", f"{self.images:,} images{empty}"]
        return "\n".join(lines)


def _threshold_json(best: BestThreshold | None) -> dict[str, float] | None:
    return None if best is None else {name: round(value, 6) for name, value in vars(best).items()}


def figure_text(value: float | None, decimals: int = 3) -> str:
    """Returns a figure as text, ``-`` for one that is undefined."""
    return "-" if value is None else f"{value:.{decimals}f}"


def _aligned(rows: list[tuple[str, ...]], left: int, rules: tuple[int, ...]) -> list[str]:
    """Aligns columns, the first ``left`` ones to the left; a line is drawn before each row of ``rules``."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        if number in rules:
            lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
        cells = (cell.ljust(width) if column < left else cell.rjust(width)
                 for column, (cell, width) in enumerate(zip(row, widths, strict=True)))  # fmt: skip
        lines.append("  ".join(cells).rstrip())
    return lines


def evaluate_detections(
    annotation_file: str | Path | CocoSet,
    detections: Sequence[Detection],
    image_ids: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    score_threshold: float | None = None,
    source: str = "detections",
    class_names: Sequence[str] | None = None,
) -> DetectionMetrics:
    """Evaluates detections against an annotation file.

    Args:
        annotation_file: COCO JSON, or what was read of it.
        detections: COCO results: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height in pixels), ``score``.
            An empty list gives AP 0 (none where no box is annotated).
        image_ids: the images to evaluate; default all of the file, also those without boxes.
        classes: names of the classes to evaluate, in the order of the results; default all, by category id.
        score_threshold: detections below it are left out of the confusion matrix; default: the threshold with the
            highest F1 of all classes together. The COCO metrics count all detections.
        source: what messages call ``detections``, for instance their file.
        class_names: of the model, by class number, all that are evaluated among them; default: those evaluated.

    Raises:
        UserError: the annotation file or a detection is faulty, or they do not belong together.
    """
    truth = read_ground_truth(annotation_file, image_ids, classes, class_names)
    found = check_detections(detections, truth, source)
    precision, recall = _accumulate(truth, found)
    of_class, best = best_thresholds(truth, found)
    if score_threshold is None:
        score_threshold = FALLBACK_THRESHOLD if best is None else best.threshold
    annotated = [boxes.part(~boxes.crowd) for boxes in truth.boxes.values()]
    areas = np.concatenate([np.zeros(0), *(boxes.weights for boxes in annotated)])
    sizes = np.digitize(areas, (SMALL, LARGE))
    boxes_of = Counter(number for boxes in annotated for number in boxes.category_ids.tolist())
    images_of = Counter(number for boxes in annotated for number in set(boxes.category_ids.tolist()))
    detections_of = Counter(number for boxes in found.values() for number in boxes.category_ids.tolist())
    rows = tuple(
        ClassMetrics(
            category_id=category_id,
            name=name,
            number=truth.numbers[category_id],
            boxes=boxes_of[category_id],
            images=images_of[category_id],
            detections=detections_of[category_id],
            metrics=_summary(precision[:, :, index : index + 1], recall[:, index : index + 1]),
            best=of_class.get(category_id),
        )
        for index, (category_id, name) in enumerate(truth.classes.items())
    )
    return DetectionMetrics(
        truth=truth,
        found=found,
        summary=_summary(precision, recall),
        classes=rows,
        images=len(truth.images),
        images_without_boxes=len(truth.images) - len(truth.boxes),
        boxes=len(areas),
        crowds=sum(int(boxes.crowd.sum()) for boxes in truth.boxes.values()),
        detections=detections_of.total(),
        boxes_by_size={name: int((sizes == number).sum()) for number, name in enumerate(SIZES)},
        best=best,
        score_threshold=score_threshold,
        precision={row.name: precision[IOU_50, :, index, 0, -1] for index, row in enumerate(rows) if not row.absent},
    )


def _accumulate(
    truth: GroundTruth, detections: Mapping[int, Boxes], rings: Sequence[tuple[float, float]] = (),
    distances: Mapping[int, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Returns precision ``[IoU, recall, class, size, limit]`` and recall ``[IoU, class, size, limit]``, -1 for none.

    Classes are in the order of ``truth.classes``; sizes are all, small, medium, large. ``rings`` take their place
    where the weights of the annotated boxes are distances; ``distances`` are then those of the detections.
    """
    from faster_coco_eval import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    images = [{"id": number} for number in truth.images]
    categories = [{"id": number, "name": name} for number, name in truth.classes.items()]
    annotated, detected = (
        COCO({"images": images, "categories": categories, "annotations": records})
        for records in (_records(truth.boxes, "area"), _records(detections, "score", distances))
    )
    evaluation = COCOeval_faster(annotated, detected, "bbox", print_function=lambda *texts: None)
    evaluation.params.maxDets = list(MOST_DETECTIONS)
    if rings:
        evaluation.params.areaRng = [list(ring) for ring in rings]
        evaluation.params.areaRngLbl = [str(ring) for ring in rings]
    evaluation.evaluate()
    evaluation.accumulate()
    order = np.argsort(np.argsort(list(truth.classes)))
    shape = (10, len(RECALLS), len(order), len(rings) or 4, len(MOST_DETECTIONS))
    precision = np.asarray(evaluation.eval["precision"], np.float64).reshape(shape)
    recall = np.asarray(evaluation.eval["recall"], np.float64).reshape(shape[:1] + shape[2:])
    return precision[:, :, order], recall[:, order]


def _records(
    boxes: Mapping[int, Boxes], weight: str, areas: Mapping[int, np.ndarray] | None = None
) -> list[dict[str, Any]]:
    """Returns boxes as COCO records; ``weight`` says whether their weights are areas or scores."""
    records: list[dict[str, Any]] = []
    for image_id, found in boxes.items():
        area = found.boxes[:, 2:].prod(axis=1) if areas is None else areas[image_id]
        columns = (found.boxes, found.category_ids, found.crowd.astype(int), area, found.weights)
        for row in zip(*(column.tolist() for column in columns), strict=True):
            # Numbered anew from 1: with an id of 0 a match looks like none.
            names = ("bbox", "category_id", "iscrowd", "area", weight)
            records.append({"id": len(records) + 1, "image_id": image_id, **dict(zip(names, row, strict=True))})
    return records


def _summary(precision: np.ndarray, recall: np.ndarray) -> dict[str, float | None]:
    """Returns the twelve COCO metrics of the classes in the arrays."""
    parts = (
        precision[..., 0, -1], precision[IOU_50, ..., 0, -1], precision[IOU_75, ..., 0, -1],
        *(precision[..., size, -1] for size in (1, 2, 3)),
        *(recall[..., 0, limit] for limit in (0, 1, 2)),
        *(recall[..., size, -1] for size in (1, 2, 3)),
    )  # fmt: skip
    return {name: _mean(part) for name, part in zip(SUMMARY, parts, strict=True)}


def _mean(figures: np.ndarray) -> float | None:
    """Returns the mean of what is known; -1 marks what has no annotated boxes."""
    known = figures[figures > -1]
    return float(known.mean()) if known.size else None


def overlaps(detections: Boxes, truth: Boxes) -> np.ndarray:
    """Returns ``float64`` ``[detections, boxes]``: common area over union; for crowds over the detection's own area."""
    from faster_coco_eval import mask

    return np.asarray(mask.iou(detections.boxes, truth.boxes, truth.crowd.astype(np.uint8)))


def match_boxes(detections: Boxes, truth: Boxes, own_class_only: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Matches one image greedily: the detection with the highest score chooses first.

    It takes, among the boxes that are still free and overlap by at least 0.5, one of its own class if there is one,
    else any (with ``own_class_only``: none); of several the one with the greatest overlap. A detection that finds none
    but lies in a crowd of its class is ignored.

    Returns:
        For each detection, ``int64`` ``[detections]``, the index of its box: -1 for none, -2 for one that lies in a
        crowd. For each box, ``int64`` ``[boxes]``, the index of its detection: -1 for none, -2 for crowds, which need
        none.
    """
    box_of = np.full(len(detections), FREE, np.int64)
    detection_of = np.where(truth.crowd, IGNORED, FREE).astype(np.int64)
    if not len(detections) or not len(truth):
        return box_of, detection_of
    iou = overlaps(detections, truth)
    near = iou >= IOU_THRESHOLD
    same = detections.category_ids[:, None] == truth.category_ids[None, :]
    if own_class_only:
        near &= same
    # A box of the same class comes before any box of another one.
    preference = np.where(near & ~truth.crowd[None, :], iou + same, 0.0)
    order = np.argsort(-detections.weights, kind="stable")
    for index in order[near[order].any(axis=1)]:
        wanted = np.where(detection_of == FREE, preference[index], 0.0)
        best = int(np.argmax(wanted))
        if wanted[best] > 0:
            box_of[index], detection_of[best] = best, index
        elif (near[index] & same[index] & truth.crowd).any():
            box_of[index] = IGNORED
    return box_of, detection_of


def confusion_matrix(truth: GroundTruth, detections: Mapping[int, Boxes], score_threshold: float) -> np.ndarray:
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
        box_of, detection_of = match_boxes(found, boxes)
        # Classes by their place; the one behind the last box is that of box -1.
        annotated = [*(position[number] for number in boxes.category_ids.tolist()), background]
        detected = [position[number] for number in found.category_ids.tolist()]
        for box, label in zip(box_of.tolist(), detected, strict=True):
            if box != IGNORED:
                matrix[annotated[box], label] += 1
        for box in np.flatnonzero(detection_of == FREE):
            matrix[annotated[box], background] += 1
    return matrix


def best_thresholds(
    truth: GroundTruth, detections: Mapping[int, Boxes]
) -> tuple[dict[int, BestThreshold], BestThreshold | None]:
    """Returns the score threshold with the highest F1 of each class (if it has a box and a correct detection), and of
    all detections together, None if none is correct. Each class is matched on its own, as COCO does."""
    judged = [(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, bool))]
    for image_id, found in detections.items():
        box_of, _ = match_boxes(found, truth.of(image_id), own_class_only=True)
        counted = box_of != IGNORED
        judged.append((found.weights[counted], found.category_ids[counted], box_of[counted] >= 0))
    scores, labels, correct = (np.concatenate(column) for column in zip(*judged, strict=True))
    wanted = Counter(number for boxes in truth.boxes.values() for number in boxes.category_ids[~boxes.crowd].tolist())
    found = {name: _best(scores[labels == name], correct[labels == name], wanted[name]) for name in truth.classes}
    of_class = {name: best for name, best in found.items() if best is not None}
    return of_class, _best(scores, correct, wanted.total())


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
    return BestThreshold(*(float(value[best]) for value in (scores, f1, hits / kept, hits / total)))


def error_breakdown(truth: GroundTruth, detections: Mapping[int, Boxes]) -> dict[str, float]:
    """Tells how much AP50 each kind of error costs, after TIDE (Bolya et al. 2020, arXiv 2008.08115, section 2).

    Detections are matched as by COCO: class by class, the 100 best of each class and image; those in crowds are left
    out. A detection without a box is, the first that holds:

    - duplicate: a box of its class overlaps by at least 0.5, but a better detection has it;
    - classification: a box of another class overlaps by at least 0.5;
    - localisation: a box of its class overlaps by at least 0.1;
    - both: a box of another class overlaps by at least 0.1;
    - background: nothing overlaps as much.

    A box that no detection has is missed, unless an error of class or place is on it. A kind is mended by giving the
    detections the class or the box that they nearly have (of several on one box the best remains), by taking away
    duplicates, background and those that are wrong in both, and by not counting missed boxes. The losses need not add
    up to 1 - AP50, since precision counts all errors together.

    Returns:
        Kind -> AP50 with it mended, minus AP50; in the order of ``ERRORS``, then those of all false positives (all
        taken away) and of all false negatives (none counted); empty where nothing is annotated.
    """
    columns: list[tuple[np.ndarray, ...]] = [(np.zeros(0), *(np.zeros(0, np.int64) for _ in range(3)))]
    owners, found_of = [np.zeros(0, np.int64)], [np.zeros(0, bool)]
    first = 0
    for image_id in truth.images:
        boxes, found = truth.of(image_id), _best_of_each_class(detections.get(image_id, NO_BOXES))
        box_of, detection_of = match_boxes(found, boxes, own_class_only=True)
        kinds, targets = _kinds_of_errors(found, boxes, box_of)
        counted = box_of != IGNORED
        one = (found.weights, found.category_ids, kinds, targets + first)
        columns.append(tuple(column[counted] for column in one))
        # Crowds count as found: they need no detection.
        owners.append(np.where(boxes.crowd, FREE, boxes.category_ids))
        found_of.append(detection_of != FREE)
        first += len(boxes)
    scores, labels, kinds, targets = (np.concatenate(column) for column in zip(*columns, strict=True))
    owner, found_box = np.concatenate(owners), np.concatenate(found_of)
    totals = Counter(owner[owner != FREE].tolist())
    if not totals:
        return {}
    best_first = np.argsort(-scores, kind="stable")
    nearly = np.isin(kinds, (CLASSIFICATION, LOCALISATION))
    missed = ~found_box
    missed[targets[nearly]] = False
    correct = kinds == CORRECT

    def ap50(kept: np.ndarray, labels: np.ndarray, correct: np.ndarray, left_out: np.ndarray | None = None) -> float:
        gone = Counter() if left_out is None else Counter(owner[left_out].tolist())
        remaining = {name: total - gone[name] for name, total in totals.items()}
        order = best_first[kept[best_first]]
        return _mean_ap50(labels[order], correct[order], remaining)

    def mended(kind: int) -> float:
        wrong = kinds == kind
        if kind not in (CLASSIFICATION, LOCALISATION):
            return ap50(~wrong, labels, correct)
        right = correct | wrong
        order = best_first[right[best_first]]
        kept = ~right
        kept[order[np.unique(targets[order], return_index=True)[1]]] = True
        renamed = labels.copy()
        renamed[wrong] = owner[targets[wrong]]
        return ap50(kept, renamed, right)

    everything = np.ones(len(scores), bool)
    before = ap50(everything, labels, correct)
    losses = {ERRORS[kind]: mended(kind) - before for kind in range(MISSED)}
    losses[ERRORS[MISSED]] = ap50(everything, labels, correct, missed) - before
    losses[FALSE_POSITIVES] = ap50(correct, labels, correct) - before
    losses[FALSE_NEGATIVES] = ap50(everything, labels, correct, ~found_box) - before
    return losses


def _best_of_each_class(found: Boxes) -> Boxes:
    """Returns the detections of one image that COCO counts."""
    order, most = np.argsort(-found.weights, kind="stable"), MOST_DETECTIONS[-1]
    if len(order) <= most:
        return found
    ids = found.category_ids[order]
    return found.part(np.sort(np.concatenate([order[ids == number][:most] for number in np.unique(ids)])))


def _kinds_of_errors(found: Boxes, boxes: Boxes, box_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns what is wrong with the detections of an image, an index of ``ERRORS`` or ``CORRECT``, ``[detections]``;
    and the box that each has or nearly has, ``[detections]``, 0 where there is none."""
    if not len(found) or not len(boxes):
        return np.full(len(found), BACKGROUND), np.zeros(len(found), np.int64)
    iou = np.where(boxes.crowd, 0.0, overlaps(found, boxes))
    same = found.category_ids[:, None] == boxes.category_ids
    own, other = np.where(same, iou, 0.0), np.where(same, 0.0, iou)
    on_own, on_other = own.max(axis=1), other.max(axis=1)
    conditions = (on_own >= IOU_THRESHOLD, on_other >= IOU_THRESHOLD, on_own >= BACKGROUND_IOU,
                  on_other >= BACKGROUND_IOU)  # fmt: skip
    kinds = np.select(conditions, (DUPLICATE, CLASSIFICATION, LOCALISATION, BOTH), BACKGROUND)
    kinds[box_of >= 0] = CORRECT
    targets = np.where(kinds == CLASSIFICATION, other.argmax(axis=1), own.argmax(axis=1))
    return kinds, np.where(box_of >= 0, box_of, targets)


def _mean_ap50(labels: np.ndarray, correct: np.ndarray, totals: Mapping[int, int]) -> float:
    """Returns the mean over classes of COCO's AP, of the labels and verdicts of detections, the best first.

    Of a class whose boxes are all left out (``totals``), the AP is 1 if nothing is detected either, else 0.
    """
    values = []
    for category_id, total in totals.items():
        hits = np.cumsum(correct[labels == category_id])
        if total == 0:
            values.append(float(len(hits) == 0))
            continue
        precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
        places = np.searchsorted(hits / total, RECALLS)
        values.append(float(np.append(precision, 0.0)[places].mean()))
    return float(np.mean(values))


def by_ring(truth: GroundTruth, detections: Mapping[int, Boxes]) -> tuple[RingMetrics, ...]:
    """Evaluates the frames whose metadata tell where the sonar is, by rings around it; none where no frame tells.

    An object belongs to the ring in which the centre of its box is. As COCO does with sizes, a detection without a box
    counts in its own ring only. Rings are equally wide, up to the largest range.
    """
    ranges = {number: found[2] for number, record in truth.images.items()
              if isinstance(record["sonar"], Mapping) and (found := opening_and_range(record["sonar"]))}  # fmt: skip
    if not ranges:
        return ()
    longest = max(ranges.values())
    power = 10.0 ** math.floor(math.log10(longest / MOST_RINGS))
    width = next(digit * power for digit in RING_WIDTHS if digit * power * MOST_RINGS >= longest * (1 - 1e-9))
    count = math.ceil(longest / width - 1e-9)
    # Corners of the picture may be a little farther than the range: they belong to the last ring.
    limits = [(number * width, (number + 1) * width if number < count - 1 else math.inf) for number in range(count)]
    boxes = {number: replace(found, weights=_distances(found, truth.images[number]))
             for number, found in truth.boxes.items() if number in ranges}  # fmt: skip
    detected = {number: found for number, found in detections.items() if number in ranges}
    distances = {number: _distances(found, truth.images[number]) for number, found in detected.items()}
    part = replace(truth, images={number: truth.images[number] for number in ranges}, boxes=boxes)
    precision, recall = _accumulate(part, detected, limits, distances)
    metres = np.concatenate([np.zeros(0), *(found.weights[~found.crowd] for found in boxes.values())])
    rings = []
    for number, (nearest, farthest) in enumerate(limits):
        figures = (precision[..., number, -1], precision[IOU_50, ..., number, -1], recall[IOU_50, ..., number, -1])
        counted = int(((metres >= nearest) & (metres < farthest)).sum())
        rings.append(RingMetrics(nearest, min(farthest, count * width), counted, *map(_mean, figures)))
    return tuple(rings)


def _distances(boxes: Boxes, record: Mapping[str, Any]) -> np.ndarray:
    """Returns how many metres from the sonar the centres of boxes are, ``[N]``; the frame's settings say its range."""
    sonar, centres = record["sonar"], boxes.boxes[:, :2] + boxes.boxes[:, 2:] / 2
    if sonar.get("projection") != "polar":
        return fan_of(sonar, record["width"], record["height"]).distance_and_bearing(centres)[:, 0]
    _, near, far = opening_and_range(sonar)
    share = centres[:, 1] / record["height"]
    return far - (far - (near or 0.0)) * (1 - share if sonar.get("nearest") == "top" else share)
