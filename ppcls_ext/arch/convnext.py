"""ConvNeXt (arXiv 2201.03545) and ConvNeXt V2 (arXiv 2301.00808).

Both, from their smallest layer to the published sizes:

    image -> stem (4x4 convolution, layer norm) -> four stages -> global average pool -> layer norm -> linear classifier
    stage:  layer norm -> 2x2 convolution (none in the first stage) -> blocks
    block:  x + layer_scale(linear(GELU(linear(LN(depthwise 7x7(x))))))                            ConvNeXt
            x + linear(response_norm(GELU(linear(LN(depthwise 7x7(x))))))                          ConvNeXt V2

Maps between layers are NCHW; inside blocks the channels go last, because a layer norm takes the channels of a pixel
together. All convolutions have a bias, all activations are the exact (erf) GELU.

Training on a CPU computes `Stage` in another layout, in ppcls_ext/engine/cpu.py: a change here needs one there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle import nn
from paddle.nn.initializer import Constant

from ppcls_ext.arch.layers import (
    EXPANSION,
    DropPath,
    GlobalAveragePool,
    StemStride,
    block_expansions,
    check_arguments,
    convolution,
    drop_path_ramp,
    linear,
    scaled_depths,
    scaled_dims,
)

# The published models. dims: channels of the four stages.
V1_MODELS: dict[str, dict[str, Any]] = {
    "ConvNeXtV1_tiny": {"dims": (96, 192, 384, 768), "depths": (3, 3, 9, 3)},
    "ConvNeXtV1_small": {"dims": (96, 192, 384, 768), "depths": (3, 3, 27, 3)},
    "ConvNeXtV1_base": {"dims": (128, 256, 512, 1024), "depths": (3, 3, 27, 3)},
    "ConvNeXtV1_large": {"dims": (192, 384, 768, 1536), "depths": (3, 3, 27, 3)},
}
V2_MODELS: dict[str, dict[str, Any]] = {
    "ConvNeXtV2_atto": {"dims": (40, 80, 160, 320), "depths": (2, 2, 6, 2)},
    "ConvNeXtV2_femto": {"dims": (48, 96, 192, 384), "depths": (2, 2, 6, 2)},
    "ConvNeXtV2_pico": {"dims": (64, 128, 256, 512), "depths": (2, 2, 6, 2)},
    "ConvNeXtV2_nano": {"dims": (80, 160, 320, 640), "depths": (2, 2, 8, 2)},
    "ConvNeXtV2_tiny": {"dims": (96, 192, 384, 768), "depths": (3, 3, 9, 3)},
    "ConvNeXtV2_base": {"dims": (128, 256, 512, 1024), "depths": (3, 3, 27, 3)},
    "ConvNeXtV2_large": {"dims": (192, 384, 768, 1536), "depths": (3, 3, 27, 3)},
}
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


class BlockV1(nn.Layer):
    """Residual block of ConvNeXt.

    Args:
        channels: channels of input and output.
        drop_path_rate: probability of dropping the branch of a sample in training.
        expansion_channels: channels between the two linear layers; four times ``channels`` if None.
        layer_scale_init_value: first value of the layer scale; 0 leaves it out.
    """

    def __init__(
        self,
        channels: int,
        drop_path_rate: float = 0.0,
        expansion_channels: int | None = None,
        layer_scale_init_value: float = 1e-6,
    ) -> None:
        super().__init__()
        inside = expansion_channels or EXPANSION * channels
        self.depthwise = convolution(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, epsilon=NORM_EPSILON)
        self.expand = linear(channels, inside)
        self.activation = nn.GELU()
        self.project = linear(inside, channels)
        self.layer_scale = LayerScale(channels, layer_scale_init_value) if layer_scale_init_value else nn.Identity()
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        y = self.depthwise(x)
        y = y.transpose([0, 2, 3, 1])  # [N, H, W, C]
        y = self.norm(y)
        y = self.expand(y)  # [N, H, W, 4C]
        y = self.activation(y)
        y = self.project(y)  # [N, H, W, C]
        y = self.layer_scale(y)
        y = y.transpose([0, 3, 1, 2])  # [N, C, H, W]
        y = self.drop_path(y)
        return x + y


class BlockV2(nn.Layer):
    """Residual block of ConvNeXt V2: global response normalisation takes the place of the layer scale.

    Args:
        channels: channels of input and output.
        drop_path_rate: probability of dropping the branch of a sample in training.
    """

    def __init__(self, channels: int, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        inside = EXPANSION * channels
        self.depthwise = convolution(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, epsilon=NORM_EPSILON)
        self.expand = linear(channels, inside)
        self.activation = nn.GELU()
        self.response_norm = GlobalResponseNorm(inside)
        self.project = linear(inside, channels)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        y = self.depthwise(x)
        y = y.transpose([0, 2, 3, 1])  # [N, H, W, C]
        y = self.norm(y)
        y = self.expand(y)  # [N, H, W, 4C]
        y = self.activation(y)
        y = self.response_norm(y)
        y = self.project(y)  # [N, H, W, C]
        y = y.transpose([0, 3, 1, 2])  # [N, C, H, W]
        y = self.drop_path(y)
        return x + y


class Stage(nn.Layer):
    """Downsampling, then blocks.

    Args:
        in_channels: channels of the input; None in the first stage, where nothing is downsampled.
        channels: channels of the blocks and of the output.
        block: class of the blocks.
        block_arguments: for each block what its class takes behind the channels.
    """

    def __init__(
        self, in_channels: int | None, channels: int, block: type[nn.Layer], block_arguments: Sequence[tuple]
    ) -> None:
        super().__init__()
        # Made first, so that a seed gives the weights that it always gave.
        blocks = nn.Sequential(*(block(channels, *arguments) for arguments in block_arguments))
        if in_channels is None:
            self.downsample = nn.Identity()
        else:
            self.downsample = nn.Sequential(ChannelNorm(in_channels), convolution(in_channels, channels, 2, 2))
        self.blocks = blocks

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, in_channels, H, W]`` -> ``[N, channels, H // 2, W // 2]``, in the first stage with H and W."""
        x = self.downsample(x)
        return self.blocks(x)


