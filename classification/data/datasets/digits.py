"""The 1,797 handwritten digits that scikit-learn ships, so that a first run needs no download."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from classification.data.datasets.base import ImageDataset, stratified_holdout
from classification.data.errors import DatasetError


class Digits(ImageDataset):
    """Handwritten digits of 8x8 pixels, enlarged, as RGB (Alpaydin and Kaynak, UCI repository, 1998).

    Args:
        split: the ``train`` or the ``val`` side of a seeded split that keeps the proportions of the classes.
        holdout: share of each digit that goes to ``val``.
        seed: seed of the split.
        size: side of the pictures in pixels.

    Raises:
        DatasetError: scikit-learn is not installed.
    """

    def __init__(
        self, split: Literal["train", "val"] = "train", holdout: float = 0.2, seed: int = 0, size: int = 32
    ) -> None:
        if not 0.0 < holdout < 1.0:
            raise ValueError(f"holdout: must be above 0 and below 1, got {holdout}")
        if size < 8:
            raise ValueError(f"size: must be at least 8, got {size}")
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise DatasetError("name", "the digits come with scikit-learn: pip install scikit-learn") from error
        digits = load_digits()
        labels = digits.target.astype(np.int64)
        chosen = np.flatnonzero(stratified_holdout(labels, holdout, seed) == (split == "val"))
        self.split = split
        self.class_names = [str(digit) for digit in range(10)]
        self.labels = labels[chosen]
        # Samples are 0..16; as bytes they use the whole range.
        grey = np.round(digits.images[chosen] * (255.0 / 16.0)).astype(np.uint8)
        enlarged = [cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR) for picture in grey]
        self.images = np.repeat(np.stack(enlarged)[..., np.newaxis], 3, axis=3)
        self.images.setflags(write=False)

    def load(self, index: int) -> tuple[np.ndarray, int]:
        """Returns the ``uint8`` RGB picture ``[size, size, 3]``, which cannot be written to, and its label."""
        return self.images[index], int(self.labels[index])

    def name_of(self, index: int) -> str:
        """Returns the digit's place in its split."""
        return f"digits/{self.split}#{index}"
