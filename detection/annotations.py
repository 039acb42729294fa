"""Annotated frames of a data set, the rules for their classes and boxes, and the ledger of what was changed.

Readers turn any file into :class:`Frame` records, :func:`clean_boxes` checks and repairs their boxes, and a
:class:`Ledger` lists all that was changed or left out on the way: for a raw data set that is prepared, for the check,
for training and for evaluation alike. Loads neither Paddle nor ppdet.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.utils.errors import UserError, nearest_names, suggestion
from ppcls_ext.utils.names import meant_path
from ppcls_ext.utils.texts import read_text

Corners = tuple[float, float, float, float]
# Why an object that an annotation tool only marked as deleted has no corners: there is nothing.
DELETED = ("deleted_annotation", "is marked as deleted")


@dataclass(frozen=True, slots=True)
class RawBox:
    """One object of an annotation file as it was written.

    Attributes:
        name: the class as written; empty if there is none.
        corners: ``x1, y1, x2, y2`` in pixels, not yet checked; ``None`` if they could not be read.
        form: how the box was written, such as ``xmin ymin xmax ymax`` or ``x y w h``.
        problem: why there are no corners, as kind and reason.
        extra: further keys for the annotation in the COCO file; ``iscrowd`` where it marks a group.
        identity: what its annotation is called in a COCO file.
        area: what a COCO file gives as its area, in square pixels; ``None`` where that is of no use.
        outlined: it has an outline, whose area need not be the box's.
        written: its ``bbox`` as it stands in a COCO file, for messages.
        numbers, layout: the four numbers that the corners come from, read as ``xyxy`` or ``xywh``; none for an
            outline.
    """

    name: str
    corners: Corners | None
    form: str = ""
    problem: tuple[str, str] = ("missing_coordinates", "has no coordinates")
    extra: dict[str, Any] = field(default_factory=dict)
    identity: Any = None
    area: float | None = None
    outlined: bool = False
    written: Any = None
    numbers: Corners | None = None
    layout: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """A checked object: class number from 0 and ``x, y, w, h`` in pixels, inside the image and not empty; ``raw`` is
    what it was read from."""

    category: int
    xywh: Corners
    extra: dict[str, Any] = field(default_factory=dict)
    repaired: bool = False
    raw: RawBox | None = None

    @property
    def crowd(self) -> bool:
        """It marks a group, or a region to ignore: nothing is learnt from it, and it may be found or not."""
        return bool(self.extra.get("iscrowd"))

    @property
    def area(self) -> float:
        """What the annotation gives as its area, else the area of the box, in square pixels."""
        stated = self.raw.area if self.raw else None
        return self.xywh[2] * self.xywh[3] if stated is None else float(stated)


@dataclass
class Frame:
    """An image with its annotation; what a reader finds, and from ``width`` on what is known when it was checked.

    Attributes:
        name: path of the image below the source folder, with ``/``: what a report shows and what a split lists.
        image: the file.
        raw: its objects as they were written.
        source: the annotation file as a report shows it; empty for a frame without one.
        stated_size: width and height that the annotation states.
        metadata: further keys for the image in the COCO file, such as ``sonar``.
        part: ``train``, ``val`` or ``test`` where the source itself is split.
        image_id: its id, if a COCO file lists it.
        width, height: of the decoded image, in pixels; 0 where they are not known.
        boxes: what is left of the objects.
        look: a small grey version, ``float32`` ``[1024]``, to tell near-identical frames.
        target: file name in the prepared data set, relative to ``images``.
    """

    name: str
    image: Path
    raw: list[RawBox] = field(default_factory=list)
    source: str = ""
    stated_size: tuple[int, int] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    part: str | None = None
    image_id: int | None = None
    width: int = 0
    height: int = 0
    boxes: list[Box] = field(default_factory=list)
    look: np.ndarray | None = None
    target: str = ""


class Ledger:
    """Counts every box and every image that comes in, and lists each one that was changed or left out.

    Attributes:
        entries: what was done (``action``: ``repaired``, ``rejected`` or ``noted``), to what, and why.
        boxes: boxes by fate: ``input``, ``kept``, ``repaired``, ``rejected``; the last three add up to the first.
        images: images by fate: ``input``, ``kept``, ``rejected``, ``left_out``; the last three add up to the first.
        forms: how the boxes were written.
        respelled: for each spelling of a class that differs from its own, the class and how often it was met.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.boxes: Counter[str] = Counter(input=0, kept=0, repaired=0, rejected=0)
        self.images: Counter[str] = Counter(input=0, kept=0, rejected=0, left_out=0)
        self.forms: Counter[str] = Counter()
        self.respelled: Counter[tuple[str, str]] = Counter()

    def note(self, kind: str, file: str, reason: str, boxes: int = 0, action: str = "noted", **details: Any) -> None:
        """Lists something that was met and needed no change; ``details`` are for programs, such as an id."""
        entry = {"action": action, "kind": kind, "file": file, "reason": reason, "boxes": boxes}
        self.entries.append({**entry, **details})

    def repair(self, kind: str, file: str, reason: str, boxes: int = 0, **details: Any) -> None:
        """Lists something that was mended."""
        self.note(kind, file, reason, boxes, "repaired", **details)

    def reject(
        self, kind: str, file: str, reason: str, boxes: int = 0, image: str = "", **details: Any
    ) -> None:
        """Lists something that was left out, and counts the boxes, and the ``image`` by its fate, that went with it."""
        self.note(kind, file, reason, boxes, "rejected", **details)
        self.boxes["rejected"] += boxes
        if image:
            self.images[image] += 1

    def take_in(self, boxes: Sequence[RawBox]) -> None:
        """Counts the boxes of an annotation file as input."""
        self.boxes["input"] += len(boxes)
        self.forms.update(box.form for box in boxes if box.form)

    def leave_out(self, frame: Frame, kind: str, reason: str) -> None:
        """Leaves out a frame that was clean: its boxes, counted as kept or repaired before, become rejected."""
        self.boxes.subtract("repaired" if box.repaired else "kept" for box in frame.boxes)
        self.reject(kind, frame.name, reason, len(frame.boxes), "left_out")

    def kinds(self, action: str) -> dict[str, int]:
        """Returns how many entries of each kind an action has, most first."""
        return dict(Counter(entry["kind"] for entry in self.entries if entry["action"] == action).most_common())

    def summary(self) -> Iterator[str]:
        """Yields one line for each kind that was left out or mended: how many, and an example."""
        for action, words in (("rejected", "left out"), ("repaired", "mended")):
            for kind in self.kinds(action):
                found = [entry for entry in self.entries if (entry["action"], entry["kind"]) == (action, kind)]
                count = sum(entry["boxes"] or 1 for entry in found)
                several = f"{count:,} x {kind.replace('_', ' ')}, such as " if len(found) > 1 else ""
                yield f"{words}: {several}{found[0]['file']}: {found[0]['reason']}"


