"""Layers of convolutional networks in plain NumPy, float64: what our Paddle layers are checked against."""

from __future__ import annotations

from typing import Any

import numpy as np


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int = 1, groups: int = 1) -> np.ndarray:
    """``[N, C, H, W]`` with ``[out, C / groups, k, k]``, zeros of ``k // 2`` around: the sum over each window."""
    side = kernel.shape[-1]
    margin = side // 2
    padded = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3))[:, :, ::stride, ::stride]
    inputs, outputs = x.shape[1] // groups, kernel.shape[0] // groups
    parts = [
        np.einsum(
            "nchwij,ocij->nohw",
            windows[:, group * inputs : (group + 1) * inputs],
            kernel[group * outputs : (group + 1) * outputs],
        )
        for group in range(groups)
    ]
    return np.concatenate(parts, axis=1)


def silu(x: np.ndarray) -> np.ndarray:
    """``x * sigmoid(x)``."""
    return x / (1.0 + np.exp(-x))


def conv_norm(layer: Any, x: np.ndarray, stride: int = 1, activate: bool = True) -> np.ndarray:
    """What a ``ConvNorm`` with these weights must give in evaluation: convolution, normalisation, SiLU."""
    weights = {key: value.numpy().astype(np.float64) for key, value in layer.state_dict().items()}
    kernel = weights["conv.weight"]
    y = convolve(x, kernel, stride, groups=x.shape[1] // kernel.shape[1])
    deviation = np.sqrt(weights["norm._variance"] + 1e-3)
    gain, mean, bias = (weights[f"norm.{name}"] for name in ("weight", "_mean", "bias"))
    y = (y - _spread(mean)) / _spread(deviation) * _spread(gain) + _spread(bias)
    return silu(y) if activate else y


def max_pool(x: np.ndarray, side: int) -> np.ndarray:
    """The largest value of each ``side`` x ``side`` window about a position; nothing lies outside."""
    margin = side // 2
    padded = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)), constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3)).max(axis=(-2, -1))


def softmax(x: np.ndarray) -> np.ndarray:
    """Along the last axis."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _spread(values: np.ndarray) -> np.ndarray:
    return values[None, :, None, None]
