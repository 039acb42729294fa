"""The result of a check: an exit status, lines for the terminal, ``check.json`` and ``overview.png``."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from ppcls_ext.check.findings import PART_WORDS, Entry, Finding, Picture, Severity, count_of, count_severities
from ppcls_ext.check.images import Scan
from ppcls_ext.utils.files import atomic_path, write_json

logger = logging.getLogger(__name__)
REPORT_NAME = "check.json"
OVERVIEW_NAME = "overview.png"
SHOWN_NAMES = 3
# A size set wrong by one key can concern every image of a large set; the list is cut there, the count never.
MOST_LISTED = 100_000


@dataclasses.dataclass
class DataCheck:
    """The result of a check; each task adds what it knows of labels or boxes.

    Attributes:
        task: ``classification`` or ``detection``.
        name: the configuration, as it is shown.
        findings: worst first.
        scan: the records of the images; without data sets if none could be opened.
        outputs: the number of classes as ``check.json`` names it.
        facts: by set, one line: how many images, labels or boxes it has.
        tables: by set, what ``check.json`` tells of it besides its images.
        about: returns what ``check.json`` tells of an image besides its name.
    """

    task: str
    name: str
    findings: list[Finding]
    scan: Scan
    outputs: Mapping[str, Any]
    facts: Mapping[str, str]
    tables: Mapping[str, Mapping[str, Any]]
    about: Callable[[Picture], Mapping[str, Any]]

    @property
    def has_errors(self) -> bool:
        """True if something must be mended before training."""
        return any(finding.severity == Severity.ERROR for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Returns the content of ``check.json``."""
        counts = count_severities(self.findings)
        sets = {}
        for part, dataset in self.scan.datasets.items():
            sizes, numbers = np.unique(self.scan.sizes(part), axis=0, return_counts=True)
            common = np.argsort(-numbers, kind="stable")[:10]
            sets[part] = {
                "set": PART_WORDS[part],
                "images": len(dataset),
                "read": int(numbers.sum()),
                "different_sizes": len(sizes),
                "most_common_sizes": [
                    {"width": width, "height": height, "images": number}
                    for (width, height), number in zip(sizes[common].tolist(), numbers[common].tolist(), strict=True)
                ],
                **self.tables[part],
            }
        return {
            "format_version": 1,
            "task": self.task,
            "config": self.name,
            "errors": counts[Severity.ERROR],
            "warnings": counts[Severity.WARNING],
            "seconds": round(self.scan.seconds, 2),
            **self.outputs,
            "sets": sets,
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

    def _entry_json(self, entry: Entry) -> dict[str, Any]:
        images = []
        for picture in entry.pictures:
            place = {"set": PART_WORDS[picture.part], "index": picture.index, "name": self.scan.name_of(picture)}
            images.append({**place, **self.about(picture)})
        found = {"images": images, "note": entry.note}
        return {**{key: value for key, value in found.items() if value}, **entry.details}

    def lines(self) -> list[str]:
        """Returns the lines for the terminal: the sets, how fast they were read, and one line for each finding."""
        lines = list(self.facts.values())
        if lines:
            total, seconds = sum(map(len, self.scan.chosen.values())), self.scan.seconds
            speed = f"{total / max(seconds, 1e-9):,.0f} images/s"
            lines.append(f"read {count_of(total, 'image')} in {seconds:.1f} s ({speed})")
        lines += [f"{each.severity.word:<11}  {each.summary}: {self.examples(each)}" for each in self.findings]
        return lines

    def summary(self) -> str:
        """Returns how many kinds of errors and warnings there are."""
        counts = count_severities(self.findings)
        if not counts[Severity.ERROR] and not counts[Severity.WARNING]:
            return "no errors, no warnings"
        errors = count_of(counts[Severity.ERROR], "kind of error", "kinds of errors")
        return f"{errors}, {count_of(counts[Severity.WARNING], 'kind of warning', 'kinds of warnings')}"

    def examples(self, finding: Finding) -> str:
        """Returns the first instances of a finding, and how many more there are."""
        shown = "; ".join(map(self._entry_text, finding.entries[:SHOWN_NAMES]))
        return shown + (f"; and {finding.count - SHOWN_NAMES:,} more" if finding.count > SHOWN_NAMES else "")

    def _entry_text(self, entry: Entry) -> str:
        """Returns ``a.jpg (the file is empty)``, or ``cat/a.jpg and dog/b.jpg (labels differ)`` with short paths."""
        names = [self.scan.name_of(picture) for picture in entry.pictures[:SHOWN_NAMES]]
        if not names:
            return entry.note
        if len(names) > 1:
            names = ["/".join(PurePath(name).parts[-2:]) for name in names]
        return " and ".join(names) + (f" ({entry.note})" if entry.note else "")


def write_check(check: DataCheck, folder: Path, draw_overview: Callable[[Any], Image.Image]) -> None:
    """Writes ``check.json`` and, if a data set could be opened, ``overview.png``; logs a line for each finding."""
    write_json(folder / REPORT_NAME, check.to_json())
    for line in check.lines():
        logger.info("%s", line)
    written = str(folder / REPORT_NAME)
    if check.scan.datasets:
        with atomic_path(folder / OVERVIEW_NAME) as path:
            draw_overview(check).save(path)
        written += f" and {folder / OVERVIEW_NAME}"
    logger.info("%s; wrote %s", check.summary(), written)
