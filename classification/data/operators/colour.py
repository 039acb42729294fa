"""Random changes of colour, with PaddleClas 2.6's names and arguments."""

from __future__ import annotations

import numpy as np

from classification.data.operators import photometric


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
        self,
        prob: float = 2.0,
        brightness: float | list[float] = 0.0,
        contrast: float | list[float] = 0.0,
        saturation: float | list[float] = 0.0,
        hue: float | list[float] = 0.0,
    ) -> None:
        self.prob = prob
        self.steps = [
            (photometric.brightness, _limits(brightness, "brightness", 1.0)),
            (photometric.contrast, _limits(contrast, "contrast", 1.0)),
            (photometric.color, _limits(saturation, "saturation", 1.0)),
            (photometric.hue, _limits(hue, "hue", 0.0)),
        ]

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
    """Takes the colour out of some images.

    Args:
        p: share of the images.
    """

    random = True

    def __init__(self, p: float = 0.1) -> None:
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"p: must be from 0 to 1, got {p}")
        self.p = p

    def __call__(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """``uint8`` ``[H, W, 3]`` -> ``uint8`` ``[H, W, 3]``."""
        return photometric.grayscale(image) if generator.random() < self.p else image


def _limits(value: float | list[float], argument: str, centre: float) -> tuple[float, float] | None:
    """Returns the range to draw from, or None where nothing is to change."""
    if isinstance(value, list):
        limits = tuple(value)
    else:
        lowest = 0.0 if centre else -value
        limits = (max(lowest, centre - value), centre + value)
    bounds = (0.0, float("inf")) if centre else (-0.5, 0.5)
    if len(limits) != 2 or not bounds[0] <= limits[0] <= limits[1] <= bounds[1]:
        raise ValueError(f"{argument}: must be a number or [smallest, largest] within {bounds}, got {value}")
    return None if limits == (centre, centre) else limits
