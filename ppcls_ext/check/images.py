"""Faults of single images: unreadable, empty of content, too small, of odd shape, or stored in an unusual form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from ppcls_ext.check.examine import Mark
from ppcls_ext.check.findings import PART_WORDS, Entry, Finding, Picture, Severity, by_part
from ppcls_ext.check.scan import Scan

# Long side over short side above which a square crop shows less than a quarter of the picture.
EXTREME_ASPECT = 4.0
FORMS = {
    Mark.ROTATED: ("exif_rotated", "that EXIF data turn upright (the trainer does so too)"),
    Mark.CMYK: ("cmyk", "in CMYK, converted to RGB"),
    Mark.DEEP: ("sixteen_bit", "of 16 bits, of which the upper 8 are used"),
    Mark.PALETTE: ("palette", "with a palette, converted to RGB"),
    Mark.TRANSPARENT: ("transparent", "with transparency, laid on white"),
}


class WantedSize(NamedTuple):
    """What the operators of a set make of an image: its size, and whether a smaller one cannot be used at all."""

    width: int
    height: int
    strict: bool


def find_image_faults(scan: Scan, wanted: Mapping[str, WantedSize] | None = None) -> list[Finding]:
    """Finds faults of single images.

    Args:
        scan: the records.
        wanted: for each set the size that its operators lead to; smaller images are found. Left out: any size will do.
    """
    return [
        *_unreadable(scan),
        _finding(scan, "black_image", Severity.WARNING, Mark.BLACK, "all black"),
        _finding(scan, "constant_image", Severity.WARNING, Mark.CONSTANT, "of a single colour"),
        *_small_images(scan, wanted or {}),
        _extreme_aspects(scan),
        *(_finding(scan, kind, Severity.INFORMATION, mark, words) for mark, (kind, words) in FORMS.items()),
    ]


def _unreadable(scan: Scan) -> list[Finding]:
    missing, corrupt = [], []
    for picture in _marked(scan, Mark.UNREADABLE):
        (missing if picture in scan.missing else corrupt).append(picture)
    return [
        Finding(
            "missing_image",
            Severity.ERROR,
            f"{by_part(missing)} whose file does not exist",
            [Entry((picture,)) for picture in missing],
        ),
        Finding(
            "corrupt_image",
            Severity.ERROR,
            f"{by_part(corrupt)} that cannot be read",
            [Entry((picture,), scan.causes[picture]) for picture in corrupt],
        ),
    ]


def _marked(scan: Scan, mark: Mark) -> Iterable[Picture]:
    for part in scan.records:
        for index in scan.marked(part, mark).tolist():
            yield Picture(part, index)


def _finding(scan: Scan, kind: str, severity: Severity, mark: Mark, words: str) -> Finding:
    pictures = list(_marked(scan, mark))
    return Finding(kind, severity, f"{by_part(pictures)} {words}", [Entry((picture,)) for picture in pictures])


def _sizes(scan: Scan, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns number, width and height of the readable images of a set, each ``int64`` ``[n]``."""
    readable = scan.readable(part)
    records = scan.records[part][readable]
    return readable, records["width"].astype(np.int64), records["height"].astype(np.int64)


def _small_images(scan: Scan, wanted: Mapping[str, WantedSize]) -> list[Finding]:
    findings = []
    for part, size in wanted.items():
        indices, width, height = _sizes(scan, part)
        small = np.flatnonzero((width < size.width) | (height < size.height))
        small = small[np.argsort((width * height)[small], kind="stable")]
        entries = [Entry((Picture(part, int(indices[row])),), f"{width[row]}x{height[row]}") for row in small]
        what = "too small for the crop" if size.strict else "enlarged by the operators"
        summary = f"{by_part(entry.pictures[0] for entry in entries)} smaller than {size.width}x{size.height}, {what}"
        severity = Severity.ERROR if size.strict else Severity.WARNING
        findings.append(Finding(f"small_image_{PART_WORDS[part]}", severity, summary, entries))
    return findings


def _extreme_aspects(scan: Scan) -> Finding:
    found: list[tuple[float, Entry]] = []
    for part in scan.records:
        indices, width, height = _sizes(scan, part)
        aspect = np.maximum(width, height) / np.minimum(width, height)
        for row in np.flatnonzero(aspect > EXTREME_ASPECT).tolist():
            found.append((-aspect[row], Entry((Picture(part, int(indices[row])),), f"{width[row]}x{height[row]}")))
    entries = [entry for _, entry in sorted(found, key=lambda pair: pair[0])]
    summary = f"{by_part(entry.pictures[0] for entry in entries)} more than {EXTREME_ASPECT:g} times as long as wide"
    return Finding("extreme_aspect", Severity.WARNING, summary, entries)
