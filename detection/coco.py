"""Reads COCO annotation files however faulty they are: the one place that says what an image or a box is.

Preparation, the data check, training and evaluation all stand on :func:`read_coco`: it turns a file into frames, and
lists in a ledger what was left out or mended. Their boxes are checked against the pictures by
:func:`detection.annotations.clean_frame`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from detection.annotations import DELETED, Corners, Frame, Ledger, RawBox, clean_frame, folded, spelled_as
from detection.geometry import SAMPLE, UNSAID, BoxReading, as_options, place_boxes, read_pictures
from ppcls_ext.preprocess.decode import read_bytes
from ppcls_ext.preprocess.samples import AnyRange
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.names import match_names
from ppcls_ext.utils.texts import TextError, read_text

COCO_LISTS = ("images", "categories", "annotations")
COCO_FORM = "COCO bbox x y w h"
# No picture reaches as far.
LARGEST_COORDINATE = 1e9
# A picture of more pixels across is none.
LARGEST_SIDE = 2**20
# No picture has more square pixels.
LARGEST_AREA = LARGEST_COORDINATE**2
# Whole numbers beyond are too large for NumPy; as ids they are text.
LARGEST_ID = 2**62
# Keys of an image that a COCO file has of its own.
OWN_KEYS = frozenset({"id", "file_name", "width", "height"})
# Besides iscrowd: marks of objects from which nothing is learnt, and which may be found or not.
CROWD_FLAGS = ("ignore", "isgroup", "is_group_of")
FLAG_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
# What is mended all over a file is listed once, with the number of entries.
MENDED = {
    "ids_as_text": "ids are text: what spells a number is that number, other text is numbered",
    "numbers_as_text": "entries hold numbers as text",
    "image_without_size": "images have no usable width and height, which are taken from the picture",
    "box_of_outline": "annotations have no usable bbox: it is the box around their outline",
    "box_of_turned": "boxes are turned: the upright box around each is taken",
    "crowd_unclear": "annotations have an iscrowd that is neither yes nor no: they are taken for single objects",
    "crowd_by_flag": f"annotations are flagged ({', '.join(CROWD_FLAGS)}): they are taken for crowds",
    "area_from_box": "annotations have no usable area: it is width times height",
}


class AnnotationFileError(UserError):
    """An annotation file that cannot be read; the message names it."""


class NotCocoError(AnnotationFileError):
    """JSON that is no COCO annotation file."""


def load_coco(path: Path, lists: Sequence[str] = COCO_LISTS) -> dict[str, Any]:
    """Reads a COCO file; that it has the lists that are needed is all that is checked.

    Raises:
        NotCocoError: it is JSON of another kind.
        AnnotationFileError: it is missing, truncated, or no JSON.
    """
    if not path.is_file():
        cause = "is a folder, not an annotation file" if path.is_dir() else "the annotation file does not exist"
        raise AnnotationFileError(f"{path}: {cause}")
    try:
        text = read_text(path)
        data = json.loads(text)
    except TextError as error:
        raise AnnotationFileError(str(error)) from error
    except OSError as error:
        raise AnnotationFileError(f"{path}: cannot be read ({error.strerror or error})") from error
    except json.JSONDecodeError as error:
        if not text.strip():
            raise AnnotationFileError(f"{path}: is empty") from error
        # What is unfinished is noticed at the end, or where an unfinished text or word begins.
        cut = (
            error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated") or "}" not in text[error.pos :]
        )
        what = f"is truncated: it ends in the middle, after {len(text):,} characters" if cut else "is not valid JSON"
        place = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise AnnotationFileError(f"{path}: {what} ({place})") from error
    except RecursionError as error:
        raise AnnotationFileError(f"{path}: is nested too deeply to be COCO annotations") from error
    except ValueError as error:
        raise AnnotationFileError(f"{path}: is not valid JSON ({error})") from error
    if not isinstance(data, dict):
        what = "a list (results of a detector?)" if isinstance(data, list) else f"a single {type(data).__name__}"
        raise NotCocoError(f"{path}: holds {what}, not COCO annotations with {', '.join(COCO_LISTS)}")
    wrong = [name for name in lists if not isinstance(data.get(name), list)]
    if wrong:
        raise NotCocoError(f"{path}: is no COCO annotation file: it has no list of {' and of '.join(wrong)}")
    return data


# Values


def id_of(value: Any) -> int | str | None:
    """Returns an id as it is compared: ``7``, ``7.0`` and ``"7"`` are the same, other text stays text.

    ``None`` for anything else, such as ``true``, ``null`` or a list.
    """
    if isinstance(value, str):
        text = value.strip()
        value = int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else text or None
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < LARGEST_ID else str(value)
    return value if isinstance(value, str) else None


def number_of(value: Any) -> float | None:
    """Returns a finite number of a size that pictures may have, also one written as text, else ``None``."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < LARGEST_COORDINATE else None


