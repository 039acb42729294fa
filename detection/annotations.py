"""Annotated frames and the rules for them: what counts as a number, a class and a box, and how faults are counted.

Preparation and check both stand on this module: readers turn any file into :class:`Frame` records, the rules turn these
into :class:`CleanFrame` records, and a :class:`Ledger` lists all that was changed or left out on the way. Loads neither
Paddle nor ppdet.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.utils.errors import UserError, nearest_names, suggestion

# Records


@dataclass(frozen=True)
class RawBox:
    """One object of an annotation file as it was written.

    Attributes:
        name: the class as written; empty if there is none.
        corners: ``x1, y1, x2, y2`` in pixels, not yet checked; ``None`` if they could not be read.
        form: how the box was written, such as ``xmin ymin xmax ymax`` or ``x y w h``.
        problem: why there are no corners, as kind and reason.
        extra: further keys for the annotation in the COCO file.
    """

    name: str
    corners: tuple[float, float, float, float] | None
    form: str = ""
    problem: tuple[str, str] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Frame:
    """An image with its annotation, not yet checked.

    Attributes:
        name: path of the image below the source folder, with ``/``: what a report shows and what a split lists.
        image: the file.
        boxes: its objects.
        source: the annotation file as a report shows it; empty for a frame without one.
        stated_size: width and height that the annotation states.
        metadata: further keys for the image in the COCO file, such as ``sonar``.
        part: ``train``, ``val`` or ``test`` where the source itself is split.
    """

    name: str
    image: Path
    boxes: list[RawBox] = field(default_factory=list)
    source: str = ""
    stated_size: tuple[int, int] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    part: str | None = None


@dataclass(frozen=True)
class Box:
    """A checked object: class number from 0 and ``x, y, w, h`` in pixels, inside the image and not empty."""

    category: int
    xywh: tuple[float, float, float, float]
    extra: dict[str, Any] = field(default_factory=dict)
    repaired: bool = False


@dataclass
class CleanFrame:
    """A frame whose image was decoded and whose boxes were checked.

    Attributes:
        frame: what was read.
        width, height: of the decoded image, in pixels.
        boxes: what is left of the boxes.
        look: a small grey version, ``float32`` ``[1024]``, to tell near-identical frames.
        target: file name in the prepared data set, relative to ``images``.
    """

    frame: Frame
    width: int
    height: int
    boxes: list[Box]
    look: np.ndarray | None = None
    target: str = ""


@dataclass(frozen=True)
class LedgerEntry:
    """One line of the report: what was done (``repaired``, ``rejected`` or ``noted``), to what, and why."""

    action: str
    kind: str
    file: str
    reason: str
    boxes: int = 0


class Ledger:
    """Counts every box and every image that comes in, and lists each one that was changed or left out.

    Attributes:
        entries: the list.
        boxes: boxes by fate: ``input``, ``kept``, ``repaired``, ``rejected``; the last three add up to the first.
        images: images by fate: ``input``, ``kept``, ``rejected``, ``left_out``; the last three add up to the first.
        forms: how the boxes were written.
    """

    ACTIONS = ("repaired", "rejected", "noted")

    def __init__(self) -> None:
        self.entries: list[LedgerEntry] = []
        self.boxes: Counter[str] = Counter(input=0, kept=0, repaired=0, rejected=0)
        self.images: Counter[str] = Counter(input=0, kept=0, rejected=0, left_out=0)
        self.forms: Counter[str] = Counter()

    def note(self, kind: str, file: str, reason: str) -> None:
        """Lists something that was met and needed no change."""
        self.entries.append(LedgerEntry("noted", kind, file, reason))

    def repair(self, kind: str, file: str, reason: str, boxes: int = 0) -> None:
        """Lists something that was mended."""
        self.entries.append(LedgerEntry("repaired", kind, file, reason, boxes))

    def reject(self, kind: str, file: str, reason: str, boxes: int = 0) -> None:
        """Lists something that was left out, with the number of boxes that went with it, and counts those boxes."""
        self.entries.append(LedgerEntry("rejected", kind, file, reason, boxes))
        self.boxes["rejected"] += boxes

    def take_in(self, boxes: Sequence[RawBox]) -> None:
        """Counts the boxes of an annotation file as input."""
        self.boxes["input"] += len(boxes)
        self.forms.update(box.form for box in boxes if box.form)

    def leave_out(self, frame: CleanFrame, kind: str, reason: str) -> None:
        """Leaves out a frame that was clean: its boxes, counted as kept or repaired before, become rejected."""
        self.images["left_out"] += 1
        for box in frame.boxes:
            self.boxes["repaired" if box.repaired else "kept"] -= 1
        self.reject(kind, frame.frame.name, reason, len(frame.boxes))

    def kinds(self, action: str) -> dict[str, int]:
        """Returns how many entries of each kind an action has, most first."""
        return dict(Counter(entry.kind for entry in self.entries if entry.action == action).most_common())

    def to_json(self) -> list[dict[str, Any]]:
        """Returns the entries as dictionaries."""
        return [asdict(entry) for entry in self.entries]


# Classes

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
    """Returns what is left of a class name without case, spaces, underscores and hyphens."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def class_order(text: str) -> tuple[str, ...]:
    """Returns the class names that ``--classes`` means, in their order.

    Args:
        text: a name of :data:`CLASS_SETS`, names with commas between them, or a text file with one name a line.

    Raises:
        UserError: no such set or file, no class at all, or two names that only differ in case, spaces or underscores.
    """
    if text in CLASS_SETS:
        return CLASS_SETS[text]
    path = Path(text)
    if "," in text:
        names = [part.strip() for part in text.split(",")]
    elif path.is_file():
        try:
            names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise UserError(f"--classes {path}: not a text file in UTF-8") from error
    elif path.suffix or "/" in text:
        raise UserError(f"--classes {text}: no such file")
    elif match := nearest_names(text, CLASS_SETS, count=1):
        raise UserError(f"--classes {text}: no such set of classes (did you mean '{match[0]}'?)")
    else:
        names = [text.strip()]
    if not names or not all(names):
        raise UserError(f"--classes {text}: holds an empty name")
    by_fold: dict[str, str] = {}
    for name in names:
        if folded(name) in by_fold:
            raise UserError(f"--classes {text}: '{by_fold[folded(name)]}' and '{name}' are the same name")
        by_fold[folded(name)] = name
    return tuple(names)


