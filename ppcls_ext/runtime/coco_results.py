"""Detections as COCO results, numbered like an annotation file or, without one, with a table of images beside them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.runtime.predictor import DetectionPrediction, DetectionPredictor
from ppcls_ext.utils.errors import UserError, suggestion
from ppcls_ext.utils.names import Named, meanings, path_ends

logger = logging.getLogger(__name__)
SHOWN_NAMES = 3


@dataclass
class Numbering:
    """Ids in a COCO annotation file: of images by path, of categories by class number (of those that the file has)."""

    image_ids: dict[str, int]
    category_ids: dict[int, int]


def numbering_of(listing: Any, images: Sequence[Path], predictor: DetectionPredictor) -> Numbering:
    """Finds each image in an annotation file (a ``detection.coco.CocoSet``), by the path that the file gives it: of
    several that fit the longest.

    Images that are not there are named in one line; they get no results. Classes are matched by name; those of the
    model that the file lacks are named as well.

    Raises:
        UserError: the file has classes that the model has not, or none of the images is in it.
    """
    annotations, classes = listing.path, predictor.classes
    if classes is None and len(listing.names) != predictor.class_num:
        count = len(listing.names)
        raise UserError(f"{annotations}: has {count} classes, the model {predictor.class_num}, without names")
    category_ids = categories_of_classes(listing, listing.names if classes is None else classes)
    # A stated path may lie elsewhere in front, and another machine's root is none here.
    stated = Named(listing.frames, lambda frame: meanings(frame.name))
    image_ids: dict[str, int] = {}
    for image in images:
        ids = {frame.image_id for frame in stated.find(*path_ends(image.absolute().as_posix()))}
        if len(ids) == 1:
            image_ids[str(image)] = ids.pop()
    missing = [str(image) for image in images if str(image) not in image_ids]
    if not image_ids:
        raise UserError(f"{annotations}: none of the {len(images)} images is in it, the first is {images[0]}")
    if missing:
        shown = ", ".join(missing[:SHOWN_NAMES]) + (", ..." if len(missing) > SHOWN_NAMES else "")
        logger.warning("%d images are not in %s and get no COCO results: %s", len(missing), annotations, shown)
    return Numbering(image_ids, category_ids)


def categories_of_classes(listing: Any, classes: Sequence[str]) -> dict[int, int]:
    """Returns the category id of each class of a model in an annotation file, by name; warns of those that it lacks.

    Raises:
        UserError: the file has a class that the model does not.
    """
    ids = dict(zip(listing.names, listing.category_ids, strict=True))
    if unknown := [name for name in ids if name not in classes]:
        raise UserError(
            f"{listing.path}: has classes that the detector was not trained for: {', '.join(unknown)}"
            f"{suggestion(unknown[0], classes)}; those trained: {', '.join(classes)}"
        )
    if lacking := [name for name in classes if name not in ids]:
        message = "%s: lacks %d of the %d classes (%s): no figures, no COCO results of them; others are matched by name"
        logger.warning(message, listing.path, len(lacking), len(classes), ", ".join(lacking))
    return {label: ids[name] for label, name in enumerate(classes) if name in ids}


def coco_results(
    predictions: Sequence[DetectionPrediction], predictor: DetectionPredictor, numbering: Numbering | None
) -> list[dict[str, Any]] | dict[str, Any]:
    """Returns detections as COCO's evaluation reads them: a list of ``{image_id, category_id, bbox: [x, y, width,
    height], score}``; without ``numbering``, which counts images and classes from 1, a mapping with that list under
    ``annotations``, and ``images`` and ``categories`` beside it. Unreadable images are left out."""
    readable = [prediction for prediction in predictions if prediction.error is None]
    numbers: Sequence[int | None] = range(1, len(readable) + 1)
    if numbering is not None:
        numbers = [numbering.image_ids.get(one.name) for one in readable]
    counted = {label: label + 1 for label in range(predictor.class_num)}
    category_ids = counted if numbering is None else numbering.category_ids
    records = []
    for number, one in zip(numbers, readable, strict=True):
        boxes = np.concatenate([one.boxes[:, :2], one.boxes[:, 2:] - one.boxes[:, :2]], axis=1).tolist()
        records += [
            {"image_id": number, "category_id": category_ids[label], "bbox": box, "score": score}
            for label, box, score in zip(one.labels.tolist(), boxes, one.scores.tolist(), strict=True)
            if number is not None and label in category_ids
        ]
    if numbering is not None:
        return records
    images = [
        {"id": number, "file_name": one.name, "width": one.width, "height": one.height}
        for number, one in enumerate(readable, start=1)
    ]
    categories = [{"id": number, "name": predictor.label(label)} for label, number in category_ids.items()]
    return {"images": images, "categories": categories, "annotations": records}
