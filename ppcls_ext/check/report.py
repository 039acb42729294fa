"""The result of a check: an exit status, lines for the terminal, ``check.json`` and ``overview.png``."""

from __future__ import annotations

import dataclasses
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ppcls_ext.check.findings import PART_WORDS, Entry, Finding, Picture, Severity, count_of, count_severities
from ppcls_ext.check.images import Mark, Scan
from ppcls_ext.utils.files import atomic_path, write_json

logger = logging.getLogger(__name__)
REPORT_NAME = "check.json"
OVERVIEW_NAME = "overview.png"
SHOWN_NAMES = 3
# A size set wrong by one key can concern every image of a large set; the list is cut there, the count never.
MOST_LISTED = 100_000


@dataclasses.dataclass
class DataCheck(ABC):
    """The result of a check; each task adds what it knows of labels or boxes.

    Attributes:
        task: ``classification`` or ``detection``.
        name: the configuration, as it is shown.
        findings: worst first.
        scan: the records of the images; without data sets if none could be opened.
        seconds: how long reading the images took.
    """

    task: ClassVar[str]
    name: str
    findings: list[Finding]
    scan: Scan
    seconds: float

    @property
    def has_errors(self) -> bool:
        """True if something must be mended before training."""
        return any(finding.severity == Severity.ERROR for finding in self.findings)

    @abstractmethod
    def facts_about(self, part: str) -> str:
        """Returns one line about a set: how many images, labels or boxes it has."""

    @abstractmethod
    def classes_json(self) -> dict[str, Any]:
        """Returns the number of classes as ``check.json`` names it."""

    @abstractmethod
    def set_json(self, part: str) -> dict[str, Any]:
        """Returns what ``check.json`` tells of a set besides its images."""

    @abstractmethod
    def picture_json(self, picture: Picture) -> dict[str, Any]:
        """Returns what ``check.json`` tells of an image besides its name."""

    def to_json(self) -> dict[str, Any]:
        """Returns the content of ``check.json``."""
        counts = count_severities(self.findings)
        return {
            "format_version": 1,
            "task": self.task,
            "config": self.name,
            "errors": counts[Severity.ERROR],
            "warnings": counts[Severity.WARNING],
            "seconds": round(self.seconds, 2),
            **self.classes_json(),
            "sets": {part: {**self._images_json(part), **self.set_json(part)} for part in self.scan.datasets},
            "findings": [
                {
                    "kind": finding.kind,
                    "severity": finding.severity.word,
                    "summary": finding.summary,
                    "count": finding.count,
                    "listed": min(finding.count, MOST_LISTED),
                    "instances": [self._entry_json(entry) for entry in finding.entries[:MOST_LISTED]],
                }
                for finding in self.findings
            ],
        }

    def _images_json(self, part: str) -> dict[str, Any]:
        sizes, counts = np.unique(self.scan.sizes(part), axis=0, return_counts=True)
        common = np.argsort(-counts, kind="stable")[:10]
        return {
            "set": PART_WORDS[part],
            "images": len(self.scan.datasets[part]),
            "read": int(counts.sum()),
            "different_sizes": len(sizes),
            "most_common_sizes": [
                {"width": int(sizes[row][0]), "height": int(sizes[row][1]), "images": int(counts[row])}
                for row in common
            ],
        }

    def _entry_json(self, entry: Entry) -> dict[str, Any]:
        images = [
            {
                "set": PART_WORDS[picture.part],
                "index": picture.index,
                "name": self.scan.name_of(picture),
                **self.picture_json(picture),
            }
            for picture in entry.pictures
        ]
        note = {"note": entry.note} if entry.note else {}
        return {**({"images": images} if images else {}), **note, **entry.details}

    def lines(self) -> list[str]:
        """Returns the lines for the terminal: the sets, how fast they were read, and one line for each finding."""
        lines = [self.facts_about(part) for part in self.scan.datasets]
        if lines:
            records = self.scan.records.items()
            total = sum(len(table) - len(self.scan.marked(part, Mark.UNSEEN)) for part, table in records)
            speed = f"{total / max(self.seconds, 1e-9):,.0f} images/s"
            lines.append(f"read {count_of(total, 'image')} in {self.seconds:.1f} s ({speed})")
        for finding in self.findings:
            shown = "; ".join(map(self._entry_text, finding.entries[:SHOWN_NAMES]))
            more = f"; and {finding.count - SHOWN_NAMES:,} more" if finding.count > SHOWN_NAMES else ""
            lines.append(f"{finding.severity.word:<11}  {finding.summary}: {shown}{more}")
        return lines

    def _entry_text(self, entry: Entry) -> str:
        """Returns ``a.jpg (the file is empty)``, or ``cat/a.jpg and dog/b.jpg (labels differ)`` with short paths."""
        names = [self.scan.name_of(picture) for picture in entry.pictures[:SHOWN_NAMES]]
        if not names:
            return entry.note
        if len(names) > 1:
            names = ["/".join(PurePath(name).parts[-2:]) for name in names]
        return " and ".join(names) + (f" ({entry.note})" if entry.note else "")


def verdict(findings: Sequence[Finding]) -> str:
    """Returns how many kinds of each severity were found, in words."""
    counts = count_severities(findings)
    if not counts[Severity.ERROR] and not counts[Severity.WARNING]:
        return "no errors, no warnings"
    errors = count_of(counts[Severity.ERROR], "kind of error", "kinds of errors")
    warnings = count_of(counts[Severity.WARNING], "kind of warning", "kinds of warnings")
    return f"{errors}, {warnings}"


def write_check(check: DataCheck, folder: Path, draw_overview: Callable[[], Image.Image]) -> None:
    """Writes ``check.json`` and ``overview.png`` into ``folder`` and logs one line for each kind of finding.

    Args:
        check: the result.
        folder: gets the files.
        draw_overview: draws the picture that sums up the check; called if a data set could be opened.
    """
    write_json(folder / REPORT_NAME, check.to_json())
    for line in check.lines():
        logger.info("%s", line)
    written = [folder / REPORT_NAME]
    if check.scan.datasets:
        with atomic_path(folder / OVERVIEW_NAME) as path:
            draw_overview().save(path)
        written.append(folder / OVERVIEW_NAME)
    logger.info("%s; wrote %s", verdict(check.findings), " and ".join(map(str, written)))
