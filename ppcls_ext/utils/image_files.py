"""Image files by name, folder or pattern."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.names import is_left_behind, meant_path, spellings, visible_files

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
)
SHOWN_OTHERS = 5


def find_images(inputs: Sequence[str]) -> list[Path]:
    """Returns the images that ``inputs`` mean, each once, in the order of ``inputs``.

    Args:
        inputs: files (taken whatever their suffix), folders (searched as :func:`images_in` does), and patterns with
            ``*``, ``?`` or ``**``; back slashes and addresses (``file:///...``) are understood. The images of a folder
            or pattern come by their numbers, ``frame_2`` before ``frame_10``, as a video's frames follow each other.

    Raises:
        UserError: an input means no image at all.
    """
    found: dict[Path, None] = {}
    for given in inputs:
        path = meant_path(given)
        if path.is_file():
            images = [path]
        elif path.is_dir():
            images = sorted(images_in(path), key=_by_number)
        elif glob.has_magic(given):
            pattern = next((spelt for spelt in spellings(given) if glob.glob(spelt, recursive=True)), given)
            # What the pattern itself names is meant.
            stated = Path(pattern).parts
            images = [
                match
                for match in sorted(map(Path, sorted(glob.glob(pattern, recursive=True))), key=_by_number)
                if match.is_file()
                and match.suffix.lower() in SUFFIXES
                and not any(is_left_behind(part) for part in match.parts if part not in stated)
            ]
        else:
            raise UserError(f"--input {given}: no such file or folder")
        if not images:
            raise UserError(f"--input {given}: no image there (known suffixes: {', '.join(sorted(SUFFIXES))})")
        found.update(dict.fromkeys(images))
    return list(found)


def _by_number(path: Path) -> list[list[str | int]]:
    """Returns what sorts paths by the numbers in their names, and by what stands between them."""
    return [[int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", name))]
            for name in path.parts]  # fmt: skip


def left_out(inputs: Sequence[str]) -> str | None:
    """Returns one line about the files in the folders among ``inputs`` that are no images by their suffix, or None.

    A few are named; many are counted by suffix, for a folder of frames may hold as many annotations.
    """
    folders = [path for path in map(meant_path, inputs) if path.is_dir()]
    visible = {path for folder in folders for path in visible_files(folder)}
    files = sorted(path for path in visible if path.suffix.lower() not in SUFFIXES)
    if not files:
        return None
    if len(files) <= SHOWN_OTHERS:
        return f"left out as no images: {', '.join(map(str, files))}"
    counts = Counter(path.suffix.lower() or "no suffix" for path in files)
    kinds = [f"{count} {suffix}" for suffix, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    return f"left out as no images: {', '.join(kinds[:SHOWN_OTHERS])}{', ...' if len(kinds) > SHOWN_OTHERS else ''}"


def images_in(folder: Path) -> list[Path]:
    """Returns the images in a folder and its sub-folders, sorted by path; see :func:`files_in`."""
    return files_in(folder, SUFFIXES)


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Returns the files of some suffixes (in lower case, with the dot) in a folder and its sub-folders, sorted by path.

    Which are visible, :func:`visible_files` says.
    """
    return sorted(path for path in visible_files(folder) if path.suffix.lower() in suffixes)