def flag_of(value: Any) -> bool | None:
    """Returns what a flag says, be it ``1``, ``true`` or ``"yes"``; ``None`` where it is neither yes nor no."""
    if isinstance(value, str):
        return FLAG_WORDS.get(value.strip().lower())
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else None


def _field(entry: dict[str, Any], name: str) -> Any:
    """Returns a field of an entry, or of its block ``attributes``, where tools put what COCO has no name for."""
    attributes = entry.get("attributes")
    return entry.get(name, attributes.get(name) if isinstance(attributes, dict) else None)


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


# Boxes


def box_around(points: Sequence[float]) -> Corners:
    """Returns the corners of the upright box around ``x1, y1, x2, y2, ...``."""
    return min(points[0::2]), min(points[1::2]), max(points[0::2]), max(points[1::2])


def box_around_turned(centre_x: float, centre_y: float, width: float, height: float, angle: float) -> Corners:
    """Returns the corners of the upright box around one that is turned about its centre by ``angle``, in radians."""
    cosine, sine = abs(math.cos(angle)), abs(math.sin(angle))
    half_x, half_y = (width * cosine + height * sine) / 2, (width * sine + height * cosine) / 2
    return centre_x - half_x, centre_y - half_y, centre_x + half_x, centre_y + half_y


def _numbers(values: Any) -> list[float] | None:
    """Returns the numbers of a list, a list of points or a text, or ``None`` if it holds something else or nothing."""
    if isinstance(values, str):
        values = values.strip(" []()").replace(",", " ").split()
    if not isinstance(values, list) or not values:
        return None
    if all(isinstance(point, list) and len(point) == 2 for point in values):
        values = list(itertools.chain.from_iterable(values))
    numbers = [number_of(value) for value in values]
    return None if None in numbers else numbers


def outline_box(outline: Any) -> Corners | None:
    """Returns the corners of the box around polygons or around a mask in COCO's run-length code, or ``None``."""
    if isinstance(outline, dict):
        return _mask_box(outline)
    single = _numbers(outline)
    polygons = [single] if single else [_numbers(part) for part in outline] if isinstance(outline, list) else []
    points = [value for polygon in polygons if polygon and len(polygon) % 2 == 0 for value in polygon]
    return box_around(points) if len(points) >= 4 else None


def _mask_box(mask: dict[str, Any]) -> Corners | None:
    from pycocotools import mask as masks

    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list) or [type(side) is int and 0 < side < LARGEST_SIDE for side in size] != [True, True]:
        return None
    try:
        if isinstance(counts, list):
            if sum(counts) != math.prod(size) or min(counts) < 0:
                return None
            mask = masks.frPyObjects({"size": size, "counts": counts}, *size)
        x, y, width, height = masks.toBbox({"size": size, "counts": mask["counts"]}).tolist()
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError):
        return None
    return (x, y, x + width, y + height) if width > 0 and height > 0 else None


def _unit_of_angles(annotations: Sequence[Any]) -> float | None:
    """Returns what an angle in a box of five numbers (centre, size, angle) is in radians, or ``None`` if it is unclear.

    Of a fifth number between 0 and 1 nobody knows whether it is an angle at all, or the score of a detector.
    """
    boxes = [entry.get("bbox") for entry in annotations if isinstance(entry, dict)]
    fifths = [numbers[4] for box in boxes if isinstance(box, list) and len(box) == 5 and (numbers := _numbers(box))]
    if all(0 <= value <= 1 for value in fifths):
        return None
    return 1.0 if max(map(abs, fifths)) <= 2 * math.pi else math.pi / 180


