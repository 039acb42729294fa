"""Finds images with the same pixels, and images that look nearly the same, within a set and across the sets.

The pairs of alike hashes are found by bands, in time proportional to the number of images. A library's search by
Hamming distance (faiss ``IndexBinaryFlat``) compares all pairs, which takes hours for the 1.28 million images of
ImageNet, and is no package that a check needs otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from ppcls_ext.check.findings import PART_WORDS, Findings, Picture
from ppcls_ext.check.images import LOOK_SIDE, Scan

# Correlation of two small grey versions from which pictures count as nearly the same. Where the hash finds a relative
# for many of the images (scanned digits, sonar frames), all of them look alike and only closer pairs mean anything.
ALIKE = 0.95
ALIKE_AMONG_RELATIVES = 0.99
MANY_RELATIVES = 0.3
# Pairs that are correlated at a time.
CHUNK = 10_000


def groups_of_copies(scan: Scan) -> list[list[Picture]]:
    """Returns the readable images in groups with the same decoded pixels, whatever their files.

    Groups come in the order of their first images, training images before validation images. Black and one-coloured
    images are left out, for they are all alike.
    """
    groups: dict[bytes, list[Picture]] = {}
    for part, records in scan.records.items():
        for index, pixels in enumerate(records["pixels"].tolist()):
            if pixels:
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
    found: Findings,
    remark: Callable[[Picture, Picture], str] = lambda first, second: "",
) -> None:
    """Finds images that look nearly the same: resized, recompressed, brightened copies, neighbouring video frames.

    Candidates come from the perceptual hashes; their small grey versions are then compared.

    Args:
        groups: from :func:`groups_of_copies`; of images with the same pixels the first speaks for all.
        scan, found: the records; takes the faults.
        remark: what a person must know first of two alike pictures, such as that their labels differ; else the empty
            text. Pairs with a remark come first.
    """
    pictures = [group[0] for group in groups]
    looks = [scan.records[part]["look"][index] for part, index in pictures]
    pairs = near_pairs(np.array([difference_hash(look) for look in looks], np.uint64))
    related = np.unique(pairs)
    threshold = ALIKE_AMONG_RELATIVES if len(related) > MANY_RELATIVES * len(pictures) else ALIKE
    patterns = np.array([looks[number] for number in related], np.uint8).reshape(len(related), LOOK_SIDE**2)

    def normalised(rows: np.ndarray) -> np.ndarray:
        # Of a chunk at a time: all of ImageNet's as float32 would be 5 GB.
        values = patterns[rows].astype(np.float32)
        values -= values.mean(axis=1, keepdims=True)
        return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)

    alike = np.zeros(len(pairs))
    for start in range(0, len(pairs), CHUNK):
        one, other = np.searchsorted(related, pairs[start : start + CHUNK]).T
        alike[start : start + CHUNK] = (normalised(one) * normalised(other)).sum(axis=1)
    # Each image beside its nearest relative in each set: the nearest comes last and stays.
    order = np.argsort(alike, kind="stable")[(alike < threshold).sum() :]
    nearest = {(copy, pictures[original].part): original for original, copy in pairs[order].tolist()}
    entries = [(pictures[copy], pictures[original]) for (copy, _), original in sorted(nearest.items())]
    noted = [(remark(original, copy), copy, original) for copy, original in entries]
    for note, copy, original in sorted(noted, key=lambda entry: not entry[0]):
        where = PART_WORDS[copy.part] if copy.part == original.part else "across"
        found.add(f"near_duplicate_{where}", copy, original, note=note)


# Pairs of alike hashes

BITS = 64
BANDS = 4
BAND_BITS = BITS // BANDS
# Hashes that differ in at most this many bits agree in at least one of the bands whole.
LARGEST_DISTANCE = BANDS - 1
# In a crowded band (many pictures of a flat sky) each hash is compared with so many after it in sorted order only, so
# that time and memory stay proportional to the number of images.
NEIGHBOURS = 100


def difference_hash(look: np.ndarray) -> int:
    """Returns 64 bits that resized, recompressed and brightened copies of a picture (nearly) share.

    The small grey version is reduced to 9 x 8 values; each bit tells whether a value is above its left neighbour
    (N. Krawetz, "Kind of like that", 2013).
    """
    grey = cv2.resize(look, (9, 8), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def count_bits(words: np.ndarray) -> np.ndarray:
    """Returns the number of ones in each ``uint64``, ``[N]``."""
    return np.unpackbits(np.ascontiguousarray(words).view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1)


def near_pairs(hashes: np.ndarray) -> np.ndarray:
    """Finds hashes (``uint64`` ``[N]``) that differ in at most :data:`LARGEST_DISTANCE` bits.

    Returns the pairs, ``int64`` ``[P, 2]`` with the smaller number first, each once and sorted.
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
    return np.stack(np.divmod(codes, max(len(hashes), 1)), axis=1)
