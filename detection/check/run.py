"""The check of a detection configuration's data from end to end."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from detection.check.boxes import find_box_faults, find_image_box_faults, usable_boxes
from detection.check.classes import Classes, find_class_faults
from detection.check.coco import CocoSet, UnusableFileError, read_coco, unusable
from detection.check.kinds import Collector
from detection.check.pictures import (
    find_copies_annotated_differently,
    find_other_data,
    find_unlisted_images,
    find_wrong_sizes,
    true_sizes,
)
from detection.check.plan import Plan
from ppcls_ext.check.duplicates import find_exact_duplicates, find_near_duplicates, groups_of_copies
from ppcls_ext.check.findings import (
    PART_WORDS,
    Entry,
    Finding,
    Picture,
    Severity,
    count_of,
    count_severities,
    worst_first,
)
from ppcls_ext.check.images import find_image_faults
from ppcls_ext.check.report import describe_images, findings_json, line_about_speed, terminal_lines, verdict
from ppcls_ext.check.scan import Scan, scan_with_progress
from ppcls_ext.check.workers import Workers
from ppcls_ext.utils.files import atomic_path, write_json

logger = logging.getLogger(__name__)
REPORT_NAME = "check.json"
OVERVIEW_NAME = "overview.png"


@dataclasses.dataclass
class Check:
    """The result of a check.

    Attributes:
        plan: what was checked.
        findings: worst first.
        sets: the annotations of the sets that could be opened.
        sizes: width and height of their images, ``int64`` ``[N, 2]``.
        classes: the classes of these sets.
        scan: the records of their images.
        seconds: how long reading the images took.
    """

    plan: Plan
    findings: list[Finding]
    sets: dict[str, CocoSet]
    sizes: dict[str, np.ndarray]
    classes: Classes
    scan: Scan
    seconds: float

    @property
    def has_errors(self) -> bool:
        """Whether something must be mended before training."""
        return any(finding.severity == Severity.ERROR for finding in self.findings)

    def name_of(self, picture: Picture) -> str:
        """Returns the path of an image."""
        return self.sets[picture.part].name_of(picture.index)


def check_detection_data(plan: Plan, limit: int = 0, worker_count: int = 1) -> Check:
    """Looks for faults in annotations and images.

    Args:
        plan: the data sets and what the model expects of them.
        limit: images to read of each set, evenly spread; 0 for all. Annotations are always examined all.
        worker_count: processes; 0 does the work in this one.
    """
    found = Collector()
    sets, findings = _open(plan, found)
    if not sets:
        nothing = Classes({}, {}, plan.num_classes)
        return Check(plan, worst_first(found.findings() + findings), {}, {}, nothing, Scan({}, {}), 0.0)
    # Without a folder each image would be missing; the annotations are examined all the same.
    chosen = {part: _evenly(len(coco) if coco.folder.is_dir() else 0, limit) for part, coco in sets.items()}
    start = time.monotonic()
    with Workers(sets, worker_count) as workers:
        scan = scan_with_progress(workers, chosen)
        seconds = time.monotonic() - start
        findings += find_image_faults(scan)
        copies = groups_of_copies(scan)
        findings += find_exact_duplicates(copies)
        findings += find_near_duplicates(scan, workers)
    sizes = {part: true_sizes(coco, scan) for part, coco in sets.items()}
    usable = {part: usable_boxes(coco, sizes[part]) for part, coco in sets.items()}
    classes = Classes(sets, usable, plan.num_classes)
    find_class_faults(sets, classes, found)
    for part, coco in sets.items():
        find_box_faults(coco, sizes[part], plan.evaluation_size, found)
        find_image_box_faults(coco, plan.sets[part].keeps_empty, found)
        find_wrong_sizes(coco, scan, found)
        find_other_data(coco, scan, found)
    find_copies_annotated_differently(copies, sets, found)
    if len(sets) == len(plan.sets):
        find_unlisted_images(sets, found)
    return Check(plan, worst_first(found.findings() + findings), sets, sizes, classes, scan, seconds)


def _open(plan: Plan, found: Collector) -> tuple[dict[str, CocoSet], list[Finding]]:
    sets: dict[str, CocoSet] = {}
    findings = []
    for part, files in plan.sets.items():
        try:
            coco = read_coco(part, files.annotations, files.folder, found)
        except UnusableFileError as error:
            findings.append(unusable(part, str(error)))
            continue
        if not files.folder.is_dir():
            cause = "is a file, not a folder" if files.folder.exists() else "no such folder"
            found.add("image_folder_missing", part, Entry(note=f"{files.folder}: {cause}"))
        if len(coco):
            sets[part] = coco
    return sets, findings


def _evenly(count: int, limit: int) -> np.ndarray:
    """Returns all numbers below ``count``, or ``limit`` of them at equal distances, ``int64`` ``[n]``."""
    if not limit or limit >= count:
        return np.arange(count)
    return np.linspace(0, count - 1, limit).round().astype(np.int64)


def write_check(check: Check, folder: Path) -> None:
    """Writes ``check.json`` and ``overview.png`` into ``folder`` and logs one line for each kind of finding."""
    write_json(folder / REPORT_NAME, json_report(check))
    for line in [*_lines_about_sets(check), *terminal_lines(check.findings, check.name_of)]:
        logger.info("%s", line)
    written = [folder / REPORT_NAME]
    if check.sets:
        from detection.check.overview import draw_overview

        with atomic_path(folder / OVERVIEW_NAME) as path:
            draw_overview(check).save(path)
        written.append(folder / OVERVIEW_NAME)
    logger.info("%s; wrote %s", verdict(check.findings), " and ".join(map(str, written)))


def facts_about(check: Check, part: str) -> str:
    """Returns ``training: 1,308 images with 1,915 boxes of 11 classes``."""
    boxes = check.classes.boxes[part]
    return (
        f"{PART_WORDS[part]}: {count_of(len(check.sets[part]), 'image')} with "
        f"{count_of(int(boxes.sum()), 'box', 'boxes')} of {count_of(int((boxes > 0).sum()), 'class', 'classes')}"
    )


def _lines_about_sets(check: Check) -> list[str]:
    if not check.sets:
        return []
    return [*(facts_about(check, part) for part in check.sets), line_about_speed(check.scan, check.seconds)]


def json_report(check: Check) -> dict[str, Any]:
    """Returns the content of ``check.json``."""
    counts = count_severities(check.findings)

    def details_of(picture: Picture) -> dict[str, Any]:
        coco = check.sets.get(picture.part)
        return {"image_id": coco.image_ids[picture.index]} if coco else {}

    return {
        "format_version": 1,
        "task": "detection",
        "config": check.plan.name,
        "errors": counts[Severity.ERROR],
        "warnings": counts[Severity.WARNING],
        "seconds": round(check.seconds, 2),
        "num_classes": check.plan.num_classes,
        "sets": {part: _describe_set(check, part) for part in check.sets},
        "findings": findings_json(check.findings, check.name_of, details_of),
    }


def _describe_set(check: Check, part: str) -> dict[str, Any]:
    coco = check.sets[part]
    per_class = {
        name: {"boxes": int(boxes), "images": int(images)}
        for name, boxes, images in zip(
            check.classes.names, check.classes.boxes[part], check.classes.images[part], strict=True
        )
    }
    return {
        **describe_images(part, check.scan),
        "annotations": str(coco.path),
        "image_folder": str(coco.folder),
        "boxes": int(check.classes.boxes[part].sum()),
        "boxes_not_used": int((check.classes.numbers[part] < 0).sum()),
        "by_class": per_class,
    }
