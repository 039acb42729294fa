"""Stages of ConvNeXt and E-ConvNeXt. All tensors are NCHW."""

from __future__ import annotations

import paddle
from paddle import nn

from ppcls_ext.arch.blocks import make_blocks
from ppcls_ext.arch.design import Design
from ppcls_ext.arch.layers import EffectiveSE
from ppcls_ext.arch.parts import ConvNormAct, downsampling


class CSPStage(nn.Layer):
    """A stage with a cross-stage partial connection: half of the channels pass by the blocks.

    downsample -> two parallel 1x1 convolutions to half the width (the shortcut, and the entry into the blocks)
    -> concatenation -> channel attention -> 1x1 convolution.

    Args:
        design: what the parts are.
        in_channels: channels of the input.
        middle_channels: width between downsampling and the last convolution.
        out_channels: channels of the output.
        stride: 2 halves the resolution with a 2x2 convolution; 1 keeps it (a 1x1 convolution if the input does not
            have ``middle_channels`` yet).
        drop_path_rates: one rate for each block; their number is the depth of the stage.
        hidden_channels: channels inside each block, see `make_blocks`.
    """

    def __init__(
        self,
        design: Design,
        in_channels: int,
        middle_channels: int,
        out_channels: int,
        stride: int,
        drop_path_rates: list[float],
        hidden_channels: list[int] | None = None,
    ) -> None:
        super().__init__()
        half = middle_channels // 2
        self.downsample = downsampling(design, in_channels, middle_channels, stride)
        self.shortcut = ConvNormAct(design, middle_channels, half, 1)
        self.entry = ConvNormAct(design, middle_channels, half, 1)
        self.blocks = make_blocks(design, half, drop_path_rates, hidden_channels)
        self.attention = EffectiveSE(2 * half)
        self.merge = ConvNormAct(design, 2 * half, out_channels, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, in_channels, H, W]`` -> ``[N, out_channels, H // stride, W // stride]``."""
        x = self.downsample(x)
        both = paddle.concat([self.shortcut(x), self.blocks(self.entry(x))], axis=1)
        return self.merge(self.attention(both))


class PlainStage(nn.Layer):
    """A stage as in ConvNeXt: downsampling to the width of the output, then blocks of that width.

    Args:
        design: what the parts are.
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: 2 halves the resolution with a 2x2 convolution; 1 keeps it (a 1x1 convolution if the input does not
            have ``out_channels`` yet).
        drop_path_rates: one rate for each block; their number is the depth of the stage.
        hidden_channels: channels inside each block, see `make_blocks`.
    """

    def __init__(
        self,
        design: Design,
        in_channels: int,
        out_channels: int,
        stride: int,
        drop_path_rates: list[float],
        hidden_channels: list[int] | None = None,
    ) -> None:
        super().__init__()
        # First, so that a seed goes on giving the weights that it always gave.
        blocks = make_blocks(design, out_channels, drop_path_rates, hidden_channels)
        self.downsample = downsampling(design, in_channels, out_channels, stride)
        self.blocks = blocks

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, in_channels, H, W]`` -> ``[N, out_channels, H // stride, W // stride]``."""
        return self.blocks(self.downsample(x))
