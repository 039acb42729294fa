"""Reads every image of the data sets once, in several threads, keeps a small record of each, and finds their faults."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import io
import logging
import struct
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from PIL import Image

from ppcls_ext.check.findings import ERROR, PART_WORDS, WARNING, Findings, Kind, Picture
from ppcls_ext.preprocess import depth
from ppcls_ext.preprocess.content import FORMATS, kind_of, what_is
from ppcls_ext.preprocess.decode import ORIENTATION, ImageError, decode_image
from ppcls_ext.preprocess.samples import AnyRange, Range, deep_form
from ppcls_ext.utils.display import Display, clock

logger = logging.getLogger(__name__)

# The record of one image: a hash of its pixels, a perceptual hash, its size and a few marks, 34 bytes in all.
RECORD = np.dtype(
    [("pixels_low", "u8"), ("pixels_high", "u8"), ("perceptual_hash", "u8"), ("width", "i4"), ("height", "i4"),
     ("marks", "u2")]
)  # fmt: skip
# The brightest sample of a frame that shows nothing; a lens cap leaves some noise.
BLACK = 10
# Standard deviation of every channel below which an image is one colour; rounding in a JPEG leaves less.
ONE_COLOUR = 0.5
# Range of the grey values of a reduced picture below which rounding would take away what it shows.
FAINT = 64


class Mark(enum.IntFlag):
    """Flags of an image: not there, unreadable, without content, stored in an unusual form or under the suffix of
    another format, or not looked at."""

    UNREADABLE = enum.auto()
    BLACK = enum.auto()
    CONSTANT = enum.auto()
    ROTATED = enum.auto()
    CMYK = enum.auto()
    DEEP = enum.auto()
    PALETTE = enum.auto()
    TRANSPARENT = enum.auto()
    NOT_READ = enum.auto()
    MISSING = enum.auto()
    MISNAMED = enum.auto()


def examine(image: bytes | np.ndarray, name: str, value_range: Range | None = None) -> tuple[int, ...]:
    """Returns the fields of :data:`RECORD` for an encoded file or an ``uint8`` RGB picture ``[H, W, 3]``.

    What is made of samples of more than 8 bits follows from ``value_range``, see ``decode_image``.

    Raises:
        ImageError: the image cannot be decoded; the message begins with ``name``.
    """
    marks = Mark(0)
    if isinstance(image, bytes):
        pixels = decode_image(image, name, value_range)
        marks |= stored_form(image)
    else:
        pixels = np.ascontiguousarray(image)
    if int(pixels.max()) <= BLACK:
        marks |= Mark.BLACK
    elif float(cv2.meanStdDev(pixels)[1].max()) < ONE_COLOUR:
        marks |= Mark.CONSTANT
    height, width = pixels.shape[:2]
    digest = hashlib.blake2b(pixels, digest_size=16, key=struct.pack("<II", height, width)).digest()
    low, high = struct.unpack("<QQ", digest)
    return low, high, difference_hash(pixels), width, height, int(marks)


def difference_hash(pixels: np.ndarray) -> int:
    """Returns 64 bits that resized, recompressed and brightened copies of a picture (nearly) share.

    The picture is reduced to 9 x 8 grey values; each bit tells whether a value is above its left neighbour
    (N. Krawetz, "Kind of like that", 2013).
    """
    grey = reduced_grey(pixels, 9, 8)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def reduced_grey(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Returns a small grey version of ``uint8`` RGB; a faint one is stretched to the whole range before it is rounded.

    Without that, raw sonar frames (nearly black, one channel) would all look the same.
    """
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    if int(grey.max()) - int(grey.min()) >= FAINT:
        return grey
    means = cv2.resize(pixels.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA).sum(axis=2)
    means -= means.min()
    return np.rint(means * (255.0 / max(float(means.max()), 1e-6))).astype(np.uint8)


def stored_form(data: bytes) -> Mark:
    """Tells from the header of a file that decodes which conversions the decoder made. Reads no pixels."""
    marks = Mark(0)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as header:
            marks |= {"CMYK": Mark.CMYK, "P": Mark.PALETTE}.get(header.mode, Mark(0))
            if deep_form(header) is not None:
                marks |= Mark.DEEP
            if header.mode in ("RGBA", "LA", "PA") or "transparency" in header.info:
                marks |= Mark.TRANSPARENT
            # For a PNG without EXIF data at the front, Pillow would decode all of it to look for them at the end.
            if header.format != "PNG" or "exif" in header.info:
                orientation = header.getexif().get(ORIENTATION, 1)
                if isinstance(orientation, int) and orientation > 1:
                    marks |= Mark.ROTATED
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, EOFError, struct.error):
        pass  # OpenCV decoded it, Pillow does not even know its header: nothing to tell.
    return marks


