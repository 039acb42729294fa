"""Checks the data of a detection configuration: faults of boxes, classes and images, and the result."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.annotations import Corners, Ledger, clean_frame
from detection.coco import MENDED, AnnotationFileError, CocoSet, read_coco
from detection.configuration import DatasetFiles, DetectionConfig
from detection.evaluation.boxes import Boxes, boxes_of_frames, overlaps
from detection.geometry import as_keys, place_boxes
from ppcls_ext.check.duplicates import find_exact_duplicates, find_near_duplicates, groups_of_copies
from ppcls_ext.check.findings import (
    DUPLICATE_KINDS,
    ERROR,
    FEW,
    IMAGE_KINDS,
    INFORMATION,
    PART_WORDS,
    UNOPENED_KINDS,
    WARNING,
    Findings,
    Kind,
    Picture,
    count_of,
    find_rare_classes,
)
from ppcls_ext.check.images import EXTREME_ASPECT, Scan, find_image_faults, scan_images, settle_range
from ppcls_ext.check.report import DataCheck
from ppcls_ext.engine.class_balance import repeat_sampling
from ppcls_ext.preprocess import ImageError, build_operators, depth
from ppcls_ext.preprocess.detection import DETECTION_OPERATORS, LetterResize, Resize
from ppcls_ext.utils.errors import UserError, suggestion
from ppcls_ext.utils.image_files import images_in

# A box is tiny if, at the size at which the model is evaluated, a side or its area (in pixels) is below these.
TINY_SIDE = 2.0
TINY_AREA = 16.0
# Overlap (intersection over union) from which two boxes are one box drawn twice.
SAME_BOX = 0.95
# Copies of a picture agree if no corner of their boxes differs more, in pixels.
CORNER = 2.0

_BOX, _CLASS = ("box", "boxes"), ("class", "classes")
KINDS = {
    "image_folder_missing": Kind(ERROR, "that is not there; only the annotations were examined", "image folder"),
    "malformed_image": Kind(ERROR, "without a usable id or file name", "image entry", "image entries"),
    "deleted_image": Kind(INFORMATION, "marked as deleted, so left out", "image entry", "image entries"),
    "duplicate_image_id": Kind(ERROR, "listed more than once", "image id"),
    "duplicate_file_name": Kind(WARNING, "with a file that is listed already; their boxes are taken together"),
    "malformed_category": Kind(ERROR, "without a usable id or name", "category", "categories"),
    "duplicate_category_id": Kind(ERROR, "with several names", "category id"),
    "duplicate_category_name": Kind(WARNING, "with several category ids, taken for one", *_CLASS),
    "category_ids": Kind(WARNING, "whose category ids are not 1, 2, 3, ... or 0, 1, 2, ...", "annotation file"),
    "malformed_annotation": Kind(ERROR, "without a usable image_id or bbox", "annotation"),
    "deleted_annotation": Kind(INFORMATION, "marked as deleted, so left out", "annotation"),
    "duplicate_annotation_id": Kind(WARNING, "that several annotations share", "annotation id"),
    "unknown_image": Kind(ERROR, "that annotations name, but no image has", "image id"),
    "unknown_category": Kind(ERROR, "of a category that is not listed", "annotation"),
    **{kind: Kind(WARNING, f"mended ({kind.replace('_', ' ')})", "annotation file") for kind in MENDED},
    "box_geometry": Kind(ERROR, "whose boxes do not fit the images", "annotation file"),
    "box_reading": Kind(INFORMATION, "of which is told how its boxes are read", "annotation file"),
    "class_count": Kind(ERROR, "whose number of categories does not fit num_classes", "annotation file"),
    "class_unknown": Kind(ERROR, "in the annotations of the validation set only", *_CLASS),
    "class_spelling": Kind(INFORMATION, "spelled otherwise in validation than in training, taken for one", *_CLASS),
    "category_ids_differ": Kind(INFORMATION, "whose category ids differ in validation; names are compared", *_CLASS),
    "nothing_to_learn": Kind(ERROR, "without any box with an area that is no crowd", "training set"),
    "class_not_trained": Kind(ERROR, "with validation boxes but no training box", *_CLASS),
    "class_empty": Kind(WARNING, "without any box", *_CLASS),
    "class_not_validated": Kind(WARNING, "without a validation box", *_CLASS),
    "class_small": Kind(WARNING, f"with fewer than {FEW} training boxes", *_CLASS),
    "non_finite_box": Kind(ERROR, "with a coordinate that is no finite number", *_BOX),
    "zero_area_box": Kind(ERROR, "without area (width or height is zero or less)", *_BOX),
    "box_outside": Kind(ERROR, "outside of the image, or with less than a quarter inside", *_BOX),
    "box_partly_outside": Kind(WARNING, "partly outside of the image: clipped", *_BOX),
    "swapped_corners": Kind(WARNING, "whose corners had to be put in order (a negative width or height)", *_BOX),
    "no_box_left": Kind(WARNING, "of which no box can be used: left out"),
    "tiny_box": Kind(WARNING, f"with a side below {TINY_SIDE:g} px or under {TINY_AREA:g} px² when evaluated", *_BOX),
    "duplicate_box": Kind(WARNING, "that another one of the same class covers almost exactly", *_BOX),
    "box_with_two_classes": Kind(WARNING, "that one of another class covers almost exactly", *_BOX),
    "all_crowd": Kind(WARNING, "in which every box is a crowd, so that nothing is learnt from it"),
    "image_without_boxes": Kind(INFORMATION, "without boxes"),
    "wrong_size": Kind(ERROR, "of another size than the annotations say"),
    "nothing_left": Kind(ERROR, "of which a Resize with keep_ratio leaves nothing, so that they cannot be used"),
    "other_data": Kind(ERROR, "of which no image is in the image folder: another image_dir or data set?", "set"),
    "copies_annotated_differently": Kind(WARNING, "found more than once, with different boxes", "picture"),
    "unlisted_image": Kind(INFORMATION, "in the image folders that no annotation file lists", "image file"),
    **UNOPENED_KINDS,
    **IMAGE_KINDS,
    **DUPLICATE_KINDS,
}
# What the ledger calls otherwise.
LEDGER_KINDS = {
    "unknown_class": "unknown_category",
    "missing_coordinates": "malformed_annotation",
    "not_a_number": "non_finite_box",
    "empty_box": "zero_area_box",
    "clipped_box": "box_partly_outside",
}


def resizers_of(data: Mapping[str, Any], part: str) -> list[Resize | LetterResize]:
    """Returns the operators by which the reader of ``Train`` or ``Eval`` brings images to a size."""
    reader = f"{part}Reader"
    steps = (data.get(reader) or {}).get("sample_transforms") or []
    chosen = [step for step in steps if {"Resize", "LetterResize"} & step.keys()]
    return build_operators(chosen, f"{reader}.sample_transforms", DETECTION_OPERATORS)


@dataclasses.dataclass
class ExaminedSet:
    """One data set under examination.

    Attributes:
        part: ``Train`` or ``Eval``.
        coco, ledger: what its annotation file holds, and what was left out or mended of it.
        keeps_empty: whether images without boxes are used.
        sizes: width and height of the images as read, else as annotated, else 0; ``int64`` ``[N, 2]``.
        boxes: those that can be used.
        numbers: the class of each box among those of all sets, ``int64`` ``[A]``; -1 where nothing is learnt from it.
        of_class, images_of_class: boxes of each class of all sets, and images that show it, ``int64`` ``[K]``.
    """

    part: str
    coco: CocoSet
    ledger: Ledger
    keeps_empty: bool
    sizes: np.ndarray
    boxes: Boxes
    numbers: np.ndarray = dataclasses.field(init=False)
    of_class: np.ndarray = dataclasses.field(init=False)
    images_of_class: np.ndarray = dataclasses.field(init=False)

    def count_classes(self, names: Sequence[str]) -> None:
        """Numbers the classes of the boxes by ``names``, ``[K]``, those of all sets, and counts them."""
        merged = np.array([names.index(name) for name in self.coco.names], dtype=np.int64)
        self.numbers = np.where(self.boxes.crowd, -1, merged[self.boxes.labels])
        learnt = self.numbers >= 0
        self.of_class = np.bincount(self.numbers[learnt], minlength=len(names))
        shown = np.unique(np.stack([self.boxes.rows, self.numbers], axis=1)[learnt], axis=0)[:, 1]
        self.images_of_class = np.bincount(shown, minlength=len(names))


@dataclasses.dataclass
class DetectionCheck(DataCheck):
    """The result of a check: also the configuration, the sets that could be opened (``Train`` before ``Eval``), and the
    names of the classes, those of the training set in its order, then those that only the other knows."""

    config: DetectionConfig
    sets: dict[str, ExaminedSet]
    class_names: list[str]


def check_detection_data(config: DetectionConfig, limit: int = 0, threads: int = 1) -> DetectionCheck:
    """Looks for faults in annotations and images.

    Args:
        config: names the data sets, and says what is done with them.
        limit: images to read of each set, evenly spread; 0 for all. Annotations are always examined all.
        threads: so many read images.

    Raises:
        UserError: the configuration names no annotation file.
    """
    found, data = Findings(KINDS), config.data
    files = {part: config.datasets[part] for part in PART_WORDS if part in config.datasets}
    files = {part: each for part, each in files.items() if each.annotations is not None}
    if not files:
        names = " nor ".join(f"{part}Dataset.anno_path" for part in PART_WORDS)
        raise UserError(f"{config.path}: has neither {names}: nothing to check")
    opened = {part: pair for part, each in files.items() if (pair := _open(part, each, found))}
    cocos = {part: coco for part, (coco, _) in opened.items()}
    scan, groups = Scan({}, {}), []
    if cocos:
        settle_range(cocos, depth.statement_in(data), found)
        scan = scan_images(cocos, {part: _chosen(files[part], coco, limit) for part, coco in cocos.items()}, threads)
        find_image_faults(scan, found)
        groups = groups_of_copies(scan)
        find_exact_duplicates(groups, found)
        find_near_duplicates(groups, scan, found)
    if len(cocos) == 2:
        for note in cocos["Eval"].spell_classes_as(cocos["Train"].names):
            found.add("class_spelling", note=note)
    sets = {part: _examine(config, part, *pair, limit, scan, found) for part, pair in opened.items()}
    names = list(dict.fromkeys(name for coco in cocos.values() for name in coco.names))
    for each in sets.values():
        each.count_classes(names)
    find_class_faults(sets, names, config.num_classes, found)
    for each in sets.values():
        find_category_ids(each, found)
        find_box_faults(each, data, found)
        find_faults_of_annotated_images(each, data, scan, found)
    find_copies_annotated_differently(groups, sets, found)
    if len(sets) == len(files):
        # Image files below the image folders that no set lists.
        listed = {os.path.normpath(coco.name_of(row)) for coco in cocos.values() for row in range(len(coco))}
        folders = sorted({os.path.normpath(each.image_dir) for each in files.values() if each.image_dir.is_dir()})
        for path in dict.fromkeys(os.path.normpath(path) for folder in folders for path in images_in(Path(folder))):
            if path not in listed:
                found.add("unlisted_image", note=path)

    facts, tables = {}, {}
    for part, each in sets.items():
        shown, total = count_of(np.count_nonzero(each.of_class), "class", "classes"), int(each.of_class.sum())
        facts[part] = f"{PART_WORDS[part]}: {count_of(len(each.coco), 'image')} with " \
                      f"{count_of(total, 'box', 'boxes')} of {shown}"  # fmt: skip
        if part == "Train" and config.run_keys.repeat_threshold is not None and total:
            facts[part] += f"; {_repeated(each, names, config.run_keys.repeat_threshold)}"
        counts = zip(names, each.of_class.tolist(), each.images_of_class.tolist(), strict=True)
        tables[part] = {
            "annotations": str(each.coco.path),
            "image_folder": str(files[part].image_dir),
            "boxes": total,
            "boxes_not_used": each.ledger.boxes["rejected"] + int(each.boxes.crowd.sum()),
            "images_left_out": each.ledger.images["rejected"],
            "by_class": {name: {"boxes": count, "images": number} for name, count, number in counts},
        }

    def about(picture: Picture) -> dict[str, Any]:
        return {"image_id": cocos[picture.part].frames[picture.index].image_id} if picture.part in cocos else {}

    outputs, findings = {"num_classes": config.num_classes}, found.worst_first()
    return DetectionCheck(
        "detection", str(config.path), findings, scan, outputs, facts, tables, about, config, sets, names
    )


def _open(part: str, files: DatasetFiles, found: Findings) -> tuple[CocoSet, Ledger] | None:
    """Reads the annotation file of a set and returns it with its ledger, or (found) ``None``."""
    ledger = Ledger()
    try:
        coco = read_coco(files.annotations, ledger, folder=files.image_dir)
    except AnnotationFileError as error:
        found.add(f"unopened_{PART_WORDS[part]}", note=str(error))
        return None
    if not files.image_dir.is_dir():
        cause = "is a file, not a folder" if files.image_dir.exists() else "no such folder"
        found.add("image_folder_missing", note=f"{files.image_dir}: {cause}", part=part)
    if not len(coco):
        add_ledger_findings(part, coco, ledger, found)
        return None
    return coco, ledger


def _chosen(files: DatasetFiles, coco: CocoSet, limit: int) -> np.ndarray:
    """Returns the numbers of the images to read, ``int64``, at most ``limit`` of them unless that is 0."""
    # Without a folder each image would be missing; the annotations are examined all the same.
    count = len(coco) if files.image_dir.is_dir() else 0
    if limit and limit < count:
        return np.linspace(0, count - 1, limit).round().astype(np.int64)
    return np.arange(count)


def _examine(
    config: DetectionConfig, part: str, coco: CocoSet, ledger: Ledger, limit: int, scan: Scan, found: Findings
) -> ExaminedSet:
    """Checks the boxes of a set against its images."""
    doubt, words = place_boxes(coco.frames, config.datasets[part].reading, as_keys(f"{part}Dataset"), limit)
    for kind, text in (("box_geometry", doubt), ("box_reading", words)):
        if text:
            found.add(kind, note=f"{coco.path}: {text}", part=part)
    sizes = np.array([frame.stated_size or (0, 0) for frame in coco.frames], np.int64).reshape(-1, 2)
    sizes[scan.readable(part)] = scan.sizes(part)
    for frame, (width, height) in zip(coco.frames, sizes.tolist(), strict=True):
        frame.width, frame.height = width, height
        clean_frame(frame, coco.names, ledger)
    add_ledger_findings(part, coco, ledger, found)
    boxes = boxes_of_frames(coco.frames)
    if part == "Train" and boxes.crowd.all():
        note = f"{coco.path}: {count_of(ledger.boxes['input'], 'annotation')}, nothing to learn from"
        found.add("nothing_to_learn", note=note, part=part)
    keeps_empty = bool(config.data[f"{part}Dataset"].get("allow_empty", False))
    return ExaminedSet(part, coco, ledger, keeps_empty, sizes, boxes)


def _repeated(train: ExaminedSet, names: Sequence[str], threshold: float) -> str:
    """Returns how often an epoch shows the training images, of which some are left out as in training."""
    learnt = train.numbers >= 0
    rows = np.unique(train.boxes.rows[learnt], return_inverse=True)[1]
    empty = len(train.coco) - len(np.unique(train.boxes.rows)) if train.keeps_empty else 0
    return repeat_sampling(threshold, rows, train.numbers[learnt], int(rows.max()) + 1 + empty, names)[1]


def add_ledger_findings(part: str, coco: CocoSet, ledger: Ledger, found: Findings) -> None:
    """Adds what was left out and mended to the findings."""
    rows = {frame.image_id: row for row, frame in enumerate(coco.frames)}
    for entry in ledger.entries:
        row = rows.get(entry.get("image_id"))
        pictures = () if row is None else (Picture(part, row),)
        details = {key: entry[key] for key in ("annotation_id", "bbox") if key in entry}
        kind = LEDGER_KINDS.get(entry["kind"], entry["kind"])
        found.add(kind, *pictures, note=entry["reason"], part=part, **details)


def find_category_ids(examined: ExaminedSet, found: Findings) -> None:
    """Finds category ids that other tools may take amiss."""
    coco, ids = examined.coco, examined.coco.category_ids
    first = min(ids, default=1)
    if ids != list(range(first, first + len(ids))) or first not in (0, 1):
        order = "" if ids == sorted(ids) else "; the classes are numbered in the order of the file, not of the ids"
        shown = ", ".join(map(str, ids[:20])) + (", ..." if len(ids) > 20 else "")
        found.add("category_ids", note=f"{coco.path}: {shown}{order}", part=examined.part)


def find_class_faults(
    sets: Mapping[str, ExaminedSet], class_names: Sequence[str], num_classes: int, found: Findings
) -> None:
    """Finds where configuration and annotation files disagree about the classes, and classes with few or no boxes."""
    for part, examined in sets.items():
        coco, count = examined.coco, len(examined.coco.names)
        # A validation set may lack classes.
        if count > num_classes or (part == "Train" and count != num_classes):
            names = ", ".join(coco.names[:20]) + (", ..." if count > 20 else "")
            categories = count_of(count, "category", "categories")
            note = f"num_classes is {num_classes}, but {coco.path} has {categories}: {names}"
            found.add("class_count", note=note, part=part)
    if len(sets) == 2:
        train, evaluation = sets["Train"].coco, sets["Eval"].coco
        for name in evaluation.names:
            if name not in train.names:
                found.add("class_unknown", note=f"'{name}'{suggestion(name, train.names)}")
        ids = dict(zip(train.names, train.category_ids, strict=True))
        for name, identity in zip(evaluation.names, evaluation.category_ids, strict=True):
            if ids.get(name, identity) != identity:
                found.add("category_ids_differ", note=f"'{name}' is {ids[name]} and {identity}")
    if "Train" not in sets:
        return
    measured = sets["Eval"].of_class if "Eval" in sets else None
    find_rare_classes(class_names, sets["Train"].of_class, measured, _BOX, found)


def scales(sizes: np.ndarray, data: Mapping[str, Any]) -> np.ndarray:
    """Returns by how much images shrink or grow for the evaluation, ``float64`` ``[N, 2]`` (across, down); images of
    unknown size (0) keep it."""
    factors, resizers = np.ones((len(sizes), 2)), resizers_of(data, "Eval")
    for row, (width, height) in enumerate(sizes.tolist() if resizers else []):
        if width and height:
            (down, across), _, _ = resizers[-1].effect(height, width)
            factors[row] = across, down
    return factors


def find_box_faults(examined: ExaminedSet, data: Mapping[str, Any], found: Findings) -> None:
    """Finds boxes too small to be seen, or there twice."""
    coco, table = examined.coco, examined.boxes
    annotated = [box for frame in coco.frames for box in frame.boxes]

    def class_of(row: int) -> str:
        return coco.names[table.labels[row]]

    def tell(kind: str, row: int, note: str) -> None:
        box = table.boxes[row].tolist()
        identity = annotated[row].raw.identity
        text = f"annotation {identity}, {class_of(row)}: bbox [{', '.join(f'{v:.6g}' for v in box)}]"
        text += f"; {note}" if note else ""
        details = {"annotation_id": identity, "class": class_of(row), "bbox": box}
        found.add(kind, Picture(examined.part, int(table.rows[row])), note=text, **details)

    scaled = table.boxes[:, 2:] * scales(examined.sizes, data)[table.rows]
    small = np.flatnonzero(((scaled < TINY_SIDE).any(axis=1) | (scaled.prod(axis=1) < TINY_AREA)) & ~table.crowd)
    for row in small[np.argsort(scaled[small].prod(axis=1), kind="stable")].tolist():
        tell("tiny_box", row, "{:.3g} x {:.3g} px when evaluated".format(*scaled[row]))
    # Boxes on top of earlier ones of their image.
    plain = np.flatnonzero(~table.crowd)
    for place, _, iou in overlaps(table.part(plain), table.part(plain)):
        earlier = np.tril(iou >= SAME_BOX, -1)
        for second in np.flatnonzero(earlier.any(axis=1)).tolist():
            one, other = (int(plain[place.start + number]) for number in (earlier[second].argmax(), second))
            same = table.labels[one] == table.labels[other]
            note = f"as annotation {annotated[one].raw.identity}" + ("" if same else f" ({class_of(one)})")
            tell("duplicate_box" if same else "box_with_two_classes", other, note)


def find_faults_of_annotated_images(
    examined: ExaminedSet, data: Mapping[str, Any], scan: Scan, found: Findings
) -> None:
    """Finds images without boxes, of another size than annotated, and so long and narrow that a ``Resize`` of the set's
    reader, which keeps their ratio, leaves nothing of them; and sets whose images are all missing."""
    part, coco = examined.part, examined.coco
    resizers = [each for each in resizers_of(data, part) if isinstance(each, Resize) and each.keep_ratio]
    for row, frame in enumerate(coco.frames):
        picture, size = Picture(part, row), (frame.width, frame.height)
        if not frame.raw:
            note = "" if examined.keeps_empty else "left out, for allow_empty is not set"
            found.add("image_without_boxes", picture, note=note)
        if frame.boxes and all(box.crowd for box in frame.boxes):
            found.add("all_crowd", picture)
        if frame.stated_size is not None and size != frame.stated_size:
            turned = " (turned by a quarter?)" if size == frame.stated_size[::-1] else ""
            note = "is {} x {}, annotated {} x {}{}".format(*size, *frame.stated_size, turned)
            found.add("wrong_size", picture, note=note)
        try:
            for resizer in resizers if min(size) and max(size) > EXTREME_ASPECT * min(size) else ():
                resizer.refuse_nothing(frame.height, frame.width)
        except ImageError as error:
            found.add("nothing_left", picture, note=error.cause)
    missing = sum(kind == "missing_image" for kind, picture, _ in scan.faults if picture.part == part)
    if missing and missing == len(scan.chosen[part]):
        first, images = coco.frames[0], count_of(len(coco), "image")
        note = f"{coco.path} lists {images}, such as {first.name}; none is in {first.image.parent}"
        found.add("other_data", note=note, part=part)


def find_copies_annotated_differently(
    groups: Sequence[Sequence[Picture]], sets: Mapping[str, ExaminedSet], found: Findings
) -> None:
    """Compares classes and boxes of the images in ``groups``, each of which have the same pixels."""

    def annotated(picture: Picture) -> tuple[list[str], list[Corners]]:
        coco = sets[picture.part].coco
        boxes = sorted((coco.names[box.category], box.xywh) for box in coco.frames[picture.index].boxes)
        return [name for name, _ in boxes], [box for _, box in boxes]

    for original, *copies in groups:
        for copy in copies:
            (names, boxes), (others, other_boxes) = annotated(copy), annotated(original)
            if names != others or not np.allclose(boxes, other_boxes, rtol=0, atol=CORNER):
                words = [count_of(len(each), "box", "boxes") for each in (names, others)]
                note = " and ".join(words) if words[0] != words[1] else f"{words[0]}, which differ"
                found.add("copies_annotated_differently", copy, original, note=note, part="")
