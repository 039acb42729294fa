"""Reads every image of the data sets once, in several threads, keeps a small record of each, and finds their faults."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import logging
import struct
import sys
import time
import warnings
from collections.abc import Mapping
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any, Protocol

import cv2
import numpy as np
from PIL import Image

from ppcls_ext.check.findings import PART_WORDS, Findings, Picture
from ppcls_ext.preprocess import depth
from ppcls_ext.preprocess.content import FORMATS, kind_of, what_is
from ppcls_ext.preprocess.decode import ORIENTATION, ImageError, decode_image
from ppcls_ext.preprocess.samples import AnyRange, Range, deep_form
from ppcls_ext.utils.display import Display, clock

logger = logging.getLogger(__name__)

# What is kept of an image: a hash of its pixels (empty where it shows nothing), its size (0 where it was not read), and
# a small grey version; 1 KB, so 1.3 GB for ImageNet.
LOOK_SIDE = 32
RECORD = np.dtype([("pixels", "S16"), ("width", "i4"), ("height", "i4"), ("look", "u1", (LOOK_SIDE, LOOK_SIDE))])
# The brightest sample of a frame that shows nothing; a lens cap leaves some noise.
BLACK = 10
# Standard deviation of every channel below which an image is one colour; rounding in a JPEG leaves less.
ONE_COLOUR = 0.5
# Range of the grey values of a reduced picture below which rounding would take away what it shows.
FAINT = 64


def examine(
    image: bytes | np.ndarray, name: str, value_range: Range | None = None
) -> tuple[tuple[Any, ...], dict[str, str]]:
    """Returns the fields of :data:`RECORD` for an encoded file or an ``uint8`` RGB picture ``[H, W, 3]``, and what is
    odd about it: kind (of ``IMAGE_KINDS``) -> note.

    What is made of samples of more than 8 bits follows from ``value_range``, see ``decode_image``.

    Raises:
        ImageError: the image cannot be decoded; the message begins with ``name``.
    """
    odd: dict[str, str] = {}
    if isinstance(image, bytes):
        pixels = decode_image(image, name, value_range)
        odd.update(dict.fromkeys(stored_form(image), ""))
        if (words := what_is(image, name)) != kind_of(image).words:
            odd["misnamed"] = words
    else:
        pixels = np.ascontiguousarray(image)
    height, width = pixels.shape[:2]
    digest = hashlib.blake2b(pixels, digest_size=16, key=struct.pack("<II", height, width)).digest()
    blank = "black_image" if int(pixels.max()) <= BLACK else "constant_image"
    if blank == "black_image" or float(cv2.meanStdDev(pixels)[1].max()) < ONE_COLOUR:
        odd[blank], digest = "", b""
    return (digest, width, height, reduced_grey(pixels)), odd


def reduced_grey(pixels: np.ndarray) -> np.ndarray:
    """Returns a small grey version of ``uint8`` RGB; a faint one is stretched to the whole range before it is rounded.

    Without that, raw sonar frames (nearly black, one channel) would all look the same.
    """
    small = cv2.resize(pixels, (LOOK_SIDE, LOOK_SIDE), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    if int(grey.max()) - int(grey.min()) >= FAINT:
        return grey
    means = cv2.resize(pixels.astype(np.float32), (LOOK_SIDE, LOOK_SIDE), interpolation=cv2.INTER_AREA).sum(axis=2)
    means -= means.min()
    return np.rint(means * (255.0 / max(float(means.max()), 1e-6))).astype(np.uint8)


def stored_form(data: bytes) -> list[str]:
    """Tells from the header of a file that decodes which conversions the decoder made, as kinds. Reads no pixels."""
    kinds = []
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as header:
            kinds += {"CMYK": ["cmyk"], "P": ["palette"]}.get(header.mode, [])
            if deep_form(header) is not None:
                kinds.append("sixteen_bit")
            if header.mode in ("RGBA", "LA", "PA") or "transparency" in header.info:
                kinds.append("transparent")
            # For a PNG without EXIF data at the front, Pillow would decode all of it to look for them at the end.
            if header.format != "PNG" or "exif" in header.info:
                orientation = header.getexif().get(ORIENTATION, 1)
                if isinstance(orientation, int) and orientation > 1:
                    kinds.append("exif_rotated")
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, EOFError, struct.error):
        pass  # OpenCV decoded it, Pillow does not even know its header: nothing to tell.
    return kinds


class PictureSet(Protocol):
    """A data set as far as a check needs it: pictures by number.

    ``load`` returns the encoded file or the ``uint8`` RGB picture, and what belongs to it, or raises an ``ImageError``;
    ``name_of`` returns what a person would call the image; for ``value_range`` see ``decode_image``.
    """

    value_range: AnyRange

    def __len__(self) -> int: ...

    def load(self, index: int) -> tuple[bytes | np.ndarray, Any]: ...

    def name_of(self, index: int) -> str: ...


# The scan

# Images that a thread examines at a time.
CHUNK = 64
# Images between two lines in a log file; a terminal shows a bar.
LINE_EVERY = 10_000


@dataclasses.dataclass
class Scan:
    """All that was learnt from reading the images.

    Attributes:
        datasets: ``Train`` before ``Eval``; none if no set could be opened.
        chosen: by set, the numbers of the images to read, ``int64`` ``[n]``.
        records: by set, :data:`RECORD` of each image, ``[length]``.
        faults: kinds of ``IMAGE_KINDS``, each with the image and a note.
        seconds: how long reading took.
    """

    datasets: Mapping[str, PictureSet]
    chosen: Mapping[str, np.ndarray]
    records: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    faults: list[tuple[str, Picture, str]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def readable(self, part: str) -> np.ndarray:
        """Returns the numbers of the images of a set that were read, ``int64`` ``[n]``."""
        return np.flatnonzero(self.records[part]["width"])

    def sizes(self, part: str) -> np.ndarray:
        """Returns width and height of the images of a set that were read, ``int64`` ``[n, 2]``."""
        records = self.records[part][self.readable(part)]
        return np.stack([records["width"], records["height"]], axis=1).astype(np.int64)

    def name_of(self, picture: Picture) -> str:
        """Returns the path of an image, or its place in the archive."""
        return self.datasets[picture.part].name_of(picture.index)

    def load(self, picture: Picture) -> np.ndarray:
        """Reads and decodes an image; ``uint8`` RGB ``[H, W, 3]``; ``ImageError`` if it cannot be read."""
        dataset = self.datasets[picture.part]
        data = dataset.load(picture.index)[0]
        if not isinstance(data, bytes):
            return np.ascontiguousarray(data)
        return decode_image(data, self.name_of(picture), dataset.value_range)


def scan_images(datasets: Mapping[str, PictureSet], chosen: Mapping[str, np.ndarray], threads: int) -> Scan:
    """Reads the images of these numbers (``int64`` ``[n]``) of each set and shows how far it is.

    Several threads help: what decodes, hashes and resizes pictures lets others run meanwhile.
    """
    scan, start = Scan(datasets, chosen), time.monotonic()
    scan.records = {part: np.zeros(len(dataset), dtype=RECORD) for part, dataset in datasets.items()}
    pictures = [Picture(part, index) for part, indices in chosen.items() for index in indices.tolist()]
    with (
        Display("reading images", len(pictures), every=0) as display, warnings.catch_warnings(),
        ThreadPool(max(threads, 1)) as pool,
    ):  # fmt: skip
        warnings.simplefilter("ignore")  # Pillow's remarks on odd headers, without a name.
        results = pool.imap(partial(_examine_picture, scan), pictures, CHUNK)
        for picture, faults in zip(pictures, results, strict=True):
            scan.faults += [(kind, picture, note) for kind, note in faults.items()]
            display.advance()
            if display.done % LINE_EVERY == 0 and not sys.stdout.isatty():
                left = clock(display.time_left())
                logger.info("read %s of %s images, %s left", f"{display.done:,}", f"{display.total:,}", left)
    scan.seconds = time.monotonic() - start
    return scan


def _examine_picture(scan: Scan, picture: Picture) -> dict[str, str]:
    """Fills in the record of an image; returns what is odd about it: kind -> note."""
    dataset = scan.datasets[picture.part]
    try:
        image, name = dataset.load(picture.index)[0], scan.name_of(picture)
        scan.records[picture.part][picture.index], faults = examine(image, name, dataset.value_range)
        return faults
    except ImageError as error:
        is_missing = isinstance(error.__context__, FileNotFoundError)
        return {"missing_image": ""} if is_missing else {"corrupt_image": error.cause}


# Faults of single images

# Enlarged so many times in width or height, an image shows no more than a smaller input would, at many times the cost.
MUCH_ENLARGED = 3.0
# Long side over short side above which a square crop shows less than a quarter of the picture.
EXTREME_ASPECT = 4.0


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


def find_image_faults(
    scan: Scan, found: Findings, wanted: Mapping[str, tuple[tuple[int, int], tuple[int, int]]] | None = None
) -> None:
    """Finds images that are unreadable, empty of content, too small, of odd shape, or stored in an unusual form.

    Args:
        scan, found: what reading told; takes the faults (``IMAGE_KINDS``).
        wanted: for each set width and height to which its operators bring images, and those that an image must have
            for their crops; images are found that they enlarge far, and those too small. Left out: any size will do.
    """
    for kind, picture, note in scan.faults:
        found.add(kind, picture, note=note)
    for part in scan.records:
        readable, sizes = scan.readable(part), scan.sizes(part)
        size, least = (wanted or {}).get(part, ((0, 0), (0, 0)))
        lacking = (np.array(least) / sizes).max(axis=1)
        # What is too small for a crop is not enlarged: nothing comes of it.
        enlarged = np.where(lacking > 1, 0, (np.array(size) / sizes).max(axis=1))
        aspects = sizes.max(axis=1) / sizes.min(axis=1)
        for kind, values, most, words in (
            ("smaller_than_crop", lacking, 1.0, ", cropped to {}x{}".format(*least)),
            (f"small_image_{PART_WORDS[part]}", enlarged, MUCH_ENLARGED, ", enlarged to {}x{}".format(*size)),
            ("extreme_aspect", aspects, EXTREME_ASPECT, ""),
        ):
            rows = np.flatnonzero(values > most)
            for row in rows[np.argsort(-values[rows], kind="stable")].tolist():
                found.add(kind, Picture(part, int(readable[row])), note="{}x{}{}".format(*sizes[row], words))
