"""Images that cannot be read and losses that are not finite: named, counted, and stopped before they do harm."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from classification.data.datasets import ImageDataset
from classification.progress import RunProgress
from ppcls_ext.engine.environment import sum_over_ranks
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_path

logger = logging.getLogger(__name__)

SHOWN = 3


class BadImages:
    """Unreadable images of one data set.

    Over the epochs every process meets every image, so each compares its own count with the limit of the whole set.

    Args:
        names: the list to fill, which may hold names from before an interruption.
        dataset: knows the names.
        limit: share of the data set above which the run stops.
    """

    def __init__(self, names: list[str], dataset: ImageDataset, limit: float) -> None:
        self.names = names
        self._known = set(names)
        self._indices: set[int] = set()
        self._dataset = dataset
        self._limit = limit

    def note(self, indices: np.ndarray) -> None:
        """Names new unreadable images of a batch.

        Args:
            indices: ``[N]``, index of an unreadable image or -1.

        Raises:
            UserError: there are more of them than allowed.
        """
        for index in indices[indices >= 0].tolist():
            if self._add(index):
                logger.warning("skipped %s: it cannot be read (%d so far)", self.names[-1], len(self.names))
        self._stop_beyond_limit()

    def share(self, world_size: int) -> None:
        """Adds what the other processes met, so that checkpoint and report name every image; all processes call it.

        Raises:
            UserError: together there are more of them than allowed.
        """
        if world_size == 1:
            return
        met = np.zeros(len(self._dataset))
        met[sorted(self._indices)] = 1
        for index in np.flatnonzero(sum_over_ranks(met, world_size)).tolist():
            self._add(index)
        self._stop_beyond_limit()

    def _add(self, index: int) -> bool:
        """Notes an index; tells whether its name is new."""
        self._indices.add(index)
        name = self._dataset.name_of(index)
        if name in self._known:
            return False
        self._known.add(name)
        self.names.append(name)
        return True

    def _stop_beyond_limit(self) -> None:
        bad, images = len(self.names), len(self._dataset)
        if bad <= self._limit * images:
            return
        shown = ", ".join(self.names[:SHOWN])
        raise UserError(
            f"{bad} of {images} images cannot be read, more than Global.max_bad_images permits: {shown}"
            f"{' ...' if bad > SHOWN else ''}; mend or remove them, or go on without them by "
            f"-o Global.max_bad_images={min(np.ceil(100 * (bad + 1) / images) / 100, 1.0):g}"
        )


def stop_at_bad_loss(
    loss: float, batch: dict[str, Any], dataset: ImageDataset, progress: RunProgress, folder: Path, rank: int
) -> None:
    """Saves the batch and stops if ``loss`` is NaN or infinite; the weights have not seen its gradient.

    Raises:
        UserError: it is; the message names the step and the file.
    """
    if math.isfinite(loss):
        return
    epoch, step = progress.epoch + 1, progress.step + 1
    file = folder / f"bad_batch_epoch_{epoch:04d}_step_{step:06d}_rank_{rank}.npz"
    arrays = {name: value.numpy() for name, value in batch.items() if name != "bad"}
    names = [dataset.name_of(index) for index in arrays["index"].tolist()]
    try:
        with atomic_path(file) as temporary:
            np.savez(temporary, names=np.array(names), **arrays)
        outcome = f"the batch is saved in {file}"
    except OSError as error:
        outcome = f"the batch could not be saved in {file} ({error.strerror or error})"
    raise UserError(
        f"the loss became {loss} at epoch {epoch}, batch {step} (optimizer step {progress.updates + 1}); {outcome}; "
        "try a lower Optimizer.lr.learning_rate, a longer warmup_epoch or Optimizer.clip_norm"
    )
