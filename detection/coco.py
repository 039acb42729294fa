"""Reads COCO annotation files however faulty they are: what can be used becomes tables, the rest becomes findings.

The data check, and the check before every training and evaluation, both stand on :func:`read_coco`; a raw data set that
is yet to be prepared, with all its repairs, is read by :mod:`detection.prepare.readers`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.check.findings import ERROR, WARNING, Findings, Kind, Picture
from ppcls_ext.preprocess.decode import read_bytes
from ppcls_ext.preprocess.samples import Range
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.texts import TextError, read_text

COCO_LISTS = ("images", "categories", "annotations")
# JSON knows whole numbers of any length; those beyond the reach of a float are no coordinates.
LARGEST = 2**53
# No picture reaches as far.
LARGEST_COORDINATE = 1e9
# A picture of more pixels across is none.
LARGEST_SIDE = 2**20
FILE_KINDS = {
    "malformed_image": Kind(ERROR, "without a usable id or file name", "image entry", "image entries"),
    "image_without_size": Kind(ERROR, "without a usable width and height in the annotations"),
    "duplicate_image_id": Kind(ERROR, "with an id that another image has"),
    "duplicate_file_name": Kind(ERROR, "with a file that is listed already"),
    "malformed_category": Kind(ERROR, "without a usable id or name", "category", "categories"),
    "duplicate_category": Kind(ERROR, "with an id or a name that another category has", "category", "categories"),
    "category_ids": Kind(WARNING, "whose category ids are not 1, 2, 3, ... or 0, 1, 2, ...", "annotation file"),
    "malformed_annotation": Kind(ERROR, "without a usable image_id, category_id or bbox", "annotation"),
    "incomplete_annotation": Kind(ERROR, "without an id, an area or iscrowd, which training needs", "annotation"),
    "duplicate_annotation_id": Kind(ERROR, "with an id that another annotation has", "annotation"),
    "annotation_id_zero": Kind(WARNING, "with id 0, which COCO evaluation takes for no match", "annotation"),
    "unknown_image": Kind(ERROR, "of an image that is not listed", "annotation"),
    "unknown_category": Kind(ERROR, "of a category that is not listed", "annotation"),
}
# Of these, what no training and no evaluation gets over.
UNUSABLE = ("malformed_image", "image_without_size", "duplicate_image_id", "malformed_category", "duplicate_category",
            "malformed_annotation", "incomplete_annotation", "unknown_image", "unknown_category")  # fmt: skip


def is_whole(value: Any) -> bool:
    """Tells whether a JSON value is a whole number (``true`` is none)."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Tells whether a JSON value is a number, finite or not, that fits into a float."""
    return isinstance(value, float) or (is_whole(value) and abs(value) <= LARGEST)


def is_coordinate(value: Any) -> bool:
    """Tells whether a JSON value is a finite number of a size that pictures may have."""
    return (isinstance(value, float) or is_whole(value)) and abs(value) < LARGEST_COORDINATE


class AnnotationFileError(UserError):
    """An annotation file that cannot be read; the message names it."""


class NotCocoError(AnnotationFileError):
    """JSON that is no COCO annotation file."""


