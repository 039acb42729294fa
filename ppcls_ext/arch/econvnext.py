"""E-ConvNeXt: ConvNeXt with cross-stage partial connections (arXiv 2508.20955).

The whole network, from its smallest layer to the published sizes:

    image -> stem -> four stages -> global average pool -> batch norm -> linear classifier
    stage:  downsample -> two 1x1 convolutions: one half of the channels passes by the blocks, the other goes through
            -> concatenation -> channel attention -> 1x1 convolution
    block:  x + attention(BN(1x1(GELU(1x1(BN(depthwise 7x7(x)))))))

All tensors are NCHW, all convolutions have a bias, all activations are the exact (erf) GELU.

Training on a CPU computes `CSPStage` in another layout, in ppcls_ext/engine/cpu.py: a change here needs one there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import paddle
from paddle import nn

from ppcls_ext.arch.layers import (
    BATCH_NORM_EPSILON,
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

# The published models. dims: channels d0 (of the stem) and d1..d4 (of the outputs of the four stages).
MODELS: dict[str, dict[str, Any]] = {
    "EConvNeXt_mini": dict(stem="patchify", dims=(48, 96, 192, 384, 768), depths=(3, 3, 9, 3), strides=(1, 2, 2, 2)),
    "EConvNeXt_tiny": dict(stem="stepped", dims=(64, 128, 256, 512, 1024), depths=(3, 3, 9, 3), strides=(2, 2, 2, 2)),
    "EConvNeXt_small": dict(stem="stepped", dims=(64, 128, 256, 512, 1024), depths=(3, 3, 27, 3), strides=(2, 2, 2, 2)),
}


class ConvBNAct(nn.Layer):
    """Convolution -> batch norm -> GELU.

    Args:
        in_channels, out_channels: channels of input and output.
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
        x = self.conv(x)
        x = self.norm(x)
        return self.activation(x)


class EffectiveSE(nn.Layer):
    """Effective squeeze-and-excitation: a gate in [0, 1] for each channel (CenterMask, arXiv 1911.06667).

    Args:
        channels: channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = GlobalAveragePool()
        self.conv = convolution(channels, channels, 1)
        self.gate = nn.Hardsigmoid()  # clip(x / 6 + 1 / 2, 0, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        gate = self.pool(x)  # [N, C, 1, 1]
        gate = self.conv(gate)
        gate = self.gate(gate)
        return x * gate


class Block(nn.Layer):
    """Residual block. Channel attention takes the place of ConvNeXt's layer scale.

    Args:
        channels: channels of input and output.
        drop_path_rate: probability of dropping the branch of a sample in training.
        expansion_channels: channels between the two 1x1 convolutions; four times ``channels`` if None.
    """

    def __init__(self, channels: int, drop_path_rate: float = 0.0, expansion_channels: int | None = None) -> None:
        super().__init__()
        inside = expansion_channels or EXPANSION * channels
        self.depthwise = convolution(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.BatchNorm2D(channels, epsilon=BATCH_NORM_EPSILON)
        self.expand = convolution(channels, inside, 1)
        self.activation = nn.GELU()
        self.project = convolution(inside, channels, 1)
        self.project_norm = nn.BatchNorm2D(channels, epsilon=BATCH_NORM_EPSILON)
        self.attention = EffectiveSE(channels)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        y = self.depthwise(x)
        y = self.norm(y)
        y = self.expand(y)  # [N, 4C, H, W]
        y = self.activation(y)
        y = self.project(y)  # [N, C, H, W]
        y = self.project_norm(y)
        y = self.attention(y)
        y = self.drop_path(y)
        return x + y


class CSPStage(nn.Layer):
    """A stage with a cross-stage partial connection: half of the channels pass by the blocks.

    Args:
        in_channels: channels of the input.
        middle_channels: width between downsampling and the last convolution.
        out_channels: channels of the output.
        stride: 2 halves the resolution with a 2x2 convolution; 1 keeps it (by a 1x1 convolution if the input does not
            have ``middle_channels`` yet).
        drop_path_rates: one for each block; their number is the depth of the stage.
        expansion_channels: the channels inside each block, None for four times the block's.
    """

    def __init__(
        self,
        in_channels: int,
        middle_channels: int,
        out_channels: int,
        stride: int,
        drop_path_rates: Sequence[float],
        expansion_channels: Sequence[int | None],
    ) -> None:
        super().__init__()
        half = middle_channels // 2
        if stride == 1 and in_channels == middle_channels:
            self.downsample = nn.Identity()
        else:
            self.downsample = ConvBNAct(in_channels, middle_channels, stride, stride)
        self.shortcut = ConvBNAct(middle_channels, half, 1)
        self.entry = ConvBNAct(middle_channels, half, 1)
        self.blocks = nn.Sequential(
            *(Block(half, rate, inside) for rate, inside in zip(drop_path_rates, expansion_channels, strict=True))
        )
        self.attention = EffectiveSE(2 * half)
        self.merge = ConvBNAct(2 * half, out_channels, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, in_channels, H, W]`` -> ``[N, out_channels, H // stride, W // stride]``."""
        x = self.downsample(x)  # [N, middle_channels, H // stride, W // stride]
        a = self.shortcut(x)  # half of the channels
        b = self.entry(x)
        b = self.blocks(b)
        x = paddle.concat([a, b], axis=1)
        x = self.attention(x)
        return self.merge(x)


