"""What the constructors of all our models take alike: its range, how drop path rises, how networks grow. No Paddle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

from ppcls_ext.arch.variants import StemStride

# Widths are multiples of it, because the kernels of processors work on so many channels at a time.
WIDTH_UNIT = 8
# Beyond them a network has no width, or fits no machine: a slip of the pen.
LOWEST_MULTIPLIER, HIGHEST_MULTIPLIER = 0.01, 16


def check_common_arguments(class_num: int, drop_path_rate: float, stem_stride: int, in_channels: int) -> None:
    """Refuses what is out of range.

    Raises:
        ValueError: the message begins with the argument's name.
    """
    if class_num < 0:
        raise ValueError(f"class_num: must not be negative, got {class_num}")
    if not 0.0 <= drop_path_rate < 1.0:
        raise ValueError(f"drop_path_rate: must be at least 0 and below 1, got {drop_path_rate}")
    if stem_stride not in get_args(StemStride):
        raise ValueError(f"stem_stride: must be 1, 2 or 4, got {stem_stride}")
    if in_channels < 1:
        raise ValueError(f"in_channels: must be positive, got {in_channels}")


def drop_path_ramp(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Rates of all blocks, rising linearly from 0 to ``rate`` over the whole network, grouped by stage."""
    last = max(sum(depths) - 1, 1)
    rates = iter([rate * i / last for i in range(sum(depths))])
    return [[next(rates) for _ in range(depth)] for depth in depths]


def scaled_dims(dims: Sequence[int], multiplier: float) -> list[int]:
    """Widths times ``multiplier``, each rounded to the nearest multiple of 8 and at least 8; unchanged for 1.

    Raises:
        ValueError: the multiplier is out of range; the message begins with ``width_multiplier``.
    """
    _check_multiplier("width_multiplier", multiplier)
    if multiplier == 1:
        return list(dims)
    return [max(int(width * multiplier / WIDTH_UNIT + 0.5), 1) * WIDTH_UNIT for width in dims]


def scaled_depths(depths: Sequence[int], multiplier: float) -> list[int]:
    """Blocks of each stage times ``multiplier``, rounded up, as EfficientNet (arXiv 1905.11946) scales its depths.

    Raises:
        ValueError: the multiplier is out of range; the message begins with ``depth_multiplier``.
    """
    _check_multiplier("depth_multiplier", multiplier)
    # 10 x 1.1 is a little more than 11 in binary.
    return [math.ceil(round(depth * multiplier, 6)) for depth in depths]


def _check_multiplier(name: str, multiplier: float) -> None:
    if not LOWEST_MULTIPLIER <= multiplier <= HIGHEST_MULTIPLIER:
        raise ValueError(f"{name}: must be from {LOWEST_MULTIPLIER} to {HIGHEST_MULTIPLIER}, got {multiplier}")


def checked_expansion(
    expansion_channels: Sequence[Sequence[int]] | None, depths: Sequence[int]
) -> list[list[int]] | list[None]:
    """Returns the channels inside each block, grouped by stage; ``None`` for each stage if they are as published.

    Raises:
        ValueError: there is not one positive whole number for each block; the message begins with the argument's name.
    """
    if expansion_channels is None:
        return [None] * len(depths)
    stages = list(expansion_channels) if isinstance(expansion_channels, Sequence) else []
    if [len(stage) if isinstance(stage, list | tuple) else None for stage in stages] != list(depths):
        raise ValueError(
            f"expansion_channels: must be {len(depths)} lists, of {', '.join(map(str, depths))} numbers, "
            f"got {expansion_channels}"
        )
    for number in (number for stage in stages for number in stage):
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(f"expansion_channels: must be positive whole numbers, got {number!r}")
    return [list(stage) for stage in stages]
