"""Images that cannot be read and losses that are not finite: named, counted, and stopped before they do harm."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from classification.data.datasets import ImageDataset
from classification.progress import RunProgress
from ppcls_ext.common.errors import UserError
from ppcls_ext.common.files import atomic_path

logger = logging.getLogger(__name__)

SHOWN = 3


class BadImages:
    """Unreadable images of one data set.

    Args:
        names: the list to fill, which may hold names from before an interruption.
        dataset: knows the names.
        limit: share of the data set above which the run stops.
        world_size: each process sees only its share of the data set.
    """

    def __init__(self, names: list[str], dataset: ImageDataset, limit: float, world_size: int) -> None:
        self.names = names
        self._known = set(names)
        self._dataset = dataset
        self._allowed = limit * len(dataset) / world_size

    def note(self, indices: np.ndarray) -> None:
        """Names new unreadable images of a batch.

        Args:
            indices: ``[N]``, index of an unreadable image or -1.

        Raises:
            UserError: there are more of them than allowed.
        """
        for index in indices[indices >= 0].tolist():
            name = self._dataset.name_of(index)
            if name not in self._known:
                self._known.add(name)
                self.names.append(name)
                logger.warning("skipped %s: it cannot be read (%d so far)", name, len(self.names))
        if len(self.names) > self._allowed:
            shown = ", ".join(self.names[:SHOWN])
            raise UserError(
                f"{len(self.names)} of {len(self._dataset)} images cannot be read, more than Global.max_bad_images "
                f"permits: {shown}{' ...' if len(self.names) > SHOWN else ''}"
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
