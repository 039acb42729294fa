"""Locks a folder for one process at a time.

Not by filelock: it takes exclusive locks only, so that asking whether a folder is locked would for a moment lock out
the run that is about to begin there. ``is_locked`` takes a shared lock.
"""

from __future__ import annotations

import fcntl
import logging
from pathlib import Path
from typing import TextIO

from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)

LOCK = ".lock"


def lock_folder(path: Path, taken: str, key: str) -> TextIO:
    """Makes a folder and locks it; the lock lasts until the returned file is closed or the process ends.

    Args:
        path: the folder.
        taken: what it means that another process holds it, for messages.
        key: the configuration's key that chooses the folder, for messages.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / LOCK, "w")  # noqa: SIM115 (held open as long as the lock is needed)
    except OSError as error:
        raise UserError(f"{path}: cannot write here ({error.strerror}); choose another {key}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UserError(f"{path}: {taken}; wait for it, or choose another {key}") from error
    except OSError as error:
        logger.warning("%s: this file system has no locks (%s); start no second run here", path, error.strerror)
    return lock


def is_locked(path: Path) -> bool:
    """Tells whether a process holds the lock of a folder; where there is no such lock, none does."""
    try:
        with open(path / LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
