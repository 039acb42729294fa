"""Checks the data of a detection configuration: faults of boxes, classes and images, and the result."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detection.coco import FILE_KINDS, AnnotationFileError, CocoSet, read_coco
from detection.configuration import DetectionConfig
from ppcls_ext.check.duplicates import find_exact_duplicates, find_near_duplicates, groups_of_copies
from ppcls_ext.check.findings import (
    DUPLICATE_KINDS,
    ERROR,
    IMAGE_KINDS,
    INFORMATION,
    PART_WORDS,
    UNOPENED_KINDS,
    WARNING,
    Findings,
    Kind,
    Picture,
    count_of,
)
from ppcls_ext.check.images import Mark, Scan, Workers, find_image_faults, scan_images, settle_range
from ppcls_ext.check.report import DataCheck
from ppcls_ext.preprocess import depth
from ppcls_ext.preprocess.sonar import SonarEnhance, enhancement_of
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.image_files import images_in

# A box is tiny if, at the size at which the model is evaluated, a side or its area (in pixels) is below these.
TINY_SIDE = 2.0
TINY_AREA = 16.0
# Below so many training boxes a class is hardly learnt.
FEW_BOXES = 10
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
# Copies of a picture agree if no corner of their boxes differs more, in pixels.
CORNER = 2.0

_BOX, _CLASS = ("box", "boxes"), ("class", "classes")
KINDS = {
    "image_folder_missing": Kind(ERROR, "that is not there; only the annotations were examined", "image folder"),
    **FILE_KINDS,
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


class EvaluationSize(NamedTuple):
    """The size that images have when the model is evaluated, in pixels."""

    width: int
    height: int
    keep_ratio: bool


@dataclasses.dataclass(frozen=True)
class SetFiles:
    """Folder of the images and COCO file of one set, and whether its images without boxes are used."""

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
        statement: what the decode operators say of samples of more than 8 bits.
    """

    name: str
    sets: Mapping[str, SetFiles]
    num_classes: int | None = None
    evaluation_size: EvaluationSize | None = None
    enhance: SonarEnhance | None = None
    statement: depth.Statement = dataclasses.field(default_factory=dict)


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
    size, statement = evaluation_size(config.data), depth.statement_in(config.data)
    return Plan(str(config.path), sets, config.data.get("num_classes"), size, enhance, statement)


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


class BoxForms(NamedTuple):
    """Forms of the boxes of a set as a detector's loader sees them, each ``bool`` ``[A]``.

    Attributes:
        finite: all four numbers are finite.
        has_area: finite, and wide and high enough for ppdet's loader.
        outside: has an area, but nothing of it lies in the image.
        beyond: sticks out of the image by more than rounding.
    """

    finite: np.ndarray
    has_area: np.ndarray
    outside: np.ndarray
    beyond: np.ndarray


def box_forms(boxes: np.ndarray, sizes: np.ndarray) -> BoxForms:
    """Tells the form of boxes ``x, y, w, h``, ``[A, 4]``, on images of ``sizes``, ``[A, 2]`` (0 where unknown)."""
    finite = np.isfinite(boxes).all(axis=1)
    boxes = np.where(finite[:, None], boxes, 0.0)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    limits = np.where(sizes > 0, sizes.astype(np.float64), math.inf)
    has_area = finite & (boxes[:, 2:] > NO_SIDE).all(axis=1)
    outside = has_area & ((low >= limits) | (high <= 0)).any(axis=1)
    return BoxForms(finite, has_area, outside, ((low < -BORDER) | (high > limits + BORDER)).any(axis=1))


@dataclasses.dataclass
class DetectionCheck(DataCheck):
    """The result of a check.

    Attributes:
        plan: what was checked.
        sets: the annotations of the sets that could be opened.
        sizes: width and height of their images, ``int64`` ``[N, 2]``: as read, else as annotated.
        classes: the classes of these sets.
    """

    plan: Plan
    sets: dict[str, CocoSet]
    sizes: dict[str, np.ndarray]
    classes: Classes


