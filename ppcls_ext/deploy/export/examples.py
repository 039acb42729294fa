"""Pictures to compare an export with its model on, when no data set is at hand."""

from __future__ import annotations

import numpy as np


def example_images() -> dict[str, np.ndarray]:
    """Returns pictures by name, ``uint8`` RGB ``[H, W, 3]``: shapes and lights that photographs come in.

    They are drawn from fixed numbers: smooth light, sharp edges and sensor noise; wide, high, nearly black,
    overexposed, and smaller than any network's input. They are the same on every machine.
    """
    generator = np.random.default_rng(20250829)
    return {
        "generated photo, wide": _photo(generator, 360, 640),
        "generated photo, high": _photo(generator, 500, 333),
        "generated photo, dark": (_photo(generator, 240, 320) // 16).astype(np.uint8),
        "generated photo, overexposed": np.maximum(_photo(generator, 256, 256), 200),
        "generated photo, tiny": _photo(generator, 17, 23),
    }


def _photo(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws one picture ``uint8`` ``[height, width, 3]``: a sloping light, twelve coloured discs and boxes, noise."""
    rows, columns = np.mgrid[0:height, 0:width]
    slope = generator.uniform(-1, 1, size=(2, 3))
    position = np.stack([rows / height - 0.5, columns / width - 0.5], axis=-1)
    picture = 128 + 120 * position @ slope
    for number in range(12):
        centre = generator.uniform(0, 1, size=2) * (height, width)
        radius = generator.uniform(0.05, 0.3) * min(height, width)
        distances = np.stack([np.abs(rows - centre[0]), np.abs(columns - centre[1])])
        # Discs and boxes in turn: both round and straight edges.
        inside = (np.hypot(*distances) if number % 2 else distances.max(axis=0)) < radius
        picture[inside] = 0.3 * picture[inside] + 0.7 * generator.uniform(0, 255, size=3)
    picture += generator.normal(scale=6, size=picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)
