"""Splits: by lists of names, or by a seed with near-identical frames kept together and classes balanced."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from detection.prepare.balance import choose_validation
from detection.prepare.looks import group_frames
from detection.prepare.records import CleanFrame, Ledger
from ppcls_ext.utils.errors import UserError

Parts = dict[str, list[CleanFrame]]


def read_list(path: Path) -> list[str]:
    """Returns the names in a split file, one a line; what follows white space on a line (labels) is left out.

    Raises:
        UserError: the file is missing, empty or no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8") from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    names = [line.strip().replace("\\", "/") for line in text.splitlines() if line.strip()]
    if not names:
        raise UserError(f"{path}: holds no names")
    return names


def split_by_lists(frames: Sequence[CleanFrame], lists: dict[str, Path], absent: set[str], ledger: Ledger) -> Parts:
    """Splits by files that list names: base names with or without suffix, or paths below the source folder.

    Args:
        frames: all frames.
        lists: for each part its file.
        absent: names of frames that were rejected before, so that a list may still name them.
        ledger: gets names without a frame, names listed twice, and frames that no list names.

    Raises:
        UserError: a list is missing, a frame is in two lists, or a part would be empty.
    """
    by_key: dict[str, list[CleanFrame]] = defaultdict(list)
    for frame in frames:
        for key in keys_of(frame.frame.name):
            by_key[key].append(frame)
    gone = {key for name in absent for key in keys_of(name)}
    placed: dict[str, str] = {}
    parts: Parts = {part: [] for part in lists}
    for part, path in lists.items():
        for name in read_list(path):
            frame = _named(name, path, by_key, gone, ledger)
            if frame is None:
                continue
            before = placed.get(frame.frame.name)
            if before == part:
                ledger.note("listed_twice", path.name, f"lists {name} twice")
                continue
            if before is not None:
                raise UserError(f"{path}: {name} is also listed for {before}; a frame belongs to one part")
            placed[frame.frame.name] = part
            parts[part].append(frame)
    for frame in frames:
        if frame.frame.name not in placed:
            leave_out(frame, "in_no_list", "no split file lists it", ledger)
    for part, path in lists.items():
        if not parts[part]:
            raise UserError(f"{path}: none of its names is a usable frame, so {part} would be empty")
    return parts


def keys_of(name: str) -> set[str]:
    """Returns the ways to name a frame in a list: path or base name, with or without suffix."""
    path = PurePosixPath(name)
    return {name, path.with_suffix("").as_posix(), path.name, path.stem}


def _named(
    name: str, path: Path, by_key: dict[str, list[CleanFrame]], gone: set[str], ledger: Ledger
) -> CleanFrame | None:
    tried = [name, name.split()[0], name.removeprefix("./")]
    found = next((by_key[key] for key in tried if key in by_key), [])
    if len(found) > 1:
        files = ", ".join(frame.frame.name for frame in found[:3])
        raise UserError(f"{path}: {name} means several frames ({files}); list their paths")
    if not found and not any(key in gone for key in tried):
        ledger.reject("listed_but_missing", path.name, f"lists {name}, which is no annotated frame of the source")
    return found[0] if found else None


def leave_out(frame: CleanFrame, kind: str, reason: str, ledger: Ledger) -> None:
    """Leaves out a frame that was clean: its boxes, counted as kept or repaired before, become rejected."""
    ledger.images["left_out"] += 1
    ledger.withdraw(frame)
    ledger.reject(kind, frame.frame.name, reason, len(frame.boxes))


def split_by_seed(
    frames: Sequence[CleanFrame], classes: int, fraction: float, seed: int
) -> tuple[Parts, dict[str, Any]]:
    """Splits groups of near-identical frames, so that no frame of validation looks like one of training.

    Args:
        frames: all frames.
        classes: how many classes there are.
        fraction: wanted share of validation, above 0 and below 1.
        seed: chooses among splits of equal worth.

    Returns:
        The parts, and how they came about, for ``split.json``.

    Raises:
        UserError: fewer than two groups, so that there is nothing to split.
    """
    if not frames:
        raise UserError("no usable frame is left to split")
    groups, threshold = group_frames(np.stack([frame.look for frame in frames]))
    number = int(groups.max()) + 1
    if number < 2:
        raise UserError(f"all {len(frames)} frames look nearly the same, so they cannot be split; give --split-files")
    counts = np.zeros((number, 1 + classes), dtype=np.int64)
    for frame, group in zip(frames, groups.tolist(), strict=True):
        counts[group, 0] += 1
        for box in frame.boxes:
            counts[group, 1 + box.category] += 1
    validation = choose_validation(counts, fraction, seed)[groups]
    parts = {
        "train": [frame for frame, chosen in zip(frames, validation, strict=True) if not chosen],
        "val": [frame for frame, chosen in zip(frames, validation, strict=True) if chosen],
    }
    method = {
        "method": "seed",
        "seed": seed,
        "val_fraction": fraction,
        "groups": number,
        "largest_group": int(np.bincount(groups).max()),
        "alike_from": threshold,
        "group_of": {frame.frame.name: group for frame, group in zip(frames, groups.tolist(), strict=True)},
    }
    return parts, method


def split_by_source(frames: Sequence[CleanFrame], ledger: Ledger) -> Parts:
    """Splits as the source itself does (``Frame.part``); frames of no part are left out and listed."""
    parts: Parts = {}
    for part in ("train", "val", "test"):
        members = [frame for frame in frames if frame.frame.part == part]
        if members:
            parts[part] = members
    for frame in frames:
        if frame.frame.part is None:
            leave_out(frame, "in_no_part", "the source puts it in no part", ledger)
    return parts