def check_detection_data(plan: Plan, limit: int = 0, worker_count: int = 1) -> DetectionCheck:
    """Looks for faults in annotations and images.

    Args:
        plan: the data sets and what the model expects of them.
        limit: images to read of each set, evenly spread; 0 for all. Annotations are always examined all.
        worker_count: processes; 0 does the work in this one.
    """
    found = Findings(KINDS)
    sets: dict[str, CocoSet] = {}
    chosen: dict[str, np.ndarray] = {}
    for part, files in plan.sets.items():
        try:
            coco = read_coco(part, files.annotations, files.folder, found)
        except AnnotationFileError as error:
            found.add(f"unopened_{PART_WORDS[part]}", note=str(error))
            continue
        # Without a folder each image would be missing; the annotations are examined all the same.
        count = len(coco) if files.folder.is_dir() else 0
        if not files.folder.is_dir():
            cause = "is a file, not a folder" if files.folder.exists() else "no such folder"
            found.add("image_folder_missing", note=f"{files.folder}: {cause}", part=part)
        if len(coco):
            sets[part] = coco
            few = limit and limit < count
            chosen[part] = np.linspace(0, count - 1, limit).round().astype(np.int64) if few else np.arange(count)
    scan, seconds, groups = Scan({}, {}), 0.0, []
    if sets:
        settle_range(sets, plan.statement, found)
        start = time.monotonic()
        with Workers(sets, worker_count) as workers:
            scan = scan_images(workers, chosen)
            seconds = time.monotonic() - start
            find_image_faults(scan, found)
            groups = groups_of_copies(scan)
            find_exact_duplicates(groups, found)
            find_near_duplicates(groups, scan, workers, found)
    sizes, forms, usable = {}, {}, {}
    for part, coco in sets.items():
        sizes[part] = coco.sizes.copy()
        sizes[part][scan.readable(part)] = scan.sizes(part)
        forms[part] = box_forms(coco.boxes, sizes[part][coco.rows])
        usable[part] = forms[part].has_area & ~forms[part].outside & (coco.classes >= 0) & ~coco.crowd
    classes = Classes(sets, usable)
    find_class_faults(sets, classes, plan.num_classes, found)
    for part, coco in sets.items():
        find_box_faults(coco, forms[part], sizes[part], plan.evaluation_size, found)
        find_faults_of_annotated_images(coco, sizes[part], scan, plan.sets[part].keeps_empty, found)
    find_copies_annotated_differently(groups, sets, found)
    if len(sets) == len(plan.sets):
        # Image files below the image folders that no set lists.
        listed = {os.path.normpath(coco.name_of(row)) for coco in sets.values() for row in range(len(coco))}
        folders = sorted({os.path.normpath(coco.folder) for coco in sets.values() if coco.folder.is_dir()})
        for path in dict.fromkeys(os.path.normpath(path) for folder in folders for path in images_in(Path(folder))):
            if path not in listed:
                found.add("unlisted_image", note=path)

    facts, tables = {}, {}
    for part, coco in sets.items():
        boxes, images = classes.boxes[part], classes.images[part]
        shown, total = count_of(int((boxes > 0).sum()), "class", "classes"), count_of(int(boxes.sum()), "box", "boxes")
        facts[part] = f"{PART_WORDS[part]}: {count_of(len(coco), 'image')} with {total} of {shown}"
        counts = zip(classes.names, boxes.tolist(), images.tolist(), strict=True)
        tables[part] = {
            "annotations": str(coco.path),
            "image_folder": str(coco.folder),
            "boxes": int(boxes.sum()),
            "boxes_not_used": int((classes.numbers[part] < 0).sum()),
            "by_class": {name: {"boxes": boxes, "images": images} for name, boxes, images in counts},
        }

    def about(picture: Picture) -> dict[str, Any]:
        return {"image_id": sets[picture.part].image_ids[picture.index]} if picture.part in sets else {}

    outputs, findings = {"num_classes": plan.num_classes}, found.worst_first()
    return DetectionCheck(
        "detection", plan.name, findings, scan, seconds, outputs, facts, tables, about, plan, sets, sizes, classes
    )


