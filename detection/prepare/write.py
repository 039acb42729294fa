"""Writes a prepared data set (images, COCO files, classes, split, report), all of it or nothing, and its summary."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from detection.annotations import ClassMatcher, CleanFrame, Ledger
from detection.prepare.split import Parts
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_folder, write_json, write_text

# Only a folder with this file in it is ever replaced.
MARKER = ".prepared"
# Entries of one kind that the terminal shows; the report file has all.
SHOWN = 3


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


def write_annotations(folder: Path, parts: Parts, classes: Sequence[str]) -> None:
    """Writes ``annotations/PART.json`` of each part, with ids that count on from part to part, and ``classes.txt``."""
    (folder / "annotations").mkdir()
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    image_id = box_id = 0
    for part, frames in parts.items():
        images, annotations = [], []
        for frame in frames:
            image_id += 1
            entry = {"id": image_id, "file_name": frame.target, "width": frame.width, "height": frame.height}
            images.append({**frame.frame.metadata, **entry})
            for box in frame.boxes:
                box_id += 1
                annotations.append(
                    {
                        **box.extra,
                        "id": box_id,
                        "image_id": image_id,
                        "category_id": box.category + 1,
                        "bbox": list(box.xywh),
                        "area": box.xywh[2] * box.xywh[3],
                        "iscrowd": int(box.extra.get("iscrowd", 0)),
                        "segmentation": [],
                    }
                )
        coco = {"images": images, "annotations": annotations, "categories": categories}
        write_json(folder / "annotations" / f"{part}.json", coco)
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))
    write_text(folder / MARKER, "written by tools/prepare_data.py\n")


def write_output(
    output: Path, parts: Parts, classes: Sequence[str], split: dict[str, Any], report: dict[str, Any], images: str
) -> Counter[str]:
    """Writes the data set to ``output`` in one step; returns how many images were linked and copied.

    Args:
        output: the folder.
        parts: the frames by part.
        classes: in their order.
        split: content of ``split.json``; ``parts`` in it becomes the lists in ``split``.
        report: content of ``report.json``.
        images: ``link`` or ``copy``.
    """
    placed: Counter[str] = Counter()
    with atomic_folder(output) as folder:
        (folder / "images").mkdir()
        for frames in parts.values():
            for frame in frames:
                placed[place_image(frame.frame.image, folder / "images" / frame.target, images)] += 1
        write_annotations(folder, parts, classes)
        write_json(folder / "split.json", split)
        (folder / "split").mkdir()
        for part, names in split["parts"].items():
            write_text(folder / "split" / f"{part}.txt", "".join(f"{name}\n" for name in names))
        write_json(folder / "report.json", {**report, "placed": dict(placed)})
    return placed


def part_summary(frames: Sequence[CleanFrame], classes: Sequence[str]) -> dict[str, Any]:
    """Returns the counts of one part for ``report.json``."""
    boxes = Counter(box.category for frame in frames for box in frame.boxes)
    return {
        "images": len(frames),
        "images_without_boxes": sum(not frame.boxes for frame in frames),
        "boxes": sum(boxes.values()),
        "boxes_by_class": {name: boxes[index] for index, name in enumerate(classes)},
    }


def report_of(parts: Parts, matcher: ClassMatcher, ledger: Ledger, source: str) -> dict[str, Any]:
    """Returns everything that was counted and listed, for ``report.json``."""
    respelled = [
        {"written": written, "class": name, "boxes": count} for (written, name), count in matcher.respelled.items()
    ]
    return {
        "source": source,
        "classes": list(matcher.names),
        "images": dict(ledger.images),
        "boxes": dict(ledger.boxes),
        "box_forms": dict(ledger.forms),
        "respelled_classes": respelled,
        "parts": {part: part_summary(frames, matcher.names) for part, frames in parts.items()},
        "findings": {action: ledger.kinds(action) for action in ledger.ACTIONS},
        "entries": ledger.to_json(),
    }


def lines_of(report: dict[str, Any]) -> Iterator[str]:
    """Yields the summary as lines for the terminal."""
    images, boxes, parts = report["images"], report["boxes"], report["parts"]
    yield (
        f"images: {images['input']} found = {images['kept']} kept + {images['rejected']} rejected"
        f" + {images['left_out']} left out"
    )
    yield (
        f"boxes: {boxes['input']} read = {boxes['kept']} kept + {boxes['repaired']} repaired"
        f" + {boxes['rejected']} rejected"
    )
    forms = ", ".join(f"{form} ({count})" for form, count in report["box_forms"].items())
    yield f"boxes were written as {forms or 'nothing'}"
    for entry in report["respelled_classes"]:
        yield f"class '{entry['written']}' taken for '{entry['class']}' ({entry['boxes']} boxes)"
    if report.get("split", {}).get("method") == "seed":
        split = report["split"]
        yield (
            f"split by seed {split['seed']}: {split['groups']} groups of frames that look alike, the largest of "
            f"{split['largest_group']}, each on one side"
        )
    width = max([len(name) for name in report["classes"]] + [len("without boxes")])
    yield f"{'':{width}} " + " ".join(f"{part:>7}" for part in parts)
    for key, label in (("images", "images"), ("images_without_boxes", "without boxes"), ("boxes", "boxes")):
        yield f"{label:{width}} " + " ".join(f"{part[key]:7d}" for part in parts.values())
    for name in report["classes"]:
        yield f"{name:{width}} " + " ".join(f"{part['boxes_by_class'][name]:7d}" for part in parts.values())
    for action, kinds in report["findings"].items():
        for kind, count in kinds.items():
            yield f"{action} {kind}: {count}"
            some = [entry for entry in report["entries"] if (entry["action"], entry["kind"]) == (action, kind)]
            for entry in some[:SHOWN]:
                yield f"  {entry['file']}: {entry['reason']}"
            if count > SHOWN:
                yield f"  and {count - SHOWN} more in report.json"