def load_coco(path: Path) -> dict[str, Any]:
    """Reads a COCO file; that it has the lists ``images``, ``categories`` and ``annotations`` is all that is checked.

    Raises:
        NotCocoError: it is JSON of another kind.
        AnnotationFileError: it is missing, truncated, or no JSON.
    """
    if not path.is_file():
        cause = "is a folder, not an annotation file" if path.is_dir() else "the annotation file does not exist"
        raise AnnotationFileError(f"{path}: {cause}")
    try:
        text = read_text(path)
        data = json.loads(text)
    except TextError as error:
        raise AnnotationFileError(str(error)) from error
    except OSError as error:
        raise AnnotationFileError(f"{path}: cannot be read ({error.strerror or error})") from error
    except json.JSONDecodeError as error:
        if not text.strip():
            raise AnnotationFileError(f"{path}: is empty") from error
        # What is unfinished is noticed at the end, or where an unfinished text or word begins.
        cut = (
            error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated") or "}" not in text[error.pos :]
        )
        what = f"is truncated: it ends in the middle, after {len(text):,} characters" if cut else "is not valid JSON"
        place = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise AnnotationFileError(f"{path}: {what} ({place})") from error
    except RecursionError as error:
        raise AnnotationFileError(f"{path}: is nested too deeply to be COCO annotations") from error
    except ValueError as error:
        raise AnnotationFileError(f"{path}: is not valid JSON ({error})") from error
    if not isinstance(data, dict):
        what = "a list (results of a detector?)" if isinstance(data, list) else f"a single {type(data).__name__}"
        raise NotCocoError(f"{path}: holds {what}, not COCO annotations with {', '.join(COCO_LISTS)}")
    wrong = [name for name in COCO_LISTS if not isinstance(data.get(name), list)]
    if wrong:
        raise NotCocoError(f"{path}: is no COCO annotation file: it has no list of {' and of '.join(wrong)}")
    return data


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
        value_range: what ``decode_image`` makes bytes of where samples have more than 8 bits.
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
    value_range: Range | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    def load(self, index: int) -> tuple[bytes, int]:
        """Returns the file of an image, encoded, and the image's id; an ``ImageError`` if it cannot be read."""
        return read_bytes(self.name_of(index)), self.image_ids[index]

    def name_of(self, index: int) -> str:
        """Returns the path of an image."""
        return str(self.folder / self.file_names[index])

    def class_name(self, annotation: int) -> str:
        """Returns the name of the class of an annotation."""
        number = int(self.classes[annotation])
        return self.category_names[number] if number >= 0 else "unknown class"

    def tell(self, found: Findings, kind: str, annotation: int, note: str = "") -> None:
        """Adds a finding about one annotation."""
        box, name = self.boxes[annotation].tolist(), self.class_name(annotation)
        identity, picture = self.annotation_ids[annotation], Picture(self.part, int(self.rows[annotation]))
        text = f"annotation {identity}, {name}: bbox [{', '.join(f'{value:.6g}' for value in box)}]"
        details = {"annotation_id": identity, "class": name, "bbox": _finite(box)}
        found.add(kind, picture, note="; ".join(filter(None, (text, note))), **details)


