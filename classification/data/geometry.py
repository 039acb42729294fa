"""Random crops, flips and rotations with PaddleClas 2.6's names and arguments, and the fast resampling below them.

Both kinds of resampling equal Pillow's results. Resizing is linear and separable: ``rows @ image @ columns.T``, where
each row of a matrix holds the filter of one pixel of the result; the matrices are narrow bands, applied in blocks of a
few rows, which is about three times as fast as Pillow for a training crop. Shears and translations move each row by an
amount of its own, so their arithmetic has one dimension, not two: about four times as fast.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from ppcls_ext.preprocess.decode import ImageError
from ppcls_ext.preprocess.operators import (
    PIL_INTERPOLATIONS,
    Backend,
    Interpolation,
    check_interpolation,
    resize,
    two_sides,
)
from ppcls_ext.utils.signature import Probability

# Rows of the result computed by one product: more waste multiplications with zeros, fewer waste calls (measured).
BLOCK = 8


def _bilinear(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - np.abs(distance), 0.0)


def _bicubic(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution with a = -1/2 ("Cubic convolution interpolation", 1981)."""
    x = np.abs(distance)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


# Filter and the distance at which it ends, in pixels of the result.
FILTERS = {"bilinear": (_bilinear, 1.0), "bicubic": (_bicubic, 2.0)}


class Bands:
    """The matrix that resizes a line of ``source`` to ``target`` pixels, as blocks of rows without the outer zeros.

    When the line gets shorter the filter, a key of ``FILTERS``, is stretched accordingly.

    Attributes:
        weights: ``float32`` ``[target, width]``; each block of ``BLOCK`` rows begins at a column of its own.
        begin, end: first and last column of each block, in pixels of the source.
    """

    def __init__(self, source: int, target: int, interpolation: str) -> None:
        kernel, reach = FILTERS[interpolation]
        scale = source / target
        stretch = max(scale, 1.0)
        centres = (np.arange(target) + 0.5) * scale
        first = np.maximum((centres - reach * stretch + 0.5).astype(np.int64), 0)
        end = np.minimum((centres + reach * stretch + 0.5).astype(np.int64), source)
        taps = first[:, np.newaxis] + np.arange(int((end - first).max()))
        values = kernel((taps + 0.5 - centres[:, np.newaxis]) / stretch)
        values[taps >= end[:, np.newaxis]] = 0.0
        values /= values.sum(axis=1, keepdims=True)

        block_begin = first[::BLOCK]
        self.begin: list[int] = block_begin.tolist()
        self.end: list[int] = [*end[BLOCK - 1 :: BLOCK].tolist(), int(end[-1])][: len(self.begin)]
        taps -= np.repeat(block_begin, BLOCK)[:target, np.newaxis]
        self.weights = np.zeros((target, int(taps.max()) + 1), dtype=np.float32)
        np.put_along_axis(self.weights, taps, values.astype(np.float32), axis=1)

    def apply(self, lines: np.ndarray, result: np.ndarray, converted: np.ndarray | None = None) -> None:
        """Multiplies the matrix with ``lines`` ``[source, N]`` into ``result``, ``float32`` ``[target, N]``.

        ``converted`` is memory for as many lines as a block needs, if ``lines`` are not ``float32``.
        """
        for number, (begin, end) in enumerate(zip(self.begin, self.end, strict=True)):
            band = lines[begin:end]
            if converted is not None:
                np.copyto(converted[: end - begin], band)
                band = converted[: end - begin]
            rows = slice(number * BLOCK, (number + 1) * BLOCK)
            np.dot(self.weights[rows, : end - begin], band, out=result[rows])

    @property
    def widest(self) -> int:
        """Largest number of lines that a block needs."""
        return max(end - begin for begin, end in zip(self.begin, self.end, strict=True))


@functools.lru_cache(maxsize=512)
def bands(source: int, target: int, interpolation: str) -> Bands:
    """Returns the matrix, kept because photographs and so their parts have few different lengths."""
    return Bands(source, target, interpolation)


