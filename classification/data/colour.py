"""Random changes of colour with PaddleClas 2.6's names and arguments, and RandAugment (Cubuk et al., arXiv 1909.13719).

The changes work on ``uint8`` RGB arrays and equal Pillow's ``ImageOps`` and ``ImageEnhance``. Where a byte depends only
on the byte at its place, all 256 results are computed once and looked up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageOps

from classification.data.geometry import affine, rotation, slide_columns, slide_rows
from ppcls_ext.utils.signature import Probability

BYTES = np.arange(256)
# Weights of red, green and blue in the brightness of a pixel (ITU-R BT.601).
LUMINANCE = np.asarray([0.299, 0.587, 0.114])
# Pillow's smoothing filter, which sharpness blends with.
SMOOTH = np.asarray([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13.0


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    return cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8))


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Inverts the values from ``threshold`` on."""
    return _look_up(image, np.where(threshold > BYTES, BYTES, 255 - BYTES))


def solarize_add(image: np.ndarray, addend: int, threshold: int = 128) -> np.ndarray:
    """Adds to the values below ``threshold``."""
    return _look_up(image, np.where(threshold > BYTES, np.minimum(BYTES + addend, 255), BYTES))


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keeps the upper ``bits`` (1 to 8) of each value."""
    return _look_up(image, BYTES & ~((1 << (8 - bits)) - 1))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends black (factor 0) with the image (factor 1), or goes beyond it."""
    return _look_up(image, BYTES * factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends the image's mean grey (factor 0) with the image (factor 1), or goes beyond it."""
    red, green, blue = cv2.mean(image)[:3]
    grey = int(np.dot(LUMINANCE, (red, green, blue)) + 0.5)
    return _look_up(image, grey + factor * (BYTES - grey))


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends the grey image (factor 0) with the image (factor 1), or goes beyond it."""
    matrix = factor * np.eye(3) + (1.0 - factor) * np.tile(LUMINANCE, (3, 1))
    return cv2.transform(image, matrix)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends the smoothed image (factor 0) with the image (factor 1), or goes beyond it; the outermost pixels stay."""
    blended = cv2.addWeighted(image, factor, cv2.filter2D(image, -1, SMOOTH), 1.0 - factor, 0.0)
    result = image.copy()
    result[1:-1, 1:-1] = blended[1:-1, 1:-1]
    return result


def grayscale(image: np.ndarray) -> np.ndarray:
    """Brightness of each pixel in all three channels."""
    return color(image, 0.0)


def hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Turns the hue by a share of the colour circle (-0.5 to 0.5)."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    # 8-bit arithmetic wraps around, as the circle does.
    hsv[:, :, 0] += np.uint8(round(turn * 256) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Stretches each channel to the whole range."""
    return np.asarray(ImageOps.autocontrast(Image.fromarray(image)))


def equalize(image: np.ndarray) -> np.ndarray:
    """Makes the histogram of each channel even."""
    return np.asarray(ImageOps.equalize(Image.fromarray(image)))


# Argument of ColorJitter, what it changes, and the value that changes nothing.
JITTERS = (("brightness", brightness, 1.0), ("contrast", contrast, 1.0), ("saturation", color, 1.0), ("hue", hue, 0.0))


class ColorJitter:
    """Changes brightness, contrast, saturation and hue, in random order.

    Args:
        prob: share of the images that are changed; 1 or more changes all.
        brightness, contrast, saturation: the factor is drawn from ``max(0, 1 - value)`` to ``1 + value``, or from
            ``[smallest, largest]``.
        hue: the turn is drawn from ``-value`` to ``value`` (at most 0.5), or from ``[smallest, largest]``.
    """

    random = True

    def __init__(
        self, prob: float = 2.0, brightness: float | list[float] = 0.0, contrast: float | list[float] = 0.0,
        saturation: float | list[float] = 0.0, hue: float | list[float] = 0.0,
    ) -> None:  # fmt: skip
        self.prob = prob
        values = zip(JITTERS, (brightness, contrast, saturation, hue), strict=True)
        self.steps = [(change, _limits(value, name, neutral)) for (name, change, neutral), value in values]

    def __call__(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """``uint8`` ``[H, W, 3]`` -> ``uint8`` ``[H, W, 3]``."""
        if generator.random() >= self.prob:
            return image
        for number in generator.permutation(len(self.steps)):
            change, limits = self.steps[number]
            if limits is not None:
                image = change(image, generator.uniform(*limits))
        return image


class RandomGrayscale:
    """Takes the colour out of a share ``p`` of the images."""

    random = True

    def __init__(self, p: Probability = 0.1) -> None:
        self.p = p

    def __call__(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """``uint8`` ``[H, W, 3]`` -> ``uint8`` ``[H, W, 3]``."""
        return grayscale(image) if generator.random() < self.p else image


def _limits(value: float | list[float], argument: str, centre: float) -> tuple[float, float] | None:
    """Returns the range to draw from, or None where nothing is to change."""
    bounds = (0.0, math.inf) if centre else (-0.5, 0.5)
    # Less than no brightness is none; a hue has no such end.
    lowest = 0.0 if centre else -math.inf
    limits = tuple(value) if isinstance(value, list) else (max(lowest, centre - value), centre + value)
    if len(limits) != 2 or not bounds[0] <= limits[0] <= limits[1] <= bounds[1]:
        raise ValueError(f"{argument}: must be a number or [smallest, largest] within {bounds}, got {value}")
    return None if limits == (centre, centre) else limits


HIGHEST = 10.0
ROTATION_DEGREES = 30.0
SHEAR = 0.3
TRANSLATION = 0.45

# (image, strength from 0 to 1, sign, interpolation, fill) -> image
Change = Callable[[np.ndarray, float, float, str, Sequence[int]], np.ndarray]


def _rotate(image: np.ndarray, strength: float, sign: float, interpolation: str, fill: Sequence[int]) -> np.ndarray:
    height, width = image.shape[:2]
    return affine(image, rotation(width, height, sign * strength * ROTATION_DEGREES), interpolation, fill)


def _slide(axis: int, shear: bool) -> Change:
    """Returns a shear or a translation of the rows (axis 0) or the columns (axis 1)."""

    def change(image: np.ndarray, strength: float, sign: float, interpolation: str, fill: Sequence[int]) -> np.ndarray:
        length, across = image.shape[axis], image.shape[1 - axis]
        if shear:
            amounts = sign * strength * SHEAR * (np.arange(length) + 0.5)
        else:
            amounts = np.full(length, sign * strength * TRANSLATION * across)
        return (slide_rows if axis == 0 else slide_columns)(image, amounts, interpolation, fill)

    return change


def changes(increasing: bool) -> dict[str, Change]:
    """Returns the fifteen operations by name.

    Args:
        increasing: every operation grows with the magnitude (timm's ``inc1``); else posterizing, solarizing and the
            enhancements keep the directions of the paper's first version.
    """

    def bits(level: int) -> int:
        # The strongest increasing level asks for 0 bits, which is no image: one is kept.
        return min(max(4 - level if increasing else level, 1), 8)

    def threshold(level: int) -> int:
        return 256 - level if increasing else level

    def enhance(function: Callable[[np.ndarray, float], np.ndarray]) -> Change:
        # Away from 1 on either side, or from 0.1 to 1.9.
        return lambda image, strength, sign, *_: function(
            image, max(0.1, 1.0 + sign * 0.9 * strength) if increasing else 0.1 + 1.8 * strength
        )

    return {
        "AutoContrast": lambda image, *_: auto_contrast(image),
        "Equalize": lambda image, *_: equalize(image),
        "Invert": lambda image, *_: cv2.bitwise_not(image),
        "Rotate": _rotate,
        "Posterize": lambda image, strength, *_: posterize(image, bits(int(strength * 4))),
        "Solarize": lambda image, strength, *_: solarize(image, threshold(min(int(strength * 256), 256))),
        "SolarizeAdd": lambda image, strength, *_: solarize_add(image, min(int(strength * 110), 128)),
        "Color": enhance(color),
        "Contrast": enhance(contrast),
        "Brightness": enhance(brightness),
        "Sharpness": enhance(sharpness),
        "ShearX": _slide(0, shear=True),
        "ShearY": _slide(1, shear=True),
        "TranslateX": _slide(0, shear=False),
        "TranslateY": _slide(1, shear=False),
    }


class TimmAutoAugment:
    """RandAugment: some operations out of fifteen, each of them applied or not with equal chances.

    Args:
        prob: share of the images that are augmented at all.
        config_str: such as ``rand-m9-mstd0.5-inc1``: ``rand`` and any of ``m`` magnitude (0 to 10), ``mstd`` its
            deviation, ``n`` operations an image, ``inc`` 1 for those that increase, joined by ``-``.
        interpolation: of the geometric operations; ``random`` draws bilinear or bicubic for each.
        img_size: accepted for PaddleClas's configurations; translations are relative to the image itself.
        mean: colour, from 0 to 1, of what comes from outside the image; ImageNet's mean when absent.
    """

    random = True

    def __init__(
        self, prob: Probability = 1.0, config_str: str = "rand-m9-mstd0.5-inc1",
        interpolation: Literal["bilinear", "bicubic", "random"] = "bicubic", img_size: int | list[int] = 224,
        mean: tuple[float, float, float] | None = None,
    ) -> None:  # fmt: skip
        name, *sections = config_str.split("-")
        if name != "rand":
            raise ValueError(f"config_str: '{config_str}': only 'rand' policies are supported (rand-m9-mstd0.5-inc1)")
        values = {"m": HIGHEST, "mstd": 0.0, "n": 2.0, "inc": 0.0}
        for section in sections:
            match = re.fullmatch(r"(mstd|inc|m|n)(\d+(?:\.\d+)?)", section)
            if match is None:
                known = ", ".join(values)
                raise ValueError(f"config_str: '{section}' in '{config_str}' is not one of {known} and a number")
            values[match[1]] = float(match[2])
        if not values["n"].is_integer() or values["n"] < 1:
            raise ValueError(f"config_str: '{config_str}': n must be a whole number from 1")
        self.magnitude, self.deviation, self.layers = values["m"], values["mstd"], int(values["n"])
        self.changes = list(changes(increasing=bool(values["inc"])).values())
        self.prob, self.interpolation = prob, interpolation
        self.fill = [min(max(round(255 * value), 0), 255) for value in mean or (0.485, 0.456, 0.406)]

    def draw_strength(self, generator: np.random.Generator) -> float:
        """Draws the magnitude of one operation, as a share of the scale's end."""
        magnitude = generator.normal(self.magnitude, self.deviation) if self.deviation > 0 else self.magnitude
        return min(max(magnitude, 0.0), HIGHEST) / HIGHEST

    def __call__(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """``uint8`` ``[H, W, 3]`` -> ``uint8`` ``[H, W, 3]``."""
        if generator.random() >= self.prob:
            return image
        for number in generator.integers(len(self.changes), size=self.layers):
            if generator.random() >= 0.5:
                continue
            strength = self.draw_strength(generator)
            sign = 1.0 if generator.random() < 0.5 else -1.0
            interpolation = self.interpolation
            if interpolation == "random":
                interpolation = "bilinear" if generator.random() < 0.5 else "bicubic"
            image = self.changes[number](image, strength, sign, interpolation, self.fill)
        return image