class PictureSet(Protocol):
    """A data set as far as a check needs it: pictures by number.

    ``load`` returns the encoded file or the ``uint8`` RGB picture, and what belongs to it, or raises an ``ImageError``;
    ``name_of`` returns what a person would call the image; for ``value_range`` see ``decode_image``.
    """

    value_range: AnyRange

    def __len__(self) -> int: ...

    def load(self, index: int) -> tuple[bytes | np.ndarray, Any]: ...

    def name_of(self, index: int) -> str: ...


def load_pixels(dataset: PictureSet, index: int) -> np.ndarray:
    """Reads and decodes an image; ``uint8`` RGB ``[H, W, 3]``; ``ImageError`` if it cannot be read."""
    data = dataset.load(index)[0]
    if not isinstance(data, bytes):
        return np.ascontiguousarray(data)
    return decode_image(data, dataset.name_of(index), dataset.value_range)


def in_threads(function: Callable[[Any], Any], tasks: Sequence[Any], count: int) -> Iterator[Any]:
    """Yields ``function(task)`` in the order of the tasks, from ``count`` threads: what decodes, hashes and resizes
    pictures lets other threads run meanwhile."""
    pool = ThreadPoolExecutor(max(count, 1))
    try:
        yield from pool.map(function, tasks)
    finally:
        pool.shutdown(cancel_futures=True)


# The scan

# Images that a thread examines at a time.
CHUNK = 64
# Images between two lines in a log file; a terminal shows a bar.
LINE_EVERY = 10_000


@dataclasses.dataclass
class Scan:
    """All that was learnt from reading the images: by set, ``Train`` before ``Eval``, records ``[length]`` of
    :data:`RECORD` (images left out by a limit bear ``Mark.NOT_READ``), and why an image cannot be read, or what it
    is."""

    datasets: Mapping[str, PictureSet]
    records: dict[str, np.ndarray]
    causes: dict[Picture, str] = dataclasses.field(default_factory=dict)

    def marked(self, part: str, marks: Mark) -> list[Picture]:
        """Returns the images of a set that bear at least one of ``marks``."""
        return [Picture(part, index) for index in np.flatnonzero(self.records[part]["marks"] & marks).tolist()]

    def readable(self, part: str) -> np.ndarray:
        """Returns the numbers of the images of a set that were read, ``int64`` ``[n]``."""
        return np.flatnonzero((self.records[part]["marks"] & (Mark.UNREADABLE | Mark.NOT_READ)) == 0)

    def sizes(self, part: str) -> np.ndarray:
        """Returns width and height of the images of a set that were read, ``int64`` ``[n, 2]``."""
        records = self.records[part][self.readable(part)]
        return np.stack([records["width"], records["height"]], axis=1).astype(np.int64)

    def name_of(self, picture: Picture) -> str:
        """Returns the path of an image, or its place in the archive."""
        return self.datasets[picture.part].name_of(picture.index)


def scan_images(datasets: Mapping[str, PictureSet], chosen: Mapping[str, np.ndarray], threads: int) -> Scan:
    """Reads the images of these numbers (``int64`` ``[n]``) of each set and shows how far it is."""
    scan = Scan(datasets, {part: np.zeros(len(dataset), dtype=RECORD) for part, dataset in datasets.items()})
    for table in scan.records.values():
        table["marks"] = Mark.NOT_READ
    tasks = [
        (part, indices[start : start + CHUNK])
        for part, indices in chosen.items()
        for start in range(0, len(indices), CHUNK)
    ]
    with Display("reading images", sum(map(len, chosen.values())), every=0) as display, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd headers, without a name.
        for count in in_threads(partial(_examine_chunk, scan), tasks, threads):
            lines = display.done // LINE_EVERY
            for _ in range(count):
                display.advance()
            if display.done // LINE_EVERY > lines and not sys.stdout.isatty():
                left = clock(display.time_left())
                logger.info("read %s of %s images, %s left", f"{display.done:,}", f"{display.total:,}", left)
    return scan


