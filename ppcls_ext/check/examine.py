"""What is kept of one image: a hash of its pixels, a perceptual hash, its size and a few marks (34 bytes in all)."""

from __future__ import annotations

import enum
import hashlib
import io
import struct

import cv2
import numpy as np
from PIL import Image

from ppcls_ext.preprocess.decode import decode_image

RECORD = np.dtype(
    [
        ("pixels_low", np.uint64),
        ("pixels_high", np.uint64),
        ("look", np.uint64),
        ("width", np.int32),
        ("height", np.int32),
        ("marks", np.uint16),
    ]
)
ORIENTATION_TAG = 0x0112
# The brightest sample of a frame that shows nothing; a lens cap leaves some noise.
BLACK = 10
# Standard deviation of every channel below which an image is one colour; rounding in a JPEG leaves less.
ONE_COLOUR = 0.5
# Range of the grey values of a reduced picture below which rounding would take away what it shows.
FAINT = 64


class Mark(enum.IntFlag):
    """What an image can be besides a picture of usual form."""

    UNREADABLE = 1
    BLACK = 2
    CONSTANT = 4
    ROTATED = 8
    CMYK = 16
    DEEP = 32
    PALETTE = 64
    TRANSPARENT = 128
    UNSEEN = 256


def examine(image: bytes | np.ndarray, name: str) -> tuple[int, int, int, int, int, int]:
    """Returns the fields of :data:`RECORD` for an encoded file or an ``uint8`` RGB picture ``[H, W, 3]``.

    Raises:
        ImageError: the image cannot be decoded; the message begins with ``name``.
    """
    marks = Mark(0)
    if isinstance(image, bytes):
        pixels = decode_image(image, name)
        marks |= stored_form(image)
    else:
        pixels = np.ascontiguousarray(image)
    height, width = pixels.shape[:2]
    digest = hashlib.blake2b(pixels, digest_size=16, key=struct.pack("<II", height, width)).digest()
    low, high = struct.unpack("<QQ", digest)
    return low, high, difference_hash(pixels), width, height, int(marks | content_marks(pixels))


def difference_hash(pixels: np.ndarray) -> int:
    """Returns 64 bits that resized, recompressed and brightened copies of a picture (nearly) share.

    The picture is reduced to 9 x 8 grey values; each bit tells whether a value is above its left neighbour
    (N. Krawetz, "Kind of like that", 2013).

    Args:
        pixels: ``uint8`` RGB ``[H, W, 3]``.
    """
    grey = reduced_grey(pixels, 9, 8)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def reduced_grey(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Returns a small grey version; a faint one is stretched to the whole range before it is rounded.

    Without that, raw sonar frames (nearly black, one channel) would all look the same.

    Args:
        pixels: ``uint8`` RGB ``[H, W, 3]``.
        width, height: of the result, ``uint8`` ``[height, width]``.
    """
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    if int(grey.max()) - int(grey.min()) >= FAINT:
        return grey
    means = cv2.resize(pixels.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA).sum(axis=2)
    means -= means.min()
    return np.rint(means * (255.0 / max(float(means.max()), 1e-6))).astype(np.uint8)


def content_marks(pixels: np.ndarray) -> Mark:
    """Tells whether an ``uint8`` RGB picture ``[H, W, 3]`` shows nothing."""
    if int(pixels.max()) <= BLACK:
        return Mark.BLACK
    _, deviation = cv2.meanStdDev(pixels)
    return Mark.CONSTANT if float(deviation.max()) < ONE_COLOUR else Mark(0)


def stored_form(data: bytes) -> Mark:
    """Tells from the header of a file that decodes which conversions the decoder made. Reads no pixels."""
    marks = Mark(0)
    try:
        with Image.open(io.BytesIO(data)) as header:
            if header.mode == "CMYK":
                marks |= Mark.CMYK
            if header.mode == "P":
                marks |= Mark.PALETTE
            # Pillow keeps the upper bytes of colour pictures of 16 bits; only their raw mode still tells.
            if header.mode.startswith("I") or ";16" in str(header.tile):
                marks |= Mark.DEEP
            if header.mode in ("RGBA", "LA", "PA") or "transparency" in header.info:
                marks |= Mark.TRANSPARENT
            if _orientation(header) > 1:
                marks |= Mark.ROTATED
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, EOFError, struct.error):
        # OpenCV decoded it, Pillow does not even know its header: nothing to tell.
        return marks
    return marks


def _orientation(header: Image.Image) -> int:
    # For a PNG without EXIF data at the front, Pillow would decode the whole picture to look for them behind it.
    if header.format == "PNG" and "exif" not in header.info:
        return 1
    value = header.getexif().get(ORIENTATION_TAG, 1)
    return value if isinstance(value, int) else 1
