"""Reads every image of the data sets once and keeps a small record of each."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ppcls_ext.check.examine import RECORD, Mark, examine
from ppcls_ext.check.findings import Picture
from ppcls_ext.check.workers import PictureSet, Workers, dataset_of
from ppcls_ext.preprocess.decode import ImageError
from ppcls_ext.utils.display import Display, clock

logger = logging.getLogger(__name__)
CHUNK = 64
# Images between two lines in a log file; a terminal shows a bar.
LINE_EVERY = 10_000


class _Task(NamedTuple):
    part: str
    indices: np.ndarray


class _Outcome(NamedTuple):
    records: np.ndarray
    missing: list[int]
    causes: dict[int, str]


@dataclasses.dataclass
class Scan:
    """All that was learnt from reading the images.

    Attributes:
        datasets: by set, ``Train`` before ``Eval``.
        records: for each set ``[length]`` of :data:`RECORD`; images left out by a limit bear ``Mark.UNSEEN``.
        causes: why an image cannot be read.
        missing: the images whose file does not exist; they are among ``causes`` too.
    """

    datasets: Mapping[str, PictureSet]
    records: dict[str, np.ndarray]
    causes: dict[Picture, str] = dataclasses.field(default_factory=dict)
    missing: set[Picture] = dataclasses.field(default_factory=set)

    def marked(self, part: str, marks: Mark) -> np.ndarray:
        """Returns the numbers of the images of a set that bear at least one of ``marks``, ``int64`` ``[n]``."""
        return np.flatnonzero(self.records[part]["marks"] & marks)

    def readable(self, part: str) -> np.ndarray:
        """Returns the numbers of the images of a set that were read, ``int64`` ``[n]``."""
        return np.flatnonzero((self.records[part]["marks"] & (Mark.UNREADABLE | Mark.UNSEEN)) == 0)

    def name_of(self, picture: Picture) -> str:
        """Returns the path of an image, or its place in the archive."""
        return self.datasets[picture.part].name_of(picture.index)


def scan_images(
    workers: Workers, chosen: Mapping[str, np.ndarray], advance: Callable[[int], None] = lambda count: None
) -> Scan:
    """Reads images.

    Args:
        workers: processes that hold the data sets.
        chosen: for each set the numbers of the images to read, ``int64`` ``[n]``.
        advance: told how many more images are done.
    """
    records = {part: np.zeros(len(dataset), dtype=RECORD) for part, dataset in workers.datasets.items()}
    for table in records.values():
        table["marks"] = Mark.UNSEEN
    scan = Scan(workers.datasets, records)
    tasks = [
        _Task(part, indices[start : start + CHUNK])
        for part, indices in chosen.items()
        for start in range(0, len(indices), CHUNK)
    ]
    for task, outcome in zip(tasks, workers.map(_examine_chunk, tasks), strict=True):
        records[task.part][task.indices] = outcome.records
        scan.causes.update({Picture(task.part, index): cause for index, cause in outcome.causes.items()})
        scan.missing.update(Picture(task.part, index) for index in outcome.missing)
        advance(len(task.indices))
    return scan


def scan_with_progress(workers: Workers, chosen: Mapping[str, np.ndarray]) -> Scan:
    """Reads images as :func:`scan_images` does and shows how far it is."""
    with Display("reading images", sum(map(len, chosen.values())), every=0) as display:

        def advance(count: int) -> None:
            lines = display.done // LINE_EVERY
            for _ in range(count):
                display.advance()
            if display.done // LINE_EVERY > lines and not sys.stdout.isatty():
                left = clock(display.time_left())
                logger.info("read %s of %s images, %s left", f"{display.done:,}", f"{display.total:,}", left)

        return scan_images(workers, chosen, advance)


def _examine_chunk(task: _Task) -> _Outcome:
    """Runs in a worker: examines a few dozen images."""
    dataset = dataset_of(task.part)
    records = np.zeros(len(task.indices), dtype=RECORD)
    outcome = _Outcome(records, [], {})
    for row, index in enumerate(task.indices.tolist()):
        name = dataset.name_of(index)
        try:
            records[row] = examine(dataset.load(index)[0], name)
        except ImageError as error:
            records[row]["marks"] = Mark.UNREADABLE
            outcome.causes[index] = error.cause
            if isinstance(error.__context__, FileNotFoundError):
                outcome.missing.append(index)
    return outcome