class _Memory(threading.local):
    """Memory of each thread for intermediate results: fresh pages from the system would cost a third of the time."""

    def __init__(self) -> None:
        self.pieces: dict[str, np.ndarray] = {}

    def take(self, name: str, *shape: int) -> np.ndarray:
        """Returns ``float32`` of this shape; its content is what the last user of the name left."""
        size = math.prod(shape)
        if name not in self.pieces or self.pieces[name].size < size:
            self.pieces[name] = np.empty(size, dtype=np.float32)
        return self.pieces[name][:size].reshape(shape)


_memory = _Memory()


def resize_antialiased(image: np.ndarray, width: int, height: int, interpolation: str) -> np.ndarray:
    """Resizes ``uint8`` ``[H, W, 3]`` with a filter of ``FILTERS`` to ``uint8`` ``[height, width, 3]``.

    Equals Pillow's ``resize`` but for its rounding between the two directions.
    """
    source_height, source_width = image.shape[:2]
    rows = bands(source_height, height, interpolation)
    columns = bands(source_width, width, interpolation)
    line = source_width * 3
    shorter = _memory.take("shorter", height, line)
    rows.apply(image.reshape(source_height, line), shorter, _memory.take("converted", rows.widest, line))
    turned = _memory.take("turned", source_width, height, 3)
    cv2.transpose(shorter.reshape(height, source_width, 3), turned)
    resized = _memory.take("resized", width, height * 3)
    columns.apply(turned.reshape(source_width, height * 3), resized)
    # Adding zero with an 8-bit result rounds and saturates in one pass.
    return cv2.transpose(cv2.add(resized.reshape(width, height, 3), 0.0, dtype=cv2.CV_8U))


def tap_weights(fractions: np.ndarray, interpolation: str) -> np.ndarray:
    """Returns the weights, ``float32`` ``[4, N]``, of the pixels one before, at, one after and two after positions.

    ``fractions`` ``[N]`` are what stands behind the decimal points; ``bicubic`` is the cubic convolution with a = -1,
    as Pillow's transforms have it.
    """
    d = fractions
    if interpolation == "bilinear":
        weights = [np.zeros_like(d), 1.0 - d, d, np.zeros_like(d)]
    else:
        weights = [-d * (1.0 - d) ** 2, 1.0 - d * d * (2.0 - d), d * (1.0 + d - d * d), -d * d * (1.0 - d)]
    return np.stack(weights).astype(np.float32)


def slide_rows(image: np.ndarray, amounts: np.ndarray, interpolation: str, fill: Sequence[int]) -> np.ndarray:
    """Takes the pixel at (x, y) of ``uint8`` ``[H, W, 3]`` from (x + amounts[y], y), or ``fill`` from outside.

    Amounts, ``float64`` ``[H]`` in pixels, move the picture to the left where positive; interpolation is ``bilinear``
    or ``bicubic``.
    """
    height, width = image.shape[:2]
    amounts = np.clip(amounts, -width - 1.0, width + 1.0)
    whole = np.floor(amounts).astype(np.int64)
    weights = tap_weights(amounts - whole, interpolation)
    margin_left, margin_right = max(1 - int(whole.min()), 0), max(int(whole.max()) + 2, 0)
    padded = cv2.copyMakeBorder(image, 0, 0, margin_left, margin_right, cv2.BORDER_REPLICATE).reshape(height, -1)
    taken = np.empty((height, (width + 3) * 3), dtype=np.float32)
    for y, start in enumerate(((whole - 1 + margin_left) * 3).tolist()):
        taken[y] = padded[y, start : start + (width + 3) * 3]
    total = taken[:, : width * 3] * weights[0][:, np.newaxis]
    product = np.empty_like(total)
    for tap in (1, 2, 3):
        np.multiply(taken[:, tap * 3 : (tap + width) * 3], weights[tap][:, np.newaxis], out=product)
        total += product
    result = cv2.add(total.reshape(height, width, 3), 0.0, dtype=cv2.CV_8U)
    # Centres of pixels are at one half: those that lie before 0 or from the width on come from outside.
    first = np.clip(np.ceil(-amounts - 0.5), 0, width).astype(np.int64)
    end = np.clip(np.ceil(width - amounts - 0.5), 0, width).astype(np.int64)
    for y, (left, right) in enumerate(zip(first.tolist(), end.tolist(), strict=True)):
        if left > 0:
            result[y, :left] = fill
        if right < width:
            result[y, right:] = fill
    return result


