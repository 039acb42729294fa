"""Logging as a person reads it: one line a message on the terminal, the same lines with times in a file."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path

PACKAGES = ("ppcls_ext", "classification", "detection", "tools")


class _SaysOnce(logging.Handler):
    """Goes on where messages cannot be written: says so once, or not at all where the reader (head) has gone."""

    _said = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Takes an error that the writing of a message raised; called by ``logging``."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not (self._said or isinstance(error, BrokenPipeError)):
            self._said = True
            place = getattr(self, "baseFilename", "standard output")
            with contextlib.suppress(OSError):  # The same disk, perhaps.
                sys.stderr.write(f"error: {place}: {error.strerror}; messages are lost there\n")


class _TerminalFormatter(logging.Formatter):
    """Bare messages for information, ``warning: ...`` and ``error: ...`` for the rest."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line that is shown."""
        message = super().format(record)
        return message if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {message}"


class _CurrentStandardOutput(_SaysOnce, logging.StreamHandler):
    """Writes to whatever ``sys.stdout`` is now, because a progress bar and tests replace it while they run."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> object:
        """The present standard output."""
        return sys.stdout


class _File(_SaysOnce, logging.FileHandler):
    """Writes to a file."""


def set_up_logging(quiet: bool = False) -> None:
    """Sends the messages of this project's packages to the terminal, and to no file that an earlier call named.

    Args:
        quiet: show warnings and errors only (for every rank but the first).
    """
    terminal = _CurrentStandardOutput()
    terminal.setFormatter(_TerminalFormatter("%(message)s"))
    terminal.setLevel(logging.WARNING if quiet else logging.INFO)
    for name in PACKAGES:
        package = logging.getLogger(name)
        for old in list(package.handlers):
            package.removeHandler(old)
            old.close()
        package.setLevel(logging.INFO)
        package.propagate = False
        package.addHandler(terminal)


def log_to_file(file: Path) -> logging.Handler:
    """Sends the messages to ``file`` as well, with times; it is appended to until :func:`close_file`."""
    writer = _File(file, encoding="utf-8", errors="backslashreplace")
    writer.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in PACKAGES:
        logging.getLogger(name).addHandler(writer)
    return writer


def close_file(writer: logging.Handler) -> None:
    """Ends what :func:`log_to_file` began."""
    for name in PACKAGES:
        logging.getLogger(name).removeHandler(writer)
    with contextlib.suppress(OSError):  # It was said.
        writer.close()


def note_in_files(message: str) -> None:
    """Writes an error into the log files alone: the terminal shows it by another way."""
    record = logging.LogRecord(PACKAGES[0], logging.ERROR, "", 0, message, None, None)
    for handler in logging.getLogger(PACKAGES[0]).handlers:
        if isinstance(handler, logging.FileHandler):
            handler.emit(record)
