"""ConvNeXt (arXiv 2201.03545) of our own: the function of PaddleClas's ``ConvNeXt_*``, with stages and other stems."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from ppcls_ext.models.convnext import ConvNeXt
from ppcls_ext.models.convnext_layers import ConvNeXtBlock
from ppcls_ext.models.variants import StemStride


class ConvNeXtV1(ConvNeXt):
    """ConvNeXt classifier: images ``[N, 3, H, W]`` -> logits ``[N, class_num]``.

    Args:
        dims: channels of the four stages.
        depths: blocks in each stage.
        class_num: width of the classifier; 0 leaves it out, then the output is the normalised feature vector.
        drop_path_rate: rate of the last block; the rates rise linearly from 0 at the first block.
        stem_stride: stride of the stem: 4 as published; 2 and 1 are for small images such as CIFAR's.
        in_channels: channels of the images.
        layer_scale_init_value: first value of the layer scale, a factor for each channel of a block's branch; 0 leaves
            it out.

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
    ) -> None:
        if layer_scale_init_value < 0:
            raise ValueError(f"layer_scale_init_value: must not be negative, got {layer_scale_init_value}")
        make_block = functools.partial(ConvNeXtBlock, layer_scale=layer_scale_init_value)
        super().__init__(dims, depths, make_block, class_num, drop_path_rate, stem_stride, in_channels)
