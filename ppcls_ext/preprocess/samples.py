"""Samples of more than 8 bits, as a file stores them, and how they become bytes.

Cameras and sonars deliver 10, 12 or 14 bits in files of 16. Which values occur is a property of the device and nothing
that a single picture tells: a range found picture by picture would change the brightness from one to the next. So one
range holds for a whole data set; ``ppcls_ext.preprocess.depth`` finds it and keeps it the same everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from PIL import Image

AUTO = "auto"
Bits = Literal["auto"] | int
# The lowest value, and the one at which the range ends.
Range = tuple[float, float]
AnyRange = Range | Literal["auto"] | None
# What is given samples as they are stored, and the largest value that they could have.
Note = Callable[[np.ndarray, int], None]
SIXTEEN_BITS: Range = (0.0, 65536.0)
# Tags of TIFF, and of these values: samples of one colour after the other; whole numbers without a sign.
BITS_PER_SAMPLE, PLANES, SAMPLE_FORMAT = 258, 284, 339
SEPARATE, UNSIGNED = 2, 1
ADVICE = "state value_range: [low, high] or bits: auto at the decode operator"


class SampleError(ValueError):
    """Samples that cannot be used; the message is the cause, one line."""


class DeepForm(NamedTuple):
    """How a picture with more than 8 bits a sample is stored.

    Attributes:
        largest: the largest whole number that its samples can be.
        colour: it has several channels, of which Pillow keeps the upper 8 bits only.
        rescaled: Pillow multiplies its samples so that ``largest`` becomes 65535.
        unsigned: they are whole numbers of 32 bits without a sign, of which Pillow makes some negative.
    """

    largest: int = 65535
    colour: bool = False
    rescaled: bool = False
    unsigned: bool = False


def deep_form(image: Image.Image) -> DeepForm | None:
    """Returns the form of an image that is opened and not loaded yet; None for 8 bits a sample and fewer.

    Once it is loaded, or where a program made it, what Pillow holds is all that is known.

    Raises:
        SampleError: neither Pillow nor OpenCV reads it right.
    """
    has_one_channel = image.mode == "F" or image.mode.startswith("I")
    if not getattr(image, "tile", None):
        return DeepForm() if has_one_channel else None
    codec, _, _, arguments = image.tile[0]
    if codec.startswith("ppm") and isinstance(arguments, tuple):
        largest = int(arguments[1])
        return DeepForm(largest, image.mode == "RGB", rescaled=True) if largest > 255 else None
    tags: Any = getattr(image, "tag_v2", {})
    bits = max(tags.get(BITS_PER_SAMPLE, (8,)))
    if has_one_channel:
        unsigned = image.mode == "I" and bits == 32 and tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0] == UNSIGNED
        return DeepForm(4095 if "I;12" in str(image.tile) else 65535, unsigned=unsigned)
    if image.mode in ("RGB", "RGBA", "LA") and (bits > 8 or ";16" in str(image.tile)):
        if tags.get(PLANES) == SEPARATE:
            raise SampleError("has 16 bits a sample, and each colour in a plane of its own, which is not read")
        return DeepForm(colour=True)
    return None


def stored_samples(form: DeepForm, image: Image.Image, data: bytes | None) -> np.ndarray:
    """Returns the samples of a picture as the file holds them.

    Args:
        form, image, data: of the picture; the same, loaded; the file, None if a program holds the picture.

    Returns:
        ``[H, W]``, or RGB ``[H, W, 3]``, or with transparency ``[H, W, 4]``: ``uint16``, ``int32``, ``uint32`` or
        ``float32``.

    Raises:
        SampleError: they cannot be read, or are no numbers.
    """
    if not form.colour:
        values = np.asarray(image)
        if values.dtype.kind == "f" and (bad := values.size - int(np.isfinite(values).sum())):
            raise SampleError(f"{bad:,} of {values.size:,} samples are NaN or infinite")
        values = values.view(np.uint32) if form.unsigned else values
        return np.rint(values * (form.largest / 65535)).astype(np.uint16) if form.rescaled else values
    if data is None:
        raise SampleError("has 16 bits a sample, of which a Pillow image keeps 8; give the path or bytes of its file")
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3 or values.shape[2] not in (3, 4):
        raise SampleError(f"the 16 bits of its {image.mode} samples cannot be read")
    return cv2.cvtColor(values, cv2.COLOR_BGR2RGB if values.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def turned(pixels: np.ndarray, orientation: Any) -> np.ndarray:
    """Turns or mirrors ``[H, W, C]`` as EXIF's number for how the camera was held says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def samples_to_image(values: np.ndarray, value_range: AnyRange, largest: int) -> Image.Image:
    """Returns finite samples ``[H, W]`` or ``[H, W, 3 or 4]``, as they are stored, as a picture of 8 bits a sample.

    Without a range (see :func:`to_bytes`) it is 0 to ``largest``; of transparency the upper 8 of 16 bits count.

    Raises:
        SampleError: without a range, samples are not whole numbers of 16 bits; or the range is still to be found.
    """
    if value_range == AUTO:
        raise SampleError("bits: auto is a number only after it was found on a training set; state the number")
    if value_range is None:
        if values.dtype.kind == "f":
            raise SampleError(f"floating-point samples have no agreed range; {ADVICE}")
        lowest, highest = (int(values.min()), int(values.max())) if values.dtype != np.uint16 else (0, 0)
        if lowest < 0 or highest > 65535:
            raise SampleError(f"samples from {lowest} to {highest} are no numbers of 16 bits; {ADVICE}")
        value_range = (0.0, largest + 1.0)
    if values.ndim == 2:
        return Image.fromarray(to_bytes(values, value_range))
    colours = to_bytes(values[:, :, :3], value_range)
    return Image.fromarray(np.dstack([colours, to_bytes(values[:, :, 3:], SIXTEEN_BITS)]))


def to_bytes(values: np.ndarray, value_range: Range) -> np.ndarray:
    """Cuts a range into 256 equal steps: ``floor(256 * (value - low) / (high - low))``, kept within 0 to 255.

    So values below ``low`` become 0, and from ``high`` on 255; of 16 bits, ``(0, 65536)``, the upper byte remains.
    """
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return _table(*value_range)[values]
    return _steps(values, *value_range)


def _steps(values: np.ndarray, low: float, high: float) -> np.ndarray:
    steps = np.floor((values.astype(np.float64) - low) * 256.0 / (high - low))
    return np.clip(steps, 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=8)
def _table(low: float, high: float) -> np.ndarray:
    """The byte of each number of 16 bits."""
    return _steps(np.arange(65536), low, high)


def stated_range(bits: Bits | None, value_range: Range | None) -> AnyRange:
    """Returns the range that the arguments of a decode operator state; None where they state none.

    Raises ``ValueError``, which begins with the argument's name, if both are given or one is out of range.
    """
    if bits is not None and value_range is not None:
        raise ValueError("value_range: is another way to say bits; only one of them may stand")
    if bits == AUTO:
        return AUTO
    if bits is not None:
        if not 8 <= bits <= 32:
            raise ValueError(f"bits: must be from 8 to 32, or auto, got {bits}")
        return 0.0, float(2**bits)
    if value_range is not None and not value_range[0] < value_range[1]:
        raise ValueError(f"value_range: must be [low, high] with low below high, got {list(value_range)}")
    return value_range
