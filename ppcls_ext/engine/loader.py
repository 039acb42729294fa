"""Batches in order, prepared ahead by worker processes."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ppcls_ext.engine.sampler import EpochBatchSampler
from ppcls_ext.engine.workers import BatchWorkers

if TYPE_CHECKING:
    import numpy as np
    import paddle

Convert = Callable[[dict[str, "np.ndarray"]], dict[str, "paddle.Tensor"]]


class Loader:
    """Iterates over the batches of the sampler's epoch, from its start batch.

    Args:
        workers: prepare the batches.
        sampler: chooses them.
        convert: copies the arrays of a batch into tensors; the arrays' memory is used again.
    """

    def __init__(self, workers: BatchWorkers, sampler: EpochBatchSampler, convert: Convert) -> None:
        self.workers = workers
        self.sampler = sampler
        self.convert = convert

    def __len__(self) -> int:
        """Number of batches of a whole epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        requests = iter(self.sampler)
        waiting = deque(self.workers.submit(keys) for keys in itertools.islice(requests, self.workers.ahead))
        try:
            while waiting:
                batch = self.workers.take(waiting.popleft(), self.convert)
                waiting.extend(self.workers.submit(keys) for keys in itertools.islice(requests, 1))
                yield batch
        finally:
            self.workers.drop(waiting)

    def close(self) -> None:
        """Ends the worker processes."""
        self.workers.close()
