"""ConvNeXt (arXiv 2201.03545) of our own: the function of PaddleClas's ``ConvNeXt_*``, with stages and other stems."""

from __future__ import annotations

from collections.abc import Sequence

from ppcls_ext.arch.design import Activation, BranchScale, Design, Downsampling, KernelSize, Norm, Spatial
from ppcls_ext.arch.designed import DesignedNetwork, convnext_size
from ppcls_ext.arch.variants import StemStride


class ConvNeXtV1(DesignedNetwork):
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
        norm, spatial, branch_scale, activation, kernel_size, branch_norm, downsampling: switches for studies, see
            `Design`; as published by default.
        csp: cross-stage partial stages as those of E-ConvNeXt, with its widths: the stem has half of d_0 + d_1, where
            d_0 is half of the first stage's channels d_1, and stage i works at half of (d_{i-1} + d_i) between its
            downsampling and its last convolution.
        depth_multiplier: multiplies ``depths``, rounded up.
        width_multiplier: multiplies ``dims``, rounded to the nearest multiple of 8, at least 8.
        spatial_mlp_window: side of the windows of a spatial MLP in each block, see `WindowedSpatialMLP`; 0 for none.
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
        norm: Norm = "layer_norm",
        spatial: Spatial = "depthwise",
        branch_scale: BranchScale = "layer_scale",
        activation: Activation = "gelu",
        kernel_size: KernelSize = 7,
        csp: bool = False,
        branch_norm: bool = False,
        downsampling: Downsampling = "norm_conv",
        depth_multiplier: float = 1.0,
        width_multiplier: float = 1.0,
        spatial_mlp_window: int = 0,
        expansion_channels: list | None = None,
    ) -> None:
        design = Design(
            norm, spatial, branch_scale, activation, kernel_size, csp, branch_norm, downsampling,
            layer_scale_init_value, spatial_mlp_window,
        )  # fmt: skip
        size = convnext_size(dims, depths).scaled(depth_multiplier, width_multiplier)
        super().__init__(
            "patchify", size, design, class_num, drop_path_rate, stem_stride, in_channels, expansion_channels
        )
