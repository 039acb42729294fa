"""Faults of boxes: without area, outside of the image, too small to be seen, or there twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from detection.check.coco import CocoSet
from detection.check.kinds import TINY_AREA, TINY_SIDE, Collector
from ppcls_ext.check.findings import Entry, Picture

# What ppdet's loader takes for no box, in pixels.
NO_SIDE = 1e-5
# Rounding in an annotation file; more than this beyond the border is a fault, in pixels.
BORDER = 0.01
# Overlap (intersection over union) from which two boxes are one box drawn twice.
SAME_BOX = 0.95
# Difference of an area from width times height that is told: this share of it, and a pixel more for rounding.
AREA_SHARE = 0.05
# With so many boxes the overlaps are computed in rows, so that a single crowded image does not fill the memory.
ROWS = 512


class EvaluationSize(NamedTuple):
    """The size that images have when the model is evaluated, in pixels."""

    width: int
    height: int
    keep_ratio: bool


def scales(sizes: np.ndarray, wanted: EvaluationSize | None) -> np.ndarray:
    """Returns by how much images shrink or grow for the evaluation, ``float64`` ``[N, 2]`` (across, down).

    Args:
        sizes: width and height, ``[N, 2]``; images of unknown size (0) keep it.
        wanted: ``None`` leaves the images as they are.
    """
    if wanted is None:
        return np.ones((len(sizes), 2))
    known = np.where(sizes > 0, sizes, 1)
    factors = np.where(sizes > 0, np.array([wanted.width, wanted.height]) / known, 1.0)
    return np.repeat(factors.min(axis=1, keepdims=True), 2, axis=1) if wanted.keep_ratio else factors


def usable_boxes(coco: CocoSet, sizes: np.ndarray) -> np.ndarray:
    """Tells which boxes can be learnt from: of a known class, finite, with area, in the image; ``bool`` ``[A]``."""
    good, _, outside = _forms(coco, sizes)
    return good & ~outside & (coco.classes >= 0) & ~coco.crowd


def _forms(coco: CocoSet, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns which boxes have an area, which are finite, and which lie wholly outside, each ``bool`` ``[A]``."""
    finite = np.isfinite(coco.boxes).all(axis=1)
    boxes = np.where(finite[:, None], coco.boxes, 0.0)
    good = finite & (boxes[:, 2] > NO_SIDE) & (boxes[:, 3] > NO_SIDE)
    limits = _limits(coco, sizes)
    outside = good & ((boxes[:, :2] >= limits) | (boxes[:, :2] + boxes[:, 2:] <= 0)).any(axis=1)
    return good, finite, outside


def _limits(coco: CocoSet, sizes: np.ndarray) -> np.ndarray:
    """Returns width and height of the image of each annotation, ``float64`` ``[A, 2]``; infinite where unknown."""
    limits = sizes[coco.rows].astype(np.float64)
    return np.where(limits > 0, limits, np.inf)