def slide_columns(image: np.ndarray, amounts: np.ndarray, interpolation: str, fill: Sequence[int]) -> np.ndarray:
    """Takes the pixel at (x, y) from (x, y + amounts[x]); otherwise as :func:`slide_rows`."""
    return cv2.transpose(slide_rows(cv2.transpose(image), amounts, interpolation, fill))


Coefficients = tuple[float, float, float, float, float, float]


def affine(image: np.ndarray, coefficients: Coefficients, interpolation: str, fill: Sequence[int]) -> np.ndarray:
    """Takes the pixel at (x, y) of ``uint8`` ``[H, W, 3]`` from (ax + by + c, dx + ey + f), or ``fill`` from outside.

    The coefficients are a to f; interpolation is ``nearest``, ``bilinear`` or ``bicubic``.
    """
    picture, method = Image.fromarray(image), PIL_INTERPOLATIONS[interpolation]
    kind = Image.Transform.AFFINE
    return np.asarray(picture.transform(picture.size, kind, coefficients, method, fillcolor=tuple(fill)))


def rotation(width: int, height: int, degrees: float) -> Coefficients:
    """Returns the coefficients of a counter-clockwise rotation about the centre."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2.0, height / 2.0
    return cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y


class RandFlipImage:
    """Flips every second image: left-right (``flip_code`` 1), upside down (0) or both (-1)."""

    random = True

    def __init__(self, flip_code: Literal[1, 0, -1] = 1) -> None:
        self.flip_code = flip_code

    def __call__(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """``[H, W, 3]`` -> ``[H, W, 3]``."""
        return cv2.flip(image, self.flip_code) if generator.random() < 0.5 else image


class RandomRotation:
    """Rotates about the centre by a random angle.

    Args:
        prob: share of the images that are rotated.
        degrees: smallest and largest angle, or one number for -degrees to degrees.
        interpolation: how pixels are read.
        expand: larger results are not supported.
        fill: grey value, or ``[red, green, blue]``, of what comes from outside.
    """

    random = True

    def __init__(
        self, prob: Probability = 0.5, degrees: float | list[float] = 0.0,
        interpolation: Literal["nearest", "bilinear", "bicubic"] = "nearest", expand: Literal[False] = False,
        fill: int | tuple[int, int, int] = 0,
    ) -> None:  # fmt: skip
        self.limits = list(degrees) if isinstance(degrees, list) else [-abs(degrees), abs(degrees)]
        if len(self.limits) != 2 or self.limits[0] > self.limits[1]:
            raise ValueError(f"degrees: must be one number or [smallest, largest], got {degrees}")
        self.prob, self.interpolation = prob, interpolation
        self.fill = [fill] * 3 if isinstance(fill, int) else list(fill)

    def __call__(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """``uint8`` ``[H, W, 3]`` -> ``uint8`` ``[H, W, 3]``."""
        if generator.random() >= self.prob:
            return image
        height, width = image.shape[:2]
        degrees = generator.uniform(*self.limits)
        return affine(image, rotation(width, height, degrees), self.interpolation, self.fill)


class RandCropImage:
    """Cuts out a random part of random area and aspect ratio and resizes it ("inception crop", arXiv 1409.4842).

    The largest area is lowered where the aspect ratio would not fit, so a part is always found at the first draw.

    Args:
        size: side of the square result, or ``[width, height]``.
        progress_size: a schedule of sizes by epoch; only null is supported.
        scale: smallest and largest share of the picture's area; 0.08 to 1 when absent.
        ratio: smallest and largest width / height; 3/4 to 4/3 when absent.
        interpolation: ``bilinear`` when absent.
        use_log_aspect: draws the logarithm of the aspect ratio evenly, else its value.
        backend: ``pil`` is antialiased, ``cv2`` is not.
    """

    random = True

    def __init__(
        self, size: int | list[int], progress_size: None = None, scale: list[float] | None = None,
        ratio: list[float] | None = None, interpolation: Interpolation | None = None, use_log_aspect: bool = False,
        backend: Backend = "cv2",
    ) -> None:  # fmt: skip
        self.width, self.height = two_sides(size)
        self.scale = _range(scale or [0.08, 1.0], "scale")
        self.ratio = _range(ratio or [3.0 / 4.0, 4.0 / 3.0], "ratio")
        self.interpolation = interpolation or "bilinear"
        check_interpolation(self.interpolation, backend)
        self.use_log_aspect, self.backend = use_log_aspect, backend

    def draw(self, width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
        """Draws a part of a picture of this size: left, top, width, height in pixels."""
        if self.use_log_aspect:
            ratio = math.exp(generator.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
        else:
            ratio = generator.uniform(*self.ratio)
        # Largest share of the area that a rectangle of this ratio can cover.
        bound = min(width / height / ratio, height / width * ratio)
        share = generator.uniform(min(self.scale[0], bound), min(self.scale[1], bound))
        area = share * width * height
        part_width = min(max(int(math.sqrt(area * ratio)), 1), width)
        part_height = min(max(int(math.sqrt(area / ratio)), 1), height)
        left = int(generator.integers(width - part_width + 1))
        top = int(generator.integers(height - part_height + 1))
        return left, top, part_width, part_height

    def __call__(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """``uint8`` ``[H, W, 3]`` -> ``uint8`` ``[height, width, 3]``."""
        left, top, width, height = self.draw(image.shape[1], image.shape[0], generator)
        part = image[top : top + height, left : left + width]
        if self.backend == "pil" and self.interpolation in FILTERS:
            return resize_antialiased(part, self.width, self.height, self.interpolation)
        return resize(part, self.width, self.height, self.interpolation, self.backend)


class RandomCropImage:
    """Cuts a part of fixed size, the side of a square or ``[width, height]``, out of a random place."""

    random = True

    def __init__(self, size: int | list[int]) -> None:
        self.width, self.height = two_sides(size)

    def __call__(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """``[H, W, 3]`` -> ``[height, width, 3]``; raises ``ImageError`` where the image is smaller."""
        height, width = image.shape[:2]
        if width < self.width or height < self.height:
            wanted = f"{self.width}x{self.height} out of {width}x{height}"
            raise ImageError("image", f"RandomCropImage cannot cut {wanted}; put a Pad first")
        left = int(generator.integers(width - self.width + 1))
        top = int(generator.integers(height - self.height + 1))
        return image[top : top + self.height, left : left + self.width]


class Pad:
    """Adds a margin on all sides.

    Args:
        padding: pixels on every side, ``[left and right, top and bottom]`` or ``[left, top, right, bottom]``.
        fill: grey value, or ``[red, green, blue]``, of a constant margin.
        padding_mode: ``constant``; ``edge`` repeats the last pixel; ``reflect`` and ``symmetric`` mirror without and
            with it.
        backend: accepted for PaddleClas's configurations; the result is the same.
    """

    borders = {
        "constant": cv2.BORDER_CONSTANT, "edge": cv2.BORDER_REPLICATE, "reflect": cv2.BORDER_REFLECT_101,
        "symmetric": cv2.BORDER_REFLECT,
    }  # fmt: skip

    def __init__(
        self, padding: int | list[int], fill: int | tuple[int, int, int] = 0,
        padding_mode: Literal["constant", "edge", "reflect", "symmetric"] = "constant", backend: Backend = "pil",
    ) -> None:  # fmt: skip
        sides = [padding] if isinstance(padding, int) else list(padding)
        if len(sides) not in (1, 2, 4) or min(sides) < 0:
            raise ValueError(f"padding: must be one, two or four numbers of pixels, got {padding}")
        left, top, right, bottom = sides * (4 // len(sides))
        self.margins = top, bottom, left, right
        self.fill = [fill] * 3 if isinstance(fill, int) else list(fill)
        self.border = self.borders[padding_mode]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """``[H, W, 3]`` -> ``[top + H + bottom, left + W + right, 3]``."""
        return cv2.copyMakeBorder(image, *self.margins, self.border, value=tuple(self.fill))


def _range(numbers: list[float], argument: str) -> tuple[float, float]:
    if len(numbers) != 2 or not 0 < numbers[0] <= numbers[1]:
        raise ValueError(f"{argument}: must be [smallest, largest], both above 0, got {numbers}")
    return float(numbers[0]), float(numbers[1])
