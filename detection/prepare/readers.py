"""Reads raw folders: VOC-like XML beside or apart from the images, and COCO files in the layouts seen in the wild."""

from __future__ import annotations

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, ParseError, fromstring
from xml.parsers.expat import ErrorString

from detection.annotations import DELETED, Frame, Ledger, RawBox
from detection.coco import (
    CROWD_FLAGS,
    MENDED,
    NotCocoError,
    box_around,
    box_around_turned,
    flag_of,
    load_coco,
    number_of,
    read_coco,
)
from ppcls_ext.preprocess.content import photographs_left_out
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.image_files import files_in, images_in
from ppcls_ext.utils.names import Named, folded_name, is_left_behind, meant_path, path_ends, spellings
from ppcls_ext.utils.texts import DamagedTextError, decode_text, shown_name

PART_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "minival"),
    "test": ("test", "testing"),
}


def shown_path(path: Path, source: Path) -> str:
    """Returns a path below the source folder as reports show it: with ``/``, and readable where it is no UTF-8."""
    return shown_name(path.relative_to(source).as_posix())


def find_file(option: str, path: Path, source: Path) -> Path:
    """Returns a file that an option names, here or in the source folder; a ``UserError`` if it is in neither."""
    found = next((choice for choice in map(meant_path, (path, source / path)) if choice.is_file()), None)
    if found is None:
        raise UserError(f"{option} {path}: no such file, neither here nor in {source}")
    return found


def part_of(path: Path, source: Path) -> str | None:
    """Returns the part that a path below ``source`` names, its last component first (``instances_val2017.json``)."""
    for component in reversed(path.relative_to(source).parts):
        words = set(re.findall(r"[a-z]+", component.lower()))
        for part, names in PART_WORDS.items():
            if words.intersection(names):
                return part
    return None


def images_below(source: Path, ledger: Ledger) -> list[Path]:
    images = images_in(source)
    if left_out := photographs_left_out(source):
        ledger.note("photographs_not_read", "all", left_out)
    if not images:
        raise UserError(f"{source}: no image below this folder")
    ledger.images["input"] = len(images)
    return images


def _best(files: Sequence[Path], *scores: Callable[[Path], Any]) -> list[Path]:
    """Returns the files with the highest score; of several, those with the highest next score, and so on."""
    found = list(files)
    for score in scores:
        if len(found) > 1:
            values = [score(file) for file in found]
            found = [file for file, value in zip(found, values, strict=True) if value == max(values)]
    return found


def _common_depth(first: Path, second: Path) -> int:
    return len(Path(os.path.commonpath([first, second])).parts)


def _closeness(file: Path, image: Path, source: Path) -> tuple[int, int]:
    """Tells how near an image lies to an annotation file: by the folders above both, and the last folders of trees that
    mirror each other, so that ``Annotations/cam1/0.xml`` is near ``JPEGImages/cam1/0.jpg``."""
    depth = _common_depth(file.parent, image.parent)
    folders = (map(folded_name, reversed(path.parent.relative_to(source).parts)) for path in (file, image))
    alike = [*(one == other for one, other in zip(*folders, strict=False)), False]
    return depth + alike.index(False), depth


# XML of unknown origin: no document types, no entities.


class AnnotationError(ValueError):
    """An annotation file that cannot be used; the message says why, without the name of the file."""


