"""Writes the records of a run: its folder, ``log.jsonl``, what loggers show, ``report.json`` and ``curves.png``."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import paddle

from ppcls_ext.arch.flops import count_parameters
from ppcls_ext.engine.checkpoint import AUTO, list_checkpoints
from ppcls_ext.engine.loggers import EPOCH, UPDATE, Loggers
from ppcls_ext.engine.plan import metric_values
from ppcls_ext.engine.task import UNDEFINED, RunProgress, Task
from ppcls_ext.utils.display import clock
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import lock_folder, write_json, write_text
from ppcls_ext.utils.log import close_file, log_to_file, note_in_files
from ppcls_ext.utils.machine import (
    TRAINING_PACKAGES,
    computed_on,
    memory_in_use,
    package_versions,
    peak_memory,
    source_version,
)
from ppcls_ext.utils.names import user_path

logger = logging.getLogger(__name__)

# Means of an epoch that are no losses or metrics.
SPEED = ("images_per_second", "seconds")


class RunFolder:
    """The folder of one run: held by one process, never mixed with another run, its log free of what is done again.

    Args:
        active: only rank 0 writes; every method of an inactive folder does nothing.
        key: the configuration's key that chooses the folder, for messages.
        resume: what the run continues: ``auto``, a checkpoint's folder, or ``None`` for nothing. A folder that holds
            checkpoints is refused, before a byte of it changes, unless it is one of these.

    Raises:
        UserError: another process is training in this folder, it cannot be written, or it holds another run.
    """

    def __init__(self, path: Path, active: bool, key: str = "Global.output_dir", resume: str | None = AUTO) -> None:
        self.path, self.key, self.active = path, key, active
        self._log: TextIO | None = None
        self._lock: Any = None
        self._messages: logging.Handler | None = None
        if active:
            self._lock = lock_folder(path, "another process is training in this folder", key)
            existing = list_checkpoints(self.checkpoints)
            own = resume is not None and self.checkpoints.resolve() in user_path(resume).resolve().parents
            if existing and resume != AUTO and not own:
                self.close()
                other = "" if resume is None else f", of which {resume} is no checkpoint"
                raise UserError(
                    f"{path}: already holds a run ({existing[-1].name}){other}; continue it with --resume auto, choose "
                    f"another {key}, or remove the folder (--overwrite never replaces a run)"
                )
            # Only now: before this, the file may be another run's.
            self._messages = log_to_file(path / "train.log")

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(value, UserError) and self._messages is not None:
            note_in_files(str(value))
        self.close()

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def write_config(self, text: str) -> None:
        """Writes the resolved configuration."""
        if self.active:
            write_text(self.path / "config.yaml", text)

    def report_of(self, history: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Returns what an earlier session wrote into ``report.json`` at the end of this history, ``None`` without."""
        file = self.path / "report.json"
        report = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return report if report.get("history") == history else None

    def open_log(self, epoch: int, step: int) -> None:
        """Opens ``log.jsonl``, without what lies beyond ``step`` batches of the epoch after ``epoch`` finished ones."""
        if not self.active:
            return
        file = self.path / "log.jsonl"
        if file.is_file():
            # A crash may have cut the last line anywhere, also inside a character.
            lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
            kept = [line for line in lines if _is_before(line, epoch, step)]
            write_text(file, "".join(f"{line}\n" for line in kept))
        self._log = open(file, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 (held open as long as the run lasts)

    def log(self, kind: str, **values: Any) -> None:
        """Appends one record and hands it to the system, so that a killed run keeps it."""
        if self._log is not None:
            self._log.write(json.dumps({"kind": kind, **values}, ensure_ascii=False) + "\n")
            self._log.flush()

    def close(self) -> None:
        """Lets the folder go."""
        if self._log is not None:
            self._log.flush()
            os.fsync(self._log.fileno())
            self._log.close()
            self._log = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if self._messages is not None:
            close_file(self._messages)
            self._messages = None


def _is_before(line: str, epoch: int, step: int) -> bool:
    """Tells whether a log record belongs to the part of the run that a checkpoint covers.

    A record of kind ``step`` names the epoch under way from 1; one of kind ``epoch`` names the epoch it closes.
    """
    try:
        record = json.loads(line)
    except ValueError:
        return False
    if not isinstance(record, dict):
        return False
    number, is_step = record.get("epoch", 0), record.get("kind") == "step"
    return number <= epoch or (is_step and number == epoch + 1 and record.get("step", 0) <= step)


class Recorder:
    """Writes the figures of a run, as ``progress`` holds them, into its folder; only the first rank does anything."""

    def __init__(self, folder: RunFolder, task: Task, progress: RunProgress) -> None:
        self.folder, self.task, self.progress = folder, task, progress
        self._loggers: Loggers | None = None
        self._finished = False
        # Now: by the end of a long run, the files may be others than those that train.
        self._source = source_version()
        # Nothing is frozen for a while yet.
        self._parameters = count_parameters(task.model)

    def open(self) -> None:
        """Starts the loggers, before the first batch; raises a UserError if one of them does not start."""
        options = self.task.options
        if self.folder.active and options.loggers:
            self._loggers = Loggers(options.loggers, self.folder.path, options.config, self.progress.updates)

    def step(self, figures: dict[str, float], rate: float) -> None:
        """Records figures of the epoch under way, and the learning rate of the last optimizer step."""
        progress = self.progress
        self.folder.log(
            "step", epoch=progress.epoch + 1, step=progress.step, updates=progress.updates, lr=rate, **figures
        )
        if self._loggers is not None:
            values = {"train/loss": figures["loss"], "train/learning_rate": rate}
            self._loggers.write(values, progress.updates, UPDATE)

    def epoch(self, record: dict[str, Any]) -> None:
        """Records a finished epoch, with the memory that this process holds, and draws the curves anew.

        The epoch must stand in ``progress.history`` already.
        """
        record["memory_mb"] = memory_in_use()
        train, epochs, metric = record["train"], self.task.options.epochs, self.task.metric
        shown = [f"{name.removeprefix('loss_')} {value:.4f}" for name, value in train.items() if name not in SPEED]
        if "eval" in record:
            known = [value for value in metric_values(record, metric) if value is not None]
            shown.append(f"evaluated {metric} " + (f"{max(known):.4f}" if known else "-"))
        logger.info(
            "epoch %d/%d: %s  lr %.2e  %.1f images/s  %s; about %s of training left",
            record["epoch"], epochs, "  ".join(shown), record["lr"], train["images_per_second"],
            clock(train["seconds"]), clock(train["seconds"] * (epochs - record["epoch"])),
        )  # fmt: skip
        self.folder.log(**{"kind": "epoch", **record})
        self._draw()
        if self._loggers is not None:
            figures = {
                f"{part}/{name}_by_epoch": value
                for part in ("train", "eval", "ema")
                for name, value in record.get(part, {}).items()
                if isinstance(value, int | float)
            }
            self._loggers.write(figures, record["epoch"], EPOCH)

    def finish(self, seconds: float, stopped: str | None = None) -> dict[str, Any]:
        """Writes ``report.json`` and ``curves.png``, and says how the run ended; returns the report, on every rank.

        ``seconds`` is the length of this session, ``stopped`` why the run ended before its last epoch, if it did.
        """
        task, progress, history = self.task, self.progress, self.progress.history
        self._finished = True
        value = None if progress.best_metric == UNDEFINED else progress.best_metric
        best = {task.metric: value, "epoch": progress.best_epoch} if progress.best_epoch else None
        training = sum(record["train"]["seconds"] for record in history)
        evaluations = [record["eval"]["seconds"] for record in history if "seconds" in record.get("eval", {})]
        report = {
            **task.report(),
            "trainable_parameters": self._parameters,
            "epochs": progress.epoch,
            "optimizer_steps": progress.updates,
            "best": best,
            "last": history[-1] if history else None,
            "seconds": {
                "training": training, **({"evaluation": sum(evaluations)} if evaluations else {}),
                "this_session": seconds,
            },
            "peak_memory_mb": peak_memory(),
            "device": task.environment.device,
            "machine": computed_on(),
            "processes": task.environment.world_size,
            "seed": task.environment.seed,
            "paddle": paddle.__version__,
            "packages": package_versions(TRAINING_PACKAGES),
            "source": self._source,
            "overrides": list(task.options.overrides),
            "history": history,
        }  # fmt: skip
        if (stopping := task.options.early_stopping) is not None:
            report["early_stopping"] = {**stopping.model_dump(), "stopped": stopped is not None, "reason": stopped}
        if self.folder.active:
            write_json(self.folder.path / "report.json", report)
            self._draw()
            result = "no evaluation"
            if best and value is None:
                result = f"{task.metric} undefined: best is the last evaluated epoch ({best['epoch']})"
            elif best:
                result = f"best {task.metric} {value:.4f} (epoch {best['epoch']})"
            logger.info("done: %s, %s of training; see %s/report.json", result, clock(training), self.folder.path)
        return report

    def close(self) -> None:
        """Closes the loggers."""
        if self._loggers is not None:
            self._loggers.close(self._finished)
            self._loggers = None

    def _draw(self) -> None:
        if self.folder.active:
            self.task.draw_curves(self.progress.history, self.folder.path / "curves.png")