def find_class_faults(sets: Mapping[str, CocoSet], classes: Classes, num_classes: int | None, found: Findings) -> None:
    """Finds where configuration and annotation files disagree about the classes, and classes with few or no boxes."""
    for part, coco in sets.items():
        count = len(coco.category_names)
        if num_classes is not None and count != num_classes:
            names = ", ".join(coco.category_names[:20]) + (", ..." if count > 20 else "")
            categories = count_of(count, "category", "categories")
            note = f"num_classes is {num_classes}, but {coco.path} has {categories}: {names}"
            found.add("class_count", note=note, part=part)
    if len(sets) == 2:
        # The number of a class is its place in the file, so two files must list the same names in the same order.
        train, evaluation = sets["Train"], sets["Eval"]
        pairs = itertools.zip_longest(train.category_names, evaluation.category_names)
        for number, names in enumerate(pairs):
            if names[0] != names[1]:
                one, other = ("unknown" if name is None else f"'{name}'" for name in names)
                found.add("class_order", note=f"class {number} is {one} in training and {other} in validation")
        ids = dict(zip(train.category_names, train.category_ids, strict=True))
        for name, identity in zip(evaluation.category_names, evaluation.category_ids, strict=True):
            if ids.get(name, identity) != identity:
                found.add("category_ids_differ", note=f"'{name}' is {ids[name]} and {identity}")
    if "Train" not in classes.boxes:
        return
    train_boxes = classes.boxes["Train"].tolist()
    measured = classes.boxes["Eval"].tolist() if "Eval" in classes.boxes else [None] * len(train_boxes)
    for name, taught, seen in zip(classes.names, train_boxes, measured, strict=True):
        if not taught and seen:
            found.add("class_not_trained", note=f"{name}: {count_of(seen, 'validation box', 'validation boxes')}")
        elif not taught:
            found.add("class_empty", note=name)
        elif seen == 0:
            found.add("class_not_validated", note=name)
    for taught, name in sorted(zip(train_boxes, classes.names, strict=True), key=lambda pair: pair[0]):
        if 0 < taught < FEW_BOXES:
            found.add("class_small", note=f"{name}: {count_of(taught, 'box', 'boxes')}")


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
    for kind, chosen, note in (
        ("non_finite_box", ~forms.finite, ""),
        ("zero_area_box", forms.finite & ~good, ""),
        ("area_not_positive", good & (coco.areas <= 0), "area {area:.6g}"),
        ("area_differs", good & (coco.areas > 0) & differs & ~coco.outlined & ~coco.crowd, "area {area:.6g}"),
        ("box_outside", forms.outside, "the image is {size[0]} x {size[1]}"),
        ("box_partly_outside", inside & forms.beyond, "the image is {size[0]} x {size[1]}"),
    ):
        for row in np.flatnonzero(chosen).tolist():
            coco.tell(found, kind, row, note.format(area=coco.areas[row], size=sizes[coco.rows[row]]))
    small = np.flatnonzero(inside & tiny & ~coco.crowd)
    for row in small[np.argsort(scaled[small].prod(axis=1), kind="stable")].tolist():
        coco.tell(found, "tiny_box", row, "{:.3g} x {:.3g} px when evaluated".format(*scaled[row]))
    # Boxes on top of each other, image by image.
    annotations = np.flatnonzero(inside & ~coco.crowd)
    annotations = annotations[np.argsort(coco.rows[annotations], kind="stable")]
    for members in np.split(annotations, np.flatnonzero(np.diff(coco.rows[annotations])) + 1):
        for second, first in _same_boxes(coco.boxes[members]):
            one, other = int(members[first]), int(members[second])
            same = coco.classes[one] == coco.classes[other]
            note = f"as annotation {coco.annotation_ids[one]}" + ("" if same else f" ({coco.class_name(one)})")
            coco.tell(found, "duplicate_box" if same else "box_with_two_classes", other, note)


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
    for row in np.flatnonzero(boxes == 0).tolist():
        note = "" if keeps_empty else "left out, for allow_empty is not set"
        found.add("image_without_boxes", Picture(coco.part, row), note=note)
    for row in np.flatnonzero((boxes > 0) & (boxes == crowds)).tolist():
        found.add("all_crowd", Picture(coco.part, row))
    for row in np.flatnonzero((sizes != coco.sizes).any(axis=1) & (coco.sizes > 0).all(axis=1)).tolist():
        true, annotated = tuple(sizes[row].tolist()), tuple(coco.sizes[row].tolist())
        turned = " (turned by a quarter?)" if true == annotated[::-1] else ""
        note = "is {} x {}, annotated {} x {}{}".format(*true, *annotated, turned)
        found.add("wrong_size", Picture(coco.part, row), note=note)
    missing = len(scan.marked(coco.part, Mark.MISSING))
    if missing and not len(scan.readable(coco.part)) and missing == len(scan.marked(coco.part, Mark.UNREADABLE)):
        images = count_of(len(coco), "image")
        note = f"{coco.path} lists {images}, such as {coco.file_names[0]}; none is in {coco.folder}"
        found.add("other_data", note=note, part=coco.part)


def find_copies_annotated_differently(
    groups: Sequence[Sequence[Picture]], sets: Mapping[str, CocoSet], found: Findings
) -> None:
    """Compares classes and boxes of the images in ``groups``, each of which have the same pixels."""
    for pictures in groups:
        if len(pictures) == 1:
            continue
        names, boxes = [], []
        for part, index in pictures:
            coco = sets[part]
            rows = np.flatnonzero(coco.rows == index).tolist()
            own = sorted((coco.class_name(row), np.nan_to_num(coco.boxes[row]).tolist()) for row in rows)
            names.append([name for name, _ in own])
            boxes.append(np.reshape([box for _, box in own], (-1, 4)))
        for number in range(1, len(pictures)):
            same = names[number] == names[0] and np.allclose(boxes[0], boxes[number], rtol=0, atol=CORNER)
            if not same:
                words = [count_of(len(names[each]), "box", "boxes") for each in (number, 0)]
                note = " and ".join(words) if words[0] != words[1] else f"{words[0]}, which differ"
                found.add("copies_annotated_differently", pictures[number], pictures[0], note=note, part="")
