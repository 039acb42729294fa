"""COCO metrics of detections, by faster-coco-eval: equal to those of pycocotools, several times faster.

:func:`evaluate_detections` gives :class:`DetectionMetrics`: average precision and recall, of all classes and of each,
and the score thresholds with the highest F1; on demand the confusion matrix, what each kind of error costs (TIDE), and
figures by distance from the sonar. Charts and panels are in ``detection.evaluation.report``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from detection.annotations import Frame
from detection.coco import CocoSet
from detection.evaluation.boxes import (
    IGNORED,
    IOU_THRESHOLD,
    Boxes,
    Detection,
    GroundTruth,
    match_boxes,
    missed_boxes,
    overlaps,
    read_detections,
    read_ground_truth,
)
from detection.fan import fan_of, opening_and_range
from ppcls_ext.utils.tables import aligned

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
RECALLS = np.linspace(0, 1, 101)
# Where no detection is correct, no threshold is best.
FALLBACK_THRESHOLD = 0.5
NAME_WIDTH = 28
# Kinds of errors, and below which overlap a detection has nothing to do with a box.
ERRORS = ("classification", "localisation", "both", "duplicate", "background", "missed")
FALSE_POSITIVES, FALSE_NEGATIVES = "all false positives", "all false negatives"
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(ERRORS))
CORRECT = -1
BACKGROUND_IOU = 0.1
# So many rings at most, of a width that begins with one of these digits.
MOST_RINGS, RING_WIDTHS = 6, (1, 2, 5, 10)


class DetectionMetrics:
    """Results of one evaluation.

    Attributes:
        truth, found: annotations and detections.
        summary: the twelve COCO metrics by name (``AP``, ``AP50``, ... ``AR_large``), between 0 and 1; None where
            there is no annotated box that could count, such as no small ones.
        counts: ``images``, ``images_without_boxes``, ``boxes`` (without crowds), ``crowds``, ``detections``, and
            ``boxes_by_size``, by COCO's sizes.
        classes: for each class ``category_id``, ``name``, ``absent`` (no image holds an annotated box of it, so that it
            counts in no average), ``boxes``, ``images`` that hold some, ``detections``, the twelve metrics, and
            ``best_threshold``.
        best_threshold: the score (keep what has at least it) with the highest F1 at IoU 0.5 of all classes together:
            ``threshold``, ``f1``, ``precision``, ``recall``; None if no detection is correct. It is chosen on the very
            images that it is judged on, so its numbers are a little better than on new images.
        score_threshold: what the confusion matrix is counted with: the best threshold.
        precision: class name -> interpolated precision ``[101]`` at IoU 0.5, at the recalls ``RECALLS``; classes
            without boxes are left out.
    """

    def __init__(self, truth: GroundTruth, found: Boxes) -> None:
        self.truth, self.found = truth, found
        annotated, classes, images = truth.boxes.part(~truth.boxes.crowd), len(truth.names), len(truth.frames)
        precision, recall = _accumulate(truth.boxes, found, images, classes)
        self.summary = _summary(precision, recall)
        *of_class, self.best_threshold = best_thresholds(truth.boxes, found, self.own_matches, classes)
        self.score_threshold = self.best_threshold["threshold"] if self.best_threshold else FALLBACK_THRESHOLD
        sizes = np.digitize(annotated.weights, (SMALL, LARGE))
        self.counts = {
            "images": images,
            "images_without_boxes": images - len(np.unique(truth.boxes.rows)),
            "boxes": len(annotated.rows),
            "crowds": int(truth.boxes.crowd.sum()),
            "detections": len(found.rows),
            "boxes_by_size": {name: int((sizes == number).sum()) for number, name in enumerate(SIZES)},
        }
        boxes, detections = (np.bincount(part.labels, minlength=classes).tolist() for part in (annotated, found))
        self.classes = [
            {
                "category_id": truth.category_ids[label],
                "name": name,
                "absent": boxes[label] == 0,
                "boxes": boxes[label],
                "images": len(np.unique(annotated.rows[annotated.labels == label])),
                "detections": detections[label],
                **_summary(precision[:, :, label : label + 1], recall[:, label : label + 1]),
                "best_threshold": of_class[label],
            }
            for label, name in enumerate(truth.names)
        ]
        self.precision = {
            row["name"]: precision[IOU_50, :, label, 0, -1] for label, row in enumerate(self.classes) if row["boxes"]
        }

    @cached_property
    def own_matches(self) -> np.ndarray:
        """The box of each detection, ``[detections]``, each class matched on its own, as COCO does."""
        return match_boxes(self.found, self.truth.boxes, own_class_only=True)

    @cached_property
    def confident(self) -> tuple[Boxes, np.ndarray]:
        """The detections at or above the score threshold, and the box of each, of whatever class."""
        found = self.found.part(self.found.weights >= self.score_threshold)
        return found, match_boxes(found, self.truth.boxes)

    @cached_property
    def confusion(self) -> np.ndarray:
        """Counts of what each annotated box was taken for.

        ``int64`` ``[K + 1, K + 1]``: rows are annotated classes, columns detected ones; the last row counts detections
        where there is nothing (false alarms), the last column boxes that were missed. The corner is 0.
        """
        found, box_of = self.confident
        nothing, counted = len(self.truth.names), box_of != IGNORED
        # The class behind the last box is that of box -1.
        annotated = np.append(self.truth.boxes.labels, nothing)[box_of[counted]]
        missed = self.truth.boxes.labels[missed_boxes(self.truth.boxes, box_of)]
        matrix = np.zeros((nothing + 1, nothing + 1), np.int64)
        np.add.at(matrix, (annotated, found.labels[counted]), 1)
        np.add.at(matrix, (missed, nothing), 1)
        return matrix

    @cached_property
    def errors(self) -> dict[str, float]:
        """AP50 lost to each kind of ``ERRORS``, then to all false positives and negatives: :func:`error_breakdown`."""
        return error_breakdown(self.truth.boxes, self.found, self.own_matches)

    @cached_property
    def rings(self) -> list[dict[str, Any]]:
        """Figures by distance from the sonar (:func:`by_ring`); empty where no frame says its range."""
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
        return {
            "summary": self.summary,
            "counts": self.counts,
            "best_threshold": _rounded(self.best_threshold),
            "classes": [{**row, "best_threshold": _rounded(row["best_threshold"])} for row in self.classes],
            "confusion": {
                "score_threshold": self.score_threshold,
                "iou_threshold": IOU_THRESHOLD,
                "rows": "annotated",
                "columns": "detected",
                "names": [*self.truth.names, "background"],
                "counts": self.confusion.tolist(),
            },
            "precision_recall": {
                "iou_threshold": IOU_THRESHOLD,
                "recall": np.round(RECALLS, 2).tolist(),
                "precision": {name: np.round(values, 5).tolist() for name, values in self.precision.items()},
            },
            "errors_ap50_lost": self.errors,
            **({"rings": self.rings} if self.rings else {}),
        }

    def table(self) -> str:
        """Returns the metrics as text for a terminal: one row a class, then AP and AR by box size."""
        columns = ("AP", "AP50", "AP75", "AR100")
        rows = [("class", "boxes", "detections", *columns, "best F1", "at score")]
        of_all = {**self.counts, **self.summary, "name": "all", "best_threshold": self.best_threshold}
        for row in [*self.classes, of_all]:
            name, best = row["name"], row["best_threshold"]
            name = name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"
            best_cells = (f"{best['f1']:.3f}", f"{best['threshold']:.2f}") if best else ("-", "-")
            cells = [figure_text(row[column]) for column in columns]
            rows.append((name, f"{row['boxes']:,}", f"{row['detections']:,}", *cells, *best_cells))
        size_rows = [("box size", "", "boxes", "AP", "AR100")]
        for size, text in SIZES.items():
            cells = [figure_text(self.summary[f"{name}_{size}"]) for name in ("AP", "AR")]
            size_rows.append((size, text, f"{self.counts['boxes_by_size'][size]:,}", *cells))
        lines = [*aligned(rows, left=1, rules=(1, len(rows) - 1)), "", *aligned(size_rows, left=2, rules=(1,))]
        if self.rings:
            ring_rows = [("metres from the sonar", "boxes", "AP", "AP50", "recall")]
            for ring in self.rings:
                cells = [figure_text(ring[name]) for name in ("ap", "ap50", "recall")]
                ring_rows.append((f"{ring['nearest']:g} to {ring['farthest']:g}", f"{ring['boxes']:,}", *cells))
            lines += ["", *aligned(ring_rows, left=1, rules=(1,))]
        if self.errors:
            error_rows = [("error", "AP50 lost"), *((name, figure_text(loss)) for name, loss in self.errors.items())]
            lines += ["", *aligned(error_rows, left=1, rules=(1, 1 + len(ERRORS)))]
        if absent := [row["name"] for row in self.classes if row["absent"]]:
            lines += ["", f"without annotated boxes, in no average: {', '.join(absent)}"]
        empty = self.counts["images_without_boxes"]
        words = f", {empty:,} of them without boxes" if empty else ""
        return "\n".join([*lines, "", f"{self.counts['images']:,} images{words}"])


def _rounded(best: dict[str, float] | None) -> dict[str, float] | None:
    return None if best is None else {name: round(value, 6) for name, value in best.items()}


def figure_text(value: float | None, decimals: int = 3) -> str:
    """Returns a figure as text, ``-`` for one that is undefined."""
    return "-" if value is None else f"{value:.{decimals}f}"


def evaluate_detections(
    annotations: str | Path | CocoSet,
    detections: Sequence[Detection],
    image_ids: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
) -> DetectionMetrics:
    """Evaluates detections against an annotation file.

    Args:
        annotations: COCO JSON, or what was read of it.
        detections: COCO results: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height in pixels), ``score``.
            An empty list gives AP 0 (none where no box is annotated).
        image_ids: the images to evaluate; default all of the file, also those without boxes.
        class_names: of the model, by class number; default those of the file, by category id.

    Raises:
        UserError: the annotation file cannot be used, or a detection is not finite.
    """
    truth = read_ground_truth(annotations, image_ids, class_names)
    return DetectionMetrics(truth, read_detections(detections, truth))


# COCO's figures


def _accumulate(
    truth: Boxes, found: Boxes, images: int, classes: int, areas: tuple[np.ndarray, np.ndarray] | None = None,
    limits: Sequence[tuple[float, float]] = (),
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Returns precision ``[IoU, recall, class, size, limit]`` and recall ``[IoU, class, size, limit]``, -1 for none.

    Sizes are all, small, medium, large. ``limits`` take their place, between which ``areas`` of the annotated boxes
    and of the detections lie (as which distances may be given); else areas are those annotated, and of the detections.
    """
    from faster_coco_eval import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    listed = {"images": [{"id": row} for row in range(images)], "categories": [{"id": n} for n in range(classes)]}
    areas = (truth.weights, found.boxes[:, 2:].prod(axis=1)) if areas is None else areas
    annotated, detected = (
        COCO({**listed, "annotations": _records(boxes, area)})
        for boxes, area in zip((truth, found), areas, strict=True)
    )
    evaluation = COCOeval_faster(annotated, detected, "bbox", print_function=lambda *texts: None)
    evaluation.params.maxDets = list(MOST_DETECTIONS)
    if limits:
        evaluation.params.areaRng = [list(each) for each in limits]
        evaluation.params.areaRngLbl = [str(each) for each in limits]
    evaluation.evaluate()
    evaluation.accumulate()
    shape = (10, len(RECALLS), classes, len(limits) or 4, len(MOST_DETECTIONS))
    precision = np.asarray(evaluation.eval["precision"], np.float64).reshape(shape)
    return precision, np.asarray(evaluation.eval["recall"], np.float64).reshape(shape[:1] + shape[2:])


