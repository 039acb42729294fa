"""Layers that all of our networks are made of. All tensors are NCHW."""

from __future__ import annotations

import paddle
from paddle import nn
from paddle.nn import functional
from paddle.nn.initializer import Constant, TruncatedNormal

# Paddle cuts the truncated normal at -2 and 2 (not at two standard deviations), as the published ConvNeXt does.
WEIGHT_STD = 0.02
BATCH_NORM_EPSILON = 1e-5
# Channels inside a block over channels of the block.
EXPANSION = 4


def group_width(channels: int, limit: int) -> int:
    """Channels in each group: the largest divisor of ``channels`` that is not above ``limit``."""
    return next(width for width in range(min(channels, limit), 0, -1) if channels % width == 0)


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


class EffectiveSE(nn.Layer):
    """Effective squeeze-and-excitation: a gate in [0, 1] for each channel (CenterMask, arXiv 1911.06667).

    Args:
        channels: channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = GlobalAveragePool()
        self.conv = convolution(channels, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        return x * self.gate(self.conv(self.pool(x)))


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
