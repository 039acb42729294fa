"""Annotated boxes and detections in COCO's format, read and checked as far as an evaluation needs it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from detection.annotations import Ledger
from detection.coco import CocoSet, open_coco
from ppcls_ext.utils.errors import UserError, suggestion

Detection = Mapping[str, Any]


@dataclass(frozen=True)
class Boxes:
    """Boxes of one image.

    Attributes:
        boxes: ``float64`` ``[N, 4]`` of x, y, width, height in pixels.
        category_ids: ``int64`` ``[N]``.
        weights: ``float64`` ``[N]``: the scores of detections; the areas of annotated boxes, in square pixels.
        crowd: ``bool`` ``[N]``: marks groups, which may be hit by any number of detections or by none.
    """

    boxes: np.ndarray
    category_ids: np.ndarray
    weights: np.ndarray
    crowd: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    def part(self, chosen: np.ndarray) -> Boxes:
        """Returns the boxes that an index or a mask ``[N]`` chooses."""
        return Boxes(self.boxes[chosen], self.category_ids[chosen], self.weights[chosen], self.crowd[chosen])


NO_BOXES = Boxes(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool))


@dataclass(frozen=True)
class GroundTruth:
    """Ground truth of the evaluated images of ``source``, an annotation file.

    Attributes:
        classes: category id -> name, in the order of the results.
        images: image id -> its COCO record, of the images that are evaluated.
        boxes: image id -> annotated boxes of ``classes``, only of images that have some.
        all_image_ids, all_category_ids: what the file knows, evaluated or not.
        numbers: category id -> number of the class in the model, from 0, which chooses its colour.
    """

    source: str
    classes: dict[int, str]
    images: dict[int, dict[str, Any]]
    boxes: dict[int, Boxes] = field(repr=False)
    all_image_ids: frozenset[int] = field(repr=False)
    all_category_ids: frozenset[int] = field(repr=False)
    numbers: dict[int, int] = field(repr=False)

    def of(self, image_id: int) -> Boxes:
        """Returns the annotated boxes of an image, none if it is empty."""
        return self.boxes.get(image_id, NO_BOXES)


def read_ground_truth(
    annotation_file: str | Path | CocoSet,
    image_ids: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> GroundTruth:
    """Reads a COCO annotation file, by the rules of :mod:`detection.coco`, which leave out what cannot be used.

    Args:
        annotation_file: JSON with ``images``, ``annotations`` and ``categories``, or what was read of it.
        image_ids: the images to evaluate; default all.
        classes: the names of the classes to evaluate, in the order of the results; default all, by category id.
        class_names: of the model, by class number; default: those evaluated.

    Raises:
        UserError: the file is missing, truncated or not of this form, or it lacks one of ``image_ids`` or ``classes``.
    """
    coco = annotation_file
    if not isinstance(coco, CocoSet):
        coco = open_coco(Path(coco), Path(), Ledger())
    source = str(coco.path)
    ids = dict(zip(coco.names, coco.category_ids, strict=True))
    images = {frame.image_id: frame for frame in sorted(coco.frames, key=lambda frame: frame.image_id)}
    for name in classes or []:
        if name not in ids:
            raise UserError(f"{source}: no class '{name}'{suggestion(name, ids)}; the file has: {', '.join(ids)}")
    for number in image_ids if image_ids is not None else []:
        if number not in images:
            raise UserError(f"{source}: no image with id {number} ({_id_range(images)})")
    names = sorted(ids, key=ids.get) if classes is None else classes
    chosen = {ids[name]: name for name in names}
    numbers = {ids[name]: (class_names or names).index(name) for name in names}
    wanted = images if image_ids is None else {number: images[number] for number in sorted(set(image_ids))}
    boxes = {}
    for image_id, frame in wanted.items():
        found = [box for box in frame.boxes if coco.category_ids[box.category] in chosen]
        if found:
            boxes[image_id] = Boxes(
                np.array([box.xywh for box in found], np.float64),
                np.array([coco.category_ids[box.category] for box in found], np.int64),
                np.array([box.area for box in found], np.float64),
                np.array([box.crowd for box in found], bool),
            )
    records = {
        image_id: {"file_name": frame.name, "width": frame.width, "height": frame.height,
                   "sonar": frame.metadata.get("sonar")}
        for image_id, frame in wanted.items()
    }  # fmt: skip
    return GroundTruth(source, chosen, records, boxes, coco.image_ids, frozenset(coco.category_ids), numbers)


def check_detections(
    detections: Sequence[Detection], truth: GroundTruth, source: str = "detections"
) -> dict[int, Boxes]:
    """Returns the detections of each image of ``truth`` that has some, in the order given.

    Detections in images or of classes that the annotation file knows but ``truth`` leaves out are left out too.

    Args:
        detections: COCO results with ``image_id``, ``category_id``, ``bbox`` (x, y, width, height in pixels of the
            image as it is on disk) and ``score``.
        truth: the annotated images.
        source: what messages call the list, for instance its file.

    Raises:
        UserError: a record lacks a key, names an unknown image or class, or its box or score is not finite; the
            message names the record.
    """
    if not detections:
        return {}
    try:
        ids = np.array([(record["image_id"], record["category_id"]) for record in detections])
        boxes = np.array([record["bbox"] for record in detections], dtype=np.float64)
        scores = np.array([record["score"] for record in detections], dtype=np.float64)
        well_formed = ids.dtype.kind in "iu" and boxes.shape == (len(detections), 4) and scores.ndim == 1
    except (KeyError, TypeError, ValueError):
        well_formed = False
    if not well_formed:
        faulty = next((number for number, record in enumerate(detections) if not _is_result(record)), 0)
        raise UserError(
            f"{source}[{faulty}]: need whole numbers image_id and category_id, bbox [x, y, width, height] and a "
            f"number score; found {detections[faulty]!r}"
        )
    image_ids, category_ids = ids.T
    known_classes = ", ".join(str(number) for number in sorted(truth.all_category_ids))
    problems = (
        (~np.isin(image_ids, list(truth.all_image_ids)), lambda index: (
            f"image_id {image_ids[index]} is not in {truth.source} ({_id_range(truth.all_image_ids)}): "
            "are they detections of another data set?")),
        (~np.isin(category_ids, list(truth.all_category_ids)), lambda index: (
            f"category_id {category_ids[index]} is not in {truth.source} (its classes: {known_classes})")),
        (~np.isfinite(boxes).all(axis=1), lambda index: f"bbox {boxes[index].tolist()} is not finite"),
        (~(boxes[:, 2:] >= 0).all(axis=1), lambda index: (
            f"bbox {boxes[index].tolist()} has a negative side: need [x, y, width, height]")),
        (~np.isfinite(scores), lambda index: f"score {scores[index]} is not finite"),
    )  # fmt: skip
    for wrong, describe in problems:
        if wrong.any():
            index = int(np.argmax(wrong))
            more = f" (and {int(wrong.sum()) - 1} more)" if wrong.sum() > 1 else ""
            raise UserError(f"{source}[{index}]: {describe(index)}{more}")
    kept = np.flatnonzero(np.isin(image_ids, list(truth.images)) & np.isin(category_ids, list(truth.classes)))
    order = kept[np.argsort(image_ids[kept], kind="stable")]
    found, starts = np.unique(image_ids[order], return_index=True)
    return {
        int(image_id): Boxes(boxes[rows], category_ids[rows].astype(np.int64), scores[rows], np.zeros(len(rows), bool))
        for image_id, rows in zip(found, np.split(order, starts[1:]), strict=True)
    }


def _is_result(record: Any) -> bool:
    try:
        ids, values = (record["image_id"], record["category_id"]), (*record["bbox"], record["score"])
    except (KeyError, TypeError):
        return False
    whole = all(isinstance(number, Integral) and not isinstance(number, bool) for number in ids)
    return whole and len(values) == 5 and all(isinstance(value, Real) for value in values)


def _id_range(ids: Collection[int]) -> str:
    return f"it has {len(ids)}, ids {min(ids)} to {max(ids)}" if ids else "it has none"
