"""The same picture twice, whether to the last pixel or nearly, within a set or across the sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ppcls_ext.check.examine import Mark, reduced_grey
from ppcls_ext.check.findings import PART_WORDS, Entry, Finding, Picture, Severity, by_part
from ppcls_ext.check.near_duplicates import near_pairs
from ppcls_ext.check.scan import Scan
from ppcls_ext.check.workers import Workers, dataset_of
from ppcls_ext.preprocess.decode import ImageError, decode_image

# A picture of which the hash finds more relatives than these is compared with the nearest only.
MOST_RELATIVES = 3
COMPARED_SIDE = 32
# Correlation of two reduced grey pictures from which they count as nearly the same. Where the hash finds a relative for
# many of the images (scanned digits, sonar frames), all of them look alike and only closer pairs mean anything.
ALIKE = 0.95
ALIKE_AMONG_RELATIVES = 0.99
MANY_RELATIVES = 0.3
CHUNK = 32
# Comparisons for which the reduced pictures (1 kB each) are in memory at the same time.
BLOCK = 100_000
ROWS = 4096

# Says of two alike pictures what a person must know first, such as that their labels differ; else the empty text.
Remark = Callable[[Picture, Picture], str]


@dataclasses.dataclass
class _Table:
    """The comparable images of all sets, one row each, training before validation.

    Attributes:
        parts, indices: where the image stands, ``[N]``.
        groups: rows with the same pixels have the same number, ``int64`` ``[N]``.
        looks: perceptual hashes, ``uint64`` ``[N]``.
    """

    parts: np.ndarray
    indices: np.ndarray
    groups: np.ndarray
    looks: np.ndarray

    def picture(self, row: int) -> Picture:
        return Picture(str(self.parts[row]), int(self.indices[row]))


class _Comparison(NamedTuple):
    first: Picture
    second: Picture


def groups_of_copies(scan: Scan) -> list[list[Picture]]:
    """Returns the images that have the same decoded pixels, whatever their files, in groups of two or more."""
    table = _comparable(scan)
    return [[table.picture(row) for row in rows] for rows in _groups_of_several(table.groups)]


def find_exact_duplicates(copies: Sequence[Sequence[Picture]]) -> list[Finding]:
    """Sorts copies into those within a set and those across the sets.

    Args:
        copies: from :func:`groups_of_copies`.
    """
    within: dict[str, list[Entry]] = {part: [] for part in PART_WORDS}
    across: list[Entry] = []
    for pictures in copies:
        for part, entries in within.items():
            same_set = [picture for picture in pictures if picture.part == part]
            entries.extend(Entry((copy, same_set[0])) for copy in same_set[1:])
        if pictures[0].part != pictures[-1].part:
            across.extend(Entry((copy, pictures[0])) for copy in pictures if copy.part != pictures[0].part)
    summary = f"{by_part(entry.pictures[0] for entry in across)} that the training set holds too (same pixels)"
    findings = [Finding("duplicate_across", Severity.WARNING, summary, across)]
    for part, entries in within.items():
        summary = f"{by_part(entry.pictures[0] for entry in entries)} that the same set holds already (same pixels)"
        findings.append(Finding(f"duplicate_{PART_WORDS[part]}", Severity.WARNING, summary, entries))
    return findings


def find_near_duplicates(scan: Scan, workers: Workers, remark: Remark = lambda first, second: "") -> list[Finding]:
    """Finds images that look nearly the same: resized, recompressed, brightened copies, neighbouring video frames.

    Candidates come from the perceptual hashes; their pixels are then compared.

    Args:
        scan: the records.
        workers: processes that read the candidates again.
        remark: what to say of a pair; pairs with a remark come first.
    """
    table = _comparable(scan)
    # Of images with the same pixels the first speaks for all.
    _, representatives = np.unique(table.groups, return_index=True)
    representatives.sort()
    pairs, distances = near_pairs(table.looks[representatives])
    pairs = representatives[pairs]
    threshold = _threshold(pairs, len(representatives))
    of_training = table.parts[pairs] == "Train"
    comparisons = [
        _Comparison(table.picture(first), table.picture(second))
        for wanted in (of_training.all(axis=1), of_training[:, 0] & ~of_training[:, 1], ~of_training.any(axis=1))
        for first, second in _nearest(pairs[wanted], distances[wanted]).tolist()
    ]
    blocks = [comparisons[start : start + BLOCK] for start in range(0, len(comparisons), BLOCK)]
    alike = np.concatenate([np.empty(0), *(_compare(block, workers) for block in blocks)])
    best: dict[tuple[str, Picture], tuple[float, _Comparison]] = {}
    for value, comparison in zip(alike.tolist(), comparisons, strict=True):
        key = (comparison.first.part, comparison.second)
        if value >= threshold and value > best.get(key, (0.0,))[0]:
            best[key] = (value, comparison)
    return _near_findings([comparison for _, comparison in best.values()], remark)


def _near_findings(comparisons: list[_Comparison], remark: Remark) -> list[Finding]:
    """Sorts the pairs into those across and those within a set."""
    entries: dict[tuple[str, str], list[Entry]] = {}
    for first, second in comparisons:
        entry = Entry((second, first), remark(first, second))
        entries.setdefault((first.part, second.part), []).append(entry)
    findings = []
    for parts, kind, severity, words in (
        (("Train", "Eval"), "across", Severity.WARNING, "a training image"),
        (("Train", "Train"), "training", Severity.INFORMATION, "another training image"),
        (("Eval", "Eval"), "validation", Severity.INFORMATION, "another validation image"),
    ):
        found = sorted(entries.get(parts, []), key=lambda entry: not entry.note)
        summary = f"{by_part(entry.pictures[0] for entry in found)} nearly the same as {words}"
        findings.append(Finding(f"near_duplicate_{kind}", severity, summary, found))
    return findings


def _comparable(scan: Scan) -> _Table:
    """Gathers the images that were read; black and one-coloured ones are left out, for they are all alike."""
    parts = [part for part in PART_WORDS if part in scan.records]
    blank = Mark.BLACK | Mark.CONSTANT | Mark.UNREADABLE | Mark.UNSEEN
    rows = {part: np.flatnonzero((scan.records[part]["marks"] & blank) == 0) for part in parts}
    records = np.concatenate([scan.records[part][rows[part]] for part in parts])
    order = np.lexsort((records["pixels_low"], records["pixels_high"]))
    ordered = records[["pixels_low", "pixels_high"]][order]
    groups = np.empty(len(records), dtype=np.int64)
    groups[order] = np.cumsum(np.concatenate([[False], ordered[1:] != ordered[:-1]])[: len(records)])
    return _Table(
        parts=np.concatenate([np.full(len(rows[part]), part, dtype="U5") for part in parts]),
        indices=np.concatenate([rows[part] for part in parts]),
        groups=groups,
        looks=records["look"],
    )


def _groups_of_several(groups: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the rows of each group with two or more members, each rising, groups in the order of their first row."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], groups[order][1:] != groups[order][:-1]])[: len(order)])
    several = [rows for rows in np.split(order, starts[1:]) if len(rows) > 1]
    yield from sorted(several, key=lambda rows: int(rows[0]))


def _threshold(pairs: np.ndarray, images: int) -> float:
    related = len(np.unique(pairs)) / max(images, 1)
    return ALIKE_AMONG_RELATIVES if related > MANY_RELATIVES else ALIKE


def _nearest(pairs: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Keeps for the second image of each pair only its nearest relatives, so that their number grows with N only."""
    order = np.lexsort((pairs[:, 0], distances, pairs[:, 1]))
    pairs = pairs[order]
    _, starts, counts = np.unique(pairs[:, 1], return_index=True, return_counts=True)
    rank = np.arange(len(pairs)) - np.repeat(starts, counts)
    return pairs[rank < MOST_RELATIVES]


