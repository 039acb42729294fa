"""Formats of annotation tools: which one a folder holds, and its reader; classes are renamed, merged and dropped.

Files become :class:`detection.annotations.Frame` here; what a box, an image, a class and a name is, is judged as
everywhere. Pascal VOC and COCO are read in ``readers.py``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

import yaml

from detection.annotations import Frame, Ledger, RawBox, class_order, folded, unlike_names
from detection.coco import box_around, box_around_turned, number_of
from detection.prepare.readers import (
    PART_WORDS,
    AnnotationError,
    VocAnnotation,
    images_below,
    images_by_path,
    leave_out_unlisted,
    pair_frames,
    part_of,
    read_coco_folder,
    read_voc_folder,
    read_xml,
    shown_path,
    size_of,
)
from ppcls_ext.utils.errors import UserError, suggestion
from ppcls_ext.utils.image_files import files_in, images_in
from ppcls_ext.utils.names import Named, folded_name, meanings, path_ends, spellings
from ppcls_ext.utils.texts import DamagedTextError, TextError, read_text

# So many files of a folder tell what all are.
LOOKED_AT = 20
CLASS_FILES = ("classes.txt", "labels.txt", "obj.names")


class Source(NamedTuple):
    """What a folder holds: images with annotations, images without, and its classes in their order, if it has one."""

    frames: list[Frame]
    unlabelled: list[Frame]
    classes: list[str]


# Which format

# What a JSON object, or the first of a list, of each format has.
JSON_KEYS = {
    "coco": {"images", "annotations", "categories"}, "labelme": {"shapes"}, "Supervisely JSON": {"objects", "size"},
    "Label Studio JSON": {"annotations", "data"}, "CreateML JSON": {"annotations", "image"},
    "VIA JSON": {"_via_img_metadata"}, "Datumaro JSON": {"items", "categories"},
}  # fmt: skip


def _kind_of_json(path: Path) -> str | None:
    data = json.loads(read_text(path))
    data = data[0] if isinstance(data, list) and data else data
    return next((kind for kind, keys in JSON_KEYS.items() if isinstance(data, dict) and keys <= data.keys()), None)


def _kind_of_xml(path: Path) -> str | None:
    root = read_xml(path)
    if root.tag == "annotations":
        return "CVAT XML for video" if root.find("track") is not None else "cvat"
    return "voc" if root.tag.lower() == "annotation" else None


def _kind_of_text(path: Path) -> str | None:
    lines = [line.split() for line in read_text(path).split("\n") if line.strip()]
    words = next((line for line in lines if not line[0].startswith(("imagesource", "gsd"))), [])
    is_number = [number_of(word) is not None for word in words]
    if len(words) in (9, 10) and all(is_number[:8]) and not is_number[8]:
        return "DOTA txt"
    if len(words) < 5 or not all(is_number[1:]):
        return None
    return "yolo" if len(words) < 15 or is_number[0] else "KITTI txt"


# Files of these suffixes are looked at, or are of a format that is not read.
LOOK: dict[str, Callable[[Path], str | None]] = {".json": _kind_of_json, ".xml": _kind_of_xml, ".txt": _kind_of_text}
NOT_READ = {".tfrecord": "TFRecord", ".tfrecords": "TFRecord", ".record": "TFRecord", ".csv": "CSV", ".mat": "MATLAB"}


def formats_below(source: Path) -> dict[str, Path]:
    """Returns the formats of the annotations below a folder, each with an example: keys of :data:`FORMATS`, or the name
    of one that is not read."""
    looked_at: Counter[tuple[str, Path]] = Counter()
    found: dict[str, Path] = {}
    for path in files_in(source, {*LOOK, *NOT_READ}):
        suffix = path.suffix.lower()
        looked_at[suffix, path.parent] += 1
        kind = NOT_READ.get(suffix)
        if kind is None and looked_at[suffix, path.parent] <= LOOKED_AT and path.name.lower() not in CLASS_FILES:
            try:
                kind = LOOK[suffix](path)
            except (AnnotationError, TextError, OSError, ValueError, RecursionError):
                # Its reader says what is wrong with it.
                kind = "voc" if suffix == ".xml" else None
        if kind is not None:
            found.setdefault(kind, path)
    return found


def find_format(source: Path, allowed: Iterable[str]) -> str | None:
    """Returns the one format below a folder that is among ``allowed``; ``None`` where there are no annotations.

    Raises:
        UserError: there are several, or others only: the message names them.
    """
    found = formats_below(source)
    read = [kind for kind in found if kind in allowed]
    if len(read) > 1:
        listing = " and ".join(f"{FORMATS[kind].words} ({shown_path(found[kind], source)})" for kind in read)
        raise UserError(f"{source}: holds {listing}; choose with --from {' or '.join(read)}")
    for kind, path in () if read else found.items():
        words = FORMATS[kind].words if kind in FORMATS else kind
        advice = f"use python tools/prepare_data.py import {source} --output OUT"
        if kind not in FORMATS:
            advice = "which is not read; export it there as COCO, YOLO or Pascal VOC"
        raise UserError(f"{source}: holds {words} ({shown_path(path, source)}): {advice}")
    return read[0] if read else None


# YOLO


def read_yolo(source: Path, ledger: Ledger, classes: str | None) -> Source:
    """Reads YOLO's text files. An image without one shows nothing.

    Classes and parts are those of ``data.yaml``; without it, classes are those of a file of :data:`CLASS_FILES` or of
    ``--classes``, and parts those that folders are named after.

    Raises:
        UserError: nothing names the classes, two have the same name, a number has none, or a part of ``data.yaml`` is
            not there.
    """
    file, data = _yolo_description(source)
    names = data.get("names")
    listed = class_file(source)
    if file is not None:
        names = names if isinstance(names, dict) else dict(enumerate(names if isinstance(names, list) else ()))
        if not names or not all(type(number) is int for number in names):
            raise UserError(f"{file}: names must be a list of class names, or a mapping such as {{0: cat, 1: dog}}")
        if type(data.get("nc")) is int and data["nc"] != len(names):
            raise UserError(f"{file}: nc is {data['nc']}, but names lists {len(names)} classes")
        names = {number: str(name) for number, name in sorted(names.items())}
        unlike_names(names.values(), str(file))
    elif listed is not None or classes is not None:
        names = dict(enumerate(class_order(str(listed or classes))))
    else:
        raise UserError(
            f"{source}: YOLO txt, but neither data.yaml nor {' nor '.join(CLASS_FILES)} names the classes: state them "
            "in the order of their numbers with --classes a,b,c"
        )
    texts = [path for path in files_in(source, {".txt"}) if path.name.lower() not in CLASS_FILES]
    labels = {path for path in texts if _kind_of_text(path) == "yolo"}
    # However faulty it is, a text beside label files with the stem of an image is that image's: without it, the image
    # would show nothing. Elsewhere it may be a caption.
    folders = {path.parent for path in texts if path in labels or not path.read_bytes().strip()}
    stems = {folded_name(image.stem) for image in images_in(source)}
    texts = [path for path in texts if path in labels or (path.parent in folders and folded_name(path.stem) in stems)]
    unknown: list[str] = []
    read = partial(_read_yolo_file, names=names, pose=bool(data.get("kpt_shape")), unknown=unknown)
    frames, bare = read_voc_folder(source, ledger, read, texts)
    if unknown:
        more = f" ({len(unknown)} such boxes in all)" if len(unknown) > 1 else ""
        shown = ", ".join(f"{number} {name}" for number, name in names.items())
        raise UserError(f"{unknown[0]}, but {file or listed or '--classes'} names {shown}{more}")
    if bare:
        ledger.note("no_label_file", "all", f"{len(bare)} images have no text file: they show nothing")
    frames += bare
    parts = _yolo_parts(source, file, data, [frame.image for frame in frames], ledger) if file is not None else {}
    for frame in frames:
        frame.part = parts.get(frame.image)
    return Source(frames, [], list(names.values()))


def class_file(source: Path) -> Path | None:
    """Returns the text file below a folder that names the classes, one a line, if there is one."""
    files = [path for path in files_in(source, {".txt", ".names"}) if path.name.lower() in CLASS_FILES]
    return min(files, key=lambda path: len(path.parts), default=None)


def _yolo_description(source: Path) -> tuple[Path | None, dict[str, Any]]:
    found: list[tuple[Path | None, dict[str, Any]]] = []
    broken = ""
    for path in files_in(source, {".yaml", ".yml"}):
        try:
            data = yaml.safe_load(read_text(path))
        except yaml.YAMLError as error:
            broken = f"{path}: is not valid YAML: {' '.join(str(error).split())}"
            continue
        if isinstance(data, dict) and "names" in data:
            found.append((path, data))
    # Beside a description it is some other file.
    if broken and not found:
        raise UserError(broken)
    if any(data != found[0][1] for _, data in found):
        raise UserError(f"{source}: {found[0][0]} and {found[1][0]} describe two data sets: leave one")
    return found[0] if found else (None, {})


def _read_yolo_file(path: Path, names: dict[int, str], pose: bool, unknown: list[str]) -> VocAnnotation:
    """Reads ``class x y w h`` (centre and size) or ``class x y x y x y ...`` (an outline), as fractions of the picture.

    ``pose``: what follows the fifth number are key points. ``unknown`` gets file, line and number of classes without a
    name.
    """
    boxes = []
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        words = text.replace(",", " ").split()
        values = [number_of(word) for word in words[: 5 if pose else None]]
        if not words:
            continue
        # A number first: classes may be called by numbers.
        is_number = values[0] is not None and values[0].is_integer()
        name = names.get(values[0]) if is_number else words[0] if words[0] in names.values() else None
        numbers = values[1:]
        if len(numbers) < 4 or None in numbers or len(numbers) % 2:
            reason = f"line {line} is neither class x y w h nor class and an outline: {text.strip()[:60]}"
            boxes.append(RawBox(name or "", None, problem=("malformed_line", reason)))
            continue
        if name is None:
            unknown.append(f"{path}, line {line}: class {words[0]}")
        if len(numbers) > 4:
            boxes.append(RawBox(name or "", box_around(numbers), "YOLO outline", outlined=True))
            continue
        x, y, width, height = numbers
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        boxes.append(RawBox(name or "", corners, "YOLO x y w h", numbers=(x, y, width, height), layout="cxcywh"))
    return VocAnnotation("", "", boxes, None, {})


def _yolo_parts(
    source: Path, file: Path, data: dict[str, Any], images: Sequence[Path], ledger: Ledger
) -> dict[Path, str]:
    """Returns the part of each image that ``data.yaml`` puts in one; empty if training and validation are the same."""
    roots = (file.parent, source)
    # Nothing else is ever looked at, whatever the file names: `..`, paths of another machine.
    folders = {place for image in images for place in image.parents if place.is_relative_to(source)}
    # Of two folders of one name the one below data.yaml counts.
    places = sorted({*folders, *files_in(source, {".txt"})}, key=lambda place: not place.is_relative_to(file.parent))
    place_of = Named(
        places, lambda place: [place.relative_to(root).as_posix() for root in roots if place.is_relative_to(root)]
    )
    found: dict[str, set[Path]] = {}
    for part, words in PART_WORDS.items():
        entries = next((data[word] for word in words if data.get(word)), [])
        for entry in [entries] if isinstance(entries, str) else entries:
            stated = [spelt for text in (f"{data.get('path', '')}/{entry}", str(entry)) for spelt in spellings(text)]
            inside = ("/".join(name for name in path.split("/") if name != "..") for path in stated)
            place = next(iter(place_of.find(*(end for path in inside for end in path_ends(path) or ["."]))), None)
            if place is None and part == "test":
                continue
            if place is None:
                raise UserError(f"{file}: {part}: {entry} is neither a folder nor a list of images below {source}")
            members = _images_of(place, source, images)
            if not members and part != "test":
                raise UserError(f"{file}: {part}: {entry} names no image below {source}")
            found.setdefault(part, set()).update(members)
    if found and found.get("train") == found.get("val"):
        reason = "training and validation are the same images, so they are split anew here"
        ledger.note("one_part", shown_path(file, source), reason)
        return {}
    placed: dict[Path, str] = {}
    for part, members in found.items():
        for image in sorted(members):
            if image in placed:
                # As of COCO files: validation stays whole, and training has not seen it.
                reason = f"is in {placed[image]} and in {part}; kept in {part} only"
                ledger.note("in_two_parts", shown_path(image, source), reason)
            placed[image] = part
    return placed


def _images_of(place: Path, source: Path, images: Sequence[Path]) -> set[Path]:
    """Returns the images in a folder, or those that a text file lists."""
    if place.is_dir():
        return {image for image in images if place in image.parents}
    root = source.resolve()
    image_of = Named(images, lambda image: [(root / image.relative_to(source)).as_posix()])
    # From the list's folder or the source on, else from a folder above: `set/images/0.png` where the source is `set`.
    near, above = ((root / place.relative_to(source)).parent, root), root.parents
    found: set[Path] = set()
    for line in filter(None, map(str.strip, read_text(place).split("\n"))):
        names = meanings(line)
        stated = (f"{folder}/{name}" for folders in (near, above) for name in names for folder in folders)
        found.update(next(filter(None, map(image_of.find, map(posixpath.normpath, stated))), []))
    return found


# Labelme and CVAT

# Shapes that enclose nothing.
LINES = ("point", "points", "line", "linestrip", "polyline")


def read_labelme(path: Path) -> VocAnnotation:
    """Reads a file of Labelme or X-AnyLabeling: rectangles, circles and what has points around it. The picture that may
    be in the file is left alone.

    Raises:
        AnnotationError: it is no such file.
    """
    try:
        data = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"is not valid JSON ({error})") from error
    if not isinstance(data, dict) or not isinstance(data.get("shapes"), list):
        raise AnnotationError("is no Labelme JSON: it has no list of shapes")
    names = ["", *str(data.get("imagePath") or "").replace("\\", "/").split("/")]
    boxes = [_labelme_box(shape if isinstance(shape, dict) else {}) for shape in data["shapes"]]
    return VocAnnotation(names[-1], names[-2], boxes, size_of(data.get("imageWidth"), data.get("imageHeight")), {})


def _labelme_box(shape: dict[str, Any]) -> RawBox:
    name, kind, points = str(shape.get("label") or ""), str(shape.get("shape_type") or "polygon"), shape.get("points")
    flat = [value for point in points if isinstance(point, list) for value in point] if isinstance(points, list) else []
    numbers = [number_of(value) for value in flat]
    if kind in LINES:
        return RawBox(name, None, problem=("no_area", f"is a {kind}, which encloses nothing"))
    if len(numbers) < 4 or len(numbers) % 2 or None in numbers:
        return RawBox(name, None, problem=("missing_coordinates", f"its points are {str(points)[:60]}"))
    form, corners = f"Labelme {kind}", box_around(numbers)
    if kind == "circle":
        # Its centre, and a point on it.
        x, y = numbers[:2]
        radius = math.dist((x, y), numbers[2:4])
        return RawBox(name, (x - radius, y - radius, x + radius, y + radius), form, outlined=True)
    if len(numbers) == 4:
        return RawBox(name, corners, form, numbers=corners, layout="xyxy")
    return RawBox(name, corners, form, outlined=True)


def read_cvat(source: Path, ledger: Ledger) -> Source:
    """Reads CVAT's XML "for images 1.1": boxes (also turned), polygons, ellipses and masks."""
    images = images_below(source, ledger)
    by_path = images_by_path(images, source)
    frames: dict[Path, Frame] = {}
    classes: dict[str, None] = {}
    for file in files_in(source, {".xml"}):
        shown = shown_path(file, source)
        try:
            root = read_xml(file)
        except (AnnotationError, DamagedTextError) as error:
            ledger.reject("malformed_xml", shown, getattr(error, "reason", str(error)))
            continue
        classes |= dict.fromkeys((label.findtext("name") or "").strip() for label in root.iter("label"))
        found = []
        for element in root.iter("image"):
            name, size = element.get("name", ""), size_of(element.get("width"), element.get("height"))
            raw = [
                RawBox(shape.get("label", ""), **_cvat_place(shape)) for shape in element if shape.tag != "tag"
            ]
            ledger.take_in(raw)
            metadata = {"split": element.get("subset")} if element.get("subset") else {}
            found.append(Frame(name, Path(name), raw, f"{shown}: {name}", size, metadata))
        for frame in pair_frames(found, source, file, None, by_path, ledger):
            if frames.setdefault(frame.image, frame) is not frame:
                frames[frame.image].raw.extend(frame.raw)
    leave_out_unlisted(images, frames, source, ledger)
    return Source(list(frames.values()), [], [name for name in classes if name])