def find_box_faults(coco: CocoSet, sizes: np.ndarray, wanted: EvaluationSize | None, found: Collector) -> None:
    """Examines all boxes of a set.

    Args:
        coco: the set.
        sizes: width and height of each image, ``int64`` ``[N, 2]``, of the file where it was read, else as annotated.
        wanted: the size at the evaluation.
        found: takes the faults.
    """
    good, finite, outside = _forms(coco, sizes)
    boxes = np.where(finite[:, None], coco.boxes, 0.0)
    limits = _limits(coco, sizes)
    beyond = ((boxes[:, :2] < -BORDER) | (boxes[:, :2] + boxes[:, 2:] > limits + BORDER)).any(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = boxes[:, 2:] * scales(sizes, wanted)[coco.rows]
        area = boxes[:, 2] * boxes[:, 3]
        tiny = (scaled.min(axis=1, initial=np.inf) < TINY_SIDE) | (scaled.prod(axis=1) < TINY_AREA)
        differs = np.abs(coco.areas - area) > AREA_SHARE * area + 1.0
    for kind, chosen in (
        ("non_finite_box", ~finite),
        ("zero_area_box", finite & ~good),
        ("area_not_positive", good & (coco.areas <= 0)),
        ("area_differs", good & (coco.areas > 0) & differs & ~coco.outlined & ~coco.crowd),
    ):
        for annotation in np.flatnonzero(chosen).tolist():
            note = f"area {coco.areas[annotation]:.6g}" if kind.startswith("area") else ""
            found.add(kind, coco.part, coco.entry(annotation, note))
    for kind, chosen in (("box_outside", outside), ("box_partly_outside", good & ~outside & beyond)):
        for annotation in np.flatnonzero(chosen).tolist():
            width, height = sizes[coco.rows[annotation]].tolist()
            found.add(kind, coco.part, coco.entry(annotation, f"the image is {width} x {height}"))
    small = np.flatnonzero(good & ~outside & tiny & ~coco.crowd)
    for annotation in small[np.argsort(scaled[small].prod(axis=1), kind="stable")].tolist():
        width, height = scaled[annotation].tolist()
        found.add("tiny_box", coco.part, coco.entry(annotation, f"{width:.3g} x {height:.3g} px when evaluated"))
    _find_double_boxes(coco, good & ~outside & ~coco.crowd, found)


def _find_double_boxes(coco: CocoSet, chosen: np.ndarray, found: Collector) -> None:
    for members in _by_image(coco, chosen):
        for second, first in _same_boxes(coco.boxes[members]):
            one, other = int(members[first]), int(members[second])
            same = coco.classes[one] == coco.classes[other]
            kind = "duplicate_box" if same else "box_with_two_classes"
            class_name = "" if same else f" ({coco.class_name(one)})"
            note = f"as annotation {coco.annotation_ids[one]}{class_name}"
            found.add(kind, coco.part, coco.entry(other, note))


def _by_image(coco: CocoSet, chosen: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the chosen annotations of each image that has two or more, ``int64`` ``[n]``."""
    annotations = np.flatnonzero(chosen)
    annotations = annotations[np.argsort(coco.rows[annotations], kind="stable")]
    rows = coco.rows[annotations]
    cuts = np.flatnonzero(rows[1:] != rows[:-1]) + 1
    yield from (group for group in np.split(annotations, cuts) if len(group) > 1)


def _same_boxes(boxes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields each box that lies on an earlier one, and that one; ``boxes``: ``[n, 4]`` x, y, width, height."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    areas = boxes[:, 2] * boxes[:, 3]
    for start in range(0, len(boxes), ROWS):
        rows = slice(start, start + ROWS)
        common = np.minimum(high[rows, None], high[None]) - np.maximum(low[rows, None], low[None])
        overlap = common.clip(min=0).prod(axis=2)
        same = overlap >= SAME_BOX * (areas[rows, None] + areas[None] - overlap)
        same &= np.arange(len(boxes))[None] < np.arange(start, start + len(same))[:, None]
        for row in np.flatnonzero(same.any(axis=1)).tolist():
            yield start + row, int(same[row].argmax())


def find_image_box_faults(coco: CocoSet, keeps_empty: bool, found: Collector) -> None:
    """Finds images without boxes and images in which every box is a crowd."""
    boxes = np.bincount(coco.rows, minlength=len(coco))
    crowds = np.bincount(coco.rows[coco.crowd], minlength=len(coco))
    note = "" if keeps_empty else "left out, for allow_empty is not set"
    for row in np.flatnonzero(boxes == 0).tolist():
        found.add("image_without_boxes", coco.part, Entry((Picture(coco.part, row),), note))
    for row in np.flatnonzero((boxes > 0) & (boxes == crowds)).tolist():
        found.add("all_crowd", coco.part, Entry((Picture(coco.part, row),)))
