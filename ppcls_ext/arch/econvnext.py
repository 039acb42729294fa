"""E-ConvNeXt: ConvNeXt with cross-stage partial connections (arXiv 2508.20955)."""

from __future__ import annotations

from collections.abc import Sequence

from ppcls_ext.arch.design import Activation, BranchScale, Design, Downsampling, KernelSize, Norm, Spatial
from ppcls_ext.arch.designed import DesignedNetwork, Size
from ppcls_ext.arch.variants import Stem, StemStride


class EConvNeXt(DesignedNetwork):
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
        norm, spatial, branch_scale, activation, kernel_size, branch_norm, downsampling: switches for studies, see
            `Design`; as published by default.
        csp: cross-stage partial stages as published; without them stage i is its downsampling to d_i channels, then
            blocks of d_i channels, about twice as wide; a patchify stem then gives d_1 channels.
        layer_scale_init_value: first value of the layer scale, if ``branch_scale`` asks for one; 0 leaves it out.
        depth_multiplier: multiplies ``depths``, rounded up.
        width_multiplier: multiplies ``dims``, rounded to the nearest multiple of 8, at least 8.

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
        norm: Norm = "batch_norm",
        spatial: Spatial = "depthwise",
        branch_scale: BranchScale = "channel_attention",
        activation: Activation = "gelu",
        kernel_size: KernelSize = 7,
        csp: bool = True,
        branch_norm: bool = True,
        downsampling: Downsampling = "conv_norm_activation",
        layer_scale_init_value: float = 1e-6,
        depth_multiplier: float = 1.0,
        width_multiplier: float = 1.0,
    ) -> None:
        design = Design(
            norm, spatial, branch_scale, activation, kernel_size, csp, branch_norm, downsampling, layer_scale_init_value
        )
        size = Size(dims, depths, strides).scaled(depth_multiplier, width_multiplier)
        super().__init__(
            stem, size, design, class_num, drop_path_rate, stem_stride, in_channels, expansion_channels
        )
