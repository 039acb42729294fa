"""ConvNeXt V2 (arXiv 2301.00808): ConvNeXt with global response normalisation in the place of the layer scale."""

from __future__ import annotations

from collections.abc import Sequence

from ppcls_ext.models.convnext import ConvNeXt
from ppcls_ext.models.convnext_layers import ConvNeXtV2Block
from ppcls_ext.models.variants import StemStride


class ConvNeXtV2(ConvNeXt):
    """ConvNeXt V2 classifier: images ``[N, 3, H, W]`` -> logits ``[N, class_num]``.

    Args:
        dims: channels of the four stages.
        depths: blocks in each stage.
        class_num: width of the classifier; 0 leaves it out, then the output is the normalised feature vector.
        drop_path_rate: rate of the last block; the rates rise linearly from 0 at the first block.
        stem_stride: stride of the stem: 4 as published; 2 and 1 are for small images such as CIFAR's.
        in_channels: channels of the images.

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
    ) -> None:
        super().__init__(dims, depths, ConvNeXtV2Block, class_num, drop_path_rate, stem_stride, in_channels)
