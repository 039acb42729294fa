"""What a data check found, as tests compare it."""

from __future__ import annotations

from pathlib import Path

from ppcls_ext.check.findings import Finding
from ppcls_ext.check.report import DataCheck


def kinds(result: DataCheck) -> dict[str, str]:
    """Returns the severity of each kind that was found."""
    return {finding.kind: finding.severity.word for finding in result.findings}


def finding(result: DataCheck, kind: str) -> Finding:
    """Returns what was found of a kind."""
    found = [finding for finding in result.findings if finding.kind == kind]
    assert found, f"{kind} is not among {kinds(result)}"
    return found[0]


def notes(result: DataCheck, kind: str) -> list[str]:
    """Returns the note of each instance."""
    return [entry.note for entry in finding(result, kind).entries]


def names(result: DataCheck, kind: str) -> list[tuple[str, ...]]:
    """Returns the last two parts of the paths of each instance."""
    return [
        tuple("/".join(Path(result.scan.name_of(picture)).parts[-2:]) for picture in entry.pictures)
        for entry in finding(result, kind).entries
    ]
