"""The check of a classification configuration from end to end."""

from __future__ import annotations

import dataclasses
import logging
import time
from functools import partial
from pathlib import Path

import numpy as np

from classification.check.conflicts import find_label_conflicts, label_remark
from classification.check.labels import Classes, find_label_faults
from classification.check.opening import open_datasets, sections_of
from classification.check.report import json_report
from classification.check.wanted_size import wanted_size
from classification.config import Config
from classification.prepare import choose_evenly
from ppcls_ext.check.duplicates import find_exact_duplicates, find_near_duplicates, groups_of_copies
from ppcls_ext.check.examine import Mark
from ppcls_ext.check.findings import PART_WORDS, Finding, Severity, count_of, worst_first
from ppcls_ext.check.images import find_image_faults
from ppcls_ext.check.report import line_about_speed, terminal_lines, verdict
from ppcls_ext.check.scan import Scan, scan_with_progress
from ppcls_ext.check.workers import Workers
from ppcls_ext.utils.files import atomic_path, write_json

logger = logging.getLogger(__name__)
REPORT_NAME = "check.json"
OVERVIEW_NAME = "overview.png"


@dataclasses.dataclass
class Check:
    """The result of a check.

    Attributes:
        config_name: the configuration's file.
        findings: worst first.
        classes: the classes of the sets that could be opened.
        scan: the records of their images; ``None`` if no set could be opened.
        seconds: how long the reading took.
    """

    config_name: str
    findings: list[Finding]
    classes: Classes
    scan: Scan | None
    seconds: float

    @property
    def has_errors(self) -> bool:
        """Whether something must be mended before training."""
        return any(finding.severity == Severity.ERROR for finding in self.findings)


def check_config_data(config: Config, limit: int = 0, worker_count: int = 1) -> Check:
    """Looks for faults in the data of a configuration.

    Args:
        config: names the data sets, the operators and the number of classes.
        limit: images to read of each set, spread over the classes; 0 for all. Labels are always examined all.
        worker_count: processes; 0 does the work in this one.

    Raises:
        UserError: the configuration names no data, or a value in it is refused.
    """
    datasets, findings = open_datasets(config)
    classes = Classes(datasets, config.arch.class_num)
    name = str(config.document.path)
    if not datasets:
        return Check(name, findings, classes, None, 0.0)
    findings += find_label_faults(classes)
    chosen = {
        part: choose_evenly(dataset.labels, limit, seed=0) if limit else np.arange(len(dataset))
        for part, dataset in datasets.items()
    }
    start = time.monotonic()
    with Workers(datasets, worker_count) as workers:
        scan = scan_with_progress(workers, chosen)
        seconds = time.monotonic() - start
        sections = sections_of(config)
        wanted = {part: wanted_size(sections[part].operators, config.run.image_shape) for part in datasets}
        findings += find_image_faults(scan, wanted)
        copies = groups_of_copies(scan)
        findings.append(find_label_conflicts(copies, classes))
        findings += find_exact_duplicates(copies)
        findings += find_near_duplicates(scan, workers, partial(label_remark, classes))
    return Check(name, worst_first(findings), classes, scan, seconds)


def write_check(check: Check, folder: Path) -> None:
    """Writes ``check.json`` and ``overview.png`` into ``folder`` and logs one line for each kind of finding."""
    write_json(
        folder / REPORT_NAME,
        json_report(check.config_name, check.findings, check.scan, check.classes, check.seconds),
    )
    for line in _lines_about_sets(check):
        logger.info("%s", line)
    name_of = check.scan.name_of if check.scan else str
    for line in terminal_lines(check.findings, name_of):
        logger.info("%s", line)
    written = [folder / REPORT_NAME]
    if check.scan is not None:
        from classification.check.overview import draw_overview

        with atomic_path(folder / OVERVIEW_NAME) as path:
            draw_overview(check.config_name, check.findings, check.scan, check.classes).save(path)
        written.append(folder / OVERVIEW_NAME)
    logger.info("%s; wrote %s", verdict(check.findings), " and ".join(map(str, written)))


def _lines_about_sets(check: Check) -> list[str]:
    if check.scan is None:
        return []
    lines = []
    for part, records in check.scan.records.items():
        seen = len(records) - len(check.scan.marked(part, Mark.UNSEEN))
        limited = f", {seen:,} of them read" if seen < len(records) else ""
        used = int((check.classes.counts[part] > 0).sum())
        lines.append(
            f"{PART_WORDS[part]}: {count_of(len(records), 'image')} in {count_of(used, 'class', 'classes')}{limited}"
        )
    return [*lines, line_about_speed(check.scan, check.seconds)]
