"""A sheet of training samples as the network gets them: after all operators, from the first batches of the first epoch.

The samples are those that a training with the same seed begins with; only the normalisation is taken back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ppcls_ext.engine.loader import Loader
from ppcls_ext.utils.files import atomic_path

logger = logging.getLogger(__name__)
AUGMENTED_NAME = "augmented.png"
# So many batches, because a batch is mixed or not as a whole, and so many samples of each.
BATCHES, SAMPLES = 4, 6


def first_samples(loader: Loader) -> Iterator[tuple[dict[str, Any], int]]:
    """Yields batches as arrays, each with the numbers of its first samples, as the loader's workers make them."""
    for _, keys in zip(range(BATCHES), loader.sampler, strict=False):
        batch = loader.read_batch(keys)
        for number in range(min(SAMPLES, len(batch["image"]))):
            yield batch, number


def as_picture(image: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """Takes the normalisation back: ``float32`` ``[3, H, W]`` -> ``uint8`` RGB ``[H, W, 3]``.

    ``low`` and ``high`` are what it made of 0 and of 255, for each channel.
    """
    pixels = (image.transpose(1, 2, 0) - low) * (255.0 / (np.asarray(high) - low))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def write_augmented(sheet: Image.Image, folder: Path) -> None:
    """Writes the sheet into the folder of the check, and says where it is."""
    with atomic_path(folder / AUGMENTED_NAME) as path:
        sheet.save(path)
    logger.info("wrote %s; without --augmented the data are checked", folder / AUGMENTED_NAME)
