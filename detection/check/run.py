"""Checks the data of a detection configuration: faults of boxes, classes and images, and the result."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from detection.annotations import AnnotationFileError, BoxForms, box_forms
from detection.check.coco_set import FEW_BOXES, KINDS, TINY_AREA, TINY_SIDE, CocoSet, read_coco
from detection.configuration import DetectionConfig
from ppcls_ext.check.duplicates import find_exact_duplicates, find_near_duplicates, groups_of_copies
from ppcls_ext.check.findings import PART_WORDS, Entry, Findings, Picture, count_of
from ppcls_ext.check.images import Mark, Scan, Workers, find_image_faults, scan_images
from ppcls_ext.check.report import DataCheck
from ppcls_ext.preprocess.sonar import SonarEnhance, enhancement_of
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.image_files import images_in

# Overlap (intersection over union) from which two boxes are one box drawn twice.
SAME_BOX = 0.95
# Difference of an area from width times height that is told: this share of it, and a pixel more for rounding.
AREA_SHARE = 0.05
# With so many boxes the overlaps are computed in rows, so that a single crowded image does not fill the memory.
ROWS = 512
# Copies of a picture agree if no corner of their boxes differs more, in pixels.
CORNER = 2.0


class EvaluationSize(NamedTuple):
    """The size that images have when the model is evaluated, in pixels."""

    width: int
    height: int
    keep_ratio: bool


@dataclasses.dataclass(frozen=True)
class SetFiles:
    """Files of one set.

    Attributes:
        folder: the folder that the file names in the annotations start from.
        annotations: the COCO annotation file.
        keeps_empty: whether images without boxes are used.
    """

    folder: Path
    annotations: Path
    keeps_empty: bool = True


@dataclasses.dataclass(frozen=True)
class Plan:
    """The data sets to check, and the parts of the configuration that matter to the check.

    Attributes:
        name: the configuration, as it is shown.
        sets: ``Train`` before ``Eval``, at least one of them.
        num_classes: outputs of the model.
        evaluation_size: the size that images have at the evaluation; ``None`` where the configuration sets none.
        enhance: raises the contrast of sonar frames; ``None`` shows images as they are.
    """

    name: str
    sets: Mapping[str, SetFiles]
    num_classes: int | None = None
    evaluation_size: EvaluationSize | None = None
    enhance: SonarEnhance | None = None


def plan_of(config: DetectionConfig) -> Plan:
    """Returns what is to be checked.

    Raises:
        UserError: the configuration names no annotation file for training or validation.
    """
    files = config.datasets
    sets = {}
    for part in PART_WORDS:
        annotations = files[part].annotations if part in files else None
        if annotations is not None:
            keeps_empty = bool(config.data[f"{part}Dataset"].get("allow_empty", False))
            sets[part] = SetFiles(files[part].image_dir, annotations, keeps_empty)
    if not sets:
        names = " nor ".join(f"{part}Dataset.anno_path" for part in PART_WORDS)
        raise UserError(f"{config.path}: has neither {names}: nothing to check")
    readers = [config.data.get(f"{part}Reader") or {} for part in ("Eval", "Train")]
    enhance = next(filter(None, (enhancement_of(reader.get("sample_transforms")) for reader in readers)), None)
    return Plan(str(config.path), sets, config.data.get("num_classes"), evaluation_size(config.data), enhance)


def evaluation_size(data: Mapping[str, Any]) -> EvaluationSize | None:
    """Returns the size to which the last resizing operator of ``EvalReader`` brings images."""
    reader = data.get("EvalReader") or {}
    steps = [*(reader.get("sample_transforms") or []), *(reader.get("batch_transforms") or [])]
    found = None
    for step in steps:
        for name, arguments in step.items() if isinstance(step, dict) else ():
            size = arguments.get("target_size") if isinstance(arguments, dict) else None
            if isinstance(size, int):
                size = [size, size]
            if isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size):
                # A letterbox keeps the ratio by its nature; Resize does so unless it is told otherwise.
                keep_ratio = "Letter" in name or bool(arguments.get("keep_ratio", True))
                found = EvaluationSize(size[1], size[0], keep_ratio)
    return found


class Classes:
    """The classes of all sets, by name: those of the training set in its order, then those that only others know.

    Args:
        sets: ``Train`` before ``Eval``.
        usable: which annotations of each set can be learnt from, ``bool`` ``[A]``.

    Attributes:
        names: ``[K]``.
        boxes, images: by set, boxes of each class and images that show it, ``int64`` ``[K]``.
        numbers: by set, class of each annotation, ``int64`` ``[A]``; -1 where it cannot be learnt from.
    """

    def __init__(self, sets: Mapping[str, CocoSet], usable: Mapping[str, np.ndarray]) -> None:
        self.names = list(dict.fromkeys(name for coco in sets.values() for name in coco.category_names))
        number_of = {name: number for number, name in enumerate(self.names)}
        self.boxes: dict[str, np.ndarray] = {}
        self.images: dict[str, np.ndarray] = {}
        self.numbers: dict[str, np.ndarray] = {}
        for part, coco in sets.items():
            merged = np.array([number_of[name] for name in coco.category_names] + [-1], dtype=np.int64)
            numbers = np.where(usable[part], merged[coco.classes], -1)
            shown = np.unique(np.stack([coco.rows, numbers], axis=1)[numbers >= 0], axis=0)[:, 1]
            self.numbers[part] = numbers
            self.boxes[part] = np.bincount(numbers[numbers >= 0], minlength=len(self.names))
            self.images[part] = np.bincount(shown, minlength=len(self.names))


@dataclasses.dataclass
class DetectionCheck(DataCheck):
    """The result of a check.

    Attributes:
        plan: what was checked.
        sets: the annotations of the sets that could be opened.
        sizes: width and height of their images, ``int64`` ``[N, 2]``: as read, else as annotated.
        classes: the classes of these sets.
    """

    task: ClassVar[str] = "detection"
    plan: Plan
    sets: dict[str, CocoSet]
    sizes: dict[str, np.ndarray]
    classes: Classes

    def facts_about(self, part: str) -> str:
        """Returns ``training: 1,308 images with 1,915 boxes of 11 classes``."""
        boxes = self.classes.boxes[part]
        images, count = count_of(len(self.sets[part]), "image"), count_of(int(boxes.sum()), "box", "boxes")
        return f"{PART_WORDS[part]}: {images} with {count} of {count_of(int((boxes > 0).sum()), 'class', 'classes')}"

    def classes_json(self) -> dict[str, Any]:
        """Returns the outputs of the model."""
        return {"num_classes": self.plan.num_classes}

    def set_json(self, part: str) -> dict[str, Any]:
        """Returns the files of a set and its boxes by class."""
        coco = self.sets[part]
        counts = zip(self.classes.names, self.classes.boxes[part], self.classes.images[part], strict=True)
        return {
            "annotations": str(coco.path),
            "image_folder": str(coco.folder),
            "boxes": int(self.classes.boxes[part].sum()),
            "boxes_not_used": int((self.classes.numbers[part] < 0).sum()),
            "by_class": {name: {"boxes": int(boxes), "images": int(images)} for name, boxes, images in counts},
        }

    def picture_json(self, picture: Picture) -> dict[str, Any]:
        """Returns the id of an image."""
        coco = self.sets.get(picture.part)
        return {"image_id": coco.image_ids[picture.index]} if coco else {}


def check_detection_data(plan: Plan, limit: int = 0, worker_count: int = 1) -> DetectionCheck:
    """Looks for faults in annotations and images.

    Args:
        plan: the data sets and what the model expects of them.
        limit: images to read of each set, evenly spread; 0 for all. Annotations are always examined all.
        worker_count: processes; 0 does the work in this one.
    """
    found = Findings(KINDS)
    sets: dict[str, CocoSet] = {}
    for part, files in plan.sets.items():
        try:
            coco = read_coco(part, files.annotations, files.folder, found)
        except AnnotationFileError as error:
            found.add(f"unopened_{PART_WORDS[part]}", Entry(note=str(error)))
            continue
        if not files.folder.is_dir():
            cause = "is a file, not a folder" if files.folder.exists() else "no such folder"
            found.add("image_folder_missing", Entry(note=f"{files.folder}: {cause}"), part)
        if len(coco):
            sets[part] = coco
    if not sets:
        return DetectionCheck(plan.name, found.worst_first(), Scan({}, {}), 0.0, plan, {}, {}, Classes({}, {}))
    chosen = {}
    for part, coco in sets.items():
        # Without a folder each image would be missing; the annotations are examined all the same.
        count = len(coco) if coco.folder.is_dir() else 0
        few = limit and limit < count
        chosen[part] = np.linspace(0, count - 1, limit).round().astype(np.int64) if few else np.arange(count)
    start = time.monotonic()
    with Workers(sets, worker_count) as workers:
        scan = scan_images(workers, chosen)
        seconds = time.monotonic() - start
        find_image_faults(scan, found)
        copies = groups_of_copies(scan)
        find_exact_duplicates(copies, found)
        find_near_duplicates(scan, workers, found)
    sizes = {part: coco.sizes.copy() for part, coco in sets.items()}
    for part, known in sizes.items():
        known[scan.readable(part)] = scan.sizes(part)
    forms = {part: box_forms(coco.boxes, sizes[part][coco.rows]) for part, coco in sets.items()}
    usable = {
        part: forms[part].has_area & ~forms[part].outside & (coco.classes >= 0) & ~coco.crowd
        for part, coco in sets.items()
    }
    classes = Classes(sets, usable)
    find_class_faults(sets, classes, plan.num_classes, found)
    for part, coco in sets.items():
        find_box_faults(coco, forms[part], sizes[part], plan.evaluation_size, found)
        find_faults_of_annotated_images(coco, sizes[part], scan, plan.sets[part].keeps_empty, found)
    find_copies_annotated_differently(copies, sets, found)
    if len(sets) == len(plan.sets):
        find_unlisted_images(sets, found)
    return DetectionCheck(plan.name, found.worst_first(), scan, seconds, plan, sets, sizes, classes)


def find_class_faults(sets: Mapping[str, CocoSet], classes: Classes, num_classes: int | None, found: Findings) -> None:
    """Finds where configuration and annotation files disagree about the classes, and classes with few or no boxes."""
    for part, coco in sets.items():
        count = len(coco.category_names)
        if num_classes is not None and count != num_classes:
            names = ", ".join(coco.category_names[:20]) + (", ..." if count > 20 else "")
            categories = count_of(count, "category", "categories")
            note = f"num_classes is {num_classes}, but {coco.path} has {categories}: {names}"
            found.add("class_count", Entry(note=note), part)
    if len(sets) == 2:
        # The number of a class is its place in the file, so two files must list the same names in the same order.
        train, evaluation = sets["Train"], sets["Eval"]
        names, others = train.category_names, evaluation.category_names
        for number in range(max(len(names), len(others))):
            one = f"'{names[number]}'" if number < len(names) else "unknown"
            other = f"'{others[number]}'" if number < len(others) else "unknown"
            if one != other:
                note = f"class {number} is {one} in training and {other} in validation"
                found.add("class_order", Entry(note=note))
        ids = dict(zip(names, train.category_ids, strict=True))
        for name, identity in zip(others, evaluation.category_ids, strict=True):
            if ids.get(name, identity) != identity:
                found.add("category_ids_differ", Entry(note=f"'{name}' is {ids[name]} and {identity}"))
    if "Train" not in classes.boxes:
        return
    train_boxes = classes.boxes["Train"]
    for number, name in enumerate(classes.names):
        taught = int(train_boxes[number])
        measured = int(classes.boxes["Eval"][number]) if "Eval" in classes.boxes else None
        if not taught and measured:
            note = f"{name}: {count_of(measured, 'validation box', 'validation boxes')}"
            found.add("class_not_trained", Entry(note=note))
        elif not taught:
            found.add("class_empty", Entry(note=name))
        elif measured == 0:
            found.add("class_not_validated", Entry(note=name))
    for number in np.argsort(train_boxes, kind="stable").tolist():
        if 0 < train_boxes[number] < FEW_BOXES:
            note = f"{classes.names[number]}: {count_of(int(train_boxes[number]), 'box', 'boxes')}"
            found.add("class_small", Entry(note=note))


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


def find_box_faults(
    coco: CocoSet, forms: BoxForms, sizes: np.ndarray, wanted: EvaluationSize | None, found: Findings
) -> None:
    """Finds boxes without area, outside of the image, too small to be seen, with a wrong area, or there twice.

    Args:
        coco: the set.
        forms: of its boxes.
        sizes: width and height of each image, ``int64`` ``[N, 2]``.
        wanted: the size at the evaluation.
        found: takes the faults.
    """
    boxes = np.where(forms.finite[:, None], coco.boxes, 0.0)
    good, inside = forms.has_area, forms.has_area & ~forms.outside
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = boxes[:, 2:] * scales(sizes, wanted)[coco.rows]
        area = boxes[:, 2] * boxes[:, 3]
        tiny = (scaled.min(axis=1, initial=np.inf) < TINY_SIDE) | (scaled.prod(axis=1) < TINY_AREA)
        differs = np.abs(coco.areas - area) > AREA_SHARE * area + 1.0
    for kind, chosen in (
        ("non_finite_box", ~forms.finite),
        ("zero_area_box", forms.finite & ~good),
        ("area_not_positive", good & (coco.areas <= 0)),
        ("area_differs", good & (coco.areas > 0) & differs & ~coco.outlined & ~coco.crowd),
        ("box_outside", forms.outside),
        ("box_partly_outside", inside & forms.beyond),
    ):
        for annotation in np.flatnonzero(chosen).tolist():
            note = f"area {coco.areas[annotation]:.6g}" if kind.startswith("area") else ""
            if "outside" in kind:
                note = "the image is {} x {}".format(*sizes[coco.rows[annotation]])
            found.add(kind, coco.entry(annotation, note), coco.part)
    small = np.flatnonzero(inside & tiny & ~coco.crowd)
    for annotation in small[np.argsort(scaled[small].prod(axis=1), kind="stable")].tolist():
        width, height = scaled[annotation].tolist()
        found.add("tiny_box", coco.entry(annotation, f"{width:.3g} x {height:.3g} px when evaluated"), coco.part)
    # Boxes on top of each other, image by image.
    annotations = np.flatnonzero(inside & ~coco.crowd)
    annotations = annotations[np.argsort(coco.rows[annotations], kind="stable")]
    for members in np.split(annotations, np.flatnonzero(np.diff(coco.rows[annotations])) + 1):
        for second, first in _same_boxes(coco.boxes[members]):
            one, other = int(members[first]), int(members[second])
            same = coco.classes[one] == coco.classes[other]
            note = f"as annotation {coco.annotation_ids[one]}" + ("" if same else f" ({coco.class_name(one)})")
            found.add("duplicate_box" if same else "box_with_two_classes", coco.entry(other, note), coco.part)


def _same_boxes(boxes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields each box that lies on an earlier one, and that one; ``boxes``: ``[n, 4]`` x, y, width, height."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    areas = boxes[:, 2] * boxes[:, 3]
    for start in range(0, len(boxes) if len(boxes) > 1 else 0, ROWS):
        rows = slice(start, start + ROWS)
        common = np.minimum(high[rows, None], high[None]) - np.maximum(low[rows, None], low[None])
        overlap = common.clip(min=0).prod(axis=2)
        same = overlap >= SAME_BOX * (areas[rows, None] + areas[None] - overlap)
        same &= np.arange(len(boxes))[None] < np.arange(start, start + len(same))[:, None]
        for row in np.flatnonzero(same.any(axis=1)).tolist():
            yield start + row, int(same[row].argmax())


def find_faults_of_annotated_images(
    coco: CocoSet, sizes: np.ndarray, scan: Scan, keeps_empty: bool, found: Findings
) -> None:
    """Finds images without usable boxes and of another size than annotated, and sets whose images are all missing.

    Args:
        coco: the set.
        sizes: width and height of each image, ``int64`` ``[N, 2]``.
        scan: what was read of the images.
        keeps_empty: whether images without boxes are used.
        found: takes the faults.
    """
    boxes = np.bincount(coco.rows, minlength=len(coco))
    crowds = np.bincount(coco.rows[coco.crowd], minlength=len(coco))
    note = "" if keeps_empty else "left out, for allow_empty is not set"
    for row in np.flatnonzero(boxes == 0).tolist():
        found.add("image_without_boxes", Entry((Picture(coco.part, row),), note), coco.part)
    for row in np.flatnonzero((boxes > 0) & (boxes == crowds)).tolist():
        found.add("all_crowd", Entry((Picture(coco.part, row),)), coco.part)
    for row in np.flatnonzero((sizes != coco.sizes).any(axis=1) & (coco.sizes > 0).all(axis=1)).tolist():
        true, annotated = tuple(sizes[row].tolist()), tuple(coco.sizes[row].tolist())
        turned = " (turned by a quarter?)" if true == annotated[::-1] else ""
        note = f"is {true[0]} x {true[1]}, annotated {annotated[0]} x {annotated[1]}{turned}"
        found.add("wrong_size", Entry((Picture(coco.part, row),), note), coco.part)
    missing = sum(picture.part == coco.part for picture in scan.missing)
    if missing and not len(scan.readable(coco.part)) and missing == len(scan.marked(coco.part, Mark.UNREADABLE)):
        images = count_of(len(coco), "image")
        note = f"{coco.path} lists {images}, such as {coco.file_names[0]}; none is in {coco.folder}"
        found.add("other_data", Entry(note=note), coco.part)


def find_unlisted_images(sets: Mapping[str, CocoSet], found: Findings) -> None:
    """Finds image files below the image folders that no set lists."""
    listed = {os.path.normpath(coco.name_of(row)) for coco in sets.values() for row in range(len(coco))}
    folders = {os.path.normpath(coco.folder) for coco in sets.values() if coco.folder.is_dir()}
    files = {os.path.normpath(path): None for folder in sorted(folders) for path in images_in(Path(folder))}
    for path in files:
        if path not in listed:
            found.add("unlisted_image", Entry(note=path))


def find_copies_annotated_differently(
    copies: Sequence[Sequence[Picture]], sets: Mapping[str, CocoSet], found: Findings
) -> None:
    """Compares the boxes of images that have the same pixels.

    Args:
        copies: groups of such images.
        sets: their annotations.
        found: takes the faults.
    """
    for pictures in copies:
        boxes = [_boxes_of(picture, sets[picture.part]) for picture in pictures]
        names, corners = zip(*boxes[0], strict=True) if boxes[0] else ((), ())
        for picture, others in zip(pictures[1:], boxes[1:], strict=True):
            same = names == tuple(name for name, _ in others) and np.allclose(
                np.reshape(corners, (-1, 4)), np.reshape([box for _, box in others], (-1, 4)), rtol=0, atol=CORNER
            )
            if not same:
                words = [count_of(len(each), "box", "boxes") for each in (others, boxes[0])]
                note = " and ".join(words) if words[0] != words[1] else f"{words[0]}, which differ"
                found.add("copies_annotated_differently", Entry((picture, pictures[0]), note))


def _boxes_of(picture: Picture, coco: CocoSet) -> list[tuple[str, tuple[float, ...]]]:
    """Returns class name and box of each annotation of an image, sorted."""
    return sorted(
        (coco.class_name(annotation), tuple(np.nan_to_num(coco.boxes[annotation]).tolist()))
        for annotation in np.flatnonzero(coco.rows == picture.index).tolist()
    )
