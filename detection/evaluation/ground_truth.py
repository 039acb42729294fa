"""The annotated boxes that detections are judged by, read from a COCO file and checked as far as judging needs it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.utils.errors import UserError, suggestion


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
    """What is in the images that are evaluated.

    Attributes:
        source: the annotation file, for messages.
        classes: category id -> name, in the order of the results.
        images: image id -> its COCO record, of the images that are evaluated.
        boxes: image id -> annotated boxes of ``classes``, only of images that have some.
        all_image_ids, all_category_ids: what the file knows, evaluated or not.
    """

    source: str
    classes: dict[int, str]
    images: dict[int, dict[str, Any]]
    boxes: dict[int, Boxes] = field(repr=False)
    all_image_ids: frozenset[int] = field(repr=False)
    all_category_ids: frozenset[int] = field(repr=False)

    def of(self, image_id: int) -> Boxes:
        """Returns the annotated boxes of an image, none if it is empty."""
        return self.boxes.get(image_id, NO_BOXES)


def read_ground_truth(
    annotation_file: str | Path, image_ids: Sequence[int] | None = None, classes: Sequence[str] | None = None
) -> GroundTruth:
    """Reads a COCO annotation file.

    Args:
        annotation_file: JSON with ``images``, ``annotations`` and ``categories``.
        image_ids: the images to evaluate; default all.
        classes: the names of the classes to evaluate, in the order of the results; default all, by category id.

    Raises:
        UserError: the file is missing, truncated or not of this form, or it lacks one of ``image_ids`` or ``classes``.
    """
    data = _read_json(Path(annotation_file))
    source = str(annotation_file)
    parts = {name: _records(data, name, source) for name in ("images", "annotations", "categories")}
    images = {_number(record, "id", f"{source}: images[{index}]"): record
              for index, record in enumerate(parts["images"])}  # fmt: skip
    names = {_number(record, "id", f"{source}: categories[{index}]"): str(record.get("name", record["id"]))
             for index, record in enumerate(parts["categories"])}  # fmt: skip
    for name, found in (("images", images), ("categories", names)):
        if len(found) < len(parts[name]):
            raise UserError(f"{source}: {name}: {len(parts[name]) - len(found)} ids occur more than once")
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise UserError(f"{source}: categories: {len(names)} classes, several of them named '{twice[0]}'")
    chosen = _chosen_classes(names, classes, source)
    wanted = _chosen_images(images, image_ids, source)
    boxes = _boxes_by_image(parts["annotations"], wanted, chosen, (images, names), source)
    return GroundTruth(source, chosen, wanted, boxes, frozenset(images), frozenset(names))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: the annotation file does not exist") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON, probably truncated ({error.msg})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text file") from None
    if not isinstance(data, dict):
        raise UserError(
            f"{path}: need a COCO object with images, annotations, categories; found a {type(data).__name__}"
        )
    return data


def _records(data: Mapping[str, Any], name: str, source: str) -> list[dict[str, Any]]:
    records = data.get(name)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{source}: '{name}' must be a list of objects, as COCO annotation files have it")
    return records


def _number(record: Mapping[str, Any], key: str, place: str) -> int:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{place}: '{key}' must be a whole number, not {value!r}")
    return value


def _chosen_classes(names: dict[int, str], classes: Sequence[str] | None, source: str) -> dict[int, str]:
    if not names:
        raise UserError(f"{source}: 'categories' is empty: there is no class to evaluate")
    if classes is None:
        return dict(sorted(names.items()))
    by_name = {name: number for number, name in names.items()}
    for name in classes:
        if name not in by_name:
            raise UserError(
                f"{source}: no class '{name}'{suggestion(name, by_name)}; the file has: {', '.join(by_name)}"
            )
    return {by_name[name]: name for name in classes}


def _chosen_images(
    images: dict[int, dict[str, Any]], image_ids: Sequence[int] | None, source: str
) -> dict[int, dict[str, Any]]:
    if not images:
        raise UserError(f"{source}: 'images' is empty: there is nothing to evaluate")
    if image_ids is None:
        return dict(sorted(images.items()))
    for number in image_ids:
        if number not in images:
            raise UserError(f"{source}: no image with id {number} ({id_range(images)})")
    return {number: images[number] for number in sorted(set(image_ids))}


def id_range(ids: Mapping[int, Any] | frozenset[int]) -> str:
    """Returns how many ids there are and where they lie, for messages."""
    return f"it has {len(ids)}, ids {min(ids)} to {max(ids)}" if ids else "it has none"


def _boxes_by_image(
    annotations: Sequence[Mapping[str, Any]],
    images: Mapping[int, Any],
    classes: Mapping[int, str],
    known: tuple[Mapping[int, Any], Mapping[int, Any]],
    source: str,
) -> dict[int, Boxes]:
    """Collects the boxes of ``images`` and ``classes``; ids must be among the ``known`` ones of the file."""
    rows: dict[int, list[tuple[list[float], int, float, bool]]] = {}
    for index, record in enumerate(annotations):
        place = f"{source}: annotations[{index}]"
        image_id, category_id = _number(record, "image_id", place), _number(record, "category_id", place)
        for name, number, ids in (("image_id", image_id, known[0]), ("category_id", category_id, known[1])):
            if number not in ids:
                raise UserError(f"{place}: {name} {number} is not in the file ({id_range(ids)})")
        box = _box(record, place)
        if image_id in images and category_id in classes:
            area = record.get("area")
            # Without an area, that of the box is meant; the two differ where objects are outlined.
            area = float(area) if isinstance(area, int | float) else box[2] * box[3]
            rows.setdefault(image_id, []).append((box, category_id, area, bool(record.get("iscrowd", 0))))
    return {
        image_id: Boxes(
            np.array([row[0] for row in found], np.float64),
            np.array([row[1] for row in found], np.int64),
            np.array([row[2] for row in found], np.float64),
            np.array([row[3] for row in found], bool),
        )
        for image_id, found in rows.items()
    }


def _box(record: Mapping[str, Any], place: str) -> list[float]:
    box = record.get("bbox")
    try:
        numbers = [float(value) for value in box] if isinstance(box, list) else []
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4 or not np.isfinite(numbers).all() or min(numbers[2:]) < 0:
        raise UserError(f"{place}: 'bbox' must be [x, y, width, height] in pixels, not {box!r}")
    return numbers