def _records(boxes: Boxes, areas: np.ndarray) -> list[dict[str, Any]]:
    """Returns boxes as COCO records, numbered from 1: with an id of 0 a match looks like none."""
    names = ("id", "image_id", "category_id", "bbox", "iscrowd", "area", "score")
    columns = (boxes.rows, boxes.labels, boxes.boxes, boxes.crowd.astype(int), areas, boxes.weights)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [dict(zip(names, (number, *row), strict=True)) for number, row in enumerate(rows, start=1)]


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


# Thresholds


def best_thresholds(truth: Boxes, found: Boxes, box_of: np.ndarray, classes: int) -> list[dict[str, float] | None]:
    """Returns the score threshold with the highest F1 of each class and, last, of all together; ``None`` without a box
    or a correct detection."""
    counted = box_of != IGNORED
    scores, labels, correct = found.weights[counted], found.labels[counted], box_of[counted] >= 0
    wanted = np.bincount(truth.labels[~truth.crowd], minlength=classes)
    of_class = [_best(scores[labels == label], correct[labels == label], wanted[label]) for label in range(classes)]
    return [*of_class, _best(scores, correct, wanted.sum())]


def _best(scores: np.ndarray, correct: np.ndarray, total: int) -> dict[str, float] | None:
    """Returns the best threshold for judged detections (scores ``[N]``, correct or not ``[N]``) of ``total`` boxes."""
    if total == 0 or not correct.any():
        return None
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(correct[order])
    kept = np.arange(1, len(scores) + 1)
    # Detections of equal score are kept or dropped together: only the last of them is a possible end.
    f1 = np.where(np.append(scores[1:] != scores[:-1], True), 2 * hits / (kept + total), 0.0)
    best = int(np.argmax(f1))
    figures = {"threshold": scores, "f1": f1, "precision": hits / kept, "recall": hits / total}
    return {name: float(values[best]) for name, values in figures.items()}


