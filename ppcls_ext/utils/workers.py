"""Functions in processes of their own, and several of them measured in interleaved rounds.

A process of its own, because the idle threads of one engine go on spinning while another is measured, because some
libraries read the number of threads only once, and because a converter that crashes must not take the rest along.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.machine import GIB, read_machine

logger = logging.getLogger(__name__)
# Libraries read these when they are loaded: without them one follows the machine and another the environment.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "FLAGS_paddle_num_threads")
# Threads of a finished run spin this long before they sleep; until then they slow the next process down.
SETTLE_SECONDS = 0.25
ANSWER_SECONDS = 300.0
# With less memory than this, processes end after their turn and are started again for the next one.
RESERVED_MEMORY = 2 * GIB
WARM_UP, LEAST_RUNS = 2, 2
LONGEST_REASON = 400


class WorkerProcess:
    """A fresh process (spawned, not forked) that runs a function and exchanges messages with it.

    Args:
        function: of a module; called with the process's end of the connection, then ``arguments``.
        arguments: whatever can be pickled.
        environment: variables of the process besides those of this one.
    """

    def __init__(
        self, function: Callable[..., None], arguments: Sequence[Any], environment: Mapping[str, str] | None = None
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        descriptor, self._notes = tempfile.mkstemp(prefix="worker-")
        os.close(descriptor)
        self._process = context.Process(target=_work, args=(theirs, self._notes, function, arguments), daemon=True)
        self.started = time.perf_counter()
        # A spawned process inherits the variables of the moment of its start, before it loads any library.
        with mock.patch.dict(os.environ, environment or {}):
            self._process.start()
        theirs.close()

    def ask(self, question: Any, seconds: float = ANSWER_SECONDS) -> Any:
        """Sends a message and returns the next answer; see ``answer``."""
        with contextlib.suppress(BrokenPipeError):  # ``answer`` tells how the process ended.
            self._connection.send(question)
        return self.answer(seconds)

    def answer(self, seconds: float = ANSWER_SECONDS) -> Any:
        """Waits for the next answer.

        Raises:
            UserError: the function failed, the process died, or it is silent for ``seconds``.
        """
        if not self._connection.poll(seconds):
            raise UserError(f"no answer within {seconds:g} s")
        try:
            answer, error = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            status = self._process.exitcode or 0
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            notes = Path(self._notes).read_text(encoding="utf-8", errors="replace").strip()
            last = f": {notes.splitlines()[-1].strip()[:LONGEST_REASON]}" if notes else ""
            raise UserError(f"the process ended with {how}{last}") from None
        if error is not None:
            raise UserError(error)
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()
        os.unlink(self._notes)


def _work(connection: Connection, notes: str, function: Callable[..., None], arguments: Sequence[Any]) -> None:
    """Runs in the new process: what libraries print goes to a file, what fails is an answer."""
    descriptor = os.open(notes, os.O_RDWR)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        function(connection, *arguments)
    except EOFError:
        pass  # The parent is gone.
    except UserError as error:
        connection.send((None, str(error)))
    except Exception as error:  # noqa: BLE001 (whatever a foreign library raises is the reason that is told)
        text = " ".join(str(error).split())[:LONGEST_REASON]
        connection.send((None, f"{type(error).__name__}: {text}"))


def run_in_process(
    function: Callable[..., Any], *arguments: Any, seconds: float = ANSWER_SECONDS,
    environment: Mapping[str, str] | None = None,
) -> Any:  # fmt: skip
    """Returns ``function(*arguments)``, computed in a process of its own; see :meth:`WorkerProcess.answer`."""
    process = WorkerProcess(_answer_once, (function, arguments), environment)
    try:
        return process.answer(seconds)
    finally:
        process.close()


def _answer_once(connection: Connection, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    connection.send((function(*arguments), None))


@dataclass
class Subject:
    """Something that is measured in a process of its own, and what was measured of it.

    Attributes:
        title: for messages.
        opener: function of a module; called with ``arguments`` in the process, it returns what runs once, and a mapping
            of facts about it.
        arguments: of ``opener``.
        threads: of the process's numerical libraries.
        failure: why it could not be measured, None if it could.
        facts: what ``opener`` told.
        seconds: of each run.
        starts: seconds from the start of the process to the end of the first run, for each start.
        peak_bytes: largest resident memory of the process, None where the system does not tell.
        cores_while_waiting: the part of a core that the process used while others worked, one value a turn.
    """

    title: str
    opener: Callable[..., tuple[Callable[[], object], dict[str, Any]]]
    arguments: dict[str, Any]
    threads: int
    failure: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    cores_while_waiting: list[float] = field(default_factory=list)

    def statistics(self) -> dict[str, float]:
        """Returns median, 90th percentile, minimum and mean of the runs in ms; ``UserError`` if it failed."""
        if self.failure is not None:
            raise UserError(f"{self.title}: {self.failure}")
        milliseconds = 1000 * np.array(self.seconds)
        return {
            "median_ms": float(np.median(milliseconds)),
            "p90_ms": float(np.percentile(milliseconds, 90)),
            "fastest_ms": float(milliseconds.min()),
            "mean_ms": float(milliseconds.mean()),
        }


def measure_interleaved(
    subjects: Sequence[Subject], rounds: int = 12, runs: int = 10, starts: int = 1, longest_turn: float = 2.0
) -> None:
    """Measures subjects in rounds: each has a process of its own, and one of them works at a time.

    In each round every subject has one turn, in another order each time, so that a slow minute of the machine hurts all
    alike and none always follows the same one. A subject that fails gets its ``failure`` and is left out from there on.

    Args:
        subjects: what to measure; their figures are filled in.
        rounds: turns of each.
        runs: runs in a turn after two to warm up, fewer (two at least) where they take longer than ``longest_turn`` s.
        starts: how often each process is started, to time that.
    """
    processes: dict[int, WorkerProcess] = {}
    try:
        for number in range(starts + rounds):
            if number >= starts:
                logger.info("round %d of %d", number - starts + 1, rounds)
            order = [subject for subject in subjects if subject.failure is None]
            random.Random(number).shuffle(order)
            for subject in order:
                time.sleep(SETTLE_SECONDS)
                try:
                    process = processes.get(id(subject))
                    if number < starts or process is None:
                        if process is not None:
                            process.close()
                        environment = dict.fromkeys(THREAD_VARIABLES, str(subject.threads))
                        process = WorkerProcess(_answer_turns, (subject.opener, subject.arguments), environment)
                        processes[id(subject)] = process
                        subject.facts = process.answer()
                        subject.starts.append(time.perf_counter() - process.started)
                    if number >= starts:
                        seconds, peak, cores = process.ask((runs, longest_turn))
                        subject.seconds += seconds
                        subject.cores_while_waiting.append(cores)
                        subject.peak_bytes = max(subject.peak_bytes or 0, peak or 0) or None
                except UserError as error:
                    subject.failure = " ".join(str(error).split())
                    logger.warning("%s: %s", subject.title, subject.failure)
                if subject.failure is not None or read_machine().memory_available < RESERVED_MEMORY:
                    processes.pop(id(subject)).close()
    finally:
        for process in processes.values():
            process.close()


def _answer_turns(connection: Connection, opener: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Runs in the process of a subject: opens it, then measures a turn for each message ``(runs, seconds)``."""
    run, facts = opener(**arguments)
    run()
    connection.send((facts, None))
    while True:
        waiting_since, busy = time.perf_counter(), time.process_time()
        runs, longest = connection.recv()
        cores = (time.process_time() - busy) / (time.perf_counter() - waiting_since)
        for _ in range(WARM_UP):
            run()
        times: list[float] = []
        while len(times) < runs and (len(times) < LEAST_RUNS or sum(times) < longest):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        connection.send(((times, _peak_bytes(), cores), None))


def _peak_bytes() -> int | None:
    """Returns the largest resident memory of this process; ``getrusage`` would count the parent's before exec."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
