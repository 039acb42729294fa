"""Finds images with the same pixels, and images that look nearly the same, within a set and across the sets.

The pairs of alike hashes are found by bands, in time proportional to the number of images. A library's search by
Hamming distance (faiss ``IndexBinaryFlat``) compares all pairs, which takes hours for the 1.28 million images of
ImageNet, and is no package that a check needs otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ppcls_ext.check.findings import PART_WORDS, Entry, Findings, Picture
from ppcls_ext.check.images import Mark, Scan, Workers, dataset_of, load_pixels, reduced_grey
from ppcls_ext.preprocess.decode import ImageError

# A picture of which the hash finds more relatives than these is compared with the nearest only.
MOST_RELATIVES = 3
COMPARED_SIDE = 32
# Correlation of two reduced grey pictures from which they count as nearly the same. Where the hash finds a relative for
# many of the images (scanned digits, sonar frames), all of them look alike and only closer pairs mean anything.
ALIKE = 0.95
ALIKE_AMONG_RELATIVES = 0.99
MANY_RELATIVES = 0.3
# Comparisons that a worker makes at a time.
CHUNK = 64

# Says of two alike pictures what a person must know first, such as that their labels differ; else the empty text.
Remark = Callable[[Picture, Picture], str]


class _Comparison(NamedTuple):
    first: Picture
    second: Picture


class _Table(NamedTuple):
    """The comparable images of all sets, one row each, training before validation.

    Attributes:
        pictures: where each image stands.
        of_training: whether it is a training image, ``bool`` ``[N]``.
        groups: rows with the same pixels have the same number, ``int64`` ``[N]``.
        looks: perceptual hashes, ``uint64`` ``[N]``.
    """

    pictures: list[Picture]
    of_training: np.ndarray
    groups: np.ndarray
    looks: np.ndarray


def _comparable(scan: Scan) -> _Table:
    """Gathers the images that were read; black and one-coloured ones are left out, for they are all alike."""
    parts = [part for part in PART_WORDS if part in scan.records]
    blank = Mark.BLACK | Mark.CONSTANT | Mark.UNREADABLE | Mark.UNSEEN
    rows = {part: np.flatnonzero((scan.records[part]["marks"] & blank) == 0) for part in parts}
    records = np.concatenate([scan.records[part][rows[part]] for part in parts])
    order = np.lexsort((records["pixels_low"], records["pixels_high"]))
    ordered = records[["pixels_low", "pixels_high"]][order]
    groups = np.empty(len(records), dtype=np.int64)
    groups[order] = np.cumsum(np.append(False, ordered[1:] != ordered[:-1])[: len(records)])
    pictures = [Picture(part, index) for part in parts for index in rows[part].tolist()]
    of_training = np.array([picture.part == "Train" for picture in pictures], dtype=bool)
    return _Table(pictures, of_training, groups, records["look"])


def groups_of_copies(scan: Scan) -> list[list[Picture]]:
    """Returns the images that have the same decoded pixels, whatever their files, in groups of two or more.

    Groups come in the order of their first images, training images before validation images.
    """
    table = _comparable(scan)
    order = np.argsort(table.groups, kind="stable")
    cuts = np.flatnonzero(np.diff(table.groups[order])) + 1
    several = [rows.tolist() for rows in np.split(order, cuts) if len(rows) > 1]
    return [[table.pictures[row] for row in rows] for rows in sorted(several)]


def find_exact_duplicates(copies: Sequence[Sequence[Picture]], found: Findings) -> None:
    """Tells of copies within a set and across the sets (``DUPLICATE_KINDS``).

    Args:
        copies: from :func:`groups_of_copies`.
        found: takes the faults.
    """
    for pictures in copies:
        for part, word in PART_WORDS.items():
            same_set = [picture for picture in pictures if picture.part == part]
            for copy in same_set[1:]:
                found.add(f"duplicate_{word}", Entry((copy, same_set[0])), part)
        for copy in pictures:
            if copy.part != pictures[0].part:
                found.add("duplicate_across", Entry((copy, pictures[0])), copy.part)


def find_near_duplicates(
    scan: Scan, workers: Workers, found: Findings, remark: Remark = lambda first, second: ""
) -> None:
    """Finds images that look nearly the same: resized, recompressed, brightened copies, neighbouring video frames.

    Candidates come from the perceptual hashes; their pixels are then compared.

    Args:
        scan: the records.
        workers: processes that read the candidates again.
        found: takes the faults (``DUPLICATE_KINDS``).
        remark: what to say of a pair; pairs with a remark come first.
    """
    table = _comparable(scan)
    # Of images with the same pixels the first speaks for all.
    _, representatives = np.unique(table.groups, return_index=True)
    representatives.sort()
    pairs, distances = near_pairs(table.looks[representatives])
    related = len(np.unique(pairs)) / max(len(representatives), 1)
    threshold = ALIKE_AMONG_RELATIVES if related > MANY_RELATIVES else ALIKE
    pairs = representatives[pairs]
    of_training = table.of_training[pairs]
    comparisons = [
        _Comparison(table.pictures[first], table.pictures[second])
        for wanted in (of_training.all(axis=1), of_training[:, 0] & ~of_training[:, 1], ~of_training.any(axis=1))
        for first, second in _nearest(pairs[wanted], distances[wanted]).tolist()
    ]
    chunks = [comparisons[start : start + CHUNK] for start in range(0, len(comparisons), CHUNK)]
    alike = np.concatenate([np.empty(0), *workers.map(_correlations, chunks)])
    best: dict[tuple[str, Picture], tuple[float, _Comparison]] = {}
    for value, comparison in zip(alike.tolist(), comparisons, strict=True):
        key = (comparison.first.part, comparison.second)
        if value >= threshold and value > best.get(key, (0.0,))[0]:
            best[key] = (value, comparison)
    entries = [Entry((second, first), remark(first, second)) for _, (first, second) in best.values()]
    for entry in sorted(entries, key=lambda entry: not entry.note):
        copy, original = entry.pictures
        where = PART_WORDS[copy.part] if copy.part == original.part else "across"
        found.add(f"near_duplicate_{where}", entry, copy.part)


def _nearest(pairs: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Keeps for the second image of each pair only its nearest relatives, so that their number grows with N only."""
    order = np.lexsort((pairs[:, 0], distances, pairs[:, 1]))
    pairs = pairs[order]
    _, starts, counts = np.unique(pairs[:, 1], return_index=True, return_counts=True)
    rank = np.arange(len(pairs)) - np.repeat(starts, counts)
    return pairs[rank < MOST_RELATIVES]


