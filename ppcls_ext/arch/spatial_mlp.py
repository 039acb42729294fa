"""A multilayer perceptron over positions, as in Swin-MLP (published with Swin Transformer, arXiv 2103.14030)."""

from __future__ import annotations

import paddle
from paddle import nn

from ppcls_ext.arch.layers import convolution, group_width

# Channels that share the weights of a head, as in Swin; fewer where the channels are no multiple.
HEAD_CHANNELS = 32


class WindowedSpatialMLP(nn.Layer):
    """Adds to each position of a window a linear function of all positions of that window.

    The map is cut into windows of ``n x n``, filled up with zeros below and to the right where it does not divide (a
    map smaller than the window is one window). In each window and for each channel, the n * n values become ``W v + b``
    with one W and b for each head, a group of up to 32 channels. The sum of input and result is returned. Swin shifts
    every second layer's windows so that neighbours meet; here nothing is shifted, because the blocks' convolutions
    reach across windows.

    Args:
        channels: channels of input and output.
        window: side n of the windows.
    """

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.heads = channels // group_width(channels, HEAD_CHANNELS)
        positions = self.heads * window * window
        # A head is a group. As a convolution it is counted by paddle.flops.
        self.mix = convolution(positions, positions, 1, groups=self.heads)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, H, W, C]`` -> ``[N, H, W, C]``."""
        images, height, width, channels = x.shape
        n, heads, each = self.window, self.heads, channels // self.heads
        rows, columns = (height + n - 1) // n, (width + n - 1) // n
        # More zeros than are needed, then cut: how many are needed may not be known before an image is there. Not by
        # `pad`: in an exported network its oneDNN kernel destroys memory (paddlepaddle 3.2.2).
        padded = paddle.concat([x, paddle.zeros([images, n - 1, width, channels], x.dtype)], axis=1)[:, : rows * n]
        padded = paddle.concat([padded, paddle.zeros([images, rows * n, n - 1, channels], x.dtype)], axis=2)
        padded = padded[:, :, : columns * n]
        parts = padded.reshape([-1, n, columns, n, heads, each]).transpose([0, 4, 1, 3, 2, 5])
        mixed = self.mix(parts.reshape([-1, heads * n * n, columns, each]))
        mixed = mixed.reshape([-1, heads, n, n, columns, each]).transpose([0, 2, 4, 3, 1, 5])
        return x + mixed.reshape([-1, rows * n, columns * n, channels])[:, :height, :width]

    def extra_repr(self) -> str:
        return f"window={self.window}, heads={self.heads}"


class MapSpatialMLP(WindowedSpatialMLP):
    """`WindowedSpatialMLP` of a map whose channels go first."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        return super().forward(x.transpose([0, 2, 3, 1])).transpose([0, 3, 1, 2])
