"""Shared by ConvNeXt and E-ConvNeXt: initialised layers, global pool, drop path, checks and scaling of arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import paddle
from paddle import nn
from paddle.nn import functional
from paddle.nn.initializer import Constant, TruncatedNormal

StemStride = Literal[1, 2, 4]
# Paddle cuts the truncated normal at -2 and 2 (not at two standard deviations), as the published ConvNeXt does.
WEIGHT_STD = 0.02
BATCH_NORM_EPSILON = 1e-5
# Channels inside a block over channels of the block.
EXPANSION = 4
# Widths are multiples of it, because the kernels of processors work on so many channels at a time.
WIDTH_UNIT = 8
# Beyond them a network has no width, or fits no machine: a slip of the pen.
LOWEST_MULTIPLIER, HIGHEST_MULTIPLIER = 0.01, 16


def convolution(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0, groups: int = 1
) -> nn.Conv2D:
    """A convolution with bias; truncated-normal weights (std 0.02), zero bias."""
    return nn.Conv2D(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=padding,
        groups=groups,
        weight_attr=paddle.ParamAttr(initializer=TruncatedNormal(std=WEIGHT_STD)),
        bias_attr=paddle.ParamAttr(initializer=Constant(0.0)),
    )


def linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer with bias; truncated-normal weights (std 0.02), zero bias."""
    return nn.Linear(
        in_features,
        out_features,
        weight_attr=paddle.ParamAttr(initializer=TruncatedNormal(std=WEIGHT_STD)),
        bias_attr=paddle.ParamAttr(initializer=Constant(0.0)),
    )


class GlobalAveragePool(nn.Layer):
    """Mean over height and width.

    Written as adaptive pooling because ``x.mean([2, 3])`` has no oneDNN kernel: the exported network then changes
    memory layout at every attention and takes twice as long.
    """

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, 1, 1]``."""
        return functional.adaptive_avg_pool2d(x, 1)


class DropPath(nn.Layer):
    """Stochastic depth (arXiv 1603.09382): in training, drops the whole branch of a sample with probability ``rate``.

    What remains is scaled by ``1 / (1 - rate)``, so that the expectation is that of evaluation, which drops nothing.

    Args:
        rate: probability, at least 0 and below 1.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"rate: must be at least 0 and below 1, got {rate}")
        self.rate = rate

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        # Drawn in float32 whatever the precision of x, because half types lack a uniform kernel on some devices.
        kept = paddle.rand([x.shape[0], 1, 1, 1], dtype="float32") < keep
        return x * (kept.astype(x.dtype) / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def check_arguments(class_num: int, drop_path_rate: float, stem_stride: int, in_channels: int) -> None:
    """Refuses arguments of a network that are out of range.

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
    """Drop path rates of all blocks, rising linearly from 0 to ``rate`` over the whole network, grouped by stage."""
    last = max(sum(depths) - 1, 1)
    rates = iter([rate * i / last for i in range(sum(depths))])
    return [[next(rates) for _ in range(depth)] for depth in depths]


def block_expansions(expansion_channels: Sequence[Sequence[int]] | None, depths: Sequence[int]) -> list[list]:
    """Returns the channels inside each block, grouped by stage; ``None`` for a block of the published width.

    Raises:
        ValueError: there is not one positive whole number for each block; the message begins with the argument's name.
    """
    if expansion_channels is None:
        return [[None] * depth for depth in depths]
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
