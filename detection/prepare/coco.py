"""Frames out of COCO files, with every fault of the file listed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detection.prepare.classes import folded
from detection.prepare.layout import PART_WORDS, ImageIndex
from detection.prepare.records import Frame, Ledger, RawBox, shown_path

LARGEST_NUMBER = 1e9
FORM = "COCO bbox x y w h"
# Keys of an image that the prepared file has of its own.
OWN_KEYS = frozenset({"id", "file_name", "width", "height"})


def frames_of(
    source: Path, file: Path, content: dict[str, Any], part: str | None, index: ImageIndex, ledger: Ledger
) -> list[Frame]:
    """Returns the frames of one COCO file.

    Args:
        source: the source folder.
        file: the COCO file, below ``source``.
        content: what it holds.
        part: the part that it describes, if it does.
        index: finds images.
        ledger: gets what could not be used; boxes that were read are counted as input.
    """
    shown = shown_path(file, source)
    names = _categories(content["categories"], shown, ledger)
    boxes = _boxes_by_image(content["annotations"], names, shown, ledger)
    frames: dict[Path, Frame] = {}
    for image_id, entry in _images_by_id(content["images"], boxes, shown, ledger).items():
        own = boxes.pop(image_id, [])
        image = _find(entry, file, index, shown, len(own), ledger)
        if image is None:
            continue
        if image in frames:
            reason = f"image {image_id} is the same file as an image before it; their boxes are taken together"
            ledger.repair("duplicate_file_name", shown, reason)
            frames[image].boxes.extend(own)
            continue
        frames[image] = Frame(
            name=shown_path(image, source),
            image=image,
            boxes=own,
            source=f"{shown}: {entry['file_name']}",
            stated_size=_stated_size(entry),
            metadata={key: value for key, value in entry.items() if key not in OWN_KEYS},
            part=part or _own_part(entry),
        )
    for image_id, orphans in boxes.items():
        reason = f"{len(orphans)} annotations belong to image {image_id!r}, which it does not list"
        ledger.reject("missing_image", shown, reason, len(orphans))
    return list(frames.values())


def _own_part(entry: dict[str, Any]) -> str | None:
    word = str(entry.get("split", "")).lower()
    return next((part for part, words in PART_WORDS.items() if word in words), None)


def _stated_size(entry: dict[str, Any]) -> tuple[int, int] | None:
    size = [entry.get(key) for key in ("width", "height")]
    return (int(size[0]), int(size[1])) if all(map(_is_number, size)) else None


def _is_number(value: Any) -> bool:
    """Tells whether a value is a finite number of a size that pictures may have."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST_NUMBER


def _key(value: Any) -> Any:
    """Makes an id of a file usable as a key; ``1`` and ``1.0`` are the same, ``"1"`` is not."""
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def _categories(entries: Sequence[Any], shown: str, ledger: Ledger) -> dict[Any, str]:
    """Returns the class name of each category id; an id with two names is left out."""
    names: dict[Any, str] = {}
    ambiguous = set()
    for position, entry in enumerate(entries):
        number = _key(entry.get("id")) if isinstance(entry, dict) else None
        if number is None or not isinstance(entry.get("name"), str):
            ledger.reject("malformed_category", shown, f"categories[{position}] has no id or no name")
        elif names.setdefault(number, entry["name"]) != entry["name"]:
            ambiguous.add(number)
    for number in ambiguous:
        reason = f"category id {number} has several names; its boxes are rejected"
        ledger.reject("duplicate_category_id", shown, reason)
        del names[number]
    for name, count in Counter(folded(name) for name in names.values()).items():
        if count > 1:
            numbers = [number for number, other in names.items() if folded(other) == name]
            ledger.repair(
                "duplicate_category_name", shown, f"category ids {numbers} are one class, '{names[numbers[0]]}'"
            )
    return names


def _boxes_by_image(
    entries: Sequence[Any], names: dict[Any, str], shown: str, ledger: Ledger
) -> dict[Any, list[RawBox]]:
    boxes: dict[Any, list[RawBox]] = defaultdict(list)
    numbers: Counter[Any] = Counter()
    outlines = 0
    for position, entry in enumerate(entries):
        image_id = _key(entry.get("image_id")) if isinstance(entry, dict) else None
        if image_id is None:
            ledger.take_in([RawBox("", None)])
            ledger.reject("malformed_annotation", shown, f"annotations[{position}] names no image", boxes=1)
            continue
        box = _box(entry, names)
        ledger.take_in([box])
        boxes[image_id].append(box)
        numbers[_key(entry.get("id"))] += 1
        outlines += bool(entry.get("segmentation"))
    for number, count in numbers.items():
        if count > 1:
            reason = "without an id" if number is None else f"with the id {number}"
            ledger.repair("duplicate_annotation_id", shown, f"{count} annotations {reason}, numbered anew")
    if outlines:
        ledger.note("outlines_left_out", shown, f"{outlines} annotations have outlines, of which the box is kept")
    return boxes


def _box(entry: dict[str, Any], names: dict[Any, str]) -> RawBox:
    number = _key(entry.get("category_id"))
    name = names.get(number, "")
    extra = {"iscrowd": 1} if entry.get("iscrowd") == 1 else {}
    if not name:
        return RawBox(f"category id {number}", None, FORM, ("unknown_class", "the file gives this id no single name"))
    values = entry.get("bbox")
    if not isinstance(values, list) or len(values) != 4:
        return RawBox(name, None, FORM, ("missing_coordinates", "bbox is not a list of four numbers"), extra)
    if not all(map(_is_number, values)):
        return RawBox(name, None, FORM, ("not_a_number", f"bbox {values} holds something else than numbers"), extra)
    left, top, width, height = map(float, values)
    return RawBox(name, (left, top, left + width, top + height), FORM, None, extra)


def _images_by_id(
    entries: Sequence[Any], boxes: dict[Any, list[RawBox]], shown: str, ledger: Ledger
) -> dict[Any, dict[str, Any]]:
    """Returns the image of each id; an id of several images is left out, with the boxes that may belong to either."""
    by_id: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for position, entry in enumerate(entries):
        number = _key(entry.get("id")) if isinstance(entry, dict) else None
        if number is None or not isinstance(entry.get("file_name"), str):
            ledger.reject("malformed_image_entry", shown, f"images[{position}] has no id or no file_name")
        else:
            by_id[number].append(entry)
    result = {}
    for number, same in by_id.items():
        files = list(dict.fromkeys(entry["file_name"] for entry in same))
        if len(files) > 1:
            reason = f"image id {number} is that of {', '.join(files)}: their boxes cannot be told apart"
            ledger.reject("duplicate_image_id", shown, reason, len(boxes.pop(number, [])))
            continue
        if len(same) > 1:
            ledger.repair("duplicate_image_id", shown, f"image {number} ({files[0]}) is listed {len(same)} times")
        result[number] = same[0]
    return result


def _find(entry: dict[str, Any], file: Path, index: ImageIndex, shown: str, boxes: int, ledger: Ledger) -> Path | None:
    found = index.find(entry["file_name"], file)
    if len(found) == 1:
        return found[0]
    if found:
        files = ", ".join(map(str, found[:3]))
        ledger.reject("ambiguous_image", shown, f"{entry['file_name']} may be any of {files}", boxes)
    else:
        ledger.reject("missing_image", shown, f"{entry['file_name']} is not there", boxes)
    return None
