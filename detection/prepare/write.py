"""Writes a prepared data set (images, COCO files, classes, split, report), all of it or nothing, and its summary."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from detection.annotations import Frame, Ledger
from detection.prepare.split import Parts
from ppcls_ext.utils.files import atomic_folder, write_json, write_text
from ppcls_ext.utils.names import unused_name
from ppcls_ext.utils.outputs import PREPARED

# Entries of one kind that the terminal shows; the report file has all.
SHOWN = 3


def name_images(frames: Sequence[Frame], ledger: Ledger) -> None:
    """Gives each frame its file name below ``images``: the base name, with its folder in front where two are alike."""
    # A picture may have been written anew, in another format.
    paths = [PurePosixPath(frame.name).with_suffix(frame.image.suffix) for frame in frames]
    counts = Counter(path.name.casefold() for path in paths)
    taken: set[str] = set()
    for frame, path in zip(frames, paths, strict=True):
        target = path.name if counts[path.name.casefold()] == 1 else "__".join(path.parts)
        # Where a name is no UTF-8, the frame's name spells bytes out with backslashes, which some systems refuse.
        frame.target = unused_name(target.replace("\\", "_"), taken)
        if frame.target != path.name:
            ledger.repair("duplicate_file_name", frame.name, f"written as images/{frame.target}")


def place_image(source: Path, target: Path, mode: str) -> str:
    """Puts an image at ``target``, as a hard link if ``mode`` is ``link`` and the file system allows it, else a copy;
    returns which it became."""
    if mode == "link":
        try:
            # Of a symbolic link, what it points to.
            os.link(os.path.realpath(source), target)
            return "link"
        except OSError:
            # Another disk, a file system without links, or a file of another user: copied instead.
            target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
    return "copy"


def write_annotations(folder: Path, parts: Parts, classes: Sequence[str], subsets: Parts | None = None) -> None:
    """Writes ``annotations/PART.json`` of each part, with ids that count on from part to part, those of ``subsets`` of
    the training part, with its ids, and ``classes.txt``."""
    (folder / "annotations").mkdir()
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    image_id = box_id = 0
    for part, frames in parts.items():
        images, annotations = [], []
        for frame in frames:
            image_id += 1
            entry = {"id": image_id, "file_name": frame.target, "width": frame.width, "height": frame.height}
            images.append({**frame.metadata, **entry})
            for box in frame.boxes:
                box_id += 1
                entry = {
                    "id": box_id,
                    "image_id": image_id,
                    "category_id": box.category + 1,
                    "bbox": list(box.xywh),
                    "area": box.xywh[2] * box.xywh[3],
                    "iscrowd": int(box.extra.get("iscrowd", 0)),
                    "segmentation": [],
                }
                annotations.append({**box.extra, **entry})
        coco = {"images": images, "annotations": annotations, "categories": categories}
        write_json(folder / "annotations" / f"{part}.json", coco)
        for name, members in (subsets or {}).items() if part == "train" else ():
            files = {frame.target for frame in members}
            kept = [image for image in images if image["file_name"] in files]
            ids = {image["id"] for image in kept}
            boxes = [box for box in annotations if box["image_id"] in ids]
            write_json(folder / "annotations" / f"{name}.json", {**coco, "images": kept, "annotations": boxes})
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))
    write_text(folder / PREPARED, "written by tools/prepare_data.py\n")


def write_made_set(folder: Path, parts: Parts, classes: Sequence[str], **facts: Any) -> dict[str, Any]:
    """Writes the annotations of a set whose images were made in ``folder``, and ``report.json``, which also holds
    ``facts``; returns the report."""
    write_annotations(folder, parts, classes)
    summaries = {part: part_summary(frames, classes) for part, frames in parts.items()}
    report = {**facts, "classes": list(classes), "parts": summaries}
    write_json(folder / "report.json", report)
    return report


def part_summary(frames: Sequence[Frame], classes: Sequence[str]) -> dict[str, Any]:
    """Returns the counts of one part for ``report.json``."""
    boxes = Counter(box.category for frame in frames for box in frame.boxes)
    return {
        "images": len(frames),
        "images_without_boxes": sum(not frame.boxes for frame in frames),
        "boxes": sum(boxes.values()),
        "boxes_by_class": {name: boxes[index] for index, name in enumerate(classes)},
    }


def write_output(
    output: Path, source: str, parts: Parts, subsets: Parts, classes: Sequence[str], split: dict[str, Any],
    ledger: Ledger, mode: str,
) -> dict[str, Any]:  # fmt: skip
    """Writes the data set in one step and returns the content of ``report.json``; frames get their ``target``.

    ``split`` tells how the parts were made, for ``split.json`` and, without long lists, for the report; ``subsets`` are
    some of the frames of the part ``train``.
    """
    everything = [frame for frames in parts.values() for frame in frames]
    name_images(everything, ledger)
    ledger.images["kept"] = len(everything)
    respelled = [
        {"written": written, "class": name, "boxes": count} for (written, name), count in ledger.respelled.items()
    ]
    report = {
        "source": source,
        "classes": list(classes),
        "images": dict(ledger.images),
        "boxes": dict(ledger.boxes),
        "box_forms": dict(ledger.forms),
        "respelled_classes": respelled,
        "parts": {part: part_summary(frames, classes) for part, frames in {**parts, **subsets}.items()},
        "findings": {action: ledger.kinds(action) for action in ("repaired", "rejected", "noted")},
        "entries": ledger.entries,
        "split": {key: value for key, value in split.items() if key != "group_of"},
    }
    names = {part: [frame.name for frame in frames] for part, frames in parts.items()}
    with atomic_folder(output) as folder:
        (folder / "images").mkdir()
        # As UTF-8 also where the system's own encoding is ASCII.
        targets = [os.fsdecode(frame.target.encode("utf-8", "surrogateescape")) for frame in everything]
        pairs = zip(everything, targets, strict=True)
        placed = Counter(place_image(frame.image, folder / "images" / target, mode) for frame, target in pairs)
        write_annotations(folder, parts, classes, subsets)
        write_json(folder / "split.json", {**split, "parts": names})
        (folder / "split").mkdir()
        for part, members in names.items():
            write_text(folder / "split" / f"{part}.txt", "".join(f"{name}\n" for name in members))
        report["placed"] = dict(placed)
        write_json(folder / "report.json", report)
    return report


def lines_of(report: dict[str, Any]) -> Iterator[str]:
    """Yields the summary as lines for the terminal."""
    parts = report["parts"]
    yield "images: {input} found = {kept} kept + {rejected} rejected + {left_out} left out".format(**report["images"])
    yield "boxes: {input} read = {kept} kept + {repaired} repaired + {rejected} rejected".format(**report["boxes"])
    forms = ", ".join(f"{form} ({count})" for form, count in report["box_forms"].items())
    yield f"boxes were written as {forms or 'nothing'}"
    for entry in report["respelled_classes"]:
        yield "class '{written}' taken for '{class}' ({boxes} boxes)".format(**entry)
    if report["split"]["method"] == "seed":
        words = "split by seed {seed}: {groups} groups of frames that look alike, the largest of {largest_group}"
        yield f"{words.format(**report['split'])}, each on one side"
    rows = [(key.replace("images_", "").replace("_", " "), key) for key in ("images", "images_without_boxes", "boxes")]
    table = [(label, [part[key] for part in parts.values()]) for label, key in rows]
    table += [(name, [part["boxes_by_class"][name] for part in parts.values()]) for name in report["classes"]]
    width = max(len(label) for label, _ in table)
    yield f"{'':{width}} " + " ".join(f"{part:>8}" for part in parts)
    for label, numbers in table:
        yield f"{label:{width}} " + " ".join(f"{number:8d}" for number in numbers)
    for action, kinds in report["findings"].items():
        for kind, count in kinds.items():
            yield f"{action} {kind}: {count}"
            some = [entry for entry in report["entries"] if (entry["action"], entry["kind"]) == (action, kind)]
            for entry in some[:SHOWN]:
                yield f"  {entry['file']}: {entry['reason']}"
            if count > SHOWN:
                yield f"  and {count - SHOWN} more in report.json"
