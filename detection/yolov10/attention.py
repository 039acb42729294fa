"""Partial self-attention of YOLOv10 (arXiv 2405.14458, section 3.3). All tensors are NCHW."""

from __future__ import annotations

import paddle
from paddle import nn
from paddle.nn import functional

from detection.yolov10.blocks import ConvNorm, depthwise

HEAD_WIDTH = 64


class Attention(nn.Layer):
    """Softmax attention (arXiv 1706.03762) of all positions to all, with keys and queries half as wide as values.

    The values' depthwise 3x3 convolution is added, which tells positions apart.

    Args:
        channels: channels of input and output, a multiple of the number of heads.
        heads: number of heads; by default one for each 64 channels.

    Raises:
        ValueError: the channels cannot be divided among the heads, with an even share for each.
    """

    def __init__(self, channels: int, heads: int | None = None) -> None:
        super().__init__()
        self.heads = max(channels // HEAD_WIDTH, 1) if heads is None else heads
        if channels % (2 * self.heads):
            raise ValueError(f"channels: must be a multiple of {2 * self.heads} for {self.heads} heads, got {channels}")
        self.value_width = channels // self.heads
        self.key_width = self.value_width // 2
        self.queries_keys_values = ConvNorm(channels, channels + 2 * self.heads * self.key_width, activate=False)
        self.position = depthwise(channels, activate=False)
        self.project = ConvNorm(channels, channels, activate=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        channels, height, width = x.shape[1], x.shape[2], x.shape[3]
        # Of each head: queries, keys and values, [N, heads, key or value width, positions].
        parts = self.queries_keys_values(x).reshape([0, self.heads, 2 * self.key_width + self.value_width, -1])
        query, key, value = paddle.split(parts, [self.key_width, self.key_width, self.value_width], axis=2)
        # [N, heads, positions that ask, positions that answer]
        weights = functional.softmax(paddle.matmul(query * self.key_width**-0.5, key, transpose_x=True), axis=-1)
        attended = paddle.matmul(value, weights, transpose_y=True).reshape([0, channels, height, width])
        return self.project(attended + self.position(value.reshape([0, channels, height, width])))


class PSA(nn.Layer):
    """Partial self-attention: 1x1, then half of the channels go through attention and a feed-forward network, 1x1.

    Args:
        channels: channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.entry = ConvNorm(channels, 2 * half)
        self.attention = Attention(half)
        self.feed_forward = nn.Sequential(ConvNorm(half, 2 * half), ConvNorm(2 * half, half, activate=False))
        self.merge = ConvNorm(2 * half, channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        passed, attended = paddle.chunk(self.entry(x), 2, axis=1)
        attended = attended + self.attention(attended)
        attended = attended + self.feed_forward(attended)
        return self.merge(paddle.concat([passed, attended], axis=1))
