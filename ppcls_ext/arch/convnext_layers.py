"""Layers of ConvNeXt (arXiv 2201.03545) and ConvNeXt V2 (arXiv 2301.00808)."""

from __future__ import annotations

import paddle
from paddle import nn
from paddle.nn.initializer import Constant

NORM_EPSILON = 1e-6
# Far below the epsilon squared, and still a normal number in float32.
SMALLEST_ENERGY = 1e-24


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel.

    Args:
        channels: channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, epsilon=NORM_EPSILON)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        return super().forward(x.transpose([0, 2, 3, 1])).transpose([0, 3, 1, 2])


class GlobalResponseNorm(nn.Layer):
    """Global response normalisation (arXiv 2301.00808, section 3.3): channels compete by their energy in the image.

    ``g`` is the Euclidean norm of each channel over height and width, ``n = g / mean of g over channels``; the output
    is ``weight * x * n + bias + x``. Weight and bias begin at zero, so that an untrained layer is the identity.

    Args:
        channels: channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = self.create_parameter([channels], default_initializer=Constant(0.0))
        self.bias = self.create_parameter([channels], is_bias=True)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, H, W, C]`` -> ``[N, H, W, C]``."""
        # Written out, because Paddle2ONNX knows no norm over two axes. Without the limit a channel that is zero
        # everywhere would have no gradient. Positions are one axis first: of four axes Paddle's oneDNN graph takes the
        # squares in another layout and computes something else (paddlepaddle 3.2.2).
        energy = x.flatten(1, 2).square().sum(axis=1, keepdim=True).clip(min=SMALLEST_ENERGY).sqrt()
        response = energy / (energy.mean(axis=-1, keepdim=True) + NORM_EPSILON)
        return self.weight * (x * response.unsqueeze(1)) + self.bias + x


class LayerScale(nn.Layer):
    """A learnt factor for each channel (arXiv 2103.17239).

    Args:
        channels: channels of input and output.
        initial: the factor before training.
    """

    def __init__(self, channels: int, initial: float) -> None:
        super().__init__()
        self.weight = self.create_parameter([channels], default_initializer=Constant(initial))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, H, W, C]`` -> ``[N, H, W, C]``."""
        return x * self.weight
