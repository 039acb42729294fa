"""What a frame looks like, and groups of frames that look nearly the same."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from ppcls_ext.check.near_duplicates import near_pairs

LOOK_SIDE = 32
# Correlation of two looks from which frames belong together. Neighbouring frames of a sonar sequence have 0.99 and
# more; where nearly all frames are that alike (a fixed scene), the next threshold is tried.
THRESHOLDS = (0.98, 0.99, 0.995, 0.998)
# A group may hold this share of all frames before the threshold rises.
LARGEST_SHARE = 0.25
# Up to so many frames all pairs are compared; beyond, those only whose perceptual hashes agree.
ALL_PAIRS = 20_000
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


def hash_of(look: np.ndarray) -> int:
    """Returns the difference hash of a look, 64 bits: whether each of 9 x 8 values is above its left neighbour."""
    small = cv2.resize(look.reshape(LOOK_SIDE, LOOK_SIDE), (9, 8), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def group_frames(looks: np.ndarray) -> tuple[np.ndarray, float]:
    """Puts frames that look nearly the same into one group, with all that look like any of them.

    Args:
        looks: ``float32`` ``[N, 1024]`` of :func:`look_of`.

    Returns:
        The group of each frame, ``int64`` ``[N]``, numbered from 0 in the order of their first frames, and the
        correlation from which two frames were taken to be alike.
    """
    pairs, values = _alike_pairs(looks)
    for threshold in THRESHOLDS:
        groups = _components(pairs[values >= threshold], len(looks))
        if np.bincount(groups).max() <= max(LARGEST_SHARE * len(looks), 1):
            break
    return groups, threshold


def alike_across(first: np.ndarray, second: np.ndarray) -> int:
    """Counts the looks of ``second``, ``[M, 1024]``, that are nearly the same as any of ``first``, ``[N, 1024]``."""
    if not len(first):
        return 0
    best = [(second[start : start + BLOCK] @ first.T).max(axis=1) for start in range(0, len(second), BLOCK)]
    return int(sum((values >= THRESHOLDS[0]).sum() for values in best))


def _alike_pairs(looks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns pairs, ``int64`` ``[P, 2]``, as alike as the lowest threshold or more, and correlations ``[P]``."""
    found = list(_exact_pairs(looks) if len(looks) <= ALL_PAIRS else _hashed_pairs(looks))
    pairs = np.concatenate([np.empty((0, 2), dtype=np.int64), *(pairs for pairs, _ in found)])
    return pairs, np.concatenate([np.empty(0, dtype=np.float32), *(values for _, values in found)])


def _exact_pairs(looks: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(looks), BLOCK):
        rows = looks[start : start + BLOCK]
        for other in range(start, len(looks), BLOCK):
            values = rows @ looks[other : other + BLOCK].T
            first, second = np.nonzero(values >= THRESHOLDS[0])
            wanted = first + start < second + other
            first, second = first[wanted], second[wanted]
            yield np.stack([first + start, second + other], axis=1), values[first, second]


def _hashed_pairs(looks: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    pairs, _ = near_pairs(np.array([hash_of(look) for look in looks], dtype=np.uint64))
    for start in range(0, len(pairs), BLOCK):
        some = pairs[start : start + BLOCK]
        values = (looks[some[:, 0]] * looks[some[:, 1]]).sum(axis=1)
        alike = values >= THRESHOLDS[0]
        yield some[alike], values[alike]


def _components(pairs: np.ndarray, count: int) -> np.ndarray:
    """Returns the connected component of each of ``count`` nodes, ``int64`` ``[count]``."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for first, second in pairs.tolist():
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    roots = np.array([root(node) for node in range(count)], dtype=np.int64)
    # The smallest member is the root, so that sorted roots are in the order of the first frames.
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)
