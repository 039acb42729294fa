"""What an engine must offer to run an exported network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np


class Backend(Protocol):
    """Runs a classifier; constructed as ``Backend(description, artefact, threads, onednn)``.

    Attributes:
        computed_in: type of the numbers that it computes with: ``float32``, ``float16`` or ``bfloat16``.
    """

    computed_in: str

    def run(self, images: np.ndarray) -> np.ndarray:
        """``float32`` ``[N, 3, H, W]`` -> logits ``float32`` ``[N, class_num]``."""


class DetectionBackend(Protocol):
    """Runs a detector; constructed as ``Backend(description, artefact, threads, onednn)``. An engine may be both.

    Attributes:
        computed_in: type of the numbers that it computes with: ``float32``, ``float16`` or ``bfloat16``.
    """

    computed_in: str

    def detect(self, images: np.ndarray, scale_factors: np.ndarray) -> Sequence[np.ndarray]:
        """Finds boxes.

        Args:
            images: ``float32`` ``[N, 3, H, W]``.
            scale_factors: ``float32`` ``[N, 2]``: height and width of the resized image, divided by those of the image;
                ignored by a network that does not take them.

        Returns:
            The outputs of the network in their order; ``OutputForm`` tells what they mean. Either detections:
            ``float32`` ``[N, k, 6]`` (class, score, x1, y1, x2, y2), or ``[M, 6]``, those of the first image first, and
            how many each image has, ``int32`` ``[N]``. Or all anchors: boxes ``[N, A, 4]`` and scores ``[N, C, A]``.
        """


class NamedInputs(ABC):
    """A ``Backend`` and ``DetectionBackend`` of an engine that is fed by name, with the inputs that its network has.

    Attributes:
        input_names: of the network.
    """

    input_names: Iterable[str]

    def run(self, images: np.ndarray) -> np.ndarray:
        """See ``Backend``."""
        (only,) = self.input_names
        return self.compute({only: images})[0]

    def detect(self, images: np.ndarray, scale_factors: np.ndarray) -> Sequence[np.ndarray]:
        """See ``DetectionBackend``."""
        values = {"image": images, "scale_factor": scale_factors}
        return self.compute({name: values[name] for name in self.input_names})

    @abstractmethod
    def compute(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Arrays by the names of the inputs -> the outputs in their order."""