def _read_box(entry: dict[str, Any], unit: float | None, mend: Callable[[str], None]) -> dict[str, Any]:
    """Returns the fields of :class:`RawBox` that tell where the object of an annotation is."""
    values, turn = entry.get("bbox"), number_of(_field(entry, "rotation")) or 0.0
    numbers = _numbers(values)
    found: dict[str, Any] = {"corners": None, "form": COCO_FORM}
    around = None
    if values is None or values == []:
        found["problem"] = ("missing_coordinates", "has no bbox")
    elif numbers is None:
        found["problem"] = ("not_a_number", f"bbox {_brief(values)} holds something else than numbers")
    elif isinstance(values[0], list) or len(numbers) == 8:
        around = box_around(numbers)
    elif len(numbers) == 4:
        x, y, width, height = numbers
        found |= {"corners": (x, y, x + width, y + height), "numbers": tuple(numbers), "layout": "xywh"}
        if turn:
            around = box_around_turned(x + width / 2, y + height / 2, width, height, math.radians(turn))
    elif len(numbers) == 5 and unit is not None:
        around = box_around_turned(*numbers[:4], numbers[4] * unit)
    else:
        words = "; is the fifth an angle?" if len(numbers) == 5 else ""
        found["problem"] = ("missing_coordinates", f"bbox {_brief(values)} is not a list of four numbers{words}")
    corners = found["corners"]
    if around or corners is None or corners[0] == corners[2] or corners[1] == corners[3]:
        outline = outline_box(entry.get("segmentation"))
        if outline or around:
            mend("box_of_turned" if around else "box_of_outline")
            form = "COCO turned box" if around else "COCO outline"
            return {"corners": outline or around, "form": form}
    elif any(isinstance(value, str) for value in values):
        mend("numbers_as_text")
    return found


# Files


@dataclasses.dataclass
class CocoSet:
    """What a COCO file holds, as far as it can be used.

    Attributes:
        path: the file.
        names: its classes; their order in the file numbers them.
        category_ids: of these classes, ``[K]``.
        frames: its images.
        image_ids: of all images that it lists, used or not.
        value_range: what ``decode_image`` makes bytes of where samples have more than 8 bits.
    """

    path: Path
    names: list[str]
    category_ids: list[int]
    frames: list[Frame]
    image_ids: frozenset[int]
    value_range: AnyRange = None

    def __len__(self) -> int:
        return len(self.frames)

    def spell_classes_as(self, known: Sequence[str]) -> list[str]:
        """Gives the classes the spelling of ``known`` (of the training set, of a model) and returns what was spelled
        otherwise: ``'Dog' is 'dog'``."""
        before, self.names = self.names, spelled_as(self.names, known)
        return [f"'{old}' is '{new}'" for old, new in zip(before, self.names, strict=True) if old != new]

    def load(self, index: int) -> tuple[bytes, int]:
        """Returns the file of an image, encoded, and the image's id; an ``ImageError`` if it cannot be read."""
        return read_bytes(self.name_of(index)), self.frames[index].image_id

    def name_of(self, index: int) -> str:
        """Returns the path of an image."""
        return str(self.frames[index].image)


def open_coco(
    path: Path, folder: Path, ledger: Ledger, reading: BoxReading = UNSAID, spell: Callable[..., str] = as_options
) -> CocoSet:
    """Reads a COCO file as training and evaluation use it: images with a size, and boxes that fit into them.

    ``folder`` is where file names start, ``reading`` what is said about the boxes (whether it fits the images is looked
    at on a sample), and ``spell`` says choices that it leaves open, see :func:`detection.geometry.doubt_about`.

    Raises:
        AnnotationFileError: the file cannot be read, is no COCO file, nothing of it can be used, or its boxes do not
            fit the images and ``reading`` does not say how they are meant.
    """
    coco = read_coco(path, ledger, folder=folder)
    doubt, words = place_boxes(coco.frames, reading, spell, SAMPLE)
    if doubt:
        raise AnnotationFileError(f"{path}: {doubt}")
    if words:
        ledger.note("box_reading", str(path), words)
    # Of pictures the size that they have counts: of those that were not looked at, it is looked up where it matters.
    for frame in coco.frames:
        if not frame.width:
            frame.width, frame.height = frame.stated_size or (0, 0)
    asked = [frame for frame in coco.frames if not frame.width or _reaches_beyond(frame)]
    sizes = read_pictures([frame.image for frame in asked], [frame.stated_size for frame in asked]).shown
    for frame, (width, height) in zip(asked, sizes.tolist(), strict=True):
        frame.width, frame.height = width, height
    coco.frames = [frame for frame in coco.frames if clean_frame(frame, coco.names, ledger)]
    if not coco.frames:
        raise AnnotationFileError(f"{path}: none of its images can be used: {next(ledger.summary(), 'it lists none')}")
    return coco