# Errors


def error_breakdown(truth: Boxes, found: Boxes, box_of: np.ndarray) -> dict[str, float]:
    """Tells how much AP50 each kind of error costs, after TIDE (Bolya et al. 2020, arXiv 2008.08115, section 2).

    Detections are matched as by COCO: class by class (``box_of``), the 100 best of each class and image; those in
    crowds are left out. A detection without a box is, the first that holds:

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
    if truth.crowd.all():
        return {}
    kinds, targets = _kinds_of_errors(truth, found, box_of)
    counted = (box_of != IGNORED) & _best_of_each_class(found)
    unmatched = missed_boxes(truth, box_of[counted])
    scores, labels, kinds, targets = (column[counted] for column in (found.weights, found.labels, kinds, targets))
    best_first = np.argsort(-scores, kind="stable")
    # What a mistaken class or place is on is not missed.
    missed = unmatched.copy()
    missed[targets[np.isin(kinds, (CLASSIFICATION, LOCALISATION))]] = False
    correct = kinds == CORRECT

    owned = ~truth.crowd
    present = np.unique(truth.labels[owned])

    def ap50(kept: np.ndarray, labels: np.ndarray, correct: np.ndarray, wanted: np.ndarray = owned) -> float:
        order = best_first[kept[best_first]]
        totals = {label: int((truth.labels[wanted] == label).sum()) for label in present.tolist()}
        return _mean_ap50(labels[order], correct[order], totals)

    def mended(kind: int) -> float:
        wrong = kinds == kind
        if kind not in (CLASSIFICATION, LOCALISATION):
            return ap50(~wrong, labels, correct)
        right = correct | wrong
        order = best_first[right[best_first]]
        kept = ~right
        kept[order[np.unique(targets[order], return_index=True)[1]]] = True
        renamed = labels.copy()
        renamed[wrong] = truth.labels[targets[wrong]]
        return ap50(kept, renamed, right)

    everything = np.ones(len(scores), bool)
    before = ap50(everything, labels, correct)
    losses = {ERRORS[kind]: mended(kind) - before for kind in range(MISSED)}
    losses[ERRORS[MISSED]] = ap50(everything, labels, correct, owned & ~missed) - before
    losses[FALSE_POSITIVES] = ap50(correct, labels, correct) - before
    losses[FALSE_NEGATIVES] = ap50(everything, labels, correct, owned & ~unmatched) - before
    return losses


def _best_of_each_class(found: Boxes) -> np.ndarray:
    """Returns which detections COCO counts, ``bool`` ``[detections]``: the best of each class and image."""
    order = np.lexsort((-found.weights, found.labels, found.rows))
    new = np.any([np.diff(column[order], prepend=-1) != 0 for column in (found.labels, found.rows)], axis=0)
    starts = np.flatnonzero(new)
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    counted = np.zeros(len(order), bool)
    counted[order] = rank < MOST_DETECTIONS[-1]
    return counted


def _kinds_of_errors(truth: Boxes, found: Boxes, box_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns what is wrong with each detection, an index of ``ERRORS`` or ``CORRECT``, ``[detections]``, and the box
    that it has or nearly has, ``[detections]``, 0 where there is none."""
    kinds, targets = np.full(len(box_of), BACKGROUND), np.zeros(len(box_of), np.int64)
    for detected, annotated, iou in overlaps(found, truth):
        iou = np.where(truth.crowd[annotated], 0.0, iou)
        same = found.labels[detected][:, None] == truth.labels[annotated]
        own, other = np.where(same, iou, 0.0), np.where(same, 0.0, iou)
        on_own, on_other = own.max(axis=1), other.max(axis=1)
        conditions = (on_own >= IOU_THRESHOLD, on_other >= IOU_THRESHOLD, on_own >= BACKGROUND_IOU,
                      on_other >= BACKGROUND_IOU)  # fmt: skip
        kinds[detected] = np.select(conditions, (DUPLICATE, CLASSIFICATION, LOCALISATION, BOTH), BACKGROUND)
        nearest = np.where(kinds[detected] == CLASSIFICATION, other.argmax(axis=1), own.argmax(axis=1))
        targets[detected] = annotated.start + nearest
    correct = box_of >= 0
    return np.where(correct, CORRECT, kinds), np.where(correct, box_of, targets)