def _compare(comparisons: list[_Comparison], workers: Workers) -> np.ndarray:
    """Returns the correlation of each pair, ``float64`` ``[n]``; 0 for what cannot be read any more."""
    pictures = sorted({picture for comparison in comparisons for picture in comparison})
    chunks = [pictures[start : start + CHUNK] for start in range(0, len(pictures), CHUNK)]
    reduced = np.concatenate([np.empty((0, COMPARED_SIDE**2), dtype=np.uint8), *workers.map(_reduce_chunk, chunks)])
    row_of = {picture: row for row, picture in enumerate(pictures)}
    result = np.empty(len(comparisons))
    for start in range(0, len(comparisons), ROWS):
        some = comparisons[start : start + ROWS]
        first, second = (_normalized(reduced[[row_of[pair[side]] for pair in some]]) for side in (0, 1))
        result[start : start + len(some)] = (first * second).sum(axis=1)
    return result


def _normalized(reduced: np.ndarray) -> np.ndarray:
    """Returns rows with mean 0 and norm 1, ``float64``; rows of one value become 0."""
    rows = reduced.astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _reduce_chunk(pictures: list[Picture]) -> np.ndarray:
    """Runs in a worker: returns a small grey version of each image, ``uint8`` ``[n, 1024]``; zeros if unreadable."""
    reduced = np.zeros((len(pictures), COMPARED_SIDE**2), dtype=np.uint8)
    for row, picture in enumerate(pictures):
        dataset = dataset_of(picture.part)
        try:
            image = dataset.load(picture.index)[0]
            pixels = decode_image(image, dataset.name_of(picture.index)) if isinstance(image, bytes) else image
        except ImageError:  # It was readable a moment ago; somebody works on the folder.
            continue
        reduced[row] = reduced_grey(pixels, COMPARED_SIDE, COMPARED_SIDE).ravel()
    return reduced
