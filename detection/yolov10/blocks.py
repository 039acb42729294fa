"""Building blocks of YOLOv10 (arXiv 2405.14458, sections 3.2 and 3.3, and appendix). All tensors are NCHW.

Layers that a deployed network needs no more are merged by ``convert_to_deploy``: batch norms into the convolutions
before them, the two kernels of :class:`RepVGGDW` into one. It may be called in any order, and again.
"""

from __future__ import annotations

import math

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional
from paddle.nn.initializer import KaimingUniform

NORM_EPSILON = 1e-3
# Paddle's momentum is the share of the old statistics.
NORM_MOMENTUM = 0.97
LARGE_KERNEL = 7
POOL_KERNEL = 5


def uniform_weights() -> paddle.ParamAttr:
    """Weights drawn evenly from -b to b, b = 1 / sqrt(number of inputs of one output)."""
    return paddle.ParamAttr(initializer=KaimingUniform(negative_slope=math.sqrt(5.0), nonlinearity="leaky_relu"))


class ConvNorm(nn.Layer):
    """Convolution without bias -> batch norm -> SiLU (or nothing); keeps the resolution at stride 1.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the square kernel, odd.
        stride: stride in both directions.
        groups: groups of the convolution; as many as channels for a depthwise one.
        activate: applies SiLU.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        activate: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2D(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            weight_attr=uniform_weights(),
            bias_attr=False,
        )
        self.norm = nn.BatchNorm2D(out_channels, momentum=NORM_MOMENTUM, epsilon=NORM_EPSILON)
        self.activation = nn.Silu() if activate else nn.Identity()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, in_channels, H, W]`` -> ``[N, out_channels, ceil(H / stride), ceil(W / stride)]``."""
        return self.activation(self.norm(self.conv(x)))

    def merged_kernel(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns kernel ``[out, in / groups, k, k]`` and bias ``[out]`` (float64) of convolution and norm together.

        As in evaluation: the norm's running statistics count, not those of a batch.
        """
        kernel = self.conv.weight.numpy().astype(np.float64)
        if self.conv.bias is not None:
            return kernel, self.conv.bias.numpy().astype(np.float64)
        deviation = np.sqrt(self.norm._variance.numpy().astype(np.float64) + self.norm._epsilon)
        scale = self.norm.weight.numpy().astype(np.float64) / deviation
        bias = self.norm.bias.numpy().astype(np.float64) - self.norm._mean.numpy().astype(np.float64) * scale
        return kernel * scale[:, None, None, None], bias

    def convert_to_deploy(self) -> None:
        """Folds the norm into the convolution, which gets a bias. The network can no longer be trained as before."""
        if self.conv.bias is not None:
            return
        self.conv = convolution_with(self.conv, *self.merged_kernel())
        self.norm = nn.Identity()


def convolution_with(old: nn.Conv2D, kernel: np.ndarray, bias: np.ndarray) -> nn.Conv2D:
    """Returns a convolution of the shape and stride of ``old``, with this kernel and bias."""
    new = nn.Conv2D(
        old._in_channels,
        old._out_channels,
        old._kernel_size,
        stride=old._stride,
        padding=old._padding,
        groups=old._groups,
    )
    new.weight.set_value(kernel.astype(np.float32))
    new.bias.set_value(bias.astype(np.float32))
    return new


def depthwise(channels: int, kernel_size: int = 3, stride: int = 1, activate: bool = True) -> ConvNorm:
    """A depthwise :class:`ConvNorm`: each channel has a kernel of its own."""
    return ConvNorm(channels, channels, kernel_size, stride, groups=channels, activate=activate)


class RepVGGDW(nn.Layer):
    """SiLU of the sum of a 7x7 and a 3x3 depthwise convolution, each with its batch norm; deployed, one 7x7.

    The large-kernel convolution of section 3.3, re-parameterised as RepVGG (arXiv 2101.03697) is.

    Args:
        channels: channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.large = depthwise(channels, LARGE_KERNEL, activate=False)
        self.small = depthwise(channels, 3, activate=False)
        self.activation = nn.Silu()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        total = self.large(x)
        if self.small is not None:
            total = total + self.small(x)
        return self.activation(total)

    def convert_to_deploy(self) -> None:
        """Adds the small kernel, with zeros around it, to the large one."""
        if self.small is None:
            return
        kernel, bias = self.large.merged_kernel()
        small_kernel, small_bias = self.small.merged_kernel()
        margin = (LARGE_KERNEL - small_kernel.shape[-1]) // 2
        kernel = kernel + np.pad(small_kernel, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
        self.large.conv = convolution_with(self.large.conv, kernel, bias + small_bias)
        self.large.norm = nn.Identity()
        self.small = None


class Bottleneck(nn.Layer):
    """Two 3x3 convolutions, with or without a residual connection around both.

    Args:
        channels: channels of input and output.
        shortcut: adds the input.
    """

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels, 3)
        self.second = ConvNorm(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        y = self.second(self.first(x))
        return x + y if self.shortcut else y


class CIB(nn.Layer):
    """Compact inverted block (section 3.2): depthwise -> 1x1 to 2c -> depthwise -> 1x1 to c -> depthwise, + input.

    Args:
        channels: channels of input and output.
        large_kernel: the depthwise convolution in the middle is a :class:`RepVGGDW`.
    """

    def __init__(self, channels: int, large_kernel: bool = False) -> None:
        super().__init__()
        inner = 2 * channels
        self.layers = nn.Sequential(
            depthwise(channels),
            ConvNorm(channels, inner),
            RepVGGDW(inner) if large_kernel else depthwise(inner),
            ConvNorm(inner, channels),
            depthwise(channels),
        )

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        return x + self.layers(x)


class SplitStage(nn.Layer):
    """1x1 to two halves; each block works on the output of the one before, the first on the second half; all together
    go through a last 1x1.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, even; blocks are half as wide.
        blocks: the layers in between, each ``[N, out_channels / 2, H, W]`` -> the same.
    """

    def __init__(self, in_channels: int, out_channels: int, blocks: list[nn.Layer]) -> None:
        super().__init__()
        half = out_channels // 2
        self.entry = ConvNorm(in_channels, 2 * half)
        self.blocks = nn.LayerList(blocks)
        self.merge = ConvNorm((2 + len(blocks)) * half, out_channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, in_channels, H, W]`` -> ``[N, out_channels, H, W]``."""
        parts = list(paddle.chunk(self.entry(x), 2, axis=1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.merge(paddle.concat(parts, axis=1))


class C2f(SplitStage):
    """:class:`SplitStage` of :class:`Bottleneck` blocks.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, even.
        repeats: number of blocks.
        shortcut: blocks add their input.
    """

    def __init__(self, in_channels: int, out_channels: int, repeats: int, shortcut: bool) -> None:
        super().__init__(in_channels, out_channels, [Bottleneck(out_channels // 2, shortcut) for _ in range(repeats)])


class C2fCIB(SplitStage):
    """:class:`SplitStage` of :class:`CIB` blocks.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, even.
        repeats: number of blocks.
        large_kernel: blocks use :class:`RepVGGDW`.
    """

    def __init__(self, in_channels: int, out_channels: int, repeats: int, large_kernel: bool = False) -> None:
        super().__init__(in_channels, out_channels, [CIB(out_channels // 2, large_kernel) for _ in range(repeats)])


class SCDown(nn.Layer):
    """Spatial-channel decoupled downsampling (section 3.2): 1x1 to the new width, then depthwise 3x3 of stride 2.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.channels = ConvNorm(in_channels, out_channels)
        self.space = depthwise(out_channels, stride=2, activate=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, in_channels, H, W]`` -> ``[N, out_channels, ceil(H / 2), ceil(W / 2)]``."""
        return self.space(self.channels(x))


class SPPF(nn.Layer):
    """Spatial pyramid pooling: 1x1 to half the width, three 5x5 maximum pools in a row, all four together, 1x1.

    Args:
        channels: channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.entry = ConvNorm(channels, channels // 2)
        self.merge = ConvNorm(4 * (channels // 2), channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        parts = [self.entry(x)]
        for _ in range(3):
            parts.append(functional.max_pool2d(parts[-1], POOL_KERNEL, stride=1, padding=POOL_KERNEL // 2))
        return self.merge(paddle.concat(parts, axis=1))
