"""``TimmAutoAugment``: RandAugment by timm's configuration strings (Cubuk et al., arXiv 1909.13719)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from classification.data.operators import photometric
from classification.data.operators.geometric import affine, rotation
from classification.data.operators.slide import slide_columns, slide_rows

HIGHEST = 10.0
ROTATION_DEGREES = 30.0
SHEAR = 0.3
TRANSLATION = 0.45

# (image, strength from 0 to 1, sign, interpolation, fill) -> image
Change = Callable[[np.ndarray, float, float, str, Sequence[int]], np.ndarray]


def _rotate(image: np.ndarray, strength: float, sign: float, interpolation: str, fill: Sequence[int]) -> np.ndarray:
    height, width = image.shape[:2]
    return affine(image, rotation(width, height, sign * strength * ROTATION_DEGREES), interpolation, fill)


def _shear_x(image: np.ndarray, strength: float, sign: float, interpolation: str, fill: Sequence[int]) -> np.ndarray:
    return slide_rows(image, sign * strength * SHEAR * (np.arange(image.shape[0]) + 0.5), interpolation, fill)


def _shear_y(image: np.ndarray, strength: float, sign: float, interpolation: str, fill: Sequence[int]) -> np.ndarray:
    return slide_columns(image, sign * strength * SHEAR * (np.arange(image.shape[1]) + 0.5), interpolation, fill)


def _translate_x(
    image: np.ndarray, strength: float, sign: float, interpolation: str, fill: Sequence[int]
) -> np.ndarray:
    height, width = image.shape[:2]
    return slide_rows(image, np.full(height, sign * strength * TRANSLATION * width), interpolation, fill)


def _translate_y(
    image: np.ndarray, strength: float, sign: float, interpolation: str, fill: Sequence[int]
) -> np.ndarray:
    height, width = image.shape[:2]
    return slide_columns(image, np.full(width, sign * strength * TRANSLATION * height), interpolation, fill)


def _bits(strength: float, increasing: bool) -> int:
    """Bits that posterizing keeps. The strongest increasing level asks for none, which is no image: one is kept."""
    level = int(strength * 4)
    return min(max(4 - level if increasing else level, 1), 8)


def _enhancement(strength: float, sign: float, increasing: bool) -> float:
    """Factor of an enhancement: away from 1 on either side, or from 0.1 to 1.9 where strength is not "increasing"."""
    return max(0.1, 1.0 + sign * 0.9 * strength) if increasing else 0.1 + 1.8 * strength


def _enhance(function: Callable[[np.ndarray, float], np.ndarray], increasing: bool) -> Change:
    return lambda image, strength, sign, _interpolation, _fill: function(
        image, _enhancement(strength, sign, increasing)
    )


def changes(increasing: bool) -> dict[str, Change]:
    """Returns the fifteen operations by name.

    Args:
        increasing: every operation grows with the magnitude (timm's ``inc1``); else posterizing, solarizing and the
            enhancements keep the directions of the paper's first version.
    """

    def solarize_threshold(strength: float) -> int:
        level = min(int(strength * 256), 256)
        return 256 - level if increasing else level

    return {
        "AutoContrast": lambda image, *_: photometric.auto_contrast(image),
        "Equalize": lambda image, *_: photometric.equalize(image),
        "Invert": lambda image, *_: photometric.invert(image),
        "Rotate": _rotate,
        "Posterize": lambda image, strength, *_: photometric.posterize(image, _bits(strength, increasing)),
        "Solarize": lambda image, strength, *_: photometric.solarize(image, solarize_threshold(strength)),
        "SolarizeAdd": lambda image, strength, *_: photometric.solarize_add(image, min(int(strength * 110), 128)),
        "Color": _enhance(photometric.color, increasing),
        "Contrast": _enhance(photometric.contrast, increasing),
        "Brightness": _enhance(photometric.brightness, increasing),
        "Sharpness": _enhance(photometric.sharpness, increasing),
        "ShearX": _shear_x,
        "ShearY": _shear_y,
        "TranslateX": _translate_x,
        "TranslateY": _translate_y,
    }


# timm's weight set 0 (`w0`): how often each operation is chosen, without repetition.
WEIGHTS_0 = {
    "Rotate": 0.3, "ShearX": 0.2, "ShearY": 0.2, "TranslateX": 0.1, "TranslateY": 0.1, "Color": 0.025,
    "Sharpness": 0.025, "AutoContrast": 0.025, "Solarize": 0.005, "SolarizeAdd": 0.005, "Contrast": 0.005,
    "Brightness": 0.005, "Equalize": 0.005, "Posterize": 0.0, "Invert": 0.0,
}  # fmt: skip


class Policy:
    """What a configuration string says.

    Args:
        text: ``rand`` and any of ``m`` magnitude (0 to 10), ``n`` operations an image, ``p`` probability of each,
            ``mstd`` deviation of the magnitude (above 100: drawn evenly from 0 to the magnitude), ``mmax`` its upper
            bound, ``inc`` 1 for the increasing operations, ``w`` 0 for weighted choice, joined by ``-``.

    Raises:
        ValueError: the string has another form; the message begins with ``config_str``.
    """

    keys = ("mstd", "mmax", "inc", "m", "n", "p", "w")

    def __init__(self, text: str) -> None:
        name, *sections = text.split("-")
        if name != "rand":
            raise ValueError(f"config_str: '{text}': only 'rand' policies are supported (rand-m9-mstd0.5-inc1)")
        values = {"m": HIGHEST, "mmax": HIGHEST, "n": 2.0, "p": 0.5, "mstd": 0.0, "inc": 0.0}
        for section in sections:
            match = re.fullmatch(rf"({'|'.join(self.keys)})(\d+(?:\.\d+)?|inf)", section)
            if match is None:
                raise ValueError(
                    f"config_str: '{section}' in '{text}' is not one of {', '.join(self.keys)} and a number"
                )
            values[match[1]] = float(match[2])
        if values.get("w", 0.0) != 0.0:
            raise ValueError(f"config_str: '{text}': only the weight set w0 is known")
        if not values["n"].is_integer() or values["n"] < 1 or not 0 <= values["p"] <= 1:
            raise ValueError(f"config_str: '{text}': n must be a whole number from 1, p from 0 to 1")
        self.magnitude = values["m"]
        self.highest = values["mmax"]
        self.layers = int(values["n"])
        self.probability = values["p"]
        self.deviation = values["mstd"]
        self.increasing = bool(values["inc"])
        self.weighted = "w" in values

    def draw_strength(self, generator: np.random.Generator) -> float:
        """Draws the magnitude of one operation, as a share of the scale's end."""
        magnitude = self.magnitude
        if self.deviation > 100:
            magnitude = generator.uniform(0.0, magnitude)
        elif self.deviation > 0:
            magnitude = generator.normal(magnitude, self.deviation)
        return min(max(magnitude, 0.0), self.highest) / HIGHEST


class TimmAutoAugment:
    """RandAugment: some operations out of fifteen, each applied or not.

    Args:
        prob: share of the images that are augmented at all.
        config_str: see :class:`Policy`.
        interpolation: of the geometric operations; ``random`` draws bilinear or bicubic for each.
        img_size: accepted for PaddleClas's configurations; translations are relative to the image itself.
        mean: colour, from 0 to 1, of what comes from outside the image; ImageNet's mean when absent.
    """

    random = True

    def __init__(
        self,
        prob: float = 1.0,
        config_str: str = "rand-m9-mstd0.5-inc1",
        interpolation: Literal["bilinear", "bicubic", "random"] = "bicubic",
        img_size: int | list[int] = 224,
        mean: list[float] | None = None,
    ) -> None:
        if not 0.0 <= prob <= 1.0:
            raise ValueError(f"prob: must be from 0 to 1, got {prob}")
        self.prob = prob
        self.policy = Policy(config_str)
        self.interpolation = interpolation
        colour = [0.485, 0.456, 0.406] if mean is None else mean
        if len(colour) != 3:
            raise ValueError(f"mean: must be three numbers, got {mean}")
        self.fill = [min(max(round(255 * value), 0), 255) for value in colour]
        self.names = list(changes(self.policy.increasing))
        weights = [WEIGHTS_0[name] for name in self.names]
        self.weights = np.asarray(weights) / math.fsum(weights) if self.policy.weighted else None
        self.changes = list(changes(self.policy.increasing).values())

    def __call__(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """``uint8`` ``[H, W, 3]`` -> ``uint8`` ``[H, W, 3]``."""
        if generator.random() >= self.prob:
            return image
        if self.weights is None:
            chosen = generator.integers(len(self.changes), size=self.policy.layers)
        else:
            chosen = generator.choice(len(self.changes), size=self.policy.layers, replace=False, p=self.weights)
        for number in chosen:
            if generator.random() >= self.policy.probability:
                continue
            strength = self.policy.draw_strength(generator)
            sign = 1.0 if generator.random() < 0.5 else -1.0
            interpolation = self.interpolation
            if interpolation == "random":
                interpolation = "bilinear" if generator.random() < 0.5 else "bicubic"
            image = self.changes[number](image, strength, sign, interpolation, self.fill)
        return image
