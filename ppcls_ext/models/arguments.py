"""What the constructors of all our models take alike: its range, and how drop path rises. Loads no Paddle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from ppcls_ext.models.variants import StemStride


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