# The order is the order of the category ids, from 1.
CLASS_SETS: dict[str, tuple[str, ...]] = {
    "sonar": ("cube", "ball", "cylinder", "human body", "tyre", "circle cage", "square cage", "metal bucket"),
    "duo": ("holothurian", "echinus", "scallop", "starfish"),
    "marine_debris": (
        "Bottle", "Can", "Chain", "Drink-carton", "Hook", "Propeller", "Shampoo-bottle", "Standing-bottle", "Tire",
        "Valve", "Wall",
    ),
}  # fmt: skip


def folded(name: str) -> str:
    """Returns what is left of a class name without case, spaces, underscores and hyphens; the name if nothing is."""
    return re.sub(r"[\s_-]+", "", name).casefold() or name.strip()


def spelled_as(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Returns class names in the spelling of ``known``, where one class there differs in case, spaces, underscores and
    hyphens only; others stay as they are."""
    spellings: dict[str, list[str]] = {}
    for name in known:
        spellings.setdefault(folded(name), []).append(name)
    alike = [[] if name in known else spellings.get(folded(name), []) for name in names]
    return [found[0] if len(found) == 1 else name for name, found in zip(names, alike, strict=True)]


def class_order(text: str) -> tuple[str, ...]:
    """Returns the class names that ``--classes`` means, in their order.

    Args:
        text: a name of :data:`CLASS_SETS`, names with commas between them, or a text file with one name a line.

    Raises:
        UserError: no such set or file, no class at all, or two names that are the same (:func:`unlike_names`).
    """
    if text in CLASS_SETS:
        return CLASS_SETS[text]
    path = meant_path(text)
    # Before the commas, which a path may hold; Path.is_file() fails on a text that is too long for a path.
    if os.path.isfile(path):
        names = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    elif "," in text:
        names = [part.strip() for part in text.split(",")]
    elif path.suffix or "/" in text:
        raise UserError(f"--classes {text}: no such file")
    elif match := nearest_names(text, CLASS_SETS, count=1):
        raise UserError(f"--classes {text}: no such set of classes (did you mean '{match[0]}'?)")
    else:
        names = [text.strip()]
    if not names or not all(names):
        raise UserError(f"--classes {text}: holds an empty name")
    return unlike_names(names, f"--classes {text}")


def unlike_names(names: Iterable[str], where: str) -> tuple[str, ...]:
    """Returns class names; a ``UserError``, which begins with ``where``, if two differ in nothing that counts."""
    by_fold: dict[str, str] = {}
    for name in names:
        if folded(name) in by_fold:
            raise UserError(f"{where}: '{by_fold[folded(name)]}' and '{name}' are the same name")
        by_fold[folded(name)] = name
    return tuple(by_fold.values())


# A box with a shorter side is empty, in pixels.
SMALLEST_SIDE = 1e-5
# What lies no further beyond the border is rounding, cut off without a word, in pixels.
BORDER = 0.01
# A box with a smaller area is empty, in square pixels: one pixel, less what rounding takes.
SMALLEST_AREA = 0.99
# Less than this is left of a box after clipping: it is rejected as outside, in pixels.
SMALLEST_REST = 1.0
# Less of its area inside the picture than this is no box that someone drew a little too large, but a mistake.
SMALLEST_SHARE = 0.25


def clean_frame(frame: Frame, classes: Sequence[str], ledger: Ledger) -> bool:
    """Checks the boxes of a frame, whose size is known, by :func:`clean_boxes`.

    Returns:
        ``False`` if it shows objects, but none of their boxes can be used: such a frame is left out, for without a box
        it would teach that it shows nothing.
    """
    frame.boxes = clean_boxes(frame, classes, ledger)
    objects = sum(raw.problem != DELETED for raw in frame.raw)
    if objects and not frame.boxes:
        reason = f"none of its {objects} boxes can be used"
        details = {} if frame.image_id is None else {"image_id": frame.image_id}
        ledger.reject("no_box_left", frame.name, reason, image="rejected", **details)
    return bool(frame.boxes) or not objects


@functools.lru_cache(maxsize=8)
def _numbers(classes: tuple[str, ...]) -> dict[str, int]:
    return {folded(name): number for number, name in enumerate(classes)}


def clean_boxes(frame: Frame, classes: Sequence[str], ledger: Ledger) -> list[Box]:
    """Returns the objects of a frame that can be used; counts and lists what happened to each. Case, spaces,
    underscores and hyphens in the name of a class do not matter."""
    number_of = _numbers(tuple(classes))
    boxes: list[Box] = []
    seen: set[tuple[int | None, Corners, bool]] = set()
    for position, raw in enumerate(frame.raw, start=1):
        category = number_of.get(folded(raw.name))
        if category is not None and raw.name != classes[category]:
            ledger.respelled[raw.name, classes[category]] += 1
        problem, repairs, xywh = clean_box(raw, frame.width, frame.height)
        if problem is None and category is None:
            unknown = f"unknown class '{raw.name}'{suggestion(raw.name, classes)}"
            problem = ("unknown_class", unknown if raw.name else "has no class name")
        what = (category, xywh, "iscrowd" in raw.extra)
        if problem is None and what in seen:
            problem = ("duplicate_box", "the same class and corners as an object before it")
        if problem is None:
            seen.add(what)
            ledger.boxes["repaired" if repairs else "kept"] += 1
            boxes.append(Box(category, xywh, raw.extra, bool(repairs), raw))
            if not repairs:
                continue
        place, details = f"object {position} ({raw.name or 'no name'})", {}
        if raw.identity is not None:
            place = f"annotation {raw.identity} ({raw.name or 'no name'})"
            details = {"annotation_id": raw.identity, "image_id": frame.image_id, "bbox": _spelt(raw.written)}
        if problem is not None:
            ledger.reject(problem[0], frame.source, f"{place}: {problem[1]}", boxes=1, **details)
            continue
        for kind, reason in repairs:
            ledger.repair(kind, frame.source, f"{place}: {reason}", boxes=1, **details)
    return boxes


def _spelt(value: Any) -> Any:
    """Returns a ``bbox`` as a report can hold it: numbers that strict JSON does not know are spelt out."""
    if isinstance(value, list):
        return [_spelt(part) for part in value]
    unusual = isinstance(value, dict) or (isinstance(value, float) and not math.isfinite(value))
    return str(value) if unusual else value


def clean_box(
    raw: RawBox, width: int, height: int
) -> tuple[tuple[str, str] | None, list[tuple[str, str]], Corners]:
    """Puts corners in order and clips a box to its image of ``width`` x ``height`` pixels (0: not known).

    Returns:
        Kind and reason to reject the box or ``None``; kinds and reasons of the repairs; the box as ``x, y, w, h``.
    """
    nothing = (0.0, 0.0, 0.0, 0.0)
    if raw.corners is None:
        return raw.problem, [], nothing
    written = " ".join(f"{value:g}" for value in raw.corners)
    repairs = []
    left, top, right, bottom = raw.corners
    if right < left or bottom < top:
        repairs.append(("swapped_corners", f"corners {written} put in order"))
        left, right = min(left, right), max(left, right)
        top, bottom = min(top, bottom), max(top, bottom)
    if right - left <= SMALLEST_SIDE or bottom - top <= SMALLEST_SIDE:
        return ("empty_box", f"corners {written} enclose nothing"), [], nothing
    if (right - left) * (bottom - top) < SMALLEST_AREA:
        return ("empty_box", f"corners {written} enclose less than a pixel"), [], nothing
    edge_x, edge_y = float(width or math.inf), float(height or math.inf)
    inside = (max(left, 0.0), max(top, 0.0), min(right, edge_x), min(bottom, edge_y))
    if inside != (left, top, right, bottom):
        picture = f"{width}x{height} picture" if width and height else "picture"
        if inside[2] - inside[0] < SMALLEST_REST or inside[3] - inside[1] < SMALLEST_REST:
            return ("box_outside", f"corners {written} lie outside the {picture}"), [], nothing
        share = (inside[2] - inside[0]) * (inside[3] - inside[1]) / ((right - left) * (bottom - top))
        if share < SMALLEST_SHARE:
            reason = f"corners {written} leave {share:.0%} of the box inside the {picture}"
            return ("box_outside", reason), [], nothing
        if max(inside[0] - left, inside[1] - top, right - inside[2], bottom - inside[3]) > BORDER:
            repairs.append(("clipped_box", f"corners {written} clipped to the {picture}"))
    return None, repairs, (inside[0], inside[1], inside[2] - inside[0], inside[3] - inside[1])
