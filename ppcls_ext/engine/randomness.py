"""Random numbers that depend on what is drawn for, never on which process draws or on what came before."""

from __future__ import annotations

import numpy as np

# The first word keeps the streams apart: numpy pads short seeds with zeros, so [1, 2] and [1, 2, 0] are one stream.
ORDER, SAMPLE, BATCH = 1, 2, 3


def order_generator(seed: int, epoch: int) -> np.random.Generator:
    """For the order of an epoch."""
    return np.random.default_rng([ORDER, seed, epoch])


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """For the augmentation of one sample in one epoch."""
    return np.random.default_rng([SAMPLE, seed, epoch, index])


def batch_generator(seed: int, epoch: int, batch: int, rank: int) -> np.random.Generator:
    """For the mixing of one batch of one process."""
    return np.random.default_rng([BATCH, seed, epoch, batch, rank])
