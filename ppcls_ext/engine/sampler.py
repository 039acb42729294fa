"""Which samples form which batch: a function of seed and epoch, cut the same way for any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ppcls_ext.engine.randomness import order_generator


class SampleKey(NamedTuple):
    """What travels to the loader's workers in place of an index, so that they need to know nothing else.

    Attributes:
        epoch: number of the epoch.
        position: place in the epoch's order, over all processes.
        index: place in the data set.
    """

    epoch: int
    position: int
    index: int


class EpochBatchSampler:
    """Yields lists of :class:`SampleKey`; may begin in the middle of an epoch.

    The k-th batches of all processes together hold exactly the samples of the k-th batch of one process with
    ``world_size`` times the batch size, but for what ``in_step`` leaves out of the last. No sample is repeated.

    Args:
        length: number of samples.
        batch_size: samples in a batch of one process.
        shuffle: a new order each epoch, drawn from ``seed`` and the epoch.
        drop_last: leaves out the samples that do not fill a batch on all processes.
        seed: seed of the orders.
        rank, world_size: this process and how many there are.
        in_step: every process yields equally many batches of equally many samples, as training needs: gradients are
            averaged over the processes, and only so is that the average over the samples. Of the last batch, fewer
            than ``world_size`` samples are left out for it; one process leaves out none. Evaluation switches it off
            and sees every sample.

    Raises:
        ValueError: the arguments leave no batch; the message begins with the argument's name.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        in_step: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: must be positive, got {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: must be at least 0 and below {world_size}, got {rank}")
        self.length = length
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start_batch = 0
        rest = length % self.global_batch_size
        left_out = rest if drop_last else rest % world_size if in_step else 0
        self.used = length - left_out
        if self.used == 0:
            raise ValueError(
                f"batch_size: {length} samples do not fill a batch of {batch_size} on {world_size} process(es)"
            )

    @property
    def global_batch_size(self) -> int:
        """Samples in a batch of all processes together."""
        return self.batch_size * self.world_size

    def set_position(self, epoch: int, start_batch: int = 0) -> None:
        """Chooses the epoch and the first batch of the next iteration; batches before it are skipped, not loaded."""
        self.epoch = epoch
        self.start_batch = start_batch

    def order(self) -> np.ndarray:
        """Returns the epoch's order of the whole data set, ``int64`` ``[length]``."""
        if self.shuffle:
            return order_generator(self.seed, self.epoch).permutation(self.length)
        return np.arange(self.length)

    def __len__(self) -> int:
        """Number of batches of a whole epoch, wherever the iteration begins."""
        own = len(range(self.rank, self.used, self.world_size))
        return (own + self.batch_size - 1) // self.batch_size

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = self.order()
        epoch = self.epoch
        for number in range(self.start_batch, len(self)):
            first = number * self.global_batch_size + self.rank
            last = min((number + 1) * self.global_batch_size, self.used)
            positions = range(first, last, self.world_size)
            yield [SampleKey(epoch, position, int(order[position])) for position in positions]
