"""The check of a classification configuration from end to end."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from pathlib import Path

import numpy as np

from classification.check.duplicates import find_exact_duplicates, find_near_duplicates
from classification.check.examine import Mark
from classification.check.findings import PART_WORDS, Finding, Severity, count_of, worst_first
from classification.check.images import find_image_faults, wanted_size
from classification.check.labels import Classes, find_label_faults
from classification.check.opening import open_datasets, sections_of
from classification.check.report import json_report, terminal_lines, verdict
from classification.check.scan import Scan, scan_images
from classification.check.workers import Workers
from classification.config import Config
from classification.data.datasets import ImageDataset
from classification.sample_files import choose_evenly
from ppcls_ext.common.files import atomic_path, write_json
from ppcls_ext.training.display import Display, clock

logger = logging.getLogger(__name__)
REPORT_NAME = "check.json"
OVERVIEW_NAME = "overview.png"
# Images between two lines in a log file; a terminal shows a bar.
LINE_EVERY = 10_000


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
    start = time.monotonic()
    with Workers(datasets, worker_count) as workers:
        scan = _scan(workers, datasets, limit)
        seconds = time.monotonic() - start
        sections = sections_of(config)
        wanted = {part: wanted_size(sections[part].operators, config.run.image_shape) for part in datasets}
        findings += find_image_faults(scan, wanted)
        findings += find_exact_duplicates(scan, classes.text_of)
        findings += find_near_duplicates(scan, workers, classes.text_of)
    return Check(name, worst_first(findings), classes, scan, seconds)


def _scan(workers: Workers, datasets: dict[str, ImageDataset], limit: int) -> Scan:
    chosen = {
        part: choose_evenly(dataset.labels, limit, seed=0) if limit else np.arange(len(dataset))
        for part, dataset in datasets.items()
    }
    with Display("reading images", sum(map(len, chosen.values())), every=0) as display:

        def advance(count: int) -> None:
            lines = display.done // LINE_EVERY
            for _ in range(count):
                display.advance()
            if display.done // LINE_EVERY > lines and not sys.stdout.isatty():
                left = clock(display.time_left())
                logger.info("read %s of %s images, %s left", f"{display.done:,}", f"{display.total:,}", left)

        return scan_images(workers, chosen, advance)


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
    total = 0
    for part, records in check.scan.records.items():
        seen = len(records) - len(check.scan.marked(part, Mark.UNSEEN))
        total += seen
        limited = f", {seen:,} of them read" if seen < len(records) else ""
        used = int((check.classes.counts[part] > 0).sum())
        lines.append(
            f"{PART_WORDS[part]}: {count_of(len(records), 'image')} in {count_of(used, 'class', 'classes')}{limited}"
        )
    speed = total / max(check.seconds, 1e-9)
    return [*lines, f"read {count_of(total, 'image')} in {check.seconds:.1f} s ({speed:,.0f} images/s)"]
