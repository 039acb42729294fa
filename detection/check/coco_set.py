"""Reads a COCO annotation file however faulty it is: what can be used becomes tables, what cannot becomes findings."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from detection.annotations import AnnotationFileError, is_whole, load_coco
from ppcls_ext.check.findings import (
    DUPLICATE_KINDS,
    ERROR,
    IMAGE_KINDS,
    INFORMATION,
    UNOPENED_KINDS,
    WARNING,
    Entry,
    Findings,
    Kind,
    Picture,
)
from ppcls_ext.preprocess.decode import read_bytes

# A box is tiny if, at the size at which the model is evaluated, a side or its area (in pixels) is below these.
TINY_SIDE = 2.0
TINY_AREA = 16.0
# Below so many training boxes a class is hardly learnt.
FEW_BOXES = 10
# JSON knows whole numbers of any length; those beyond the reach of a float are no coordinates.
LARGEST = 2**53
# A picture of more pixels across is none.
LARGEST_SIDE = 2**20

_BOX, _CLASS, _ANNOTATION = ("box", "boxes"), ("class", "classes"), ("annotation",)
KINDS = {
    "image_folder_missing": Kind(ERROR, "that is not there; only the annotations were examined", "image folder"),
    "malformed_image": Kind(ERROR, "without a usable id or file name", "image entry", "image entries"),
    "image_without_size": Kind(ERROR, "without a usable width and height in the annotations"),
    "duplicate_image_id": Kind(ERROR, "with an id that another image has"),
    "duplicate_file_name": Kind(ERROR, "with a file that is listed already"),
    "malformed_category": Kind(ERROR, "without a usable id or name", "category", "categories"),
    "duplicate_category": Kind(ERROR, "with an id or a name that another category has", "category", "categories"),
    "category_ids": Kind(WARNING, "whose category ids are not 1, 2, 3, ... or 0, 1, 2, ...", "annotation file"),
    "malformed_annotation": Kind(ERROR, "without a usable image_id, category_id or bbox", *_ANNOTATION),
    "incomplete_annotation": Kind(ERROR, "without an id, an area or iscrowd, which training needs", *_ANNOTATION),
    "duplicate_annotation_id": Kind(ERROR, "with an id that another annotation has", *_ANNOTATION),
    "annotation_id_zero": Kind(WARNING, "with id 0, which COCO evaluation takes for no match", *_ANNOTATION),
    "unknown_image": Kind(ERROR, "of an image that is not listed", *_ANNOTATION),
    "unknown_category": Kind(ERROR, "of a category that is not listed", *_ANNOTATION),
    "class_count": Kind(ERROR, "whose number of categories is not num_classes", "annotation file"),
    "class_order": Kind(ERROR, "that training and validation number or name differently", *_CLASS),
    "category_ids_differ": Kind(WARNING, "whose category ids differ between training and validation", *_CLASS),
    "class_not_trained": Kind(ERROR, "with validation boxes but no training box", *_CLASS),
    "class_empty": Kind(WARNING, "without any box", *_CLASS),
    "class_not_validated": Kind(WARNING, "without a validation box", *_CLASS),
    "class_small": Kind(WARNING, f"with fewer than {FEW_BOXES} training boxes", *_CLASS),
    "non_finite_box": Kind(ERROR, "with a coordinate that is no finite number", *_BOX),
    "zero_area_box": Kind(ERROR, "without area (width or height is zero or less)", *_BOX),
    "box_outside": Kind(ERROR, "wholly outside of the image", *_BOX),
    "box_partly_outside": Kind(WARNING, "partly outside of the image", *_BOX),
    "area_not_positive": Kind(ERROR, "whose area is given as zero or less, so that training drops it", *_BOX),
    "area_differs": Kind(INFORMATION, "whose area is not width times height (matters to AP by size)", *_BOX),
    "tiny_box": Kind(WARNING, f"with a side below {TINY_SIDE:g} px or under {TINY_AREA:g} px² when evaluated", *_BOX),
    "duplicate_box": Kind(WARNING, "that another one of the same class covers almost exactly", *_BOX),
    "box_with_two_classes": Kind(WARNING, "that one of another class covers almost exactly", *_BOX),
    "all_crowd": Kind(WARNING, "in which every box is a crowd, so that nothing is learnt from it"),
    "image_without_boxes": Kind(INFORMATION, "without boxes"),
    "wrong_size": Kind(ERROR, "of another size than the annotations say"),
    "other_data": Kind(ERROR, "of which no image is in the image folder: another image_dir or data set?", "set"),
    "copies_annotated_differently": Kind(WARNING, "found more than once, with different boxes", "picture"),
    "unlisted_image": Kind(INFORMATION, "in the image folders that no annotation file lists", "image file"),
    **UNOPENED_KINDS,
    **IMAGE_KINDS,
    **DUPLICATE_KINDS,
}


@dataclasses.dataclass
class CocoSet:
    """Images, categories and boxes of one set, as far as they are usable.

    Attributes:
        part: ``Train`` or ``Eval``.
        path: the annotation file.
        folder: the folder that the file names start from.
        image_ids, file_names: of each image, ``[N]``.
        sizes: annotated width and height of each image, ``int64`` ``[N, 2]``; 0 where they are missing.
        category_ids, category_names: in the order of the file, which numbers the classes, ``[K]``.
        annotation_ids: of each annotation whose image is known and whose box has four numbers, ``[A]``.
        rows: image of each annotation, ``int64`` ``[A]``.
        classes: class of each annotation, ``int64`` ``[A]``; -1 where the category is unknown.
        boxes: ``x, y, width, height`` in pixels, ``float64`` ``[A, 4]``; may be not finite.
        areas: ``float64`` ``[A]``; NaN where it is missing.
        crowd, outlined: whether it is a crowd, and whether it has an outline (then its area is not the box's),
            ``bool`` ``[A]``.
    """

    part: str
    path: Path
    folder: Path
    image_ids: list[int]
    file_names: list[str]
    sizes: np.ndarray
    category_ids: list[int]
    category_names: list[str]
    annotation_ids: list[Any]
    rows: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    outlined: np.ndarray

    def __len__(self) -> int:
        return len(self.image_ids)

    def load(self, index: int) -> tuple[bytes, int]:
        """Returns the file of an image, encoded, and the image's id.

        Raises:
            ImageError: it cannot be read.
        """
        return read_bytes(self.name_of(index)), self.image_ids[index]

    def name_of(self, index: int) -> str:
        """Returns the path of an image."""
        return str(self.folder / self.file_names[index])

    def class_name(self, annotation: int) -> str:
        """Returns the name of the class of an annotation."""
        number = int(self.classes[annotation])
        return self.category_names[number] if number >= 0 else "unknown class"

    def entry(self, annotation: int, note: str = "") -> Entry:
        """Returns an instance that shows one annotation."""
        box = self.boxes[annotation].tolist()
        identity, name = self.annotation_ids[annotation], self.class_name(annotation)
        text = f"annotation {identity}, {name}: bbox [{', '.join(f'{value:.6g}' for value in box)}]"
        details = {"annotation_id": identity, "class": name, "bbox": [_finite(value) for value in box]}
        return Entry((Picture(self.part, int(self.rows[annotation])),), "; ".join(filter(None, (text, note))), details)


def read_coco(part: str, path: Path, folder: Path, found: Findings) -> CocoSet:
    """Reads an annotation file.

    Args:
        part: ``Train`` or ``Eval``.
        path: the annotation file.
        folder: the folder of the images.
        found: takes the entries that cannot be used and those that contradict each other (:data:`KINDS`).

    Raises:
        AnnotationFileError: the file is missing, truncated, no JSON, no COCO annotations, or lists nothing.
    """
    data = load_coco(path)
    for name in ("images", "categories"):
        if not data[name]:
            raise AnnotationFileError(f"{path}: lists no {name}")
    ids, names, sizes = _read_images(part, data["images"], found)
    category_ids, category_names = _read_categories(part, path, data["categories"], found)
    row_of = {identity: row for row, identity in reversed(list(enumerate(ids)))}
    class_of = {identity: number for number, identity in reversed(list(enumerate(category_ids)))}
    seen: set[int] = set()
    records: list[tuple[Any, ...]] = []
    for number, annotation in enumerate(data["annotations"]):
        problem = _annotation_problem(annotation)
        if problem:
            note = f"annotations[{number}]: {problem}: {_brief(annotation)}"
            found.add("malformed_annotation", Entry(note=note), part)
            continue
        identity, image, category = (annotation.get(key) for key in ("id", "image_id", "category_id"))
        row = row_of.get(image)
        for kind, note in _annotation_faults(annotation, seen, row is not None, category in class_of):
            details = {"annotation_id": identity, "bbox": [_finite(value) for value in annotation["bbox"]]}
            pictures = () if row is None else (Picture(part, row),)
            found.add(kind, Entry(pictures, f"annotation {identity}: {note}", details), part)
        if row is not None:
            area = annotation.get("area")
            area = area if _is_number(area) else math.nan
            flags = bool(annotation.get("iscrowd", 0)), bool(annotation.get("segmentation"))
            records.append((identity, row, class_of.get(category, -1), annotation["bbox"], area, *flags))
    columns = list(zip(*records, strict=True)) if records else [[] for _ in range(7)]
    return CocoSet(
        part, path, folder, ids, names, sizes, category_ids, category_names,
        annotation_ids=list(columns[0]),
        rows=np.array(columns[1], dtype=np.int64),
        classes=np.array(columns[2], dtype=np.int64),
        boxes=np.array(columns[3], dtype=np.float64).reshape(-1, 4),
        areas=np.array(columns[4], dtype=np.float64),
        crowd=np.array(columns[5], dtype=bool),
        outlined=np.array(columns[6], dtype=bool),
    )  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (is_whole(value) and abs(value) <= LARGEST)


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _read_images(part: str, images: list[Any], found: Findings) -> tuple[list[int], list[str], np.ndarray]:
    ids: list[int] = []
    names: list[str] = []
    sizes: list[tuple[int, int]] = []
    first_with_id: dict[int, int] = {}
    first_with_name: dict[str, int] = {}
    for number, image in enumerate(images):
        usable = isinstance(image, dict) and is_whole(image.get("id")) and isinstance(image.get("file_name"), str)
        if not usable or not image["file_name"] or "\0" in image["file_name"]:
            found.add("malformed_image", Entry(note=f"images[{number}]: {_brief(image)}"), part)
            continue
        row, identity, name = len(ids), image["id"], image["file_name"]
        picture = Picture(part, row)
        width, height = image.get("width"), image.get("height")
        # Some tools write whole numbers as 640.0; a width that is none is as good as missing.
        if not all(_is_number(side) and 1 <= side <= LARGEST_SIDE and side % 1 == 0 for side in (width, height)):
            found.add("image_without_size", Entry((picture,), f"width {width}, height {height}"), part)
            width = height = 0
        ids.append(identity)
        names.append(name)
        sizes.append((int(width), int(height)))
        other = first_with_id.setdefault(identity, row)
        if other != row:
            found.add("duplicate_image_id", Entry((picture, Picture(part, other)), f"id {identity}"), part)
        other = first_with_name.setdefault(name, row)
        if other != row:
            note = f"ids {identity} and {ids[other]}"
            found.add("duplicate_file_name", Entry((picture, Picture(part, other)), note), part)
    return ids, names, np.array(sizes, dtype=np.int64).reshape(-1, 2)


def _read_categories(part: str, path: Path, categories: list[Any], found: Findings) -> tuple[list[int], list[str]]:
    ids: list[int] = []
    names: list[str] = []
    for number, category in enumerate(categories):
        usable = isinstance(category, dict) and is_whole(category.get("id")) and isinstance(category.get("name"), str)
        if not usable or not category["name"]:
            found.add("malformed_category", Entry(note=f"categories[{number}] of {path}: {_brief(category)}"), part)
            continue
        for field, known in (("id", ids), ("name", names)):
            if category[field] in known:
                note = f"{path}: categories[{number}] has the {field} '{category[field]}' of another one"
                found.add("duplicate_category", Entry(note=note), part)
        ids.append(category["id"])
        names.append(category["name"])
    first = min(ids, default=1)
    if ids != list(range(first, first + len(ids))) or first not in (0, 1):
        order = "" if ids == sorted(ids) else "; the classes are numbered in the order of the file, not of the ids"
        note = f"{path}: {', '.join(map(str, ids[:20]))}{', ...' if len(ids) > 20 else ''}{order}"
        found.add("category_ids", Entry(note=note), part)
    return ids, names


def _annotation_problem(annotation: Any) -> str:
    """Returns why an annotation cannot be used at all, or the empty text."""
    if not isinstance(annotation, dict):
        return "is no mapping"
    wrong = [key for key in ("image_id", "category_id") if not is_whole(annotation.get(key))]
    if wrong:
        return f"no usable {' and '.join(wrong)}"
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return "bbox is not four numbers"
    return ""


def _annotation_faults(
    annotation: dict[str, Any], seen: set[int], image_known: bool, category_known: bool
) -> list[tuple[str, str]]:
    """Returns kind and note of each fault of an annotation's fields; adds its id to ``seen``."""
    faults = []
    identity = annotation.get("id")
    usable = {
        "id": is_whole(identity),
        "area": _is_number(annotation.get("area")),
        "iscrowd": annotation.get("iscrowd") in (0, 1),
    }
    missing = [key for key, good in usable.items() if not good]
    if missing:
        faults.append(("incomplete_annotation", f"no usable {' and '.join(missing)}"))
    if is_whole(identity):
        if identity in seen:
            faults.append(("duplicate_annotation_id", f"id {identity} is taken"))
        elif identity == 0:
            faults.append(("annotation_id_zero", "ids should begin at 1"))
        seen.add(identity)
    if not category_known:
        faults.append(("unknown_category", f"category_id {annotation['category_id']}"))
    if not image_known:
        faults.append(("unknown_image", f"image_id {annotation['image_id']}"))
    return faults
