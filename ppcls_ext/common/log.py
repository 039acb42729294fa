"""Logging as a person reads it: one line a message on the terminal, the same lines with times in a file."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

PACKAGES = ("ppcls_ext", "classification", "detection", "tools")


class _TerminalFormatter(logging.Formatter):
    """Bare messages for information, ``warning: ...`` and ``error: ...`` for the rest."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line that is shown."""
        message = super().format(record)
        return message if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {message}"


class _CurrentStandardOutput(logging.StreamHandler):
    """Writes to whatever ``sys.stdout`` is now, because a progress bar and tests replace it while they run."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> object:
        """The present standard output."""
        return sys.stdout


def set_up_logging(quiet: bool = False, file: Path | None = None) -> None:
    """Sends the messages of this project's packages to the terminal and, if asked for, to ``file`` as well.

    Args:
        quiet: show warnings and errors only (for every rank but the first).
        file: text file to append to, with times.
    """
    handlers: list[logging.Handler] = []
    terminal = _CurrentStandardOutput()
    terminal.setFormatter(_TerminalFormatter("%(message)s"))
    terminal.setLevel(logging.WARNING if quiet else logging.INFO)
    handlers.append(terminal)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        writer = logging.FileHandler(file, encoding="utf-8")
        writer.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handlers.append(writer)
    for name in PACKAGES:
        package = logging.getLogger(name)
        for old in list(package.handlers):
            package.removeHandler(old)
            old.close()
        package.setLevel(logging.INFO)
        package.propagate = False
        for handler in handlers:
            package.addHandler(handler)