def _reaches_beyond(frame: Frame) -> bool:
    corners = [raw.corners for raw in frame.raw if raw.corners]
    return any(max(x) > frame.width or max(y) > frame.height for x, y in ((box[::2], box[1::2]) for box in corners))


def read_coco(
    path: Path, ledger: Ledger, shown: str = "", content: dict[str, Any] | None = None, folder: Path | None = None
) -> CocoSet:
    """Reads a COCO file; boxes are read, but not yet compared with their images.

    Args:
        path: the file.
        ledger: gets what was left out or mended, with ``shown`` (else the path) for the file.
        content: what the file holds, if it was loaded already.
        folder: where file names start. With it, a file that lists no images or no categories is refused.
    """
    content, shown = load_coco(path) if content is None else content, shown or str(path)
    for name in ("images", "categories") if folder else ():
        if content.get(name) == []:
            raise AnnotationFileError(f"{path}: lists no {name}")
    categories, annotations, images = (content.get(name) or [] for name in ("categories", "annotations", "images"))
    mended: dict[str, list[str]] = defaultdict(list)

    def key(entry: Any, name: str, place: str) -> int | str | None:
        value = entry.get(name) if isinstance(entry, dict) else None
        identity = id_of(value)
        if identity is not None and isinstance(value, str):
            mended["ids_as_text"].append(f"{place}: {name} {_brief(value)}")
        return identity

    # The class name of each category id; an id with two names is left out.
    names: dict[int | str, str] = {}
    ambiguous = set()
    for position, entry in enumerate(categories):
        place = f"categories[{position}]"
        number, name = key(entry, "id", place), entry.get("name") if isinstance(entry, dict) else None
        if isinstance(name, int | float) and not isinstance(name, bool):
            name = str(name)
        if number is None or not isinstance(name, str) or not name.strip():
            ledger.reject("malformed_category", shown, f"{place} has no id or no name: {_brief(entry)}")
        elif names.get(number) == name:
            ledger.repair("duplicate_category_name", shown, f"category {number} ('{name}') is listed more than once")
        elif names.setdefault(number, name) != name:
            ambiguous.add(number)
    for number in sorted(ambiguous, key=str):
        reason = f"category id {number} has several names; its boxes are rejected"
        ledger.reject("duplicate_category_id", shown, reason)
        del names[number]
    classes: dict[str, list[int | str]] = defaultdict(list)
    for number, name in names.items():
        classes[folded(name)].append(number)
    for same in classes.values():
        if len(same) > 1:
            reason = f"category ids {same} are one class, '{names[same[0]]}'"
            ledger.repair("duplicate_category_name", shown, reason)

    boxes: dict[int | str, list[RawBox]] = defaultdict(list)
    unit = _unit_of_angles(annotations)
    identities: Counter[int | str | None] = Counter()
    for position, entry in enumerate(annotations):
        place = f"annotations[{position}]"
        image_id = key(entry, "image_id", place)
        if image_id is None:
            ledger.take_in([RawBox("", None)])
            ledger.reject("malformed_annotation", shown, f"{place} names no image: {_brief(entry)}", boxes=1)
            continue
        identity, category = id_of(entry.get("id")), key(entry, "category_id", place)
        identities[identity] += 1
        if flag_of(_field(entry, "deleted")):
            where = {"corners": None, "problem": DELETED}
        else:
            where = _read_box(entry, unit, lambda kind, place=place: mended[kind].append(place))
            if category not in names:
                where |= {"corners": None, "problem": ("unknown_class", "the file gives this id no single name")}
        crowd = flag_of(_field(entry, "iscrowd"))
        if crowd is None and entry.get("iscrowd") is not None:
            mended["crowd_unclear"].append(f"{place}: iscrowd {_brief(entry['iscrowd'])}")
        if not crowd and any(flag_of(_field(entry, flag)) for flag in CROWD_FLAGS):
            mended["crowd_by_flag"].append(place)
            crowd = True
        area = entry.get("area")
        if isinstance(area, bool) or not isinstance(area, int | float) or not 0 < area < LARGEST_AREA:
            mended["area_from_box"].append(f"{place}: area {_brief(area)}")
            area = None
        box = RawBox(
            name=names.get(category, f"category id {entry.get('category_id')}"),
            extra={"iscrowd": 1} if crowd else {},
            identity=f"[{position}]" if identity is None else identity,
            area=area,
            outlined=bool(entry.get("segmentation")),
            written=entry.get("bbox"),
            **where,
        )
        ledger.take_in([box])
        boxes[image_id].append(box)
    for number, count in identities.items():
        if count > 1:
            reason = "without an id" if number is None else f"with the id {number}"
            ledger.repair("duplicate_annotation_id", shown, f"{count} annotations {reason}, numbered anew", count)

    by_id: dict[int | str, list[dict[str, Any]]] = defaultdict(list)
    for position, entry in enumerate(images):
        place = f"images[{position}]"
        number, name = key(entry, "id", place), entry.get("file_name") if isinstance(entry, dict) else None
        if number is None or not isinstance(name, str) or not name.strip() or "\0" in name:
            ledger.reject("malformed_image", shown, f"{place} has no id or no file_name: {_brief(entry)}")
        elif flag_of(_field(entry, "deleted")):
            ledger.reject("deleted_image", shown, f"{name} is marked as deleted", len(boxes.pop(number, [])))
        else:
            by_id[number].append(entry)
    numbers = _numbered(by_id)
    meant: dict[str, str] = {}
    if folder is not None and folder != Path():
        stated = [entry["file_name"] for entries in by_id.values() for entry in entries]
        try:
            meant = dict(zip(stated, match_names(folder, stated, str(path)), strict=True))
        except UserError as error:
            raise AnnotationFileError(str(error)) from error
    frames: dict[str, Frame] = {}
    for image_id, entries in by_id.items():
        files, own = list(dict.fromkeys(entry["file_name"] for entry in entries)), boxes.pop(image_id, [])
        if len(files) > 1:
            reason = f"image id {image_id} is that of {', '.join(files)}: their boxes cannot be told apart"
            ledger.reject("duplicate_image_id", shown, reason, len(own))
            continue
        if len(entries) > 1:
            ledger.repair("duplicate_file_name", shown, f"image {image_id} ({files[0]}) is listed {len(entries)} times")
        name, entry = posixpath.normpath(meant.get(files[0], files[0])), entries[0]
        if name in frames:
            reason = f"image {image_id} is the same file as an image before it; their boxes are taken together"
            ledger.repair("duplicate_file_name", shown, reason)
            frames[name].raw.extend(own)
            continue
        sides = [number_of(entry.get(side)) for side in ("width", "height")]
        usable = all(side is not None and 1 <= side <= LARGEST_SIDE for side in sides)
        if not usable:
            reason = f"{name}: width {_brief(entry.get('width'))}, height {_brief(entry.get('height'))}"
            mended["image_without_size"].append(reason)
        frames[name] = Frame(
            name=name,
            image=Path(name) if folder is None else folder / name,
            raw=own,
            source=f"{shown}: {files[0]}",
            stated_size=(int(sides[0]), int(sides[1])) if usable else None,
            metadata={field: value for field, value in entry.items() if field not in OWN_KEYS},
            image_id=numbers[image_id],
        )
    for image_id, orphans in boxes.items():
        reason = f"{len(orphans)} annotations belong to image {image_id!r}, which it does not list"
        ledger.reject("unknown_image", shown, reason, len(orphans))
    for kind, places in mended.items():
        ledger.repair(kind, shown, f"{len(places)} {MENDED[kind]} (first {places[0]})", len(places))
    category_numbers = _numbered(names)
    return CocoSet(
        path,
        [names[same[0]] for same in classes.values()],
        [category_numbers[same[0]] for same in classes.values()],
        list(frames.values()),
        frozenset(numbers.values()),
    )


def _numbered(ids: Iterable[int | str]) -> dict[int | str, int]:
    """Returns each id with its number: its own, or for a text the next after the largest."""
    free = itertools.count(max((number for number in ids if isinstance(number, int)), default=0) + 1)
    return {number: number if isinstance(number, int) else next(free) for number in ids}
