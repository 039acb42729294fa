"""Faults of images that only their files tell: another size than annotated, not there at all, or annotated twice."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from detection.check.coco import CocoSet
from detection.check.kinds import Collector
from ppcls_ext.check.examine import Mark
from ppcls_ext.check.findings import Entry, Picture, count_of
from ppcls_ext.check.scan import Scan
from ppcls_ext.utils.image_files import images_in

# Copies of a picture agree if no corner of their boxes differs more, in pixels.
CORNER = 2.0


def true_sizes(coco: CocoSet, scan: Scan) -> np.ndarray:
    """Returns width and height of each image, ``int64`` ``[N, 2]``: as read, else as annotated."""
    sizes = coco.sizes.copy()
    readable = scan.readable(coco.part)
    records = scan.records[coco.part][readable]
    sizes[readable] = np.stack([records["width"], records["height"]], axis=1)
    return sizes


def find_wrong_sizes(coco: CocoSet, scan: Scan, found: Collector) -> None:
    """Compares the annotated size of each image with its file."""
    sizes = true_sizes(coco, scan)
    for row in np.flatnonzero((sizes != coco.sizes).any(axis=1) & (coco.sizes > 0).all(axis=1)).tolist():
        true, annotated = tuple(sizes[row].tolist()), tuple(coco.sizes[row].tolist())
        turned = " (turned by a quarter?)" if true == annotated[::-1] else ""
        note = f"is {true[0]} x {true[1]}, annotated {annotated[0]} x {annotated[1]}{turned}"
        found.add("wrong_size", coco.part, Entry((Picture(coco.part, row),), note))


def find_other_data(coco: CocoSet, scan: Scan, found: Collector) -> None:
    """Tells if not a single image that was looked for is there."""
    missing = sum(picture.part == coco.part for picture in scan.missing)
    if missing and not len(scan.readable(coco.part)) and missing == len(scan.marked(coco.part, Mark.UNREADABLE)):
        note = (
            f"{coco.path} lists {count_of(len(coco), 'image')}, such as {coco.file_names[0]}; none is in {coco.folder}"
        )
        found.add("other_data", coco.part, Entry(note=note))


def find_unlisted_images(sets: Mapping[str, CocoSet], found: Collector) -> None:
    """Finds image files below the image folders that no set lists."""
    listed = {os.path.normpath(coco.name_of(row)) for coco in sets.values() for row in range(len(coco))}
    folders = {os.path.normpath(coco.folder) for coco in sets.values() if coco.folder.is_dir()}
    files = {os.path.normpath(path): None for folder in sorted(folders) for path in images_in(Path(folder))}
    for path in files:
        if path not in listed:
            found.add("unlisted_image", "", Entry(note=path))


def find_copies_annotated_differently(
    copies: Sequence[Sequence[Picture]], sets: Mapping[str, CocoSet], found: Collector
) -> None:
    """Compares the boxes of images that have the same pixels.

    Args:
        copies: groups of such images.
        sets: their annotations.
        found: takes the faults.
    """
    for pictures in copies:
        boxes = [_boxes_of(picture, sets[picture.part]) for picture in pictures]
        for picture, others in zip(pictures[1:], boxes[1:], strict=True):
            if not _agree(boxes[0], others):
                words = [count_of(len(each), "box", "boxes") for each in (others, boxes[0])]
                note = " and ".join(words) if words[0] != words[1] else f"{words[0]}, which differ"
                found.add("copies_annotated_differently", "", Entry((picture, pictures[0]), note))


def _boxes_of(picture: Picture, coco: CocoSet) -> list[tuple[str, tuple[float, ...]]]:
    """Returns class name and corners of each box of an image, sorted."""
    return sorted(
        (coco.class_name(annotation), tuple(np.nan_to_num(coco.boxes[annotation]).tolist()))
        for annotation in np.flatnonzero(coco.rows == picture.index).tolist()
    )


def _agree(first: list[tuple[str, tuple[float, ...]]], second: list[tuple[str, tuple[float, ...]]]) -> bool:
    if [name for name, _ in first] != [name for name, _ in second]:
        return False
    pairs = zip(first, second, strict=True)
    return all(np.abs(np.subtract(one, other)).max() <= CORNER for (_, one), (_, other) in pairs)
