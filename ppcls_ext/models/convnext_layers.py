"""Layers of ConvNeXt (arXiv 2201.03545) and ConvNeXt V2 (arXiv 2301.00808).

Tensors are NCHW between blocks. Inside a block all but the depthwise convolution works on NHWC, where the channels of a
pixel, which norm and pointwise layers take together, lie side by side.
"""

from __future__ import annotations

import paddle
from paddle import nn
from paddle.nn.initializer import Constant

from ppcls_ext.models.layers import DropPath, convolution, linear

NORM_EPSILON = 1e-6
# Far below the epsilon squared, and still a normal number in float32.
SMALLEST_ENERGY = 1e-24
EXPANSION = 4


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


class ConvNeXtBlock(nn.Layer):
    """Residual block: depthwise 7x7 -> norm -> pointwise to 4c -> GELU -> pointwise to c -> layer scale -> drop path.

    Args:
        channels: channels of input and output.
        drop_path_rate: probability of dropping the branch of a sample in training.
        layer_scale: first value of the layer scale; 0 leaves it out.
    """

    def __init__(self, channels: int, drop_path_rate: float = 0.0, layer_scale: float = 0.0) -> None:
        super().__init__()
        self.depthwise = convolution(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, epsilon=NORM_EPSILON)
        self.expand = linear(channels, EXPANSION * channels)
        self.activation = nn.GELU()
        self.project = linear(EXPANSION * channels, channels)
        self.layer_scale = LayerScale(channels, layer_scale) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        branch = self.norm(self.depthwise(x).transpose([0, 2, 3, 1]))
        branch = self.layer_scale(self.project(self.activation(self.expand(branch))))
        return x + self.drop_path(branch.transpose([0, 3, 1, 2]))


class ConvNeXtV2Block(nn.Layer):
    """As `ConvNeXtBlock`, with global response normalisation of the 4c channels in the place of the layer scale.

    Args:
        channels: channels of input and output.
        drop_path_rate: probability of dropping the branch of a sample in training.
    """

    def __init__(self, channels: int, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.depthwise = convolution(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, epsilon=NORM_EPSILON)
        self.expand = linear(channels, EXPANSION * channels)
        self.activation = nn.GELU()
        self.response_norm = GlobalResponseNorm(EXPANSION * channels)
        self.project = linear(EXPANSION * channels, channels)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        branch = self.norm(self.depthwise(x).transpose([0, 2, 3, 1]))
        branch = self.project(self.response_norm(self.activation(self.expand(branch))))
        return x + self.drop_path(branch.transpose([0, 3, 1, 2]))


class ConvNeXtStage(nn.Layer):
    """Norm and 2x2 convolution of stride 2 (not in the first stage), then blocks.

    Args:
        in_channels: channels of the input.
        blocks: the residual blocks.
        channels: their channels.
        downsample: whether the stage halves the resolution; else ``in_channels`` must be ``channels``.
    """

    def __init__(self, in_channels: int, blocks: list[nn.Layer], channels: int, downsample: bool) -> None:
        super().__init__()
        assert downsample or in_channels == channels
        if downsample:
            self.downsample = nn.Sequential(ChannelNorm(in_channels), convolution(in_channels, channels, 2, 2))
        else:
            self.downsample = nn.Identity()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, in_channels, H, W]`` -> ``[N, channels, H / 2, W / 2]``, or ``[N, channels, H, W]``."""
        return self.blocks(self.downsample(x))