CVAT_NUMBERS = {
    "box": ("xtl", "ytl", "xbr", "ybr"),
    "ellipse": ("cx", "cy", "rx", "ry"),
    "mask": ("left", "top", "width", "height"),
}


def _cvat_place(shape: Element) -> dict[str, Any]:
    """Returns the fields of :class:`RawBox` that tell where an object is."""
    kind, turn = shape.tag, math.radians(number_of(shape.get("rotation")) or 0.0)
    values = [number_of(shape.get(name)) for name in CVAT_NUMBERS.get(kind, ())]
    if kind == "polygon":
        values = [number_of(value) for value in shape.get("points", "").replace(";", ",").split(",")]
    elif kind not in CVAT_NUMBERS:
        return {"corners": None, "problem": ("no_area", f"is a {kind}, of which no box is made")}
    if None in values or len(values) < 4:
        return {"corners": None, "problem": ("missing_coordinates", f"its <{kind}> lacks numbers for its corners")}
    place: dict[str, Any] = {"form": f"CVAT {kind}"}
    first, second, third, fourth = values[:4]
    if kind == "box" and not turn:
        return place | {"corners": tuple(values), "numbers": tuple(values), "layout": "xyxy"}
    if kind == "box":
        sides = third - first, fourth - second
        centre = (first + third) / 2, (second + fourth) / 2
        return {"corners": box_around_turned(*centre, *sides, turn), "form": "CVAT turned box"}
    if kind == "ellipse":
        half_x = math.hypot(third * math.cos(turn), fourth * math.sin(turn))
        half_y = math.hypot(third * math.sin(turn), fourth * math.cos(turn))
        return place | {"corners": (first - half_x, second - half_y, first + half_x, second + half_y)}
    if kind == "mask":
        return place | {"corners": (first, second, first + third, second + fourth)}
    return place | {"corners": box_around(values)}


