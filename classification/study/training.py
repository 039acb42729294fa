"""Trains the runs of a study, each in a process of its own, some side by side; none that is finished is repeated."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from classification.study.runs import Run
from ppcls_ext.engine.environment import InterruptWatch
from ppcls_ext.utils.errors import Interrupted
from ppcls_ext.utils.locks import is_locked
from ppcls_ext.utils.machine import available_cores

logger = logging.getLogger(__name__)

CONSOLE = "console.log"
POLL_SECONDS = 0.25
THREADS = "OMP_NUM_THREADS"
GPUS = "CUDA_VISIBLE_DEVICES"
ERROR = "error: "


@dataclass(frozen=True)
class Failure:
    """A run that did not come to its end; ``reason`` is one line."""

    run: Run
    reason: str


@dataclass
class _Active:
    """A run under way; ``slot`` is its number among those side by side."""

    run: Run
    slot: int
    process: subprocess.Popen[bytes]
    console: TextIO
    console_start: int
    told_epochs: int
    log_size: int = -1


@dataclass
class StudyTrainer:
    """Trains runs side by side.

    Args:
        script: ``tools/train.py``.
        jobs: processes at a time. Unless ``OMP_NUM_THREADS`` is set, each gets its share of the cores; of the GPUs that
            ``CUDA_VISIBLE_DEVICES`` names, each gets one.

    Attributes:
        failures: runs that failed.
    """

    script: Path
    jobs: int = 1
    failures: list[Failure] = field(default_factory=list)
    _active: list[_Active] = field(default_factory=list)
    _left_to_others: set[str] = field(default_factory=set)

    def train(self, runs: Sequence[Run]) -> None:
        """Trains what is not finished yet; a run that fails does not stop the others.

        Raises:
            Interrupted: the user stopped it; every run under way was saved.
        """
        waiting = [run for run in runs if run.report is None]
        logger.info("%d of %d runs are finished, %d to train", len(runs) - len(waiting), len(runs), len(waiting))
        stopping = False
        try:
            with InterruptWatch(world_size=1) as watch:
                while self._active or (waiting and not stopping):
                    if watch.stop_after(0) and not stopping:
                        stopping = True
                        self._stop()
                    if not stopping:
                        self._fill(waiting)
                    time.sleep(POLL_SECONDS)
                    self._look(stopping)
        finally:
            for active in self._active:
                active.process.kill()
                active.process.wait()
                active.console.close()
        if stopping:
            raise Interrupted("stopped; what was under way is saved; continue with the same command")

    def _fill(self, waiting: list[Run]) -> None:
        """Starts runs of ``waiting`` while there is room.

        A run that another process trains, such as one that outlived a killed study, has its place until that ends.
        """
        elsewhere = 0
        for run in list(waiting):
            if len(self._active) + elsewhere >= self.jobs:
                break
            if is_locked(run.folder):
                elsewhere += 1
                if run.label not in self._left_to_others:
                    self._left_to_others.add(run.label)
                    logger.info("%s: another process trains it, perhaps of a killed study; waiting for it", run.label)
                continue
            waiting.remove(run)
            if run.report is None:
                self._start(run)
            else:
                logger.info("%s: finished by another process", run.label)

    def _start(self, run: Run) -> None:
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            console = open(run.folder / CONSOLE, "a", encoding="utf-8")  # noqa: SIM115 (closed when the process ends)
        except OSError as error:
            self._fail(run, f"{error.filename}: {error.strerror}")
            return
        slot = min(set(range(self.jobs)) - {active.slot for active in self._active})
        command = [sys.executable, str(self.script), "-c", run.row.config_file, "-o", *run.changes, "--resume", "auto"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            env=self._environment(slot),
            # Ctrl-C at the terminal would reach it too, and the one passed on would be the second, which saves nothing.
            start_new_session=True,
        )
        told = len(run.history())
        self._active.append(_Active(run, slot, process, console, console.tell(), told))
        logger.info("%s: %s", run.label, f"continued after epoch {told}" if told else "started")

    def _environment(self, slot: int) -> dict[str, str]:
        """Returns the environment of a run: its share of the threads and, of several GPUs, one."""
        environment = dict(os.environ)
        environment.setdefault(THREADS, str(max(1, available_cores() // self.jobs)))
        gpus = [name for name in environment.get(GPUS, "").split(",") if name]
        if gpus:
            environment[GPUS] = gpus[slot % len(gpus)]
        return environment

    def _stop(self) -> None:
        """Asks all processes to save and leave."""
        for active in self._active:
            if active.process.poll() is None:
                active.process.send_signal(signal.SIGTERM)

    def _look(self, stopping: bool) -> None:
        """Tells of finished epochs and ended processes."""
        for active in list(self._active):
            status = active.process.poll()
            self._tell_epochs(active)
            if status is None:
                continue
            active.console.close()
            self._active.remove(active)
            if status == 0 and active.run.report is not None:
                logger.info("%s: finished", active.run.label)
            elif stopping:
                logger.info("%s: stopped", active.run.label)
            else:
                self._fail(active.run, _reason(active, status))

    def _fail(self, run: Run, reason: str) -> None:
        self.failures.append(Failure(run, reason))
        logger.warning("%s failed: %s", run.label, reason)

    def _tell_epochs(self, active: _Active) -> None:
        log = active.run.folder / "log.jsonl"
        size = log.stat().st_size if log.is_file() else -1
        if size == active.log_size:
            return
        active.log_size = size
        history = active.run.history()
        for record in history[active.told_epochs :]:
            figures = record.get("ema") or record.get("eval") or {}
            top1 = f"  top-1 {100 * figures['top1']:.2f} %" if "top1" in figures else ""
            train = record["train"]
            logger.info(
                "%s: epoch %d/%d  loss %.3f%s  (%.0f s)",
                active.run.label, record["epoch"], active.run.epochs, train["loss"], top1, train["seconds"],
            )  # fmt: skip
        active.told_epochs = max(active.told_epochs, len(history))


def _reason(active: _Active, status: int) -> str:
    """Returns the first error that the process showed in this session, or how it ended."""
    console = active.run.folder / CONSOLE
    text = console.read_bytes()[active.console_start :].decode("utf-8", errors="replace")
    errors = [line.removeprefix(ERROR) for line in text.splitlines() if line.startswith(ERROR)]
    if errors:
        return errors[0]
    cause = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return f"{cause}; see {console}"
