"""What a check finds: its kind, how bad it is, and the images that it is about."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Severity(enum.IntEnum):
    """How bad a finding is; the worst ones come first when sorted."""

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
    """One instance of a finding.

    Attributes:
        pictures: the image, or the images that belong together; none where the instance is a class.
        note: what a person wants to know besides the names.
        details: what a program wants to know besides, such as numbers of annotations; goes into ``check.json``.
    """

    pictures: tuple[Picture, ...] = ()
    note: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass
class Finding:
    """All instances of one kind.

    Attributes:
        kind: stable identifier for programs, such as ``corrupt_image``.
        severity: how bad it is.
        summary: one line that begins with the number of instances.
        entries: the instances, those to look at first in front.
    """

    kind: str
    severity: Severity
    summary: str
    entries: list[Entry]

    @property
    def count(self) -> int:
        """Number of instances."""
        return len(self.entries)


# How the two sets are called in sentences.
PART_WORDS = {"Train": "training", "Eval": "validation"}


def count_of(number: int, one: str, many: str | None = None) -> str:
    """Returns ``1 image``, ``12,345 images``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def by_part(pictures: Iterable[Picture]) -> str:
    """Returns ``3 training and 1 validation image``."""
    pictures = list(pictures)
    counts = {part: sum(picture.part == part for picture in pictures) for part in PART_WORDS}
    words = [f"{number:,} {PART_WORDS[part]}" for part, number in counts.items() if number]
    return f"{' and '.join(words)} image{'s' if len(pictures) != 1 else ''}"


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Returns the findings that have instances, errors before warnings before information."""
    return sorted((finding for finding in findings if finding.entries), key=lambda finding: finding.severity)


def count_severities(findings: Sequence[Finding]) -> dict[Severity, int]:
    """Returns how many kinds were found of each severity."""
    return {severity: sum(finding.severity == severity for finding in findings) for severity in Severity}
