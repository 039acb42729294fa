"""Files that are whole or absent (written under a temporary name, flushed to the disk, then renamed), and folder locks.

Locks are not filelock's: it takes exclusive locks only, so that asking whether a folder is locked would for a moment
lock out the run that is about to begin there. ``is_locked`` takes a shared lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import yaml

from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)

LOCK = ".lock"


def flush(path: Path) -> None:
    """Forces a file, or the names in a folder, to the disk: else a rename is lost in a power cut.

    A full disk shows here as ``OSError``.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path beside ``path``; on success it replaces ``path`` in one step, on failure it is removed.

    The temporary name keeps the suffix of ``path``, because many writers choose their format by it. A link stays, and
    what it leads to is replaced.

    Raises:
        OSError: the disk is full or the folder cannot be written; ``path`` is then as it was before.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        flush(temporary)
        # mkstemp makes private files; a result is as readable as any other new file of this user.
        temporary.chmod(0o666 & ~_current_umask())
        os.replace(temporary, target)
        flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary folder beside ``path``; on success it takes the place of ``path``, on failure it is removed.

    An existing ``path`` is moved aside and removed only after the new folder stands in its place. A link stays, and
    what it leads to is replaced.

    Raises:
        OSError: the disk is full or the parent cannot be written; ``path`` is then as it was before.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    temporary.chmod(0o777 & ~_current_umask())
    try:
        yield temporary
        for part in sorted(temporary.rglob("*")):
            if part.is_file() or part.is_dir():
                flush(part)
        flush(temporary)
        if target.exists():
            _replace_folder(temporary, target)
        else:
            os.rename(temporary, target)
        flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(source: Path, target: Path) -> None:
    """Puts ``source`` in the place of the existing ``target``, or leaves ``target`` where it was."""
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    try:
        os.rename(target, aside / target.name)
        try:
            os.rename(source, target)
        except OSError:
            os.rename(aside / target.name, target)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes ``text`` as UTF-8, whole or not at all.

    Bytes of a file name that are no UTF-8 are spelt out (``\\udcba``), which JSON reads back as they were.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_mapping(file: Path) -> dict[str, Any]:
    """Reads a mapping from a YAML (by its suffix) or JSON file; a UserError if it is not there, damaged, or holds
    something else."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        value = yaml.safe_load(text) if file.suffix in (".yaml", ".yml") else json.loads(text)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{file}: damaged ({' '.join(str(error).split())})") from error
    if not isinstance(value, dict):
        raise UserError(f"{file}: damaged, must hold a mapping, not {type(value).__name__}")
    return value


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 checksum of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def lock_folder(path: Path, taken: str, key: str) -> TextIO:
    """Makes a folder and locks it; the lock lasts until the returned file is closed or the process ends.

    Raises:
        UserError: another process holds it (``taken`` says what that means), or it cannot be written; the message names
            the configuration's ``key`` that chooses the folder.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / LOCK, "a")  # noqa: SIM115 (held open as long as the lock is needed)
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