class ClassMatcher:
    """Finds the class that a name in an annotation means, whatever its case, spaces and underscores.

    Args:
        names: the classes in their order.

    Attributes:
        respelled: for each spelling that differs from the class's own, the class and how often it was met.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.respelled: Counter[tuple[str, str]] = Counter()
        self._by_fold = {folded(name): index for index, name in enumerate(self.names)}

    def index_of(self, name: str) -> int | None:
        """Returns the number of a class from 0, or ``None`` for a name that is no class."""
        index = self._by_fold.get(folded(name))
        if index is not None and name != self.names[index]:
            self.respelled[(name, self.names[index])] += 1
        return index


# Boxes

# Less than this is left of a box after clipping: it is rejected as outside, in pixels.
SMALLEST_REST = 1.0
# Less of its area inside the picture than this is no box that someone drew a little too large, but a mistake.
SMALLEST_SHARE = 0.25


def clean_boxes(frame: Frame, width: int, height: int, matcher: ClassMatcher, ledger: Ledger) -> list[Box]:
    """Returns the boxes of a frame that can be used; counts and lists what happened to each.

    Args:
        frame: the frame, whose image has ``width`` x ``height`` pixels.
        matcher: knows the classes.
        ledger: gets the entries and the counts.
    """
    boxes: list[Box] = []
    for position, raw in enumerate(frame.boxes, start=1):
        place = f"object {position} ({raw.name or 'no name'})"
        category = matcher.index_of(raw.name)
        problem, repairs, xywh = clean_box(raw, width, height)
        if problem is None and category is None:
            unknown = f"unknown class '{raw.name}'{suggestion(raw.name, matcher.names)}"
            problem = ("unknown_class", unknown if raw.name else "has no class name")
        if problem is None and any((box.category, box.xywh) == (category, xywh) for box in boxes):
            problem = ("duplicate_box", "the same class and corners as an object before it")
        if problem is not None:
            ledger.reject(problem[0], frame.source, f"{place}: {problem[1]}", boxes=1)
            continue
        for kind, reason in repairs:
            ledger.repair(kind, frame.source, f"{place}: {reason}", boxes=1)
        ledger.boxes["repaired" if repairs else "kept"] += 1
        boxes.append(Box(category, xywh, raw.extra, bool(repairs)))
    return boxes


def clean_box(
    raw: RawBox, width: int, height: int
) -> tuple[tuple[str, str] | None, list[tuple[str, str]], tuple[float, float, float, float]]:
    """Puts corners in order and clips a box to its image of ``width`` x ``height`` pixels.

    Returns:
        Kind and reason to reject the box or ``None``; kinds and reasons of the repairs; the box as ``x, y, w, h``.
    """
    nothing = (0.0, 0.0, 0.0, 0.0)
    if raw.corners is None:
        return raw.problem or ("missing_coordinates", "has no coordinates"), [], nothing
    written = " ".join(f"{value:g}" for value in raw.corners)
    repairs = []
    left, top, right, bottom = raw.corners
    if right < left or bottom < top:
        repairs.append(("swapped_corners", f"corners {written} put in order"))
        left, right = min(left, right), max(left, right)
        top, bottom = min(top, bottom), max(top, bottom)
    if right == left or bottom == top:
        return ("empty_box", f"corners {written} enclose nothing"), [], nothing
    inside = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
    if inside != (left, top, right, bottom):
        if inside[2] - inside[0] < SMALLEST_REST or inside[3] - inside[1] < SMALLEST_REST:
            return ("box_outside", f"corners {written} lie outside the {width}x{height} picture"), [], nothing
        share = (inside[2] - inside[0]) * (inside[3] - inside[1]) / ((right - left) * (bottom - top))
        if share < SMALLEST_SHARE:
            reason = f"corners {written} leave {share:.0%} of the box inside the {width}x{height} picture"
            return ("box_outside", reason), [], nothing
        repairs.append(("clipped_box", f"corners {written} clipped to the {width}x{height} picture"))
    return None, repairs, (inside[0], inside[1], inside[2] - inside[0], inside[3] - inside[1])
