"""The network that ConvNeXt (arXiv 2201.03545) and ConvNeXt V2 (arXiv 2301.00808) share; they differ in the block."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from paddle import nn

from ppcls_ext.models.arguments import check_common_arguments, drop_path_ramp
from ppcls_ext.models.convnext_layers import NORM_EPSILON, ChannelNorm, ConvNeXtStage
from ppcls_ext.models.layers import GlobalAveragePool, convolution, linear
from ppcls_ext.models.staged import StagedNetwork
from ppcls_ext.models.variants import StemStride


class ConvNeXt(StagedNetwork):
    """Patchify stem, four stages of residual blocks, global pool, layer norm, linear classifier.

    Args:
        dims: channels of the four stages.
        depths: blocks in each stage.
        make_block: builds a block from its channels and its drop path rate.
        class_num: width of the classifier; 0 leaves it out, then the output is the normalised feature vector.
        drop_path_rate: rate of the last block; the rates rise linearly from 0 at the first block.
        stem_stride: stride of the stem: 4 as published; 2 and 1 are for small images such as CIFAR's.
        in_channels: channels of the images.

    Attributes:
        feature_channels: channels of the four stage outputs.
        feature_strides: strides of the four stage outputs.

    Raises:
        ValueError: an argument is out of range; the message begins with its name.
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        make_block: Callable[[int, float], nn.Layer],
        class_num: int,
        drop_path_rate: float,
        stem_stride: StemStride,
        in_channels: int,
    ) -> None:
        super().__init__()
        check_common_arguments(class_num, drop_path_rate, stem_stride, in_channels)
        if len(dims) != len(depths):
            raise ValueError(f"dims: need as many as depths, got {dims} and {depths}")
        self.stem = nn.Sequential(_patchify(in_channels, dims[0], stem_stride), ChannelNorm(dims[0]))
        ramp = drop_path_ramp(drop_path_rate, depths)
        stages = []
        for index, channels in enumerate(dims):
            blocks = [make_block(channels, rate) for rate in ramp[index]]
            stages.append(ConvNeXtStage(dims[max(index - 1, 0)], blocks, channels, downsample=index > 0))
        self.stages = nn.Sequential(*stages)
        self.pool = GlobalAveragePool()
        self.flatten = nn.Flatten()
        self.norm = nn.LayerNorm(dims[-1], epsilon=NORM_EPSILON)
        self.head = linear(dims[-1], class_num) if class_num else nn.Identity()
        self.class_num = class_num
        self.feature_channels = list(dims)
        self.feature_strides = [stem_stride * 2**index for index in range(len(depths))]


def _patchify(in_channels: int, out_channels: int, stride: int) -> nn.Conv2D:
    """A convolution whose windows do not overlap; at stride 1 a 3x3 one, because 1x1 would see no neighbour."""
    if stride == 1:
        return convolution(in_channels, out_channels, 3, padding=1)
    return convolution(in_channels, out_channels, stride, stride)
