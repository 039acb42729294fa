"""Random flips and rotations, with PaddleClas 2.6's names and arguments, and the affine map that others use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from ppcls_ext.preprocess.operators import PIL_INTERPOLATIONS

Coefficients = tuple[float, float, float, float, float, float]


def affine(image: np.ndarray, coefficients: Coefficients, interpolation: str, fill: Sequence[int]) -> np.ndarray:
    """Maps an image.

    Args:
        image: ``uint8`` ``[H, W, 3]``.
        coefficients: a, b, c, d, e, f: the pixel at (x, y) of the result comes from (ax + by + c, dx + ey + f).
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``.
        fill: colour of what comes from outside.

    Returns:
        ``uint8`` ``[H, W, 3]``.
    """
    picture = Image.fromarray(image)
    method = PIL_INTERPOLATIONS[interpolation]
    mapped = picture.transform(picture.size, Image.Transform.AFFINE, coefficients, method, fillcolor=tuple(fill))
    return np.asarray(mapped)


def rotation(width: int, height: int, degrees: float) -> Coefficients:
    """Returns the coefficients of a counter-clockwise rotation about the centre."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2.0, height / 2.0
    return cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y


class RandFlipImage:
    """Flips every second image.

    Args:
        flip_code: 1 left-right, 0 upside down, -1 both.
    """

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
        self,
        prob: float = 0.5,
        degrees: float | list[float] = 0.0,
        interpolation: Literal["nearest", "bilinear", "bicubic"] = "nearest",
        expand: Literal[False] = False,
        fill: int | list[int] = 0,
    ) -> None:
        if not 0.0 <= prob <= 1.0:
            raise ValueError(f"prob: must be from 0 to 1, got {prob}")
        limits = list(degrees) if isinstance(degrees, list) else [-abs(degrees), abs(degrees)]
        if len(limits) != 2 or limits[0] > limits[1]:
            raise ValueError(f"degrees: must be one number or [smallest, largest], got {degrees}")
        self.prob = prob
        self.limits = limits
        self.interpolation = interpolation
        self.fill = [fill] * 3 if isinstance(fill, int) else list(fill)
        if len(self.fill) != 3:
            raise ValueError(f"fill: must be one or three numbers, got {fill}")

    def __call__(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """``uint8`` ``[H, W, 3]`` -> ``uint8`` ``[H, W, 3]``."""
        if generator.random() >= self.prob:
            return image
        height, width = image.shape[:2]
        degrees = generator.uniform(*self.limits)
        return affine(image, rotation(width, height, degrees), self.interpolation, self.fill)
