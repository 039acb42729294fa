"""E-ConvNeXt: ConvNeXt with cross-stage partial connections (arXiv 2508.20955)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import get_args

from paddle import nn

from ppcls_ext.models.arguments import check_common_arguments, checked_expansion, drop_path_ramp
from ppcls_ext.models.layers import BATCH_NORM_EPSILON, ConvBNAct, CSPStage, GlobalAveragePool, linear
from ppcls_ext.models.staged import StagedNetwork
from ppcls_ext.models.variants import Stem, StemStride


class EConvNeXt(StagedNetwork):
    """E-ConvNeXt classifier; its four stages also serve as the backbone of detectors.

    Args:
        stem: "patchify" or "stepped", see `Variant`.
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

    Attributes:
        feature_channels: channels of the four stage outputs.
        feature_strides: strides of the four stage outputs.

    Raises:
        ValueError: an argument is out of range; the message begins with its name.
    """

    def __init__(
        self,
        stem: Stem,
        dims: Sequence[int],
        depths: Sequence[int],
        strides: Sequence[int],
        class_num: int = 1000,
        drop_path_rate: float = 0.0,
        stem_stride: StemStride = 4,
        in_channels: int = 3,
        expansion_channels: list | None = None,
    ) -> None:
        super().__init__()
        _check_row(stem, dims, depths, strides)
        hidden = checked_expansion(expansion_channels, depths)
        check_common_arguments(class_num, drop_path_rate, stem_stride, in_channels)
        middles = [(before + after) // 2 for before, after in itertools.pairwise(dims)]
        strides = list(strides)
        if stem == "patchify":
            self.stem = _patchify_stem(in_channels, middles[0], stem_stride)
            stage_inputs = [middles[0], *dims[1:-1]]
        else:
            self.stem = _stepped_stem(in_channels, dims[0], halve=stem_stride == 4)
            stage_inputs = list(dims[:-1])
            strides[0] = 1 if stem_stride == 1 else strides[0]
        ramp = drop_path_ramp(drop_path_rate, depths)
        self.stages = nn.Sequential(
            *(
                CSPStage(stage_inputs[i], middles[i], dims[i + 1], strides[i], ramp[i], hidden[i])
                for i in range(len(depths))
            )
        )
        self.pool = GlobalAveragePool()
        self.flatten = nn.Flatten()
        self.norm = nn.BatchNorm1D(dims[-1], epsilon=BATCH_NORM_EPSILON)
        self.head = linear(dims[-1], class_num) if class_num else nn.Identity()
        self.class_num = class_num
        self.feature_channels = list(dims[1:])
        self.feature_strides = [stem_stride * 2**i for i in range(len(depths))]


def _check_row(stem: str, dims: Sequence[int], depths: Sequence[int], strides: Sequence[int]) -> None:
    if stem not in get_args(Stem):
        raise ValueError(f"stem: must be one of {', '.join(get_args(Stem))}, got {stem!r}")
    if len(dims) != len(depths) + 1 or len(strides) != len(depths):
        raise ValueError(f"dims: need one more than depths and strides, got {dims}, {depths} and {strides}")


def _patchify_stem(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """One convolution whose windows do not overlap; at stride 1 a 3x3 one, because 1x1 would see no neighbour."""
    if stride == 1:
        return nn.Sequential(ConvBNAct(in_channels, out_channels, 3, padding=1))
    return nn.Sequential(ConvBNAct(in_channels, out_channels, stride, stride))


def _stepped_stem(in_channels: int, out_channels: int, halve: bool) -> nn.Sequential:
    """Three convolutions; the first halves the resolution, or keeps it for small images."""
    half = out_channels // 2
    first = ConvBNAct(in_channels, half, 2, 2) if halve else ConvBNAct(in_channels, half, 3, padding=1)
    return nn.Sequential(first, ConvBNAct(half, half, 3, padding=1), ConvBNAct(half, out_channels, 3, padding=1))
