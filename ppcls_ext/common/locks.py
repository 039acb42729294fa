"""One process in a folder at a time."""

from __future__ import annotations

import fcntl
import logging
from pathlib import Path
from typing import TextIO

from ppcls_ext.common.errors import UserError

logger = logging.getLogger(__name__)


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
        lock = open(path / ".lock", "w")  # noqa: SIM115 (held open as long as the lock is needed)
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
