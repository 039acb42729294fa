"""Splits: by lists of names, as the source is split, or by a seed with near-identical frames on one side.

The seeded split is a search of our own: scikit-learn's ``StratifiedGroupKFold`` stratifies by one label a frame, while
a frame shows boxes of several classes, and gives shares of 1/k only; and a seed must go on giving the split that
measured figures stand on.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from detection.annotations import Frame, Ledger
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.names import Named, meanings
from ppcls_ext.utils.texts import read_text

Parts = dict[str, list[Frame]]


def split_by_lists(frames: Sequence[Frame], lists: dict[str, Path], absent: set[str], ledger: Ledger) -> Parts:
    """Splits by files that list names: base names with or without suffix, or paths below the source folder; what
    follows white space on a line (labels) is left out. ``absent`` are frames that were rejected before, so that a list
    may name them.

    Raises:
        UserError: a list holds no text or no name, a frame is in two lists, or training or validation would be empty.
    """

    def keys_of(name: str) -> set[str]:
        """Returns the ways to name a frame in a list: path or base name, with or without suffix."""
        path = PurePosixPath(name)
        return {name, path.with_suffix("").as_posix(), path.name, path.stem}

    frame_of, absent_of = Named(frames, lambda frame: keys_of(frame.name)), Named(absent, keys_of)
    placed: dict[str, str] = {}
    parts: Parts = {part: [] for part in lists}
    for part, path in lists.items():
        names = [line.strip() for line in read_text(path).split("\n") if line.strip()]
        if not names:
            raise UserError(f"{path}: holds no names")
        for name in names:
            # Also without a label behind it.
            stated = [*meanings(name), *meanings(name.split()[0])]
            found = frame_of.find(*stated)
            before = placed.get(found[0].name) if found else None
            if len(found) > 1:
                files = ", ".join(frame.name for frame in found[:3])
                raise UserError(f"{path}: {name} means several frames ({files}); list their paths")
            if not found and not absent_of.find(*stated):
                reason = f"lists {name}, which is no annotated frame of the source"
                ledger.reject("listed_but_missing", path.name, reason)
            elif before == part:
                ledger.note("listed_twice", path.name, f"lists {name} twice")
            elif before is not None:
                raise UserError(f"{path}: {name} is also listed for {before}; a frame belongs to one part")
            elif found:
                if not keys_of(found[0].name).intersection((name, name.split()[0], name.removeprefix("./"))):
                    ledger.note("listed_in_other_spelling", path.name, f"lists {name}, taken for {found[0].name}")
                placed[found[0].name] = part
                parts[part].append(found[0])
        # Of test sets, annotations are often kept back.
        if not parts[part] and part != "test":
            raise UserError(f"{path}: none of its names is a usable frame, so {part} would be empty")
    for frame in frames:
        if frame.name not in placed:
            ledger.leave_out(frame, "in_no_list", "no split file lists it")
    return {part: members for part, members in parts.items() if members}


def split_by_source(frames: Sequence[Frame], ledger: Ledger) -> Parts:
    """Splits as the source itself does (``Frame.part``); frames of no part are left out and listed."""
    for frame in frames:
        if frame.part is None:
            ledger.leave_out(frame, "in_no_part", "the source puts it in no part")
    parts = {part: [frame for frame in frames if frame.part == part] for part in ("train", "val", "test")}
    return {part: members for part, members in parts.items() if members}


def split_by_seed(frames: Sequence[Frame], classes: int, fraction: float, seed: int) -> tuple[Parts, dict[str, Any]]:
    """Splits groups of near-identical frames, so that no frame of validation looks like one of training; ``fraction``
    is the wanted share of validation, above 0 and below 1.

    Returns:
        The parts, and how they were made, for ``split.json``.

    Raises:
        UserError: all frames look the same.
    """
    groups, threshold, counts = _scenes(frames, classes)
    number = len(counts)
    if number < 2:
        raise UserError(f"all {len(frames)} frames look nearly the same, so they cannot be split; give --split-files")
    chosen = choose_validation(counts, fraction, seed)[groups]
    parts: Parts = {"train": [], "val": []}
    for frame, validation in zip(frames, chosen.tolist(), strict=True):
        parts["val" if validation else "train"].append(frame)
    method = {
        "method": "seed",
        "seed": seed,
        "val_fraction": fraction,
        "groups": number,
        "largest_group": int(np.bincount(groups).max()),
        "alike_from": threshold,
        "group_of": {frame.name: group for frame, group in zip(frames, groups.tolist(), strict=True)},
    }
    return parts, method


def nested_subsets(frames: Sequence[Frame], classes: int, percents: Collection[int], seed: int) -> Parts:
    """Chooses whole groups of near-identical frames so that each subset holds about its percentage of the frames and of
    each class, and lies within the next larger one: what fewer labels are worth is measured on such subsets.

    Returns:
        ``train_P`` for each percentage ``P``, the smallest first.

    Raises:
        UserError: the frames come in fewer groups than there are subsets to tell apart.
    """
    subsets: Parts = {}
    if not percents:
        return subsets
    groups, _, counts = _scenes(frames, classes)
    chosen, share = np.zeros(len(counts), dtype=bool), 0
    # The smallest first: it is the one that can hardly hold every class.
    for percent in sorted(percents):
        rest = np.flatnonzero(~chosen)
        if len(rest) < 2:
            raise UserError(f"--subsets {percent}: {len(counts)} groups of frames that look alike are too few for it")
        chosen[rest[choose_validation(counts[rest], (percent - share) / (100 - share), seed)]] = True
        share = percent
        kept = chosen[groups].tolist()
        subsets[f"train_{percent}"] = [frame for frame, keep in zip(frames, kept, strict=True) if keep]
    return subsets


def _scenes(frames: Sequence[Frame], classes: int) -> tuple[np.ndarray, float, np.ndarray]:
    """Returns the group of each frame ``[N]``, the correlation that counts as alike, and the frames and boxes of each
    class in each group ``[G, 1 + K]``."""
    groups, threshold = group_frames(np.stack([frame.look for frame in frames]), _tiles_of_one_picture(frames))
    counts = np.zeros((int(groups.max()) + 1, 1 + classes), dtype=np.int64)
    for frame, group in zip(frames, groups.tolist(), strict=True):
        np.add.at(counts[group], [0, *(1 + box.category for box in frame.boxes)], 1)
    return groups, threshold, counts


# Groups of frames that look nearly the same

LOOK_SIDE = 32
# Correlation of two looks from which frames belong together. Neighbouring frames of a sonar sequence have 0.99 and
# more; where nearly all frames are that alike (a fixed scene), the next threshold is tried.
THRESHOLDS = (0.98, 0.99, 0.995, 0.998)
# A group may hold this share of all frames before the threshold rises.
LARGEST_SHARE = 0.25
BLOCK = 1024


def look_of(pixels: np.ndarray) -> np.ndarray:
    """Returns a small grey version with mean 0 and norm 1, ``float32`` ``[1024]``; dark frames are as good as bright.

    Args:
        pixels: ``uint8`` RGB ``[H, W, 3]``. Sonar frames may carry the echo in one channel: the brightest counts.
    """
    red, green, blue = cv2.split(pixels)
    grey = cv2.max(cv2.max(red, green), blue).astype(np.float32)
    small = cv2.resize(grey, (LOOK_SIDE, LOOK_SIDE), interpolation=cv2.INTER_AREA).ravel()
    small -= small.mean()
    return small / max(float(np.linalg.norm(small)), 1e-6)


def _tiles_of_one_picture(frames: Sequence[Frame]) -> list[tuple[int, int]]:
    """Returns pairs of frames, by number, that were cut from one picture (``prepare_data.py tile``)."""
    first: dict[str, int] = {}
    names = [str(frame.metadata.get("tile_of", number)) for number, frame in enumerate(frames)]
    return [(first.setdefault(name, number), number) for number, name in enumerate(names)]


def group_frames(looks: np.ndarray, together: Sequence[tuple[int, int]] = ()) -> tuple[np.ndarray, float]:
    """Puts frames that look nearly the same into one group, with all that look like any of them.

    Args:
        looks: ``float32`` ``[N, 1024]`` of :func:`look_of`.
        together: pairs of frames, by number, that belong to one group whatever they look like.

    Returns:
        The group of each, ``int64`` ``[N]``, numbered in the order of first frames, and the correlation that counts as
        alike.
    """
    for threshold in THRESHOLDS:
        groups = _joined(np.arange(len(looks)), *np.array(together, np.int64).reshape(-1, 2).T)
        # Block by block: of frames that are all alike, the pairs would not fit into memory.
        for start in range(0, len(looks), BLOCK):
            for other in range(start, len(looks), BLOCK):
                alike = looks[start : start + BLOCK] @ looks[other : other + BLOCK].T >= threshold
                first, second = np.nonzero(alike)
                groups = _joined(groups, first + start, second + other)
        if np.bincount(groups).max() <= max(LARGEST_SHARE * len(looks), 1):
            break
    return groups, threshold


def _joined(groups: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the group of each frame, ``int64`` ``[N]``, when those of each pair of frames, ``[P]`` and ``[P]``, are
    one; numbered in the order of first frames."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    first, second = groups[first], groups[second]
    apart = first != second
    if not apart.any():
        return groups
    edges = np.ones(apart.sum(), dtype=bool), (first[apart], second[apart])
    _, components = connected_components(coo_matrix(edges, shape=(len(groups), len(groups))), directed=False)
    _, firsts, inverse = np.unique(components[groups], return_index=True, return_inverse=True)
    return np.argsort(np.argsort(firsts))[inverse].astype(np.int64)


def alike_across(first: np.ndarray, second: np.ndarray) -> int:
    """Counts the looks of ``second``, ``[M, 1024]``, that are nearly the same as any of ``first``, ``[N, 1024]``."""
    if not len(first):
        return 0
    best = [(second[start : start + BLOCK] @ first.T).max(axis=1) for start in range(0, len(second), BLOCK)]
    return int(sum((values >= THRESHOLDS[0]).sum() for values in best))


# The choice of groups for validation

# Starts of the search; the best end counts.
STARTS = 8
MOST_STEPS = 20_000


def choose_validation(counts: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Chooses groups so that validation holds ``fraction`` of the frames and, as far as possible, of each class.

    From several random starts one group at a time changes sides, always the one that helps most, until none helps.

    Args:
        counts: ``int64`` ``[G, 1 + K]``: for each group its frames and its boxes of each class.

    Returns:
        ``bool`` ``[G]``: true for validation. Neither side is empty if there are at least two groups.
    """
    generator = np.random.default_rng(seed)
    used = counts[:, counts.sum(axis=0) > 0].astype(np.float64)
    best, best_cost = None, np.inf
    for _ in range(STARTS):
        chosen = generator.random(len(counts)) < fraction
        cost = float(_cost(used[chosen].sum(axis=0)[None], used, fraction)[0])
        for _ in range(MOST_STEPS):
            signs = np.where(chosen, -1.0, 1.0)[:, None]
            costs = _cost(used[chosen].sum(axis=0) + signs * used, used, fraction)
            step = int(costs.argmin())
            if costs[step] >= cost - 1e-12:
                break
            chosen[step] = not chosen[step]
            cost = float(costs[step])
        if cost < best_cost - 1e-12:
            best, best_cost = chosen, cost
    return best


def _cost(held: np.ndarray, counts: np.ndarray, fraction: float) -> np.ndarray:
    """Returns how far from wanted validation sets are that hold ``held`` ``[S, C]`` frames and boxes: ``[S]``."""
    total = counts.sum(axis=0)
    squares = (held / total - fraction) ** 2
    # The share of frames weighs as much as all classes together.
    cost = squares[:, 1:].sum(axis=1) + max(counts.shape[1] - 1, 1) * squares[:, 0]
    # A class that one side lacks although it comes in two groups costs more than any imbalance.
    divisible = (counts > 0).sum(axis=0) > 1
    lacking = ((held == 0) | (held == total)) & divisible
    return cost + lacking.sum(axis=1)
