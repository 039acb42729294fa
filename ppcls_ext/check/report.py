"""What a check tells: a few lines for the terminal, everything for ``check.json``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from ppcls_ext.check.examine import Mark
from ppcls_ext.check.findings import PART_WORDS, Entry, Finding, Picture, Severity, count_of, count_severities
from ppcls_ext.check.scan import Scan

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


def describe_images(part: str, scan: Scan) -> dict[str, Any]:
    """Returns what ``check.json`` tells of the images of a set: how many, how many were read, and their sizes."""
    readable = scan.readable(part)
    records = scan.records[part][readable]
    sizes, numbers = np.unique(np.stack([records["width"], records["height"]], axis=1), axis=0, return_counts=True)
    common = np.argsort(-numbers, kind="stable")[:10]
    return {
        "set": PART_WORDS[part],
        "images": len(scan.datasets[part]),
        "read": len(readable),
        "different_sizes": len(sizes),
        "most_common_sizes": [
            {"width": int(sizes[row][0]), "height": int(sizes[row][1]), "images": int(numbers[row])} for row in common
        ],
    }


def findings_json(
    findings: Sequence[Finding], name_of: Callable[[Picture], str], details_of: Callable[[Picture], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Returns the findings for ``check.json``, each with its instances.

    Args:
        findings: sorted.
        name_of: names an image.
        details_of: what else to tell of an image.
    """

    def describe(entry: Entry) -> dict[str, Any]:
        images = [
            {"set": PART_WORDS[picture.part], "index": picture.index, "name": name_of(picture), **details_of(picture)}
            for picture in entry.pictures
        ]
        return {
            **({"images": images} if images else {}),
            **({"note": entry.note} if entry.note else {}),
            **entry.details,
        }

    return [
        {
            "kind": finding.kind,
            "severity": finding.severity.word,
            "summary": finding.summary,
            "count": finding.count,
            "listed": min(finding.count, MOST_LISTED),
            "instances": [describe(entry) for entry in finding.entries[:MOST_LISTED]],
        }
        for finding in findings
    ]


def line_about_speed(scan: Scan, seconds: float) -> str:
    """Returns the line that tells how many images were read and how fast."""
    total = sum(len(scan.records[part]) - len(scan.marked(part, Mark.UNSEEN)) for part in scan.records)
    return f"read {count_of(total, 'image')} in {seconds:.1f} s ({total / max(seconds, 1e-9):,.0f} images/s)"