# All of them


def _read_coco(source: Path, ledger: Ledger, annotations: Sequence[Path]) -> Source:
    frames, contents = read_coco_folder(source, annotations, ledger)
    entries = [entry for content in contents for entry in content["categories"] if isinstance(entry, dict)]
    used = {box.name for frame in frames for box in frame.raw}
    above = {entry.get("supercategory") for entry in entries if entry.get("supercategory") != entry.get("name")}
    classes = list(dict.fromkeys(str(entry["name"]) for entry in entries if entry.get("name")))
    # Roboflow lists the group of all classes as a class.
    for name in [name for name in classes if name in above and name not in used]:
        ledger.note("group_of_classes", "all", f"category '{name}' stands above the classes and has no box")
        classes.remove(name)
    return Source(frames, [], classes)


class Format(NamedTuple):
    """A format that is read: its name and its reader ``(folder, ledger)``, with ``--classes`` (YOLO), ``--annotations``
    (COCO)."""

    words: str
    read: Callable[..., Source]


FORMATS = {
    "yolo": Format("YOLO txt", read_yolo),
    "labelme": Format(
        "Labelme JSON",
        lambda source, ledger: Source(
            *read_voc_folder(source, ledger, read_labelme, files_in(source, {".json"})), []
        ),
    ),
    "cvat": Format("CVAT XML for images", read_cvat),
    "coco": Format("COCO JSON", _read_coco),
    "voc": Format("Pascal VOC XML", lambda source, ledger: Source(*read_voc_folder(source, ledger), [])),
}


