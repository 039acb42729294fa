"""The folder of one run: held by one process, never mixed with another run, its log free of what is done again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TextIO

from ppcls_ext.engine.checkpoint import list_checkpoints
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import write_text
from ppcls_ext.utils.locks import lock_folder


class RunFolder:
    """Configuration, logs, checkpoints, report and curves of one run.

    Args:
        path: the folder.
        active: only rank 0 writes; every method of an inactive folder does nothing.
        key: the configuration's key that chooses the folder, for messages.

    Raises:
        UserError: another process is training in this folder, or it cannot be written.
    """

    def __init__(self, path: Path, active: bool, key: str = "Global.output_dir") -> None:
        self.path = path
        self.key = key
        self.active = active
        self._log: TextIO | None = None
        self._lock: TextIO | None = None
        if active:
            self._lock = lock_folder(path, "another process is training in this folder", self.key)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def refuse_second_run(self) -> None:
        """Raises:
        UserError: the folder already holds checkpoints of a run that nobody asked to continue.
        """
        existing = list_checkpoints(self.checkpoints)
        if self.active and existing:
            raise UserError(
                f"{self.path}: already holds a run ({existing[-1].name}); continue it with --resume auto, "
                f"choose another {self.key}, or remove the folder"
            )

    def write_config(self, text: str) -> None:
        """Writes the resolved configuration."""
        if self.active:
            write_text(self.path / "config.yaml", text)

    def open_log(self, epoch: int, step: int) -> None:
        """Opens ``log.jsonl``, without what lies beyond ``step`` batches of the epoch after ``epoch`` finished ones."""
        if not self.active:
            return
        file = self.path / "log.jsonl"
        if file.is_file():
            # A crash may have cut the last line anywhere, also inside a character.
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _is_before(line, epoch, step)]
            write_text(file, "".join(f"{line}\n" for line in kept))
        self._log = open(file, "a", encoding="utf-8")  # noqa: SIM115 (held open as long as the run lasts)

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
    number = record.get("epoch", 0)
    if number <= epoch:
        return True
    return record.get("kind") == "step" and number == epoch + 1 and record.get("step", 0) <= step