def _correlations(comparisons: list[_Comparison]) -> np.ndarray:
    """Runs in a worker: returns the correlation of each pair, ``float64`` ``[n]``; 0 for what cannot be read."""
    reduced = {}
    for picture in {picture for comparison in comparisons for picture in comparison}:
        try:
            pixels = load_pixels(dataset_of(picture.part), picture.index)
        except ImageError:  # It was readable a moment ago; somebody works on the folder.
            reduced[picture] = np.zeros(COMPARED_SIDE**2)
            continue
        small = reduced_grey(pixels, COMPARED_SIDE, COMPARED_SIDE).ravel().astype(np.float64)
        small -= small.mean()
        reduced[picture] = small / max(float(np.linalg.norm(small)), 1e-9)
    return np.array([(reduced[first] * reduced[second]).sum() for first, second in comparisons])


# Pairs of alike hashes

BITS = 64
BANDS = 4
BAND_BITS = BITS // BANDS
# Hashes that differ in at most this many bits agree in at least one of the bands whole.
LARGEST_DISTANCE = BANDS - 1
# In a crowded band (many pictures of a flat sky) each hash is compared with so many after it in sorted order only, so
# that time and memory stay proportional to the number of images.
NEIGHBOURS = 500
_ONES = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(axis=1)


def count_bits(words: np.ndarray) -> np.ndarray:
    """Returns the number of ones in each ``uint64``, as ``int64``."""
    return _ONES[np.ascontiguousarray(words).view(np.uint16).reshape(-1, 4)].sum(axis=1).astype(np.int64)


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
        # Sorted by this band first, hashes whose band agrees stand beside each other.
        shift = np.uint64(band * BAND_BITS)
        rotated = (hashes << shift) | (hashes >> np.uint64((BITS - band * BAND_BITS) % BITS))
        order = np.argsort(rotated, kind="stable")
        ordered = rotated[order]
        bands = ordered >> np.uint64(BITS - BAND_BITS)
        found = [codes]
        first = np.arange(len(ordered))
        for offset in range(1, NEIGHBOURS + 1):
            first = first[first + offset < len(ordered)]
            first = first[bands[first] == bands[first + offset]]
            if not len(first):
                break
            near = first[count_bits(ordered[first] ^ ordered[first + offset]) <= LARGEST_DISTANCE]
            one, other = order[near], order[near + offset]
            found.append(np.minimum(one, other) * len(ordered) + np.maximum(one, other))
        codes = np.unique(np.concatenate(found))
    pairs = np.stack(np.divmod(codes, max(len(hashes), 1)), axis=1)
    return pairs, count_bits(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