def _examine_chunk(scan: Scan, task: tuple[str, np.ndarray]) -> int:
    """Examines a few dozen images of a set; returns how many."""
    part, indices = task
    dataset, records = scan.datasets[part], scan.records[part]
    for index in indices.tolist():
        name = dataset.name_of(index)
        try:
            image = dataset.load(index)[0]
            records[index] = examine(image, name, dataset.value_range)
            if isinstance(image, bytes) and what_is(image, name) != kind_of(image).words:
                records["marks"][index] |= Mark.MISNAMED
                scan.causes[Picture(part, index)] = what_is(image, name)
        except ImageError as error:
            missing = isinstance(error.__context__, FileNotFoundError)
            records["marks"][index] = Mark.UNREADABLE | (Mark.MISSING if missing else 0)
            scan.causes[Picture(part, index)] = error.cause
    return len(indices)


# Faults of single images

# Enlarged so many times in width or height, an image shows no more than a smaller input would, at many times the cost.
MUCH_ENLARGED = 3.0
# Long side over short side above which a square crop shows less than a quarter of the picture.
EXTREME_ASPECT = 4.0
MARK_KINDS = {
    Mark.BLACK: "black_image",
    Mark.CONSTANT: "constant_image",
    Mark.ROTATED: "exif_rotated",
    Mark.CMYK: "cmyk",
    Mark.DEEP: "sixteen_bit",
    Mark.PALETTE: "palette",
    Mark.TRANSPARENT: "transparent",
}


class WantedSize(NamedTuple):
    """The size that the operators of a set lead to, and whether a smaller image cannot be used at all."""

    width: int
    height: int
    strict: bool


def settle_range(datasets: Mapping[str, PictureSet], statement: depth.Statement, found: Findings) -> None:
    """Gives the sets the range of values that a training would use, and finds one that does not fit the first set.

    ``statement`` is that of the configuration, see ``depth.statement_in``.
    """
    part, dataset = next(iter(datasets.items()))
    statement, looked_at = depth.resolved_statement(statement, lambda index: dataset.load(index)[0], len(dataset))
    value_range = depth.range_of(statement)
    if remark := depth.range_warning(looked_at, value_range):
        found.add("value_range", note=remark, part=part)
    for each in datasets.values():
        each.value_range = value_range


def find_image_faults(scan: Scan, found: Findings, wanted: Mapping[str, WantedSize] | None = None) -> None:
    """Finds images that are unreadable, empty of content, too small, of odd shape, or stored in an unusual form.

    Args:
        scan, found: the records; takes the faults (``IMAGE_KINDS``).
        wanted: for each set the size that its operators lead to; smaller images are found,
            or much smaller ones where they are enlarged. Left out: any size will do.
    """
    extreme: list[tuple[float, Picture, str]] = []
    for part in scan.records:
        missing = set(scan.marked(part, Mark.MISSING))
        for picture in scan.marked(part, Mark.UNREADABLE):
            if picture in missing:
                found.add("missing_image", picture)
            else:
                found.add("corrupt_image", picture, note=scan.causes[picture])
        for picture in scan.marked(part, Mark.MISNAMED):
            found.add("misnamed", picture, note=scan.causes[picture])
        for mark, kind in MARK_KINDS.items():
            for picture in scan.marked(part, mark):
                found.add(kind, picture)
        pictures = [Picture(part, index) for index in scan.readable(part).tolist()]
        sizes = scan.sizes(part)
        if wanted and part in wanted:
            width, height, strict = wanted[part]
            kind = f"small_image_{PART_WORDS[part]}"
            if strict:
                found.kinds[kind] = Kind(ERROR, f"smaller than {width}x{height}, too small for the crop")
            else:
                what = f"enlarged more than {MUCH_ENLARGED:g} times to {width}x{height} (a smaller input shows as much)"
                found.kinds[kind] = Kind(WARNING, what)
            least = np.array([width, height]) / (1.0 if strict else MUCH_ENLARGED)
            small = np.flatnonzero((sizes < least).any(axis=1))
            for row in small[np.argsort(sizes[small].prod(axis=1), kind="stable")].tolist():
                found.add(kind, pictures[row], note="{}x{}".format(*sizes[row]))
        aspects = sizes.max(axis=1) / sizes.min(axis=1)
        for row in np.flatnonzero(aspects > EXTREME_ASPECT).tolist():
            extreme.append((-aspects[row], pictures[row], "{}x{}".format(*sizes[row])))
    for _, picture, note in sorted(extreme, key=lambda row: row[0]):
        found.add("extreme_aspect", picture, note=note)
