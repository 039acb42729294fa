"""Finds images with the same pixels, and images that look nearly the same, within a set and across the sets.

The pairs of alike hashes are found by bands, in time proportional to the number of images. A library's search by
Hamming distance (faiss ``IndexBinaryFlat``) compares all pairs, which takes hours for the 1.28 million images of
ImageNet, and is no package that a check needs otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from ppcls_ext.check.findings import PART_WORDS, Findings, Picture
from ppcls_ext.check.images import Mark, PictureSet, Scan, in_threads, load_pixels, reduced_grey
from ppcls_ext.preprocess.decode import ImageError

# A picture of which the hash finds more relatives than these is compared with the nearest only.
MOST_RELATIVES = 3
COMPARED_SIDE = 32
# Correlation of two reduced grey pictures from which they count as nearly the same. Where the hash finds a relative for
# many of the images (scanned digits, sonar frames), all of them look alike and only closer pairs mean anything.
ALIKE = 0.95
ALIKE_AMONG_RELATIVES = 0.99
MANY_RELATIVES = 0.3
# Comparisons that a thread makes at a time.
CHUNK = 64


def groups_of_copies(scan: Scan) -> list[list[Picture]]:
    """Returns the readable images in groups with the same decoded pixels, whatever their files.

    Groups come in the order of their first images, training images before validation images. Black and one-coloured
    images are left out, for they are all alike.
    """
    blank = Mark.BLACK | Mark.CONSTANT | Mark.UNREADABLE | Mark.NOT_READ
    groups: dict[tuple[int, int], list[Picture]] = {}
    for part in (part for part in PART_WORDS if part in scan.records):
        records = scan.records[part]
        rows = np.flatnonzero((records["marks"] & blank) == 0)
        for index, pixels in zip(rows.tolist(), records[["pixels_low", "pixels_high"]][rows].tolist(), strict=True):
            groups.setdefault(pixels, []).append(Picture(part, index))
    return list(groups.values())


def find_exact_duplicates(groups: Sequence[Sequence[Picture]], found: Findings) -> None:
    """Finds copies within a set and across the sets (``DUPLICATE_KINDS``) in what :func:`groups_of_copies` returns."""
    for pictures in groups:
        for part, word in PART_WORDS.items():
            same_set = [picture for picture in pictures if picture.part == part]
            for copy in same_set[1:]:
                found.add(f"duplicate_{word}", copy, same_set[0])
            if part != pictures[0].part:
                for copy in same_set:
                    found.add("duplicate_across", copy, pictures[0])


def find_near_duplicates(
    groups: Sequence[Sequence[Picture]],
    scan: Scan,
    threads: int,
    found: Findings,
    remark: Callable[[Picture, Picture], str] = lambda first, second: "",
) -> None:
    """Finds images that look nearly the same: resized, recompressed, brightened copies, neighbouring video frames.

    Candidates come from the perceptual hashes; their pixels are then compared.

    Args:
        groups: from :func:`groups_of_copies`; of images with the same pixels the first speaks for all.
        scan, threads, found: the records; how many threads read the candidates again; takes the faults.
        remark: what a person must know first of two alike pictures, such as that their labels differ; else the empty
            text. Pairs with a remark come first.
    """
    pictures = [group[0] for group in groups]
    looks = np.array([scan.records[part]["perceptual_hash"][index] for part, index in pictures], dtype=np.uint64)
    of_training = np.array([picture.part == "Train" for picture in pictures], dtype=bool)
    pairs, distances = near_pairs(looks)
    related = len(np.unique(pairs)) / max(len(pictures), 1)
    threshold = ALIKE_AMONG_RELATIVES if related > MANY_RELATIVES else ALIKE
    first, second = of_training[pairs].T
    compared = [
        (pictures[one], pictures[other])
        for wanted in (first & second, first & ~second, ~first & ~second)
        for one, other in _nearest(pairs[wanted], distances[wanted]).tolist()
    ]
    chunks = [compared[start : start + CHUNK] for start in range(0, len(compared), CHUNK)]
    # Each image beside its nearest relative in each set.
    best: dict[tuple[str, Picture], tuple[float, Picture]] = {}
    alike = np.concatenate([np.empty(0), *in_threads(partial(_correlations, scan.datasets), chunks, threads)])
    for value, (original, copy) in zip(alike.tolist(), compared, strict=True):
        if value >= threshold and value > best.get((original.part, copy), (0.0,))[0]:
            best[original.part, copy] = (value, original)
    entries = [(remark(original, copy), copy, original) for (_, copy), (_, original) in best.items()]
    for note, copy, original in sorted(entries, key=lambda entry: not entry[0]):
        where = PART_WORDS[copy.part] if copy.part == original.part else "across"
        found.add(f"near_duplicate_{where}", copy, original, note=note)


def _nearest(pairs: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Keeps for the second image of each pair only its nearest relatives, so that their number grows with N only."""
    order = np.lexsort((pairs[:, 0], distances, pairs[:, 1]))
    pairs = pairs[order]
    _, starts, counts = np.unique(pairs[:, 1], return_index=True, return_counts=True)
    rank = np.arange(len(pairs)) - np.repeat(starts, counts)
    return pairs[rank < MOST_RELATIVES]


def _correlations(datasets: Mapping[str, PictureSet], compared: list[tuple[Picture, Picture]]) -> np.ndarray:
    """Returns the correlation of each pair, ``float64`` ``[n]``; 0 for what cannot be read."""
    reduced = {}
    for picture in {picture for pair in compared for picture in pair}:
        try:
            pixels = load_pixels(datasets[picture.part], picture.index)
        except ImageError:  # It was readable a moment ago; somebody works on the folder.
            reduced[picture] = np.zeros(COMPARED_SIDE**2)
            continue
        small = reduced_grey(pixels, COMPARED_SIDE, COMPARED_SIDE).ravel().astype(np.float64)
        small -= small.mean()
        reduced[picture] = small / max(float(np.linalg.norm(small)), 1e-9)
    return np.array([(reduced[first] * reduced[second]).sum() for first, second in compared])


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
    """Finds hashes (``uint64`` ``[N]``) that differ in at most :data:`LARGEST_DISTANCE` bits.

    Returns:
        The pairs, ``int64`` ``[P, 2]`` with the smaller number first, each once and sorted, and their distances.
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
