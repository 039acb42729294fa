"""The content of ``check.json`` for classification data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from classification.check.labels import Classes
from ppcls_ext.check.findings import Finding, Picture, Severity, count_severities
from ppcls_ext.check.report import describe_images, findings_json
from ppcls_ext.check.scan import Scan


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

    def details_of(picture: Picture) -> dict[str, Any]:
        return {"label": classes.label_of(picture), "class": classes.name_of(picture)}

    return {
        "format_version": 1,
        "task": "classification",
        "config": config_name,
        "errors": counts[Severity.ERROR],
        "warnings": counts[Severity.WARNING],
        "seconds": round(seconds, 2),
        "class_num": classes.class_num,
        "sets": {part: _describe_set(part, scan, classes) for part in classes.datasets} if scan else {},
        "findings": findings_json(findings, scan.name_of if scan else str, details_of),
    }


def _describe_set(part: str, scan: Scan, classes: Classes) -> dict[str, Any]:
    counts = classes.counts[part]
    by_class = {classes.name(label, part): int(counts[label]) for label in np.flatnonzero(counts).tolist()}
    return {**describe_images(part, scan), "images_by_class": by_class}
