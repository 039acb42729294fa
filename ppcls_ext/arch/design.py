"""The design choices that separate ConvNeXt from E-ConvNeXt, one switch for each. Loads no Paddle."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args, get_type_hints

Norm = Literal["batch_norm", "layer_norm"]
Spatial = Literal["depthwise", "grouped", "dense"]
BranchScale = Literal["channel_attention", "layer_scale", "none"]
Activation = Literal["gelu", "relu"]
KernelSize = Literal[3, 5, 7]
Downsampling = Literal["norm_conv", "conv_norm_activation"]
# What the layer scale begins with, as published.
LAYER_SCALE = 1e-6
# Sides of windows. A head has the fourth power as weights: a million at the end.
WINDOWS = range(2, 33)


@dataclass(frozen=True)
class Design:
    """How the parts of a network are made, alike in all of its stages.

    Attributes:
        norm: every normalisation: of the stem, downsampling, blocks, the 1x1 convolutions around the blocks of a
            cross-stage partial stage, and of the vector in front of the classifier. With ``layer_norm`` blocks keep
            the channels of a pixel side by side and their pointwise layers are linear layers, with ``batch_norm`` they
            are 1x1 convolutions: the same function, each in its faster form.
        spatial: the convolution over positions of each block: ``depthwise`` sees one channel, ``grouped`` as many as
            the largest divisor of the block's channels up to 32 (one group, so ``dense``, if a block has no more),
            ``dense`` all. No other convolution changes.
        branch_scale: what ends the branch of each block: ``channel_attention`` (a gate for each channel), or
            ``layer_scale`` (a learnt factor for each channel), or nothing. The attention that a cross-stage partial
            stage has in front of its last convolution belongs to ``csp`` and stays.
        activation: inside blocks, and behind every convolution that has an activation (stem, downsampling, the 1x1
            convolutions of cross-stage partial stages). The gate of the attention stays a hard sigmoid.
        kernel_size: side of the window of each block's convolution over positions. Nothing else changes.
        csp: whether stages are cross-stage partial: half of the channels pass by the blocks. Without it a stage is
            its downsampling, then blocks at the full width of the stage's output.
        branch_norm: whether the branch of each block has a second norm behind its last pointwise layer.
        downsampling: order of the layers of stem and downsampling: ``norm_conv`` is convolution -> norm in the stem,
            norm -> convolution between stages, without activation, as in ConvNeXt; ``conv_norm_activation`` is that
            order in both, as in E-ConvNeXt.
        layer_scale_init_value: first value of the layer scale; 0 leaves it out.
        spatial_mlp_window: side of the windows of a `WindowedSpatialMLP` between the first norm of each block and its
            pointwise layers; 0 for none.
        response_norm: whether blocks have the global response normalisation of ConvNeXt V2; with ``layer_norm`` only.

    Raises:
        ValueError: a value is not allowed; the message begins with the attribute's name.
    """

    norm: Norm
    spatial: Spatial
    branch_scale: BranchScale
    activation: Activation
    kernel_size: KernelSize
    csp: bool
    branch_norm: bool
    downsampling: Downsampling
    layer_scale_init_value: float = LAYER_SCALE
    spatial_mlp_window: int = 0
    response_norm: bool = False

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value, allowed = getattr(self, field.name), get_args(hints[field.name])
            if allowed and value not in allowed:
                raise ValueError(f"{field.name}: must be one of {', '.join(map(str, allowed))}, got {value!r}")
            if hints[field.name] is bool and not isinstance(value, bool):
                raise ValueError(f"{field.name}: must be true or false, got {value!r}")
        assert self.norm == "layer_norm" or not self.response_norm
        scale = self.layer_scale_init_value
        if not 0 <= scale < math.inf:
            raise ValueError(f"layer_scale_init_value: must not be negative or infinite, got {scale}")
        if self.branch_scale != "layer_scale" and scale not in (0, LAYER_SCALE):
            raise ValueError(f"layer_scale_init_value: needs branch_scale: layer_scale, but it is {self.branch_scale}")
        if self.spatial_mlp_window not in (0, *WINDOWS):
            raise ValueError(
                f"spatial_mlp_window: must be 0 (none) or from {WINDOWS[0]} to {WINDOWS[-1]}, "
                f"got {self.spatial_mlp_window!r}"
            )


CONVNEXT = Design("layer_norm", "depthwise", "layer_scale", "gelu", 7, False, False, "norm_conv")
CONVNEXT_V2 = replace(CONVNEXT, branch_scale="none", response_norm=True)
ECONVNEXT = Design("batch_norm", "depthwise", "channel_attention", "gelu", 7, True, True, "conv_norm_activation")
