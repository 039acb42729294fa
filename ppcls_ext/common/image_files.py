"""Image files by name, folder or pattern."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from ppcls_ext.common.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})


def find_images(inputs: Sequence[str]) -> list[Path]:
    """Returns the images that ``inputs`` mean, each once, in a stable order.

    Args:
        inputs: files (taken whatever their suffix), folders (searched with their subfolders, hidden files left out),
            and patterns with ``*``, ``?`` or ``**``.

    Raises:
        UserError: an input means no image at all.
    """
    found: dict[Path, None] = {}
    for given in inputs:
        images = _images_of(given)
        if not images:
            raise UserError(f"--input {given}: no image there (known suffixes: {', '.join(sorted(SUFFIXES))})")
        found.update(dict.fromkeys(images))
    return list(found)


def _images_of(given: str) -> list[Path]:
    path = Path(given)
    if path.is_file():
        return [path]
    if path.is_dir():
        return _images_in(path)
    if glob.has_magic(given):
        matches = [Path(match) for match in sorted(glob.glob(given, recursive=True))]
        files = [[match] if match.is_file() and _is_image(match) else [] for match in matches]
        return [file for group in files for file in group]
    raise UserError(f"--input {given}: no such file or folder")


def _images_in(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and _is_image(path))
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES
