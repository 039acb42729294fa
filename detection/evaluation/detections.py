"""Detections as COCO result records, checked before they are judged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.evaluation.ground_truth import Boxes, GroundTruth, id_range
from ppcls_ext.utils.errors import UserError

Detection = Mapping[str, Any]


def read_detections(path: str | Path) -> list[dict[str, Any]]:
    """Reads a JSON file of COCO results: a list of ``{"image_id", "category_id", "bbox", "score"}``.

    Raises:
        UserError: the file is missing or not a JSON list.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: the file of detections does not exist") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(found, list):
        raise UserError(f"{path}: need a list of COCO results, found a {type(found).__name__}")
    return found


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
    image_ids, category_ids, boxes, scores = _arrays(detections, source)
    problems = (
        (~np.isin(image_ids, list(truth.all_image_ids)), lambda index: (
            f"image_id {image_ids[index]} is not in {truth.source} ({id_range(truth.all_image_ids)}): "
            "are they detections of another data set?")),
        (~np.isin(category_ids, list(truth.all_category_ids)), lambda index: (
            f"category_id {category_ids[index]} is not in {truth.source} "
            f"(its classes: {', '.join(str(number) for number in sorted(truth.all_category_ids))})")),
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
    return _by_image(image_ids, category_ids, boxes, scores, truth)


def _arrays(detections: Sequence[Detection], source: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns image ids ``[N]``, category ids ``[N]``, boxes ``[N, 4]`` and scores ``[N]``."""
    try:
        boxes = np.array([record["bbox"] for record in detections], dtype=np.float64)
        scores = np.array([record["score"] for record in detections], dtype=np.float64)
        ids = np.array([(record["image_id"], record["category_id"]) for record in detections])
        if boxes.shape == (len(detections), 4) and scores.ndim == 1 and ids.dtype.kind in "iu":
            return ids[:, 0], ids[:, 1], boxes, scores
    except (KeyError, TypeError, ValueError):
        # One of them is malformed: the loop below says which.
        pass
    for index, record in enumerate(detections):
        problem = _problem_of(record)
        if problem:
            raise UserError(f"{source}[{index}]: {problem}")
    raise UserError(f"{source}: image_id and category_id must be whole numbers, bbox and score numbers")


def _problem_of(record: Any) -> str:
    """Returns what is wrong with the form of one record, or an empty string."""
    if not isinstance(record, Mapping):
        return f"need an object with image_id, category_id, bbox, score; found a {type(record).__name__}"
    for key in ("image_id", "category_id", "bbox", "score"):
        if key not in record:
            return f"'{key}' is missing (found: {', '.join(record)})"
    for key in ("image_id", "category_id"):
        if isinstance(record[key], bool) or not isinstance(record[key], int | np.integer):
            return f"'{key}' must be a whole number, not {record[key]!r}"
    try:
        box = np.array(record["bbox"], dtype=np.float64)
    except (TypeError, ValueError):
        box = np.zeros(0)
    if box.shape != (4,):
        return f"'bbox' must be [x, y, width, height], not {record['bbox']!r}"
    if isinstance(record["score"], bool) or not isinstance(record["score"], int | float | np.number):
        return f"'score' must be a number, not {record['score']!r}"
    return ""


def _by_image(
    image_ids: np.ndarray, category_ids: np.ndarray, boxes: np.ndarray, scores: np.ndarray, truth: GroundTruth
) -> dict[int, Boxes]:
    kept = np.flatnonzero(np.isin(image_ids, list(truth.images)) & np.isin(category_ids, list(truth.classes)))
    order = kept[np.argsort(image_ids[kept], kind="stable")]
    found, starts = np.unique(image_ids[order], return_index=True)
    return {
        int(image_id): Boxes(boxes[rows], category_ids[rows].astype(np.int64), scores[rows], np.zeros(len(rows), bool))
        for image_id, rows in zip(found, np.split(order, starts[1:]), strict=True)
    }