def _mean_ap50(labels: np.ndarray, correct: np.ndarray, totals: Mapping[int, int]) -> float:
    """Returns the mean over classes of COCO's AP, of the labels and verdicts of detections, the best first.

    Of a class whose boxes are all left out (``totals``), the AP is 1 if nothing is detected either, else 0.
    """
    values = []
    for label, total in totals.items():
        hits = np.cumsum(correct[labels == label])
        if total == 0:
            values.append(float(len(hits) == 0))
            continue
        precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
        places = np.searchsorted(hits / total, RECALLS)
        values.append(float(np.append(precision, 0.0)[places].mean()))
    return float(np.mean(values))


# Distance from the sonar


def by_ring(truth: GroundTruth, found: Boxes) -> list[dict[str, Any]]:
    """Evaluates the frames whose metadata tell where the sonar is, by rings around it; none where no frame tells.

    An object belongs to the ring in which the centre of its box is. As COCO does with sizes, a detection without a box
    counts in its own ring only. Rings are equally wide, up to the largest range.

    Returns:
        For each ring ``nearest`` and ``farthest`` in metres, ``boxes`` annotated there (without crowds), and means over
        classes, ``None`` without boxes: ``ap`` at IoU 0.5 to 0.95, ``ap50``, and ``recall`` at IoU 0.5 with 100
        detections an image.
    """
    settings = [frame.metadata.get("sonar") for frame in truth.frames]
    ranges = [opening_and_range(sonar) if isinstance(sonar, Mapping) else None for sonar in settings]
    if not any(ranges):
        return []
    longest = max(found[2] for found in ranges if found)
    power = 10.0 ** math.floor(math.log10(longest / MOST_RINGS))
    width = next(digit * power for digit in RING_WIDTHS if digit * power * MOST_RINGS >= longest * (1 - 1e-9))
    count = math.ceil(longest / width - 1e-9)
    # Corners of the picture may be a little farther than the range: they belong to the last ring.
    limits = [(number * width, (number + 1) * width if number < count - 1 else math.inf) for number in range(count)]
    tells = np.array([known is not None for known in ranges])
    boxes, detected = (part.part(tells[part.rows]) for part in (truth.boxes, found))
    distances = tuple(_distances(part, truth.frames) for part in (boxes, detected))
    precision, recall = _accumulate(boxes, detected, len(truth.frames), len(truth.names), distances, limits)
    metres = distances[0][~boxes.crowd]
    return [
        {
            "nearest": nearest,
            "farthest": min(farthest, count * width),
            "boxes": int(((metres >= nearest) & (metres < farthest)).sum()),
            "ap": _mean(precision[..., number, -1]),
            "ap50": _mean(precision[IOU_50, ..., number, -1]),
            "recall": _mean(recall[IOU_50, ..., number, -1]),
        }
        for number, (nearest, farthest) in enumerate(limits)
    ]


def _distances(boxes: Boxes, frames: Sequence[Frame]) -> np.ndarray:
    """Returns how many metres from the sonar the centres of boxes are, ``[N]``; the frames' settings say the range."""
    distances, centres = np.zeros(len(boxes.rows)), boxes.boxes[:, :2] + boxes.boxes[:, 2:] / 2
    for row in np.unique(boxes.rows).tolist():
        place, frame, sonar = boxes.place_of(row), frames[row], frames[row].metadata["sonar"]
        if sonar.get("projection") != "polar":
            fan = fan_of(sonar, frame.width, frame.height)
            distances[place] = fan.distance_and_bearing(centres[place])[:, 0]
            continue
        _, near, far = opening_and_range(sonar)
        share = centres[place, 1] / frame.height
        distances[place] = far - (far - (near or 0.0)) * (1 - share if sonar.get("nearest") == "top" else share)
    return distances
