"""Layers of E-ConvNeXt (arXiv 2508.20955). All tensors are NCHW."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import nn
from paddle.nn import functional
from paddle.nn.initializer import Constant, TruncatedNormal

# Paddle cuts the truncated normal at -2 and 2 (not at two standard deviations), as the published ConvNeXt does.
WEIGHT_STD = 0.02
BATCH_NORM_EPSILON = 1e-5
# Channels inside a block over channels of the block.
EXPANSION = 4


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


class ConvBNAct(nn.Layer):
    """Convolution -> batch norm -> GELU (exact form).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the square kernel.
        stride: stride in both directions.
        padding: zeros added on each side.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.conv = convolution(in_channels, out_channels, kernel_size, stride, padding)
        self.norm = nn.BatchNorm2D(out_channels, epsilon=BATCH_NORM_EPSILON)
        self.activation = nn.GELU()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, in_channels, H, W]`` -> ``[N, out_channels, H', W']``."""
        return self.activation(self.norm(self.conv(x)))


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


class Block(nn.Layer):
    """Residual block: depthwise 7x7 -> BN -> 1x1 to 4c -> GELU -> 1x1 to c -> BN -> channel attention -> drop path.

    Args:
        channels: channels of input and output.
        drop_path_rate: probability of dropping the branch of a sample in training.
        hidden_channels: channels between the two 1x1 convolutions, if not 4c as published: pruned blocks have fewer.
    """

    def __init__(self, channels: int, drop_path_rate: float = 0.0, hidden_channels: int | None = None) -> None:
        super().__init__()
        hidden = EXPANSION * channels if hidden_channels is None else hidden_channels
        self.depthwise = convolution(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.BatchNorm2D(channels, epsilon=BATCH_NORM_EPSILON)
        self.expand = convolution(channels, hidden, 1)
        self.activation = nn.GELU()
        self.project = convolution(hidden, channels, 1)
        self.project_norm = nn.BatchNorm2D(channels, epsilon=BATCH_NORM_EPSILON)
        self.attention = EffectiveSE(channels)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        branch = self.expand(self.norm(self.depthwise(x)))
        branch = self.project_norm(self.project(self.activation(branch)))
        return x + self.drop_path(self.attention(branch))


class CSPStage(nn.Layer):
    """A stage with a cross-stage partial connection: half of the channels pass by the blocks.

    downsample -> two parallel 1x1 convolutions to half the width (the shortcut, and the entry into the blocks)
    -> concatenation -> channel attention -> 1x1 convolution.

    Args:
        in_channels: channels of the input.
        middle_channels: width between downsampling and the last convolution.
        out_channels: channels of the output.
        stride: 2 halves the resolution with a 2x2 convolution; 1 keeps it (a 1x1 convolution if the input does not
            have ``middle_channels`` yet).
        drop_path_rates: one rate for each block; their number is the depth of the stage.
        hidden_channels: channels inside each block, see `Block`.
    """

    def __init__(
        self,
        in_channels: int,
        middle_channels: int,
        out_channels: int,
        stride: int,
        drop_path_rates: list[float],
        hidden_channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        hidden = [None] * len(drop_path_rates) if hidden_channels is None else hidden_channels
        half = middle_channels // 2
        if stride == 2:
            self.downsample = ConvBNAct(in_channels, middle_channels, 2, 2)
        elif in_channels != middle_channels:
            self.downsample = ConvBNAct(in_channels, middle_channels, 1)
        else:
            self.downsample = nn.Identity()
        self.shortcut = ConvBNAct(middle_channels, half, 1)
        self.entry = ConvBNAct(middle_channels, half, 1)
        self.blocks = nn.Sequential(*(Block(half, *each) for each in zip(drop_path_rates, hidden, strict=True)))
        self.attention = EffectiveSE(2 * half)
        self.merge = ConvBNAct(2 * half, out_channels, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, in_channels, H, W]`` -> ``[N, out_channels, H // stride, W // stride]``."""
        x = self.downsample(x)
        both = paddle.concat([self.shortcut(x), self.blocks(self.entry(x))], axis=1)
        return self.merge(self.attention(both))
