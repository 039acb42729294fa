"""Images that cannot be read, alike for classifiers and detectors: named with the cause; too many stop a run."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ppcls_ext.engine.environment import sum_over_ranks
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)

SHOWN = 3


class NamedImages(Protocol):
    """Images of which the number and the names are known."""

    def __len__(self) -> int: ...

    def name_of(self, index: int) -> str: ...


class BadImages:
    """Unreadable images of one data set. Training takes the next one for each, with its label or boxes; an evaluation
    leaves them out, with their label or boxes: none is ever shown as an image of nothing.

    Over the epochs every process meets every image, so each compares its own count with the limit of the whole set: the
    share ``limit``, whose dotted key is ``key``. ``names`` are the images met so far, each once.
    """

    def __init__(self, images: NamedImages, limit: float, key: str) -> None:
        self.names: list[str] = []
        self._indices: set[int] = set()
        self._causes: dict[str, str] = {}
        self._images, self._limit, self._key = images, limit, key

    def note(self, indices: np.ndarray, causes: Sequence[str]) -> None:
        """Names new unreadable images of a batch: ``indices`` ``int64`` ``[N]``, -1 for the others, and their causes.

        Raises:
            UserError: there are more of them than allowed.
        """
        for index, cause in zip(indices[indices >= 0].tolist(), causes, strict=True):
            if self._add(index):
                self._causes[self.names[-1]] = cause
                logger.warning("skipped %s: %s (%d so far)", self.names[-1], cause, len(self.names))
        self._stop_beyond_limit()

    def share(self, world_size: int) -> None:
        """Adds what the other processes met, so that checkpoint and report name every image; all processes call it."""
        if world_size == 1:
            return
        met = np.zeros(len(self._images))
        met[sorted(self._indices)] = 1
        for index in np.flatnonzero(sum_over_ranks(met, world_size)).tolist():
            self._add(index)
        self._stop_beyond_limit()

    def _add(self, index: int) -> bool:
        """Notes an index; tells whether its name is new."""
        self._indices.add(index)
        name = self._images.name_of(index)
        if name in self.names:
            return False
        self.names.append(name)
        return True

    def _stop_beyond_limit(self) -> None:
        bad, images = len(self.names), len(self._images)
        if bad <= self._limit * images:
            return
        # Causes are known of those that this process met in this session.
        causes = {name: f" ({cause})" for name, cause in self._causes.items()}
        shown = ", ".join(name + causes.get(name, "") for name in self.names[:SHOWN]) + (" ..." if bad > SHOWN else "")
        advice = f"-o {self._key}={min(math.ceil(100 * (bad + 1) / images) / 100, 1.0):g}"
        raise UserError(
            f"{bad} of {images} images cannot be read, more than {self._key} permits: {shown}; mend or remove them, "
            f"or go on without them by {advice}"
        )
