"""Findings of a check: kinds of faults with their severity, and the instances of each kind."""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# Below so many training images or boxes a class is hardly learnt, and its share of a validation set is luck.
FEW = 10
# How the two sets are called in sentences.
PART_WORDS = {"Train": "training", "Eval": "validation"}


class Severity(enum.IntEnum):
    """Severity of a finding; the worst come first when sorted."""

    ERROR = 0
    WARNING = 1
    INFORMATION = 2

    @property
    def word(self) -> str:
        """The name as it is shown."""
        return self.name.lower()


class Picture(NamedTuple):
    """One image: its set (``Train`` or ``Eval``) and its number there."""

    part: str
    index: int


@dataclasses.dataclass(frozen=True)
class Entry:
    """One instance of a finding: the image, or those that belong together (none where the instance is a class), what a
    person wants to know besides the names, and what a program does (numbers of annotations), for ``check.json``."""

    pictures: tuple[Picture, ...] = ()
    note: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Finding:
    """All instances of one kind, those to look at first in front; ``summary`` begins with their number."""

    kind: str
    severity: Severity
    summary: str
    entries: list[Entry]

    @property
    def count(self) -> int:
        """Number of instances."""
        return len(self.entries)


class Kind(NamedTuple):
    """A row of a table of kinds: how bad it is, what is said of its instances, and what one and many are called.

    ``words`` may hold ``{names}``, which the :class:`Findings` fill in.
    """

    severity: Severity
    words: str
    one: str = "image"
    many: str = ""


class Findings:
    """Gathers instances by kind.

    Args:
        kinds: the table of kinds, whose keys are stable identifiers for programs, such as ``corrupt_image``; findings
            of the same severity come in its order.
        values: what the words of the kinds leave open, such as ``class_num``.
    """

    def __init__(self, kinds: Mapping[str, Kind], **values: Any) -> None:
        self.kinds = kinds
        self.values = values
        self._found: dict[str, list[tuple[str, Entry]]] = defaultdict(list)

    def add(self, kind: str, *pictures: Picture, note: str = "", part: str | None = None, **details: Any) -> None:
        """Adds an instance (see :class:`Entry`) of the set ``part``: ``Train``, ``Eval``, or empty if about both.

        Left out, it is that of the first picture, if there is one.
        """
        if part is None:
            part = pictures[0].part if pictures else ""
        self._found[kind].append((part, Entry(pictures, note, details)))

    def worst_first(self) -> list[Finding]:
        """Returns what was gathered, errors before warnings before information."""
        findings = []
        for name, kind in self.kinds.items():
            if found := self._found.get(name):
                parts, entries = zip(*found, strict=True)
                summary = f"{_counted(parts, kind)} {kind.words.format(**self.values)}"
                findings.append(Finding(name, kind.severity, summary, list(entries)))
        return sorted(findings, key=lambda finding: finding.severity)


def _counted(parts: Sequence[str], kind: Kind) -> str:
    """Returns ``3 training and 1 validation boxes``, or ``2 classes`` of kinds that are about both sets."""
    many = kind.many or f"{kind.one}s"
    if not all(parts):
        return count_of(len(parts), kind.one, many)
    words = [f"{parts.count(part):,} {word}" for part, word in PART_WORDS.items() if part in parts]
    return f"{' and '.join(words)} {kind.one if len(parts) == 1 else many}"


def count_of(number: int, one: str, many: str | None = None) -> str:
    """Returns ``1 image``, ``12,345 images``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def find_rare_classes(
    names: Sequence[str], taught: np.ndarray, measured: np.ndarray | None, thing: tuple[str, str], found: Findings
) -> None:
    """Finds classes that training or validation does not show, and those that training hardly shows.

    Args:
        names: of the classes, ``[K]``.
        taught, measured: training and validation images or boxes of each, ``int64`` ``[K]``; ``None`` without a
            validation set.
        thing: what is counted, one and many.
        found: takes the faults: ``class_not_trained``, ``class_empty``, ``class_not_validated``, ``class_small``.
    """
    for label in np.argsort(taught, kind="stable").tolist():
        name, seen = names[label], None if measured is None else int(measured[label])
        if not taught[label] and seen:
            found.add("class_not_trained", note=f"{name}: {count_of(seen, *(f'validation {word}' for word in thing))}")
        elif not taught[label]:
            found.add("class_empty", note=name)
        elif seen == 0:
            found.add("class_not_validated", note=name)
        if 0 < taught[label] < FEW:
            found.add("class_small", note=f"{name}: {count_of(int(taught[label]), *thing)}")


def count_severities(findings: Sequence[Finding]) -> Counter[Severity]:
    """Returns how many kinds were found of each severity."""
    return Counter(finding.severity for finding in findings)


ERROR, WARNING, INFORMATION = Severity.ERROR, Severity.WARNING, Severity.INFORMATION
# Kinds of faults that are the same for every task.
UNOPENED_KINDS = {
    f"unopened_{word}": Kind(ERROR, f"cannot be opened, so {word} was not examined", "data set")
    for word in PART_WORDS.values()
}
IMAGE_KINDS = {
    "missing_image": Kind(ERROR, "whose file does not exist"),
    "corrupt_image": Kind(ERROR, "that cannot be read"),
    "smaller_than_crop": Kind(ERROR, "too small for the crop: put a ResizeImage or a Pad before it"),
    "black_image": Kind(WARNING, "all black"),
    "constant_image": Kind(WARNING, "of a single colour"),
    **{
        f"small_image_{word}": Kind(WARNING, "enlarged more than 3 times (a smaller input shows as much)")
        for word in PART_WORDS.values()
    },
    "extreme_aspect": Kind(WARNING, "more than 4 times as long as wide"),
    "exif_rotated": Kind(INFORMATION, "that EXIF data turn upright (the trainer does so too)"),
    "misnamed": Kind(INFORMATION, "whose content is of another format than the name says"),
    "cmyk": Kind(INFORMATION, "in CMYK, converted to RGB"),
    "value_range": Kind(WARNING, "whose values do not fit the range that becomes bytes", "set"),
    "sixteen_bit": Kind(INFORMATION, "with more than 8 bits a sample, made bytes"),
    "palette": Kind(INFORMATION, "with a palette, converted to RGB"),
    "transparent": Kind(INFORMATION, "with transparency, laid on white"),
}
DUPLICATE_KINDS = {
    "duplicate_across": Kind(WARNING, "that the training set holds too (same pixels)"),
    "duplicate_training": Kind(WARNING, "that the same set holds already (same pixels)"),
    "duplicate_validation": Kind(WARNING, "that the same set holds already (same pixels)"),
    "near_duplicate_across": Kind(WARNING, "nearly the same as a training image"),
    "near_duplicate_training": Kind(INFORMATION, "nearly the same as another training image"),
    "near_duplicate_validation": Kind(INFORMATION, "nearly the same as another validation image"),
}