def read_format(
    kind: str, source: Path, ledger: Ledger, classes: str | None, annotations: Sequence[Path] = ()
) -> Source:
    """Reads a folder in a format of :data:`FORMATS`; parts are also those that folders are named after, and a test set
    without a validation set is one.

    Classes without an order have that of a file of :data:`CLASS_FILES`, if it names all of them.
    """
    options = {"yolo": (classes,), "coco": (annotations,)}
    read = FORMATS[kind].read(source, ledger, *options.get(kind, ()))
    parts = {frame.part for frame in read.frames}
    if parts <= {None}:
        for frame in read.frames:
            frame.part = part_of(frame.image.parent, source)
        parts = {frame.part for frame in read.frames}
    for frame in read.frames if "test" in parts and "val" not in parts else ():
        frame.part = "val" if frame.part == "test" else frame.part
    listed = class_file(source) if not read.classes else None
    ordered = list(class_order(str(listed))) if listed else []
    used = {folded(box.name) for frame in read.frames for box in frame.raw}
    return read._replace(classes=ordered) if used <= set(map(folded, ordered)) else read


def change_classes(
    frames: Sequence[Frame], classes: Sequence[str], rename: Sequence[str], drop: Sequence[str], ledger: Ledger,
    stated: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """Renames, merges and drops classes in place, by ``--rename A=B`` and ``--drop A``, all at once. An image that
    showed dropped classes only shows nothing.

    Returns:
        The classes in their order: those of ``--classes`` (``stated``), where an old name stands for the new one; else
        the source's (``classes``), else by their names.

    Raises:
        UserError: there is no such class, a text is no ``A=B``, or a class is meant twice.
    """
    counts = Counter(box.name for frame in frames for box in frame.raw if box.name)
    known = _by_fold((*classes, *stated, *sorted(counts, key=str.casefold)))
    changes: dict[str, str | None] = {}
    for option, text in [*(("--rename", text) for text in rename), *(("--drop", text) for text in drop)]:
        old, equals, new = text.partition("=") if option == "--rename" else (text, "", "")
        old, new, key = old.strip(), new.strip(), folded(old)
        if option == "--rename" and not (equals and old and new):
            raise UserError(f"--rename {text}: must have the form OLD=NEW")
        if key not in known:
            names = list(known.values())
            raise UserError(f"{option} {text}: no class '{old}'{suggestion(old, names)}; there are {', '.join(names)}")
        if key in changes:
            raise UserError(f"{option} {text}: '{old}' is renamed or dropped already")
        changes[key] = new or None
        count = sum(number for name, number in counts.items() if folded(name) == key)
        if new:
            ledger.note("renamed_class", "all", f"'{known[key]}' is '{new}' ({count} boxes)")
        else:
            ledger.reject("dropped_class", "all", f"'{known[key]}' ({count} boxes)", count)
    for frame in frames if changes else ():
        renamed = [(box, changes.get(folded(box.name), box.name)) for box in frame.raw]
        frame.raw = [dataclasses.replace(box, name=name) for box, name in renamed if name is not None]
    left = _by_fold(changes.get(key, old) for key, old in known.items())
    if stated:
        left = _by_fold(name if folded(name) in left else changes.get(folded(name)) for name in stated)
    return list(left.values())


def _by_fold(names: Iterable[str | None]) -> dict[str, str]:
    """Returns the first spelling of each class, without ``None``."""
    found: dict[str, str] = {}
    for name in names:
        if name is not None:
            found.setdefault(folded(name), name)
    return found
