"""What an engine must offer to run an exported network."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Backend(Protocol):
    """Runs a classifier; constructed as ``Backend(description, threads, onednn)``."""

    def run(self, images: np.ndarray) -> np.ndarray:
        """``float32`` ``[N, 3, H, W]`` -> logits ``float32`` ``[N, class_num]``."""


class DetectionBackend(Protocol):
    """Runs a detector; constructed as ``Backend(description, threads, onednn)``. An engine may be both."""

    def detect(self, images: np.ndarray, scale_factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds boxes.

        Args:
            images: ``float32`` ``[N, 3, H, W]``.
            scale_factors: ``float32`` ``[N, 2]``: height and width of the input, divided by those of the image.

        Returns:
            With suppression in the network: boxes ``float32`` ``[M, 6]`` (class, score, x1, y1, x2, y2), those of the
            first image first, and how many each image has, ``int32`` ``[N]``. Without: boxes ``[N, A, 4]`` and scores
            ``[N, C, A]``. Coordinates are pixels of the original images.
        """
