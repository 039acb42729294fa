"""How a weight lies in another code base, and how it is turned into our form and back without changing a number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Change = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Form:
    """A pair of changes, inverse to each other.

    Attributes:
        read: from their form to ours; what has none of the expected shapes is returned as it is, for the comparison
            with the model's shapes to find.
        write: from our form to theirs; None for a form that is only read.
    """

    read: Change
    write: Change | None


def _as_it_is(array: np.ndarray) -> np.ndarray:
    return array


def _read_linear(array: np.ndarray) -> np.ndarray:
    """``[out, in]``, or the same as a 1x1 convolution ``[out, in, 1, 1]`` -> ``[in, out]``."""
    if array.ndim == 4 and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    return array.T if array.ndim == 2 else array


def _read_vector(array: np.ndarray) -> np.ndarray:
    """``[1, 1, 1, C]``, ``[1, C]`` or ``[C, 1, 1]`` -> ``[C]``."""
    return array.reshape(-1) if array.ndim and array.size == max(array.shape) else array


def _read_sparse_kernel(array: np.ndarray) -> np.ndarray:
    """``[k * k, in, out]`` or, depthwise, ``[k * k, channels]`` -> ``[out, in, k, k]`` or ``[channels, 1, k, k]``.

    Positions of the window go first along the height there, as ``remap_checkpoint_keys`` of the official ConvNeXt V2
    repository shows.
    """
    side = math.isqrt(array.shape[0]) if array.ndim else 0
    if array.ndim not in (2, 3) or side * side != array.shape[0]:
        return array
    windows = array.T.reshape(*array.shape[:0:-1], side, side).swapaxes(-1, -2)
    return windows[:, None] if array.ndim == 2 else windows


SAME = Form(_as_it_is, _as_it_is)
LINEAR = Form(_read_linear, lambda array: array.T)
POINTWISE = Form(_read_linear, lambda array: array.T[:, :, None, None])
# A factor for each channel, shaped to fit maps with the channels last, or first.
LAST_AXIS = Form(_read_vector, lambda array: array.reshape(1, 1, 1, -1))
FIRST_AXIS = Form(_read_vector, lambda array: array.reshape(-1, 1, 1))
SPARSE_VECTOR = Form(_read_vector, None)
SPARSE_LINEAR = Form(_read_linear, None)
SPARSE_KERNEL = Form(_read_sparse_kernel, None)
