"""Image files by name, folder or pattern."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from ppcls_ext.common.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})


def find_images(inputs: Sequence[str]) -> list[Path]:
    """Returns the images that ``inputs`` mean, each once, in a stable order.

    Args:
        inputs: files (taken whatever their suffix), folders (searched as :func:`images_in` does), and patterns with
            ``*``, ``?`` or ``**``.

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
        return images_in(path)
    if glob.has_magic(given):
        matches = [Path(match) for match in sorted(glob.glob(given, recursive=True))]
        files = [[match] if match.is_file() and _is_image(match) else [] for match in matches]
        return [file for group in files for file in group]
    raise UserError(f"--input {given}: no such file or folder")


def images_in(folder: Path) -> list[Path]:
    """Returns the images in a folder and its sub-folders, sorted by path; see :func:`files_in`."""
    return files_in(folder, SUFFIXES)


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Returns the files of some kinds in a folder and its sub-folders, sorted by path.

    Hidden files and folders are left out, among them the ``._x.jpg`` that macOS adds. Links to folders are followed,
    but no folder is searched twice, so links may form circles.

    Args:
        folder: where to search.
        suffixes: in lower case, with the dot.
    """
    found: list[Path] = []
    searched = {os.path.realpath(folder)}
    for place, folders, files in os.walk(folder, followlinks=True):
        visible = {name: os.path.realpath(os.path.join(place, name)) for name in folders if not name.startswith(".")}
        # The walk goes on in the folders that are left in its list.
        folders.clear()
        for name, real in sorted(visible.items()):
            if real not in searched:
                searched.add(real)
                folders.append(name)
        found.extend(
            Path(place, name) for name in files if Path(name).suffix.lower() in suffixes and not name.startswith(".")
        )
    return sorted(found)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES
