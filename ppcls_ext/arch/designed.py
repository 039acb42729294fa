"""The network that ConvNeXt and E-ConvNeXt are two designs of."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from paddle import nn

from ppcls_ext.arch.arguments import (
    check_common_arguments,
    checked_expansion,
    drop_path_ramp,
    scaled_depths,
    scaled_dims,
)  # fmt: skip
from ppcls_ext.arch.design import Design
from ppcls_ext.arch.layers import GlobalAveragePool, linear
from ppcls_ext.arch.parts import vector_norm
from ppcls_ext.arch.staged import StagedNetwork
from ppcls_ext.arch.stages import CSPStage, PlainStage
from ppcls_ext.arch.stems import patchify_stem, stepped_stem
from ppcls_ext.arch.variants import Stem, StemStride


@dataclass(frozen=True)
class Size:
    """Widths and depths of a network.

    Attributes:
        dims: channels d0..d4: of the stem, then of the output of each stage.
        depths: blocks in each stage.
        strides: stride of each stage in the full-size network.

    Raises:
        ValueError: there is not one width more than depths and strides.
    """

    dims: Sequence[int]
    depths: Sequence[int]
    strides: Sequence[int]

    def __post_init__(self) -> None:
        if len(self.dims) != len(self.depths) + 1 or len(self.strides) != len(self.depths):
            raise ValueError(
                f"dims: need one more than depths and strides, got {self.dims}, {self.depths} and {self.strides}"
            )

    def scaled(self, depth_multiplier: float, width_multiplier: float) -> Size:
        """Returns the size with ``dims`` and ``depths`` multiplied, see `scaled_dims` and `scaled_depths`."""
        dims, depths = scaled_dims(self.dims, width_multiplier), scaled_depths(self.depths, depth_multiplier)
        return Size(dims, depths, self.strides)


def convnext_size(dims: Sequence[int], depths: Sequence[int]) -> Size:
    """Returns the size of a ConvNeXt, of which only the widths of the stages are published.

    The width d0 of the stem counts only with cross-stage partial stages; it is half of the first stage's, as in every
    E-ConvNeXt.

    Raises:
        ValueError: there are not as many widths as depths.
    """
    if len(dims) != len(depths):
        raise ValueError(f"dims: need as many as depths, got {dims} and {depths}")
    return Size((dims[0] // 2, *dims), depths, (1, *(2 for _ in depths[1:])))


class DesignedNetwork(StagedNetwork):
    """Stem, stages, global pool, norm of the vector, linear classifier.

    With ``design.csp`` stage i takes d_i channels to d_{i+1}, at a width between; without it the channels of a stage
    are d_{i+1} from its downsampling on, and a patchify stem gives d_1.

    Args:
        stem: "patchify" or "stepped", see `Variant`.
        size: widths and depths.
        design: what the parts are.
        class_num: width of the classifier; 0 leaves it out, then the output is the normalised feature vector.
        drop_path_rate: rate of the last block; the rates rise linearly from 0 at the first block.
        stem_stride: total stride of the first stage's output: 4 as published; 2 and 1 are for small images.
        in_channels: channels of the images.
        expansion_channels: a list for each stage: the channels inside each of its blocks, if not four times the
            block's.

    Attributes:
        feature_channels: channels of the four stage outputs.
        feature_strides: strides of the four stage outputs.

    Raises:
        ValueError: an argument is out of range; the message begins with its name.
    """

    def __init__(
        self,
        stem: Stem,
        size: Size,
        design: Design,
        class_num: int,
        drop_path_rate: float,
        stem_stride: StemStride,
        in_channels: int,
        expansion_channels: list | None = None,
    ) -> None:
        super().__init__()
        if stem not in get_args(Stem):
            raise ValueError(f"stem: must be one of {', '.join(get_args(Stem))}, got {stem!r}")
        dims, depths, strides = size.dims, size.depths, list(size.strides)
        hidden = checked_expansion(expansion_channels, depths)
        check_common_arguments(class_num, drop_path_rate, stem_stride, in_channels)
        middles = [(before + after) // 2 for before, after in itertools.pairwise(dims)] if design.csp else dims[1:]
        if stem == "patchify":
            self.stem = patchify_stem(design, in_channels, middles[0], stem_stride)
            inputs = [middles[0], *dims[1:-1]]
        else:
            self.stem = stepped_stem(design, in_channels, dims[0], halve=stem_stride == 4)
            inputs = list(dims[:-1])
            strides[0] = 1 if stem_stride == 1 else strides[0]
        ramp = drop_path_ramp(drop_path_rate, depths)
        stage = CSPStage if design.csp else PlainStage
        widths = list(zip(inputs, middles, dims[1:], strict=True) if design.csp else zip(inputs, middles, strict=True))
        self.stages = nn.Sequential(
            *(stage(design, *widths[i], strides[i], ramp[i], hidden[i]) for i in range(len(depths)))
        )
        self.pool = GlobalAveragePool()
        self.flatten = nn.Flatten()
        self.norm = vector_norm(design, dims[-1])
        self.head = linear(dims[-1], class_num) if class_num else nn.Identity()
        self.class_num = class_num
        self.feature_channels = list(dims[1:])
        self.feature_strides = [stem_stride * 2**i for i in range(len(depths))]
