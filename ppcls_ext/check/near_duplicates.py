"""Finds pairs of alike hashes among millions without comparing all pairs."""

from __future__ import annotations

import numpy as np

BITS = 64
BANDS = 4
BAND_BITS = BITS // BANDS
# Hashes that differ in at most this many bits agree in at least one of the bands whole.
LARGEST_DISTANCE = BANDS - 1
# In a crowded band (many pictures of a flat sky) each hash is compared with so many after it in sorted order only, so
# that time and memory stay proportional to the number of images.
NEIGHBOURS = 500


def near_pairs(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds hashes that differ in at most :data:`LARGEST_DISTANCE` bits.

    Args:
        hashes: ``uint64`` ``[N]``.

    Returns:
        The pairs, ``int64`` ``[P, 2]`` with the smaller number first, each once and sorted, and their distances,
        ``int64`` ``[P]``.
    """
    # A pair as one number, which sorts many times faster than two columns.
    codes = np.empty(0, dtype=np.int64)
    for band in range(BANDS):
        rotated = _rotate(hashes, band * BAND_BITS)
        order = np.argsort(rotated, kind="stable")
        codes = np.unique(np.concatenate([codes, *_pairs_in_band(rotated[order], order)]))
    pairs = np.stack(np.divmod(codes, max(len(hashes), 1)), axis=1)
    return pairs, count_bits(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])


def _rotate(hashes: np.ndarray, bits: int) -> np.ndarray:
    """Brings another band to the front."""
    if bits == 0:
        return hashes
    return (hashes << np.uint64(bits)) | (hashes >> np.uint64(BITS - bits))


def _pairs_in_band(ordered: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    """Compares hashes whose first band agrees.

    Args:
        ordered: sorted.
        order: the numbers that they had before.

    Returns:
        The pairs, each as smaller number times the count of hashes plus larger number.
    """
    bands = ordered >> np.uint64(BITS - BAND_BITS)
    found = []
    first = np.arange(len(ordered))
    for offset in range(1, NEIGHBOURS + 1):
        first = first[first + offset < len(ordered)]
        first = first[bands[first] == bands[first + offset]]
        if not len(first):
            break
        near = first[count_bits(ordered[first] ^ ordered[first + offset]) <= LARGEST_DISTANCE]
        one, other = order[near], order[near + offset]
        found.append(np.minimum(one, other) * len(ordered) + np.maximum(one, other))
    return found


def count_bits(words: np.ndarray) -> np.ndarray:
    """Returns the number of ones in each ``uint64``, as ``int64``, by adding neighbouring fields of 1, 2 and 4 bits."""
    words = words - ((words >> np.uint64(1)) & np.uint64(0x5555555555555555))
    words = (words & np.uint64(0x3333333333333333)) + ((words >> np.uint64(2)) & np.uint64(0x3333333333333333))
    words = (words + (words >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    # The product gathers the sum of all bytes in the highest one.
    return ((words * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.int64)
