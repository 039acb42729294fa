"""Weights that depend on nothing but their own key: the same network gives the same numbers on every machine.

Random initialisation depends on the order in which layers are made. Here each tensor has a generator of its own,
seeded by its structured key, so that golden numbers survive any change that leaves the network itself alone.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from paddle import nn

# Found by trial: with less the biases drown the image on its way through our models, so that every image gives the
# same logits, and with more the activations of 27 residual blocks grow without bound.
WEIGHT_GAIN = 5.8


def seeded_array(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns float32 numbers, uniform in [-1, 1), that depend on ``key`` and ``shape`` only."""
    seed = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "little")
    return np.random.default_rng(seed).random(shape, dtype=np.float32) * 2 - 1


def seed_weights(model: nn.Layer) -> None:
    """Fills every parameter and running statistic of ``model`` from a generator seeded by its key.

    Weights are scaled by their fan-in, norm weights and variances lie about one, biases and means are small.
    """
    state = {}
    for key, tensor in model.state_dict().items():
        shape = tuple(tensor.shape)
        values = seeded_array(key, shape)
        if key.endswith("_variance"):
            values = 1.0 + 0.5 * values
        elif len(shape) > 1:
            # Convolutions are [out, in, h, w], linear layers [in, out].
            fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
            values = values * np.sqrt(WEIGHT_GAIN / fan_in)
        elif key.endswith("weight"):
            values = 1.0 + 0.2 * values
        else:
            values = 0.1 * values
        state[key] = values.astype(np.float32)
    missing, unexpected = model.set_state_dict(state)
    assert not missing and not unexpected