def read_xml(path: Path) -> Element:
    """Reads an XML file; an :class:`AnnotationError` if it is no XML or declares a document type or an entity, a
    ``TextError`` if it is no text."""
    data = path.read_bytes()
    # The declaration is ASCII in every encoding but UTF-16 and UTF-32, which have no need of it.
    declared = re.search(rb"<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"']", data[:400])
    text = decode_text(data, str(path), declared and declared[1].decode("ascii")).lstrip()
    if not text:
        raise AnnotationError("the file is empty")
    # Parsers are strict about the declaration, which says nothing that a text still needs.
    text = re.sub(r"^<\?xml.*?\?>", "", text, count=1, flags=re.DOTALL)
    # Both can pull in other files or grow to gigabytes of text.
    if re.search("<!(DOCTYPE|ENTITY)", text):
        raise AnnotationError("it declares a document type or an entity, which annotations do not need")
    try:
        return fromstring(text)
    except ParseError as error:
        raise AnnotationError(f"line {error.position[0]}: {ErrorString(error.code)}") from error


# VOC-like annotations

# Tags of a box, and whether they are corners; the first form whose tags are all there counts.
BOX_TAGS = (
    (("xmin", "ymin", "xmax", "ymax"), True),
    (("x", "y", "w", "h"), False),
    (("x", "y", "width", "height"), False),
    (("x1", "y1", "x2", "y2"), True),
)


class VocAnnotation(NamedTuple):
    """Content of one annotation file: base names of the image and of the folder that it states (empty if none),
    objects, stated width and height, and ``{"sonar": {...}}`` if there is such a block."""

    filename: str
    folder: str
    boxes: list[RawBox]
    size: tuple[int, int] | None
    metadata: dict[str, Any]


def read_voc(path: Path) -> VocAnnotation:
    """Reads a VOC-like file; an :class:`AnnotationError` if it is none."""
    root = read_xml(path)
    if root.tag.lower() != "annotation":
        raise AnnotationError(f"its root is <{root.tag}>, not <annotation>")
    sonar = _child(root, "sonar")
    # Some sonar sets have a block <file> with what else stands in <filename> and <size>.
    file = _child(root, "file")
    sizes = (size_of(_text(block, "width"), _text(block, "height")) for block in (_child(root, "size"), file))
    names = [_text(root, "filename") or _text(file, "filename") or _text(root, "path"), _text(root, "folder")]
    names = [name.replace("\\", "/").rstrip("/").rpartition("/")[2] for name in names]
    boxes = [_voc_box(element) for element in root if element.tag.lower() == "object"]
    metadata = {} if sonar is None else {"sonar": _block(sonar)}
    return VocAnnotation(*names, boxes, next(filter(None, sizes), None), metadata)


def size_of(width: Any, height: Any) -> tuple[int, int] | None:
    """Returns a size of a picture as it is stated, or ``None`` where a side is no number."""
    sides = number_of(width), number_of(height)
    return None if None in sides else (round(sides[0]), round(sides[1]))


def _child(element: Element | None, tag: str) -> Element | None:
    return next((child for child in (() if element is None else element) if child.tag.lower() == tag), None)


def _text(element: Element | None, tag: str) -> str:
    child = _child(element, tag)
    return "" if child is None or child.text is None else child.text.strip()


def _block(element: Element, deepest: int = 64) -> Any:
    """Returns a block as nested dictionaries; numbers become numbers; tags that repeat become lists."""
    if deepest == 0:
        raise AnnotationError("its block <sonar> is nested too deep")
    if len(element) == 0:
        text = (element.text or "").strip()
        value = number_of(text)
        return text if value is None else int(value) if value.is_integer() and text.lstrip("+-").isdigit() else value
    result: dict[str, list[Any]] = {}
    for child in element:
        result.setdefault(child.tag, []).append(_block(child, deepest - 1))
    return {tag: values if len(values) > 1 else values[0] for tag, values in result.items()}


def _voc_box(element: Element) -> RawBox:
    name = _text(element, "name")
    if flag_of(_text(element, "deleted")):
        return RawBox(name, None, problem=DELETED)
    flags = {tag: 1 for tag in ("difficult", "truncated") if flag_of(_text(element, tag))}
    crowd = {"iscrowd": 1} if any(flag_of(_text(element, tag)) for tag in CROWD_FLAGS) else {}
    return RawBox(name, extra={**flags, **crowd}, **_voc_place(element))


def _voc_place(element: Element) -> dict[str, Any]:
    """Returns the fields of :class:`RawBox` that tell where an object is."""
    block, turned = _child(element, "bndbox"), _child(element, "robndbox")
    texts = {child.tag.lower(): (child.text or "").strip() for child in (() if block is None else block)}
    tags, are_corners = next((form for form in BOX_TAGS if all(tag in texts for tag in form[0])), ((), False))
    values = [number_of(texts[tag]) for tag in tags]
    corners = points = None
    for outline in (_child(element, "polygon"), block):
        points = points or _points(outline)
    if tags and None not in values:
        first_x, first_y, second_x, second_y = values
        if not are_corners:
            second_x, second_y = first_x + second_x, first_y + second_y
        corners = (first_x, first_y, second_x, second_y)
    if turned is not None:
        sides = [number_of(_text(turned, tag)) for tag in ("cx", "cy", "w", "h", "angle")]
        if None not in sides:
            return {"corners": box_around_turned(*sides), "form": "robndbox"}
    if turn := _rotation(element) if corners else 0.0:
        width, height = corners[2] - corners[0], corners[3] - corners[1]
        centre = (corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2
        return {"corners": box_around_turned(*centre, width, height, turn), "form": "turned box"}
    # With three points or more it is an outline, whatever the tags are.
    if points and (corners is None or corners[0] == corners[2] or corners[1] == corners[3] or _points(block)):
        return {"corners": box_around(points), "form": "polygon"}
    if corners:
        layout = "xyxy" if are_corners else "xywh"
        return {"corners": corners, "form": " ".join(tags), "numbers": tuple(values), "layout": layout}
    if tags:
        tag = tags[values.index(None)]
        problem = ("not_a_number", f"{tag} is '{texts[tag]}', not a number")
        return {"corners": None, "form": " ".join(tags), "problem": problem}
    holds = "has no <bndbox>" if block is None else f"its <bndbox> holds {', '.join(texts) or 'nothing'}"
    return {"corners": None, "problem": ("missing_coordinates", holds)}


def _points(element: Element | None) -> list[float] | None:
    """Returns ``x1, y1, x2, y2, ...`` of three points or more: ``<x1> <y1> ...`` or ``<pt><x> <y></pt> ...``."""
    found: dict[str, list[float | None]] = {"x": [], "y": []}
    for part in () if element is None else element.iter():
        if re.fullmatch(r"[xy][0-9]*", part.tag.lower()):
            found[part.tag[0].lower()].append(number_of((part.text or "").strip()))
    points = [value for point in zip(found["x"], found["y"], strict=False) for value in point]
    return points if len(points) >= 6 and None not in points else None


def _rotation(element: Element) -> float:
    """Returns by how much a box is turned about its centre, in radians: an attribute ``rotation``, in degrees."""
    for attribute in element.iter("attribute"):
        if _text(attribute, "name") == "rotation":
            return math.radians(number_of(_text(attribute, "value")) or 0.0)
    return 0.0


def read_voc_folder(
    source: Path, ledger: Ledger, read: Callable[[Path], VocAnnotation] = read_voc, files: Sequence[Path] | None = None
) -> tuple[list[Frame], list[Frame]]:
    """Reads all annotation files below a folder, in any nesting, and finds the image of each.

    Args:
        source: the raw folder; a ``UserError`` if it holds no image.
        ledger: gets what could not be read or paired; boxes that were read are counted as input.
        read: reads one of them; raises :class:`AnnotationError` where it is none.
        files: the annotation files, each of one image; all XML files unless given.

    Returns:
        Frames with an annotation file, and frames without one.
    """
    images = images_below(source, ledger)
    files = files_in(source, {".xml"}) if files is None else files
    by_stem = Named(images, lambda image: [image.stem])
    # How many annotation files of one folder have an image of their name in another.
    shared = Counter(
        (file.parent, folder) for file in files for folder in {image.parent for image in by_stem.find(file.stem)}
    )

    def find(file: Path, stem: str, folder: str = "") -> list[Path]:
        """Returns the images of a name that ``file`` may belong to: the closest, of these those in the folder that it
        states, of these those in the folder with most images for the files beside it."""
        return _best(
            by_stem.find(stem),
            lambda image: _closeness(file, image, source),
            lambda image: image.parent.name == folder,
            lambda image: shared[(file.parent, image.parent)],
        )

    claims: dict[Path, list[tuple[Path, VocAnnotation]]] = defaultdict(list)
    spoilt: set[Path] = set()
    for file in files:
        shown = shown_path(file, source)
        try:
            annotation = read(file)
        except (AnnotationError, DamagedTextError, OSError) as error:
            ledger.reject(f"malformed_{file.suffix[1:].lower()}", shown, getattr(error, "reason", str(error)))
            spoilt.update(find(file, file.stem)[:1])
            continue
        ledger.take_in(annotation.boxes)
        if crowds := sum("iscrowd" in box.extra for box in annotation.boxes):
            ledger.repair("crowd_by_flag", shown, f"{crowds} {MENDED['crowd_by_flag']}", crowds)
        # By the annotation file's own name, then by the name that it states.
        stated = annotation.filename
        stated_stems = [Path(name).stem for name in spellings(stated)] if stated else []
        candidates = find(file, file.stem, annotation.folder)
        if candidates:
            if Path(stated).suffix and folded_name(file.stem) not in map(folded_name, stated_stems):
                ledger.note("other_name_stated", shown, f"names {stated}, taken for {candidates[0].name}")
            elif candidates[0].stem != file.stem:
                ledger.note("other_spelling", shown, f"belongs to {candidates[0].name} (other case or accents)")
        elif candidates := next(filter(None, (find(file, stem, annotation.folder) for stem in stated_stems)), []):
            ledger.repair("paired_by_stated_name", shown, f"belongs to {candidates[0].name}, which it names")
        else:
            ledger.reject("missing_image", shown, "has no image", len(annotation.boxes))
            continue
        candidates = _best(
            candidates,
            lambda image, stated=stated: image.name == stated,
            lambda image, stated=stated: folded_name(image.name) == folded_name(stated),
        )
        if len(candidates) > 1:
            names = ", ".join(shown_path(image, source) for image in candidates)
            ledger.reject("ambiguous_image", shown, f"fits several images: {names}", len(annotation.boxes))
            continue
        claims[candidates[0]].append((file, annotation))

    annotated, bare = [], []
    for image in images:
        name, claimed = shown_path(image, source), claims.get(image, [])
        closest = _best([file for file, _ in claimed], lambda file, image=image: _closeness(file, image, source))
        found = [(shown_path(file, source), annotation) for file, annotation in claimed if file in closest]
        for file, annotation in claimed:
            if file not in closest:
                reason = f"has no image: {name} belongs to {found[0][0]}"
                ledger.reject("missing_image", shown_path(file, source), reason, len(annotation.boxes))
        if not found and image in spoilt:
            kind = f"malformed_{files[0].suffix[1:].lower()}"
            ledger.reject(kind, name, "its annotation file could not be read", image="rejected")
        elif not found:
            bare.append(Frame(name, image))
        elif any(other != found[0][1] for _, other in found):
            boxes = sum(len(annotation.boxes) for _, annotation in found)
            reason = f"has annotation files that differ: {', '.join(shown for shown, _ in found)}"
            ledger.reject("two_annotations", name, reason, boxes, "rejected")
        else:
            shown, first = found[0]
            for file, _ in found[1:]:
                ledger.reject("two_annotations", file, f"says the same as {shown}", len(first.boxes))
            annotated.append(Frame(name, image, first.boxes, shown, first.size, first.metadata))
    return annotated, bare


def voc_lists(source: Path, test: bool = False) -> dict[str, Path] | None:
    """Returns ``ImageSets/Main/{train,val}.txt``, and ``test.txt`` if asked for; without ``val.txt`` the test list is
    that of validation."""
    folders = sorted(
        path
        for path in source.rglob("Main")
        if path.parent.name == "ImageSets" and path.is_dir()
        and not any(map(is_left_behind, path.relative_to(source).parts))
    )
    if len(folders) != 1:
        return None
    lists = {name: folders[0] / f"{name}.txt" for name in ("train", "val", "trainval", "test")}
    lists = {name: path for name, path in lists.items() if path.is_file() and path.stat().st_size}
    if "train" in lists and "val" in lists:
        return {part: lists[part] for part in ("train", "val", *(("test",) if test and "test" in lists else ()))}
    training = lists.get("train") or lists.get("trainval")
    return {"train": training, "val": lists["test"]} if training and "test" in lists else None


# COCO

_CHOOSE = "choose with --annotations TRAIN VAL of prepare_data.py import"


def without_subsets(files: Iterable[Path]) -> list[Path]:
    """Leaves out what ``--subsets`` wrote: ``train_30.json`` beside ``train.json``."""
    files = list(files)
    subsets = {file for file in files if re.fullmatch(r"train_\d\d?", file.stem) and file.with_stem("train") in files}
    return [file for file in files if file not in subsets]


def parts_of(source: Path, paths: Sequence[Path]) -> dict[str, Path]:
    """Tells which part each COCO file describes: ``train``, ``val`` and ``test``; a test file without a validation file
    is ``val``, a single file that names no part ``all``. A ``UserError`` if a file names none, or two the same."""
    if len(paths) == 1:
        return {part_of(paths[0], source) or "all": paths[0]}
    parts: dict[str, Path] = {}
    for path in paths:
        part = part_of(path, source)
        if part is None:
            raise UserError(f"{path}: its name tells neither train nor val; {_CHOOSE}")
        if part in parts:
            both = " and ".join(each.relative_to(source).as_posix() for each in (parts[part], path))
            raise UserError(f"{source}: both {both} are for {part}; {_CHOOSE}")
        parts[part] = path
    if "test" in parts and "val" not in parts:
        parts["val"] = parts.pop("test")
    return {part: parts[part] for part in PART_WORDS if part in parts}


def read_coco_folder(
    source: Path, annotations: Sequence[Path], ledger: Ledger
) -> tuple[list[Frame], list[dict[str, Any]]]:
    """Reads the COCO files of a folder and finds their images.

    Args:
        source: the raw folder.
        annotations: one file, or those for training and validation; empty finds them by their names.
        ledger: gets what could not be used; boxes that were read are counted as input.

    Returns:
        The frames, and what each file holds.

    Raises:
        UserError: there is no image or no annotation file, or a file cannot be used.
    """
    images = images_below(source, ledger)
    if len(annotations) > 2:
        raise UserError(f"--annotations takes one or two files, got {len(annotations)}")
    if annotations:
        found = []
        for path in annotations:
            file = find_file("--annotations", path, source)
            # From the source folder on, as everything else is named; the file may lie beside that folder.
            outside = not file.is_relative_to(source)
            found.append(source / os.path.relpath(file.resolve(), source.resolve()) if outside else file)
        parts = {"all": found[0]} if len(found) == 1 else dict(zip(("train", "val"), found, strict=True))
        contents = {path: load_coco(path) for path in found}
    else:
        contents, others = {}, []
        for path in without_subsets(files_in(source, {".json"})):
            try:
                contents[path] = load_coco(path)
            except NotCocoError as error:
                others.append(str(error))
        if not contents:
            message = f"{source}: no annotations below this folder in a format that is read"
            if others:
                more = f" (and {len(others) - 1} more JSON files)" if len(others) > 1 else ""
                message = f"{others[0]}{more}; there are no other annotations below {source}"
            raise UserError(message)
        parts = parts_of(source, list(contents))
    by_path = images_by_path(images, source)
    frames: list[Frame] = []
    for part, path in parts.items():
        shown = shown_path(path, source)
        coco = read_coco(path, ledger, shown, contents[path])
        if outlines := sum(raw.outlined for frame in coco.frames for raw in frame.raw):
            ledger.note("outlines_left_out", shown, f"{outlines} annotations have outlines, of which the box is kept")
        frames += pair_frames(coco.frames, source, path, None if part == "all" else part, by_path, ledger)
    # Of an image that several parts list the last is kept: validation stays whole, and training has not seen it.
    last = {frame.image: frame for frame in frames}
    for frame in frames:
        if last[frame.image] is not frame:
            reason = f"is in {frame.part} and in {last[frame.image].part}; kept in {last[frame.image].part} only"
            ledger.reject("in_two_parts", frame.name, reason, len(frame.raw))
    leave_out_unlisted(images, last, source, ledger)
    return [frame for frame in frames if last[frame.image] is frame], [contents[path] for path in parts.values()]


def leave_out_unlisted(images: Sequence[Path], listed: Collection[Path], source: Path, ledger: Ledger) -> None:
    """Lists the images that no annotation file lists as left out."""
    for image in images:
        if image not in listed:
            name = shown_path(image, source)
            ledger.reject("no_annotation", name, "no annotation file lists it", image="left_out")


def images_by_path(images: Sequence[Path], source: Path) -> Named[Path]:
    """Returns images by their paths below the source folder, and the ends of these."""
    return Named(images, lambda image: path_ends(image.relative_to(source).as_posix()))


def pair_frames(
    read: Sequence[Frame], source: Path, file: Path, part: str | None, images: Named[Path], ledger: Ledger
) -> list[Frame]:
    """Finds the images of frames that one file, which describes ``part``, lists by name; they are taken from ``images``
    (:func:`images_by_path`) and nowhere else, whatever the file holds (``..``, an absolute path)."""
    shown = shown_path(file, source)
    frames: dict[Path, Frame] = {}
    for frame in read:
        stated = (end for path in spellings(frame.name) for end in path_ends(path))
        # Of several images whose path ends in the longest part of the name, those count that lie in a folder for the
        # same part as the annotation file, then those nearest to that file.
        found = _best(
            images.find(*stated),
            lambda image: part_of(image.parent, source) == part_of(file, source),
            lambda image: _common_depth(file.parent, image.parent),
        )
        if len(found) != 1:
            kind, reason = "missing_image", "is not there"
            if found:
                kind, reason = "ambiguous_image", f"may be any of {', '.join(map(str, found[:3]))}"
            ledger.reject(kind, shown, f"{frame.name} {reason}", len(frame.raw))
            continue
        frame.image = found[0]
        if frame.image.name != PurePosixPath(frame.name).name:
            ledger.note("other_spelling", shown, f"{frame.name} is {shown_path(frame.image, source)}")
        if frame.image in frames:
            image = frame.name if frame.image_id is None else frame.image_id
            reason = f"image {image} is the same file as an image before it; their boxes are taken together"
            ledger.repair("duplicate_file_name", shown, reason)
            frames[frame.image].raw.extend(frame.raw)
            continue
        frame.name = shown_path(frame.image, source)
        word = str(frame.metadata.get("split", "")).lower()
        frame.part = part or next((own for own, words in PART_WORDS.items() if word in words), None)
        frames[frame.image] = frame
    return list(frames.values())
