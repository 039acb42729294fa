"""ConvNeXt V2 (arXiv 2301.00808): ConvNeXt with global response normalisation in the place of the layer scale."""

from __future__ import annotations

from collections.abc import Sequence

from ppcls_ext.arch.design import CONVNEXT_V2
from ppcls_ext.arch.designed import DesignedNetwork, convnext_size
from ppcls_ext.arch.variants import StemStride


class ConvNeXtV2(DesignedNetwork):
    """ConvNeXt V2 classifier: images ``[N, 3, H, W]`` -> logits ``[N, class_num]``.

    Args:
        dims: channels of the four stages.
        depths: blocks in each stage.
        class_num: width of the classifier; 0 leaves it out, then the output is the normalised feature vector.
        drop_path_rate: rate of the last block; the rates rise linearly from 0 at the first block.
        stem_stride: stride of the stem: 4 as published; 2 and 1 are for small images such as CIFAR's.
        in_channels: channels of the images.
        depth_multiplier: multiplies ``depths``, rounded up.
        width_multiplier: multiplies ``dims``, rounded to the nearest multiple of 8, at least 8.

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
        size = convnext_size(dims, depths).scaled(depth_multiplier, width_multiplier)
        super().__init__("patchify", size, CONVNEXT_V2, class_num, drop_path_rate, stem_stride, in_channels)
