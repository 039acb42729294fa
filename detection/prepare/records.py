"""What is read of a data set before it is cleaned, and the ledger of everything that was changed or left out."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


def shown_path(path: Path, source: Path) -> str:
    """Returns a path below the source folder as reports show it: with ``/``, and bytes that are no UTF-8 spelt out."""
    return path.relative_to(source).as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class RawBox:
    """One object of an annotation file as it was written.

    Attributes:
        name: the class as written; empty if there is none.
        corners: ``x1, y1, x2, y2`` in pixels, not yet checked; ``None`` if they could not be read.
        form: how the box was written, such as ``xmin ymin xmax ymax`` or ``x y w h``.
        problem: why there are no corners, as ``kind`` and reason.
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
        width: of the picture, in pixels.
        height: of the picture, in pixels.
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


class Action(str, enum.Enum):
    """What was done about a finding."""

    REPAIRED = "repaired"
    REJECTED = "rejected"
    NOTED = "noted"


@dataclass(frozen=True)
class Entry:
    """One line of the report: what was done, to what, and why."""

    action: Action
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

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.boxes: Counter[str] = Counter(input=0, kept=0, repaired=0, rejected=0)
        self.images: Counter[str] = Counter(input=0, kept=0, rejected=0, left_out=0)
        self.forms: Counter[str] = Counter()

    def note(self, kind: str, file: str, reason: str) -> None:
        """Lists something that was met and needed no change."""
        self.entries.append(Entry(Action.NOTED, kind, file, reason))

    def repair(self, kind: str, file: str, reason: str, boxes: int = 0) -> None:
        """Lists something that was mended."""
        self.entries.append(Entry(Action.REPAIRED, kind, file, reason, boxes))

    def reject(self, kind: str, file: str, reason: str, boxes: int = 0) -> None:
        """Lists something that was left out, with the number of boxes that went with it, and counts those boxes."""
        self.entries.append(Entry(Action.REJECTED, kind, file, reason, boxes))
        self.boxes["rejected"] += boxes

    def take_in(self, boxes: list[RawBox]) -> None:
        """Counts the boxes of an annotation file as input."""
        self.boxes["input"] += len(boxes)
        self.forms.update(box.form for box in boxes if box.form)

    def withdraw(self, frame: CleanFrame) -> None:
        """Takes back that the boxes of a frame were kept or repaired; the caller rejects them for a reason."""
        for box in frame.boxes:
            self.boxes["repaired" if box.repaired else "kept"] -= 1

    def kinds(self, action: Action) -> dict[str, int]:
        """Returns how many entries of each kind an action has, most first."""
        counts = Counter(entry.kind for entry in self.entries if entry.action is action)
        return dict(counts.most_common())