class EConvNeXt(nn.Layer):
    """E-ConvNeXt classifier; detectors leave the classifier out (see `add_classifier`).

    Args:
        stem: "patchify" is one 4x4 convolution of stride 4, "stepped" three small ones of total stride 2.
        dims: channels d0..d4: of the stem, then of the output of each stage.
        depths: blocks in each stage.
        strides: stride of each stage in the full-size network.
        class_num: width of the classifier; 0 leaves it out, then the output is the normalised feature vector.
        drop_path_rate: rate of the last block; the rates rise linearly from 0 at the first block.
        stem_stride: total stride of the first stage's output: 4 as published; 2 and 1 are for small images such as
            CIFAR's.
        in_channels: channels of the images.
        expansion_channels: a list for each stage: the channels inside each of its blocks, if not four times the
            block's as published; ``tools/prune_model.py`` finds them.
        depth_multiplier: multiplies ``depths``, rounded up.
        width_multiplier: multiplies ``dims``, rounded to the nearest multiple of 8, at least 8.

    Attributes:
        feature_channels: channels of the four stage outputs.
        feature_strides: strides of the four stage outputs.

    Raises:
        ValueError: an argument is out of range; the message begins with its name.
    """

    def __init__(
        self,
        stem: Literal["patchify", "stepped"],
        dims: Sequence[int],
        depths: Sequence[int],
        strides: Sequence[int],
        class_num: int = 1000,
        drop_path_rate: float = 0.0,
        stem_stride: StemStride = 4,
        in_channels: int = 3,
        expansion_channels: list | None = None,
        depth_multiplier: float = 1.0,
        width_multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        check_arguments(class_num, drop_path_rate, stem_stride, in_channels)
        dims, depths = scaled_dims(dims, width_multiplier), scaled_depths(depths, depth_multiplier)
        middles = [(before + after) // 2 for before, after in zip(dims[:-1], dims[1:], strict=True)]
        inputs, strides = list(dims[:-1]), list(strides)
        if stem == "patchify":
            inputs[0] = middles[0]
            # At stride 1 a 3x3 convolution, because 1x1 would see no neighbour.
            kernel, padding = (3, 1) if stem_stride == 1 else (stem_stride, 0)
            self.stem = nn.Sequential(ConvBNAct(in_channels, middles[0], kernel, stem_stride, padding))
        else:
            half = dims[0] // 2
            first = (2, 2, 0) if stem_stride == 4 else (3, 1, 1)
            self.stem = nn.Sequential(
                ConvBNAct(in_channels, half, *first),
                ConvBNAct(half, half, 3, padding=1),
                ConvBNAct(half, dims[0], 3, padding=1),
            )
            strides[0] = 1 if stem_stride == 1 else strides[0]
        rates = drop_path_ramp(drop_path_rate, depths)
        inside = block_expansions(expansion_channels, depths)
        self.stages = nn.Sequential(
            *(
                CSPStage(inputs[i], middles[i], dims[i + 1], strides[i], rates[i], inside[i])
                for i in range(len(depths))
            )
        )
        self.feature_channels = list(dims[1:])
        self.feature_strides = [stem_stride * 2**i for i in range(len(depths))]

        self.add_classifier(class_num)

    def add_classifier(self, class_num: int) -> None:
        """Adds what follows the stages."""
        channels = self.feature_channels[-1]
        self.pool = GlobalAveragePool()
        self.flatten = nn.Flatten()
        self.norm = nn.BatchNorm1D(channels, epsilon=BATCH_NORM_EPSILON)
        self.head = linear(channels, class_num) if class_num else nn.Identity()
        self.class_num = class_num

    def forward_features(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """Images ``[N, in_channels, H, W]`` -> the stage outputs ``[N, d_i, H / s_i, W / s_i]``, s = 4, 8, 16, 32."""
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Images ``[N, in_channels, H, W]`` -> logits ``[N, class_num]``, or ``[N, d4]`` without a classifier."""
        # Through the sublayers only: PaddleClas puts identities in the place of those behind ``stop_after``.
        x = self.stem(x)
        x = self.stages(x)  # [N, d4, H / 32, W / 32]
        x = self.pool(x)  # [N, d4, 1, 1]
        x = self.flatten(x)  # [N, d4]
        x = self.norm(x)
        return self.head(x)
