"""Finds the COCO files of a folder and the part that each describes, and the images that they name."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.image_files import files_in

PART_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "minival"),
    "test": ("test", "testing"),
}
COCO_KEYS = ("images", "annotations", "categories")


def part_of(path: str) -> str | None:
    """Returns the part that a path names, its last component first, such as ``annotations/instances_val2017.json``."""
    for component in reversed(PurePosixPath(path).parts):
        words = re.findall(r"[a-z]+", component.lower())
        for part, names in PART_WORDS.items():
            if any(word in names for word in words):
                return part
    return None


def read_coco(path: Path) -> dict[str, Any] | None:
    """Reads a COCO file; returns ``None`` for JSON of another kind.

    Raises:
        UserError: the file is no JSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno}: no valid JSON ({error.msg}); is the file truncated?") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no valid JSON") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in COCO_KEYS):
        return None
    return content


def find_coco_files(source: Path) -> dict[Path, dict[str, Any]]:
    """Returns the COCO files below a folder with their contents, sorted by path; hidden files are left out."""
    contents = {path: read_coco(path) for path in files_in(source, {".json"})}
    return {path: content for path, content in contents.items() if content is not None}


def parts_of(source: Path, files: Iterable[Path]) -> dict[str, Path]:
    """Tells which part each COCO file describes.

    Returns:
        ``train`` and ``val``, and ``test`` if there are all three; a test file without a validation file is ``val``.
        A single file that names no part is ``all``.

    Raises:
        UserError: a file names no part, or two files are for the same part.
    """
    paths = list(files)
    if len(paths) == 1:
        return {part_of(paths[0].relative_to(source).as_posix()) or "all": paths[0]}
    parts: dict[str, Path] = {}
    for path in paths:
        name = path.relative_to(source).as_posix()
        part = part_of(name)
        if part is None:
            raise UserError(f"{path}: its name tells neither train nor val; choose with --annotations TRAIN VAL")
        if part in parts:
            other = parts[part].relative_to(source).as_posix()
            raise UserError(f"{source}: both {other} and {name} are for {part}; choose with --annotations TRAIN VAL")
        parts[part] = path
    if "test" in parts and "val" not in parts:
        parts["val"] = parts.pop("test")
    return {part: parts[part] for part in PART_WORDS if part in parts}


class ImageIndex:
    """Finds images by the names that COCO files give them.

    Only images below the source folder are ever found, whatever a name holds (``..``, an absolute path).

    Args:
        source: the source folder.
        images: the images below it.
    """

    def __init__(self, source: Path, images: Sequence[Path]) -> None:
        self._source = source
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for image in images:
            self._by_name[image.name].append(image)

    def find(self, name: str, annotation_file: Path) -> list[Path]:
        """Returns the images that a name may mean: one if it is clear.

        Of several images of that base name, those count that end in the longest part of the name, then those in a
        folder for the same part (train, val, test) as the annotation file, then those nearest to that file.
        """
        parts = PurePosixPath(name.replace("\\", "/")).parts
        found = self._by_name.get(parts[-1], []) if parts else []
        found = best(found, lambda image: _common_tail(image.relative_to(self._source).parts, parts))
        part = part_of(annotation_file.relative_to(self._source).as_posix())
        found = best(found, lambda image: part_of(image.parent.relative_to(self._source).as_posix()) == part)
        return best(found, lambda image: len(Path(os.path.commonpath([image.parent, annotation_file.parent])).parts))


def best(images: Sequence[Path], score: Callable[[Path], int]) -> list[Path]:
    """Returns the images with the highest score."""
    if len(images) < 2:
        return list(images)
    scores = [score(image) for image in images]
    return [image for image, value in zip(images, scores, strict=True) if value == max(scores)]


def _common_tail(first: Sequence[str], second: Sequence[str]) -> int:
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        count += 1
    return count
