"""Reads a COCO annotation file however faulty it is: what can be used becomes tables, what cannot becomes findings."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from detection.check.kinds import Collector
from ppcls_ext.check.findings import PART_WORDS, Entry, Finding, Picture, Severity
from ppcls_ext.preprocess.decode import read_bytes

LARGEST = 2**53
# A picture of more pixels across is none.
LARGEST_SIDE = 2**20
LISTS = ("images", "categories", "annotations")


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

    def details_of(self, annotation: int) -> dict[str, Any]:
        """Returns what ``check.json`` tells of an annotation."""
        box = [value if math.isfinite(value) else str(value) for value in self.boxes[annotation].tolist()]
        return {
            "annotation_id": self.annotation_ids[annotation],
            "class": self.class_name(annotation),
            "bbox": box,
        }

    def entry(self, annotation: int, note: str = "") -> Entry:
        """Returns an instance that shows one annotation."""
        numbers = ", ".join(f"{value:.6g}" for value in self.boxes[annotation].tolist())
        text = f"annotation {self.annotation_ids[annotation]}, {self.class_name(annotation)}: bbox [{numbers}]"
        picture = Picture(self.part, int(self.rows[annotation]))
        return Entry((picture,), f"{text}{'; ' if note else ''}{note}", self.details_of(annotation))


def unusable(part: str, message: str) -> Finding:
    """Returns the finding of a set that cannot be examined."""
    word = PART_WORDS[part]
    summary = f"1 data set cannot be opened, so {word} was not examined"
    return Finding(f"unopened_{word}", Severity.ERROR, summary, [Entry(note=message)])


class UnusableFileError(Exception):
    """An annotation file that holds nothing to examine; the message names it."""


def read_coco(part: str, path: Path, folder: Path, found: Collector) -> CocoSet:
    """Reads an annotation file.

    Args:
        part: ``Train`` or ``Eval``.
        path: the annotation file.
        folder: the folder of the images.
        found: takes the entries that cannot be used and those that contradict each other.

    Raises:
        UnusableFileError: the file is missing, truncated, no JSON, or no COCO annotations.
    """
    data = _read_lists(path)
    ids, names, sizes = _read_images(part, data["images"], found)
    category_ids, category_names = _read_categories(part, path, data["categories"], found)
    row_of = {identity: row for row, identity in reversed(list(enumerate(ids)))}
    class_of = {identity: number for number, identity in reversed(list(enumerate(category_ids)))}
    reader = _AnnotationReader(part, row_of, class_of, found)
    for number, annotation in enumerate(data["annotations"]):
        reader.read(number, annotation)
    columns = list(zip(*reader.records, strict=True)) if reader.records else [[] for _ in range(7)]
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


def _read_lists(path: Path) -> dict[str, list[Any]]:
    if not path.is_file():
        cause = "is a folder, not an annotation file" if path.is_dir() else "the annotation file does not exist"
        raise UnusableFileError(f"{path}: {cause}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = json.loads(text)
    except OSError as error:
        raise UnusableFileError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UnusableFileError(f"{path}: is not a text file ({error.reason} at byte {error.start:,})") from error
    except json.JSONDecodeError as error:
        raise UnusableFileError(_json_problem(path, text, error)) from error
    except RecursionError as error:
        raise UnusableFileError(f"{path}: is nested too deeply to be COCO annotations") from error
    if not isinstance(data, dict):
        what = "a list (results of a detector?)" if isinstance(data, list) else f"a single {type(data).__name__}"
        raise UnusableFileError(f"{path}: holds {what}, not COCO annotations with {', '.join(LISTS)}")
    wrong = [name for name in LISTS if not isinstance(data.get(name), list)]
    if wrong:
        raise UnusableFileError(f"{path}: is no COCO annotation file: it has no list of {' and of '.join(wrong)}")
    for name in ("images", "categories"):
        if not data[name]:
            raise UnusableFileError(f"{path}: lists no {name}")
    return data


def _json_problem(path: Path, text: str, error: json.JSONDecodeError) -> str:
    if not text.strip():
        return f"{path}: is empty"
    # What is unfinished is noticed at the end, or where an unfinished text or word begins.
    cut = error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated") or "}" not in text[error.pos :]
    where = f"line {error.lineno}, column {error.colno}"
    if cut:
        return f"{path}: is truncated: it ends in the middle, after {len(text):,} characters ({where}: {error.msg})"
    return f"{path}: is not valid JSON ({where}: {error.msg})"


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # JSON knows whole numbers of any length; those beyond the reach of a float are no coordinates.
    return isinstance(value, float) or (_whole(value) and abs(value) <= LARGEST)


def _read_images(part: str, images: list[Any], found: Collector) -> tuple[list[int], list[str], np.ndarray]:
    ids: list[int] = []
    names: list[str] = []
    sizes: list[tuple[int, int]] = []
    first_with_id: dict[int, int] = {}
    first_with_name: dict[str, int] = {}
    for number, image in enumerate(images):
        usable = isinstance(image, dict) and _whole(image.get("id")) and isinstance(image.get("file_name"), str)
        if not usable or not image["file_name"] or "\0" in image["file_name"]:
            found.add("malformed_image", part, Entry(note=f"images[{number}]: {_brief(image)}"))
            continue
        row, identity, name = len(ids), image["id"], image["file_name"]
        picture = Picture(part, row)
        width, height = image.get("width"), image.get("height")
        # Some tools write whole numbers as 640.0; a width that is none is as good as missing.
        if not all(_is_number(side) and 1 <= side <= LARGEST_SIDE and side % 1 == 0 for side in (width, height)):
            found.add("image_without_size", part, Entry((picture,), f"width {width}, height {height}"))
            width = height = 0
        ids.append(identity)
        names.append(name)
        sizes.append((int(width), int(height)))
        other = first_with_id.setdefault(identity, row)
        if other != row:
            found.add("duplicate_image_id", part, Entry((picture, Picture(part, other)), f"id {identity}"))
        other = first_with_name.setdefault(name, row)
        if other != row:
            note = f"ids {identity} and {ids[other]}"
            found.add("duplicate_file_name", part, Entry((picture, Picture(part, other)), note))
    return ids, names, np.array(sizes, dtype=np.int64).reshape(-1, 2)


def _read_categories(part: str, path: Path, categories: list[Any], found: Collector) -> tuple[list[int], list[str]]:
    ids: list[int] = []
    names: list[str] = []
    for number, category in enumerate(categories):
        usable = isinstance(category, dict) and _whole(category.get("id")) and isinstance(category.get("name"), str)
        if not usable or not category["name"]:
            found.add("malformed_category", part, Entry(note=f"categories[{number}] of {path}: {_brief(category)}"))
            continue
        for field, known in (("id", ids), ("name", names)):
            if category[field] in known:
                note = f"{path}: categories[{number}] has the {field} '{category[field]}' of another one"
                found.add("duplicate_category", part, Entry(note=note))
        ids.append(category["id"])
        names.append(category["name"])
    first = min(ids, default=1)
    if ids != list(range(first, first + len(ids))) or first not in (0, 1):
        order = "" if ids == sorted(ids) else "; the classes are numbered in the order of the file, not of the ids"
        note = f"{path}: {', '.join(map(str, ids[:20]))}{', ...' if len(ids) > 20 else ''}{order}"
        found.add("category_ids", part, Entry(note=note))
    return ids, names


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


class _AnnotationReader:
    """Reads annotations one by one; ``records`` holds the columns of :class:`CocoSet` for each that can be used."""

    def __init__(self, part: str, row_of: dict[int, int], class_of: dict[int, int], found: Collector) -> None:
        self.part = part
        self.row_of = row_of
        self.class_of = class_of
        self.found = found
        self.records: list[tuple[Any, ...]] = []
        self._seen: set[int] = set()

    def read(self, number: int, annotation: Any) -> None:
        """Reads ``annotations[number]``."""
        problem = _annotation_problem(annotation)
        if problem:
            note = f"annotations[{number}]: {problem}: {_brief(annotation)}"
            return self.found.add("malformed_annotation", self.part, Entry(note=note))
        identity, image, category = (annotation.get(key) for key in ("id", "image_id", "category_id"))
        row = self.row_of.get(image)
        pictures = () if row is None else (Picture(self.part, row),)

        def add(kind: str, note: str) -> None:
            details = {"annotation_id": identity, "bbox": [_finite(value) for value in annotation["bbox"]]}
            self.found.add(kind, self.part, Entry(pictures, f"annotation {identity}: {note}", details))

        self._check_fields(annotation, add)
        if category not in self.class_of:
            add("unknown_category", f"category_id {category}")
        if row is None:
            return add("unknown_image", f"image_id {image}")
        area = annotation.get("area")
        self.records.append(
            (
                identity,
                row,
                self.class_of.get(category, -1),
                annotation["bbox"],
                area if _is_number(area) else math.nan,
                bool(annotation.get("iscrowd", 0)),
                bool(annotation.get("segmentation")),
            )
        )
        return None

    def _check_fields(self, annotation: dict[str, Any], add: Callable[[str, str], None]) -> None:
        identity = annotation.get("id")
        usable = {
            "id": _whole(identity),
            "area": _is_number(annotation.get("area")),
            "iscrowd": annotation.get("iscrowd") in (0, 1),
        }
        missing = [key for key, good in usable.items() if not good]
        if missing:
            add("incomplete_annotation", f"no usable {' and '.join(missing)}")
        if _whole(identity):
            if identity in self._seen:
                add("duplicate_annotation_id", f"id {identity} is taken")
            elif identity == 0:
                add("annotation_id_zero", "ids should begin at 1")
            self._seen.add(identity)


def _annotation_problem(annotation: Any) -> str:
    if not isinstance(annotation, dict):
        return "is no mapping"
    wrong = [key for key in ("image_id", "category_id") if not _whole(annotation.get(key))]
    if wrong:
        return f"no usable {' and '.join(wrong)}"
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return "bbox is not four numbers"
    return ""


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
