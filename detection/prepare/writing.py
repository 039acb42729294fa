"""Writes a prepared data set: images, COCO files, classes, split and report, all of it or nothing."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from detection.prepare.records import CleanFrame, Ledger
from detection.prepare.split import Parts
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_folder, write_json, write_text

# Only a folder with this file in it is ever replaced.
MARKER = ".prepared"


def check_output(output: Path, overwrite: bool) -> None:
    """Makes sure that ``output`` may be written.

    Raises:
        UserError: it exists and is no prepared data set, or it is one and ``overwrite`` is false.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(f"{output}: is a file, not a folder")
    if not any(output.iterdir()):
        return
    if not (output / MARKER).is_file():
        raise UserError(f"{output}: holds something else than a prepared data set; choose another folder")
    if not overwrite:
        raise UserError(f"{output}: is a prepared data set already; give --overwrite to replace it")


def name_images(frames: Sequence[CleanFrame], ledger: Ledger) -> None:
    """Gives each frame its file name below ``images``: the base name, with its folder in front where two are alike."""
    counts = Counter(PurePosixPath(frame.frame.name).name.casefold() for frame in frames)
    taken: set[str] = set()
    for frame in frames:
        path = PurePosixPath(frame.frame.name)
        target = path.name if counts[path.name.casefold()] == 1 else "__".join(path.parts)
        # Where a name is no UTF-8, the frame's name spells bytes out with backslashes, which some systems refuse.
        target = target.replace("\\", "_")
        number = 2
        while target.casefold() in taken:
            target = f"{path.stem}_{number}{path.suffix}"
            number += 1
        if target != path.name:
            ledger.repair("duplicate_file_name", frame.frame.name, f"written as images/{target}")
        taken.add(target.casefold())
        frame.target = target


def place_image(source: Path, target: Path, mode: str) -> str:
    """Puts an image at ``target``; returns ``link`` or ``copy``, whichever it became.

    Args:
        source: the image; of a symbolic link, what it points to.
        target: the new file.
        mode: ``link`` tries a hard link first, which costs no space.
    """
    if mode == "link":
        try:
            os.link(os.path.realpath(source), target)
            return "link"
        except OSError:
            # Another disk, a file system without links, or a file of another user: copied instead.
            target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
    return "copy"


def coco_of(frames: Sequence[CleanFrame], classes: Sequence[str], first_image: int, first_box: int) -> dict[str, Any]:
    """Returns one part as a COCO dictionary; ids count on from ``first_image`` and ``first_box``."""
    images, annotations = [], []
    for image_id, frame in enumerate(frames, start=first_image):
        entry = {"id": image_id, "file_name": frame.target, "width": frame.width, "height": frame.height}
        images.append({**frame.frame.metadata, **entry})
        for box in frame.boxes:
            annotations.append(
                {
                    **box.extra,
                    "id": first_box + len(annotations),
                    "image_id": image_id,
                    "category_id": box.category + 1,
                    "bbox": list(box.xywh),
                    "area": box.xywh[2] * box.xywh[3],
                    "iscrowd": int(box.extra.get("iscrowd", 0)),
                    "segmentation": [],
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_output(
    output: Path, parts: Parts, classes: Sequence[str], split: dict[str, Any], report: dict[str, Any], images: str
) -> Counter[str]:
    """Writes the data set to ``output`` in one step; returns how many images were linked and copied."""
    placed: Counter[str] = Counter()
    image_id = box_id = 1
    with atomic_folder(output) as folder:
        (folder / "images").mkdir()
        (folder / "annotations").mkdir()
        for part, frames in parts.items():
            for frame in frames:
                placed[place_image(frame.frame.image, folder / "images" / frame.target, images)] += 1
            coco = coco_of(frames, classes, image_id, box_id)
            write_json(folder / "annotations" / f"{part}.json", coco)
            image_id += len(coco["images"])
            box_id += len(coco["annotations"])
        write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))
        write_json(folder / "split.json", split)
        (folder / "split").mkdir()
        for part, names in split["parts"].items():
            write_text(folder / "split" / f"{part}.txt", "".join(f"{name}\n" for name in names))
        write_json(folder / "report.json", {**report, "placed": dict(placed)})
        write_text(folder / MARKER, "written by tools/prepare_data.py\n")
    return placed
