"""What a check tells: a few lines for the terminal, everything for ``check.json``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from classification.check.findings import PART_WORDS, Entry, Finding, Picture, Severity, count_of, count_severities
from classification.check.labels import Classes
from classification.check.scan import Scan

SHOWN_NAMES = 3
# A size set wrong by one key can concern every image of a large set; the list is cut there, the count never.
MOST_LISTED = 100_000


def terminal_lines(findings: Sequence[Finding], name_of: Callable[[Picture], str]) -> list[str]:
    """Returns one line for each finding: severity, count, and the first few instances."""
    lines = []
    for finding in findings:
        shown = "; ".join(entry_text(entry, name_of) for entry in finding.entries[:SHOWN_NAMES])
        rest = finding.count - SHOWN_NAMES
        more = f"; and {rest:,} more" if rest > 0 else ""
        lines.append(f"{finding.severity.word:<11}  {finding.summary}: {shown}{more}")
    return lines


def entry_text(entry: Entry, name_of: Callable[[Picture], str]) -> str:
    """Returns ``a.jpg (the file is empty)``, or ``cat/a.jpg and dog/b.jpg (labels differ)`` with shortened paths."""
    names = [name_of(picture) for picture in entry.pictures[:SHOWN_NAMES]]
    if not names:
        return entry.note
    if len(names) > 1:
        names = ["/".join(PurePath(name).parts[-2:]) for name in names]
    return " and ".join(names) + (f" ({entry.note})" if entry.note else "")


def verdict(findings: Sequence[Finding]) -> str:
    """Returns the last line: how many kinds of each severity."""
    counts = count_severities(findings)
    if not counts[Severity.ERROR] and not counts[Severity.WARNING]:
        return "no errors, no warnings"
    errors = count_of(counts[Severity.ERROR], "kind of error", "kinds of errors")
    warnings = count_of(counts[Severity.WARNING], "kind of warning", "kinds of warnings")
    return f"{errors}, {warnings}"


def json_report(
    config_name: str, findings: Sequence[Finding], scan: Scan | None, classes: Classes, seconds: float
) -> dict[str, Any]:
    """Returns the content of ``check.json``.

    Args:
        config_name: the configuration that was checked.
        findings: sorted.
        scan: the records; ``None`` if no data set could be opened.
        classes: the classes of the sets that were opened.
        seconds: duration of the reading.
    """
    counts = count_severities(findings)
    return {
        "format_version": 1,
        "task": "classification",
        "config": config_name,
        "errors": counts[Severity.ERROR],
        "warnings": counts[Severity.WARNING],
        "seconds": round(seconds, 2),
        "class_num": classes.class_num,
        "sets": {part: _describe_set(part, scan, classes) for part in classes.datasets} if scan else {},
        "findings": [_finding_json(finding, scan, classes) for finding in findings],
    }


def _describe_set(part: str, scan: Scan, classes: Classes) -> dict[str, Any]:
    readable = scan.readable(part)
    records = scan.records[part][readable]
    sizes, numbers = np.unique(np.stack([records["width"], records["height"]], axis=1), axis=0, return_counts=True)
    common = np.argsort(-numbers, kind="stable")[:10]
    counts = classes.counts[part]
    return {
        "set": PART_WORDS[part],
        "images": len(scan.datasets[part]),
        "read": len(readable),
        "images_by_class": {classes.name(label, part): int(counts[label]) for label in np.flatnonzero(counts).tolist()},
        "different_sizes": len(sizes),
        "most_common_sizes": [
            {"width": int(sizes[row][0]), "height": int(sizes[row][1]), "images": int(numbers[row])} for row in common
        ],
    }


def _finding_json(finding: Finding, scan: Scan | None, classes: Classes) -> dict[str, Any]:
    listed = finding.entries[:MOST_LISTED]
    return {
        "kind": finding.kind,
        "severity": finding.severity.word,
        "summary": finding.summary,
        "count": finding.count,
        "listed": len(listed),
        "instances": [_entry_json(entry, scan, classes) for entry in listed],
    }


def _entry_json(entry: Entry, scan: Scan | None, classes: Classes) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if entry.pictures and scan is not None:
        result["images"] = [
            {
                "set": PART_WORDS[picture.part],
                "index": picture.index,
                "name": scan.name_of(picture),
                "label": scan.label_of(picture),
                "class": classes.name(scan.label_of(picture), picture.part),
            }
            for picture in entry.pictures
        ]
    if entry.note:
        result["note"] = entry.note
    return result
