"""One interleaved run: every combination has its own process, and one of them works at a time."""

from __future__ import annotations

import json
import logging
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.deploy.benchmark.matrix.exports import Ready
from ppcls_ext.deploy.benchmark.matrix.plan import Combination
from ppcls_ext.deploy.benchmark.matrix.processes import AnsweringProcess
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.machine import GIB, read_machine

logger = logging.getLogger(__name__)
WORKER = "ppcls_ext.deploy.benchmark.matrix.worker"
# Threads of a finished run spin this long before they sleep; until then they slow the next process down.
SETTLE_SECONDS = 0.25
START_SECONDS, TURN_SECONDS = 300.0, 300.0
# A turn ends after this time, however many runs it has left.
LONGEST_TURN = 2.0
# With less memory than this, processes are ended after their turn and started again for the next one.
RESERVED_MEMORY = 2 * GIB
# Engines read these when they are loaded: without them one follows the machine and another the environment.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Schedule:
    """How much is measured.

    Attributes:
        rounds: turns of each process.
        runs: runs in a turn, fewer where they take more than ``LONGEST_TURN``.
        cold_starts: how often each process is started to time that.
    """

    rounds: int = 12
    runs: int = 10
    cold_starts: int = 3


QUICK = Schedule(rounds=2, runs=3, cold_starts=1)


@dataclass
class Subject:
    """Something that is measured in a process of its own, and what was measured.

    Attributes:
        title: for messages.
        request: what the worker is told.
        threads: of the engine.
        reason: why it was not measured, None if it was.
        seconds: of each run.
        starts: seconds from the start of the process to the first prediction.
        peak_bytes: largest memory of the process.
        computed_in: type of the numbers.
        cores_while_waiting: part of a core that the process used while others worked, by turns.
        restarts: how often the process was ended for want of memory.
    """

    title: str
    request: dict[str, Any]
    threads: int
    reason: str | None = None
    seconds: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    computed_in: str | None = None
    cores_while_waiting: list[float] = field(default_factory=list)
    restarts: int = 0

    def statistics(self) -> dict[str, float]:
        """Returns median, 90th percentile, minimum and mean of the runs in milliseconds."""
        milliseconds = 1000 * np.array(self.seconds)
        return {
            "median_ms": float(np.median(milliseconds)),
            "p90_ms": float(np.percentile(milliseconds, 90)),
            "fastest_ms": float(milliseconds.min()),
            "mean_ms": float(milliseconds.mean()),
        }


def subject_of(combination: Combination, export: Ready, image: Path) -> Subject:
    """Returns what is to be measured of a combination; ``image`` is a ``.npy`` file."""
    request = {
        "kind": "export",
        "folder": str(export.folder),
        "backend": combination.backend,
        "precision": combination.precision,
        "threads": combination.threads,
        "batch": combination.batch,
        "image": str(image),
    }
    return Subject(combination.title, request, combination.threads)


def peak_subjects(threads: Sequence[int], with_openvino: bool, with_bfloat16: bool) -> list[Subject]:
    """Returns the matrix products that show what the machine can do."""
    kinds = [("numpy", "float32")]
    if with_openvino:
        kinds += [("openvino", "float32"), *([("openvino", "bfloat16")] if with_bfloat16 else [])]
    return [
        Subject(
            f"matrix product, {kind} {precision}, {count} thread{'s' if count > 1 else ''}",
            {"kind": kind, "precision": precision, "threads": count},
            count,
        )
        for count in dict.fromkeys(threads)
        for kind, precision in kinds
    ]


class Rotation:
    """Starts the processes of subjects, lets them work by turns, and ends them.

    Args:
        subjects: what to measure; their figures are filled in.
        schedule: how much.
        start: makes a process of module, arguments and environment; tests give their own.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        schedule: Schedule,
        start: Callable[[str, Sequence[str], dict[str, str]], Any] = AnsweringProcess,
    ) -> None:
        self._subjects = list(subjects)
        self._schedule = schedule
        self._start = start
        self._processes: dict[int, Any] = {}

    def run(self) -> None:
        """Measures; a subject that fails gets its ``reason`` and is left out from there on."""
        try:
            for number in range(self._schedule.cold_starts):
                for index in self._order(-1 - number):
                    self._guarded(index, self._start_one)
            for turn in range(self._schedule.rounds):
                logger.info("round %d of %d", turn + 1, self._schedule.rounds)
                for index in self._order(turn):
                    self._guarded(index, self._measure_one)
        finally:
            for index in list(self._processes):
                self._end(index)

    def _order(self, turn: int) -> list[int]:
        """Returns those that still work, in an order of its own for each turn: none always follows the same one."""
        order = [index for index, subject in enumerate(self._subjects) if subject.reason is None]
        random.Random(turn).shuffle(order)
        return order

    def _guarded(self, index: int, step: Callable[[int], None]) -> None:
        subject = self._subjects[index]
        time.sleep(SETTLE_SECONDS)
        try:
            step(index)
        except UserError as error:
            subject.reason = " ".join(str(error).split())
            logger.warning("%s: %s", subject.title, subject.reason)
            self._end(index)
            return
        available = read_machine().memory_available
        if available is not None and available < RESERVED_MEMORY:
            self._end(index)
            subject.restarts += 1

    def _start_one(self, index: int) -> None:
        self._end(index)
        subject = self._subjects[index]
        variables = dict.fromkeys(THREAD_VARIABLES, str(subject.threads))
        process = self._start(WORKER, [json.dumps(subject.request)], variables)
        self._processes[index] = process
        answer = process.answer(START_SECONDS)
        subject.starts.append(time.perf_counter() - process.started)
        subject.computed_in = answer["computed_in"]

    def _measure_one(self, index: int) -> None:
        if index not in self._processes:
            self._start_one(index)
        subject = self._subjects[index]
        answer = self._processes[index].ask(f"{self._schedule.runs} {LONGEST_TURN}", TURN_SECONDS)
        subject.seconds += answer["seconds"]
        subject.cores_while_waiting.append(answer["cores_while_waiting"])
        if answer["peak_bytes"] is not None:
            subject.peak_bytes = max(subject.peak_bytes or 0, answer["peak_bytes"])

    def _end(self, index: int) -> None:
        process = self._processes.pop(index, None)
        if process is not None:
            process.close()


def with_image(image: np.ndarray, work: Callable[[Path], None]) -> None:
    """Calls ``work`` with a file that holds ``image`` and is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        file = Path(folder) / "image.npy"
        np.save(file, image)
        work(file)
