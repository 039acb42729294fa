"""Where an export may be written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ppcls_ext.runtime.description import DESCRIPTION_FILE
from ppcls_ext.utils.errors import UserError


def check_target(target: Path, classes: Sequence[str] | None, class_num: int) -> None:
    """Checks an export before any work.

    Args:
        target: the folder to write; an earlier export there will be replaced.
        classes: names of the classes, where they are known.
        class_num: how many classes the model tells apart.

    Raises:
        UserError: ``target`` holds something else, or the names are not as many as the classes.
    """
    if classes is not None and len(classes) != class_num:
        raise UserError(f"there are {len(classes)} class names for {class_num} classes")
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / DESCRIPTION_FILE).is_file()):
        raise UserError(f"{target}: exists and is not an export; choose another folder, nothing was written")