def read_coco(part: str, path: Path, folder: Path, found: Findings) -> CocoSet:
    """Reads an annotation file.

    Args:
        part: ``Train`` or ``Eval``.
        path: the annotation file.
        folder: the folder of the images.
        found: takes the entries that cannot be used and those that contradict each other (:data:`FILE_KINDS`).

    Raises:
        AnnotationFileError: the file is missing, truncated, no JSON, no COCO annotations, or lists nothing.
    """
    data = load_coco(path)
    for name in ("images", "categories"):
        if not data[name]:
            raise AnnotationFileError(f"{path}: lists no {name}")

    image_ids: list[int] = []
    file_names: list[str] = []
    sizes: list[tuple[int, int]] = []
    row_of: dict[int, int] = {}
    row_of_name: dict[str, int] = {}
    for number, image in enumerate(data["images"]):
        name = _field(image, "file_name")
        if not is_whole(_field(image, "id")) or not isinstance(name, str) or not name or "\0" in name:
            found.add("malformed_image", note=f"images[{number}]: {_brief(image)}", part=part)
            continue
        row, identity = len(image_ids), image["id"]
        picture, width, height = Picture(part, row), image.get("width"), image.get("height")
        # Some tools write whole numbers as 640.0; a width that is none is as good as missing.
        if not all(is_number(side) and 1 <= side <= LARGEST_SIDE and side % 1 == 0 for side in (width, height)):
            found.add("image_without_size", picture, note=f"width {width}, height {height}")
            width = height = 0
        image_ids.append(identity)
        file_names.append(name)
        sizes.append((int(width), int(height)))
        if (other := row_of.setdefault(identity, row)) != row:
            found.add("duplicate_image_id", picture, Picture(part, other), note=f"id {identity}")
        if (other := row_of_name.setdefault(name, row)) != row:
            note = f"ids {identity} and {image_ids[other]}"
            found.add("duplicate_file_name", picture, Picture(part, other), note=note)

    category_ids: list[int] = []
    category_names: list[str] = []
    for number, category in enumerate(data["categories"]):
        name = _field(category, "name")
        if not is_whole(_field(category, "id")) or not isinstance(name, str) or not name:
            found.add("malformed_category", note=f"categories[{number}] of {path}: {_brief(category)}", part=part)
            continue
        for field, known in (("id", category_ids), ("name", category_names)):
            if category[field] in known:
                note = f"{path}: categories[{number}] has the {field} '{category[field]}' of another one"
                found.add("duplicate_category", note=note, part=part)
        category_ids.append(category["id"])
        category_names.append(name)
    first = min(category_ids, default=1)
    if category_ids != list(range(first, first + len(category_ids))) or first not in (0, 1):
        rising = category_ids == sorted(category_ids)
        order = "" if rising else "; the classes are numbered in the order of the file, not of the ids"
        ids = ", ".join(map(str, category_ids[:20])) + (", ..." if len(category_ids) > 20 else "")
        found.add("category_ids", note=f"{path}: {ids}{order}", part=part)
    class_of = {identity: number for number, identity in reversed(list(enumerate(category_ids)))}

    seen: set[int] = set()
    records: list[tuple[Any, ...]] = []
    for number, annotation in enumerate(data["annotations"]):
        box = _field(annotation, "bbox")
        wrong = [key for key in ("image_id", "category_id") if not is_whole(_field(annotation, key))]
        problem = f"no usable {' and '.join(wrong)}" if wrong else ""
        if not isinstance(annotation, dict):
            problem = "is no mapping"
        elif not wrong and not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
            problem = "bbox is not four numbers"
        if problem:
            note = f"annotations[{number}]: {problem}: {_brief(annotation)}"
            found.add("malformed_annotation", note=note, part=part)
            continue
        identity, image, category = (annotation.get(key) for key in ("id", "image_id", "category_id"))
        area, row, usable_id = annotation.get("area"), row_of.get(image), is_whole(identity)
        told = {"id": usable_id, "area": is_number(area), "iscrowd": annotation.get("iscrowd") in (0, 1)}
        missing = " and ".join(key for key, good in told.items() if not good)
        for kind, is_fault, note in (
            ("incomplete_annotation", missing, f"no usable {missing}"),
            ("duplicate_annotation_id", usable_id and identity in seen, f"id {identity} is taken"),
            ("annotation_id_zero", usable_id and identity == 0 and identity not in seen, "ids should begin at 1"),
            ("unknown_category", category not in class_of, f"category_id {category}"),
            ("unknown_image", row is None, f"image_id {image}"),
        ):
            if is_fault:
                pictures = () if row is None else (Picture(part, row),)
                details = {"annotation_id": identity, "bbox": _finite(box)}
                found.add(kind, *pictures, note=f"annotation {identity}: {note}", part=part, **details)
        if usable_id:
            seen.add(identity)
        if row is not None:
            flags = bool(annotation.get("iscrowd", 0)), bool(annotation.get("segmentation"))
            records.append((identity, row, class_of.get(category, -1), box, area if told["area"] else math.nan, *flags))
    columns = list(zip(*records, strict=True)) or [()] * 7
    tables = [
        np.array(column, dtype=kind)
        for column, kind in zip(columns[1:], (np.int64, np.int64, np.float64, np.float64, bool, bool), strict=True)
    ]
    tables[2] = tables[2].reshape(-1, 4)
    image_sizes = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    names = (image_ids, file_names, image_sizes, category_ids, category_names, list(columns[0]))
    return CocoSet(part, path, folder, *names, *tables)


def _field(entry: Any, key: str) -> Any:
    return entry.get(key) if isinstance(entry, dict) else None


def _finite(values: list[float]) -> list[float | str]:
    """Spells out numbers that JSON does not know."""
    return [value if math.isfinite(value) else str(value) for value in values]


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."
