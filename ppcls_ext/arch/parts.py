"""The layers that a design chooses: a table for each of its switches. Maps are NCHW."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import paddle
from paddle import nn

from ppcls_ext.arch.convnext_layers import NORM_EPSILON, ChannelNorm
from ppcls_ext.arch.design import Design
from ppcls_ext.arch.layers import BATCH_NORM_EPSILON, convolution, group_width

Make = Callable[[int], nn.Layer]
# Channels in a group of a grouped convolution: as many as divide the channels, up to this.
GROUP_CHANNELS = 32

MAP_NORMS: dict[str, Make] = {
    "batch_norm": functools.partial(nn.BatchNorm2D, epsilon=BATCH_NORM_EPSILON),
    "layer_norm": ChannelNorm,
}
VECTOR_NORMS: dict[str, Make] = {
    "batch_norm": functools.partial(nn.BatchNorm1D, epsilon=BATCH_NORM_EPSILON),
    "layer_norm": functools.partial(nn.LayerNorm, epsilon=NORM_EPSILON),
}
ACTIVATIONS: dict[str, Callable[[], nn.Layer]] = {"gelu": nn.GELU, "relu": nn.ReLU}
SPATIAL_GROUPS: dict[str, Callable[[int], int]] = {
    "depthwise": lambda channels: channels,
    "grouped": lambda channels: channels // group_width(channels, GROUP_CHANNELS),
    "dense": lambda channels: 1,
}


def map_norm(design: Design, channels: int) -> nn.Layer:
    """A norm of maps ``[N, channels, H, W]``."""
    return MAP_NORMS[design.norm](channels)


def vector_norm(design: Design, channels: int) -> nn.Layer:
    """A norm of vectors ``[N, channels]``."""
    return VECTOR_NORMS[design.norm](channels)


def activation(design: Design) -> nn.Layer:
    """The activation, for any shape."""
    return ACTIVATIONS[design.activation]()


def spatial_convolution(design: Design, channels: int) -> nn.Conv2D:
    """A block's convolution over positions, ``[N, channels, H, W]`` -> the same."""
    groups = SPATIAL_GROUPS[design.spatial](channels)
    return convolution(channels, channels, design.kernel_size, padding=design.kernel_size // 2, groups=groups)


class ConvNormAct(nn.Layer):
    """Convolution -> norm -> activation; in E-ConvNeXt batch norm and GELU (exact form).

    Args:
        design: chooses norm and activation.
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the square kernel.
        stride: stride in both directions.
        padding: zeros added on each side.
    """

    def __init__(
        self, design: Design, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.conv = convolution(in_channels, out_channels, kernel_size, stride, padding)
        self.norm = map_norm(design, out_channels)
        self.activation = activation(design)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, in_channels, H, W]`` -> ``[N, out_channels, H', W']``."""
        return self.activation(self.norm(self.conv(x)))


def downsampling(design: Design, in_channels: int, out_channels: int, stride: int) -> nn.Layer:
    """What leads from one stage into the next, ``[N, in, H, W]`` -> ``[N, out, H // stride, W // stride]``.

    A convolution whose windows do not overlap, with the norm where the design wants it; at stride 1 a 1x1 convolution,
    or nothing if the channels are already those wanted.
    """
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return DOWNSAMPLINGS[design.downsampling](design, in_channels, out_channels, stride)


def _norm_first(design: Design, in_channels: int, out_channels: int, stride: int) -> nn.Layer:
    return nn.Sequential(map_norm(design, in_channels), convolution(in_channels, out_channels, stride, stride))


def _activated(design: Design, in_channels: int, out_channels: int, stride: int) -> nn.Layer:
    return ConvNormAct(design, in_channels, out_channels, stride, stride)


DOWNSAMPLINGS: dict[str, Callable[[Design, int, int, int], Any]] = {
    "norm_conv": _norm_first,
    "conv_norm_activation": _activated,
}
