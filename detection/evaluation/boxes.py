"""Annotated boxes and detections as arrays, and which detection finds which box."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detection.annotations import Frame, Ledger
from detection.coco import CocoSet, open_coco
from ppcls_ext.utils.errors import UserError

Detection = Mapping[str, Any]
IOU_THRESHOLD = 0.5
# In place of the number of a box: a detection that has none, and one that lies in a crowd, which may be hit by any
# number of detections or by none.
FREE, IGNORED = -1, -2


class Boxes(NamedTuple):
    """Boxes of all images, those of the first image first.

    Attributes:
        rows: number of the image of each, ``int64`` ``[N]``, rising.
        labels: number of its class among those evaluated, ``int64`` ``[N]``.
        boxes: ``float64`` ``[N, 4]`` of x, y, width, height in pixels.
        weights: ``float64`` ``[N]``: the scores of detections; the areas of annotated boxes, in square pixels, as
            annotated where they are.
        crowd: ``bool`` ``[N]``: marks groups.
    """

    rows: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    weights: np.ndarray
    crowd: np.ndarray

    def part(self, chosen: np.ndarray) -> Boxes:
        """Returns the boxes that an index or a mask ``[N]`` chooses."""
        return Boxes(*(column[chosen] for column in self))

    def place_of(self, row: int) -> slice:
        """Returns where the boxes of an image are."""
        return slice(*np.searchsorted(self.rows, [row, row + 1]).tolist())


def boxes_of_frames(frames: Sequence[Frame]) -> Boxes:
    """Returns the boxes of checked frames, labelled by the classes of their file."""
    pairs = [(row, box) for row, frame in enumerate(frames) for box in frame.boxes]
    return Boxes(
        np.array([row for row, _ in pairs], np.int64),
        np.array([box.category for _, box in pairs], np.int64),
        np.array([box.xywh for _, box in pairs], np.float64).reshape(-1, 4),
        np.array([box.area for _, box in pairs], np.float64),
        np.array([box.crowd for _, box in pairs], bool),
    )


@dataclass(frozen=True)
class GroundTruth:
    """The annotations of the evaluated images.

    Attributes:
        source: the annotation file.
        frames: the images, by id.
        names, category_ids: of the classes, by category id.
        numbers: of these classes in the model, from 0, by which pictures choose their colours.
        boxes: the annotated boxes.
    """

    source: str
    frames: list[Frame]
    names: list[str]
    category_ids: list[int]
    numbers: list[int]
    boxes: Boxes


def read_ground_truth(
    annotations: str | Path | CocoSet, image_ids: Sequence[int] | None = None, class_names: Sequence[str] | None = None
) -> GroundTruth:
    """Returns the annotations of a COCO file by the rules of :mod:`detection.coco`, which leave out what is of no use.

    Args:
        annotations: COCO JSON, or what was read of it.
        image_ids: the images to evaluate; default all.
        class_names: of the model, by class number; default those of the file, by category id.

    Raises:
        UserError: the file is missing, truncated or not of this form.
    """
    coco = annotations if isinstance(annotations, CocoSet) else open_coco(Path(annotations), Path(), Ledger())
    wanted = coco.image_ids if image_ids is None else set(image_ids)
    frames = sorted((frame for frame in coco.frames if frame.image_id in wanted), key=lambda frame: frame.image_id)
    order = np.argsort(coco.category_ids)
    names = [coco.names[number] for number in order]
    numbers = [(class_names or names).index(name) for name in names]
    boxes = boxes_of_frames(frames)
    boxes = boxes._replace(labels=np.argsort(order)[boxes.labels])
    return GroundTruth(str(coco.path), frames, names, sorted(coco.category_ids), numbers, boxes)


def read_detections(detections: Sequence[Detection], truth: GroundTruth) -> Boxes:
    """Returns the detections in the images of ``truth``, in the order given within each image.

    Args:
        detections: COCO results with ``image_id``, ``category_id``, ``bbox`` (x, y, width, height in pixels of the
            image as it is on disk) and ``score``.

    Raises:
        UserError: a number is not finite.
    """
    row_of = {frame.image_id: row for row, frame in enumerate(truth.frames)}
    label_of = {category_id: label for label, category_id in enumerate(truth.category_ids)}
    found = [record for record in detections if record["image_id"] in row_of]
    boxes = Boxes(
        np.array([row_of[record["image_id"]] for record in found], np.int64),
        np.array([label_of[record["category_id"]] for record in found], np.int64),
        np.array([record["bbox"] for record in found], np.float64).reshape(-1, 4),
        np.array([record["score"] for record in found], np.float64),
        np.zeros(len(found), bool),
    )
    if not (np.isfinite(boxes.boxes).all() and np.isfinite(boxes.weights).all()):
        raise UserError("the detector gives boxes or scores that are not finite: did its training diverge?")
    return boxes.part(np.argsort(boxes.rows, kind="stable"))


def overlaps(found: Boxes, truth: Boxes) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Yields for each image with detections and annotated boxes where they are, and their overlaps.

    These are ``float64`` ``[detections, boxes]``: common area over union; for crowds over the detection's own area.
    """
    from faster_coco_eval import mask

    for row in np.intersect1d(found.rows, truth.rows).tolist():
        detected, annotated = found.place_of(row), truth.place_of(row)
        crowd = truth.crowd[annotated].astype(np.uint8)
        yield detected, annotated, np.asarray(mask.iou(found.boxes[detected], truth.boxes[annotated], crowd))


def match_boxes(found: Boxes, truth: Boxes, own_class_only: bool = False) -> np.ndarray:
    """Matches greedily, image by image: the detection with the highest score chooses first.

    It takes, among the boxes that are still free and overlap by at least 0.5, one of its own class if there is one,
    else any (with ``own_class_only``: none); of several the one with the greatest overlap. A detection that finds none
    but lies in a crowd of its class is ignored.

    Returns:
        For each detection the number of its box, ``int64`` ``[detections]``; ``FREE`` for none, or ``IGNORED``.
    """
    box_of = np.full(len(found.rows), FREE, np.int64)
    for detected, annotated, iou in overlaps(found, truth):
        near, crowd = iou >= IOU_THRESHOLD, truth.crowd[annotated]
        same = found.labels[detected][:, None] == truth.labels[annotated]
        if own_class_only:
            near &= same
        # A box of the same class comes before any box of another one.
        preference = np.where(near & ~crowd, iou + same, 0.0)
        order = np.argsort(-found.weights[detected], kind="stable")
        for index in order[near[order].any(axis=1)]:
            best = int(preference[index].argmax())
            if preference[index, best] > 0:
                box_of[detected.start + index] = annotated.start + best
                preference[:, best] = 0.0
            elif (near[index] & same[index] & crowd).any():
                box_of[detected.start + index] = IGNORED
    return box_of


def missed_boxes(truth: Boxes, box_of: np.ndarray) -> np.ndarray:
    """Returns which annotated boxes no detection has, ``bool`` ``[boxes]``; crowds need none."""
    missed = ~truth.crowd
    missed[box_of[box_of >= 0]] = False
    return missed