class _ConvNeXt(nn.Layer):
    """Base of V1 and V2, which differ in the block.

    Attributes:
        feature_channels: channels of the four stage outputs.
        feature_strides: strides of the four stage outputs.
    """

    def __init__(
        self,
        dims: Sequence[int],
        block: type[nn.Layer],
        block_arguments: Sequence[Sequence[tuple]],
        class_num: int,
        stem_stride: StemStride,
        in_channels: int,
    ) -> None:
        super().__init__()
        # At stride 1 a 3x3 convolution, because 1x1 would see no neighbour.
        kernel, padding = (3, 1) if stem_stride == 1 else (stem_stride, 0)
        self.stem = nn.Sequential(
            convolution(in_channels, dims[0], kernel, stem_stride, padding),
            ChannelNorm(dims[0]),
        )
        inputs = [None, *dims[:-1]]
        self.stages = nn.Sequential(
            *(Stage(inputs[i], dims[i], block, block_arguments[i]) for i in range(len(dims)))
        )
        self.pool = GlobalAveragePool()
        self.flatten = nn.Flatten()
        self.norm = nn.LayerNorm(dims[-1], epsilon=NORM_EPSILON)
        self.head = linear(dims[-1], class_num) if class_num else nn.Identity()
        self.class_num = class_num
        self.feature_channels = list(dims)
        self.feature_strides = [stem_stride * 2**i for i in range(len(dims))]

    def forward_features(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """Images ``[N, in_channels, H, W]`` -> the stage outputs ``[N, C_i, H / s_i, W / s_i]``, s = 4, 8, 16, 32."""
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Images ``[N, in_channels, H, W]`` -> logits ``[N, class_num]``, or ``[N, C_4]`` without a classifier."""
        # Through the sublayers only: PaddleClas puts identities in the place of those behind ``stop_after``.
        x = self.stem(x)
        x = self.stages(x)  # [N, C_4, H / 32, W / 32]
        x = self.pool(x)  # [N, C_4, 1, 1]
        x = self.flatten(x)  # [N, C_4]
        x = self.norm(x)
        return self.head(x)


class ConvNeXtV1(_ConvNeXt):
    """ConvNeXt classifier: the function of PaddleClas's ``ConvNeXt_*``, with stages and other stems.

    Args:
        dims: channels of the four stages.
        depths: blocks in each stage.
        class_num: width of the classifier; 0 leaves it out, then the output is the normalised feature vector.
        drop_path_rate: rate of the last block; the rates rise linearly from 0 at the first block.
        stem_stride: stride of the stem: 4 as published; 2 and 1 are for small images such as CIFAR's.
        in_channels: channels of the images.
        layer_scale_init_value: first value of the layer scale, a factor for each channel of a block's branch; 0 leaves
            it out.
        depth_multiplier: multiplies ``depths``, rounded up.
        width_multiplier: multiplies ``dims``, rounded to the nearest multiple of 8, at least 8.
        expansion_channels: a list for each stage: the channels inside each of its blocks, if not four times the
            block's as published; ``tools/prune_model.py`` finds them.

    Raises:
        ValueError: an argument is out of range; the message begins with its name.
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        class_num: int = 1000,
        drop_path_rate: float = 0.0,
        stem_stride: StemStride = 4,
        in_channels: int = 3,
        layer_scale_init_value: float = 1e-6,
        depth_multiplier: float = 1.0,
        width_multiplier: float = 1.0,
        expansion_channels: list | None = None,
    ) -> None:
        check_arguments(class_num, drop_path_rate, stem_stride, in_channels)
        if not 0 <= layer_scale_init_value < float("inf"):
            raise ValueError(
                f"layer_scale_init_value: must not be negative or infinite, got {layer_scale_init_value}"
            )
        dims, depths = scaled_dims(dims, width_multiplier), scaled_depths(depths, depth_multiplier)
        rates, inside = drop_path_ramp(drop_path_rate, depths), block_expansions(expansion_channels, depths)
        blocks = [
            [(rate, width, layer_scale_init_value) for rate, width in zip(*stage, strict=True)]
            for stage in zip(rates, inside, strict=True)
        ]
        super().__init__(dims, BlockV1, blocks, class_num, stem_stride, in_channels)


class ConvNeXtV2(_ConvNeXt):
    """ConvNeXt V2 classifier.

    Args:
        dims, depths, class_num, drop_path_rate, stem_stride, in_channels, depth_multiplier, width_multiplier: see
            `ConvNeXtV1`.

    Raises:
        ValueError: an argument is out of range; the message begins with its name.
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        class_num: int = 1000,
        drop_path_rate: float = 0.0,
        stem_stride: StemStride = 4,
        in_channels: int = 3,
        depth_multiplier: float = 1.0,
        width_multiplier: float = 1.0,
    ) -> None:
        check_arguments(class_num, drop_path_rate, stem_stride, in_channels)
        dims, depths = scaled_dims(dims, width_multiplier), scaled_depths(depths, depth_multiplier)
        blocks = [[(rate,) for rate in rates] for rates in drop_path_ramp(drop_path_rate, depths)]
        super().__init__(dims, BlockV2, blocks, class_num, stem_stride, in_channels)
