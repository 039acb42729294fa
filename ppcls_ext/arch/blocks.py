"""Residual blocks of ConvNeXt and E-ConvNeXt, by design. Maps between blocks are NCHW.

Each is the sequence of its branch, in which a design leaves layers out or puts others in their place.
"""

from __future__ import annotations

from collections.abc import Callable

import paddle
from paddle import nn

from ppcls_ext.arch.convnext_layers import NORM_EPSILON, GlobalResponseNorm, LayerScale
from ppcls_ext.arch.design import CONVNEXT, ECONVNEXT, Design
from ppcls_ext.arch.layers import EXPANSION, DropPath, EffectiveSE, convolution, linear
from ppcls_ext.arch.parts import activation, map_norm, spatial_convolution
from ppcls_ext.arch.spatial_mlp import MapSpatialMLP, WindowedSpatialMLP

NamedLayers = list[tuple[str, nn.Layer]]


class MapLayerScale(LayerScale):
    """A learnt factor for each channel of a map; see `LayerScale`."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        return x * self.weight.reshape([-1, 1, 1])


class ChannelsLastSE(EffectiveSE):
    """Effective squeeze-and-excitation of a map whose channels go last; see `EffectiveSE`."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, H, W, C]`` -> ``[N, H, W, C]``."""
        return super().forward(x.transpose([0, 3, 1, 2])).transpose([0, 2, 3, 1])


def _branch_end(
    design: Design, channels: int, attention: Callable[[int], nn.Layer], scale: Callable[[int, float], nn.Layer]
) -> NamedLayers:
    """What a branch has behind its last norm, by ``branch_scale``."""
    if design.branch_scale == "channel_attention":
        return [("attention", attention(channels))]
    if design.branch_scale == "layer_scale" and design.layer_scale_init_value:
        return [("layer_scale", scale(channels, design.layer_scale_init_value))]
    return []


def _spatial_mlp(design: Design, channels: int, kind: type[WindowedSpatialMLP]) -> NamedLayers:
    """What a branch has between its first norm and its pointwise layers, by ``spatial_mlp_window``."""
    return [("spatial_mlp", kind(channels, design.spatial_mlp_window))] if design.spatial_mlp_window else []


class Block(nn.Sequential):
    """Residual block on maps. As published in E-ConvNeXt its branch is depthwise 7x7 -> BN -> 1x1 to 4c -> GELU -> 1x1
    to c -> BN -> channel attention -> drop path.

    Args:
        channels: channels of input and output.
        drop_path_rate: probability of dropping the branch of a sample in training.
        hidden_channels: channels between the two 1x1 convolutions, if not 4c as published: pruned blocks have fewer.
        design: what the parts are.
    """

    def __init__(
        self,
        channels: int,
        drop_path_rate: float = 0.0,
        hidden_channels: int | None = None,
        design: Design = ECONVNEXT,
    ) -> None:
        hidden = EXPANSION * channels if hidden_channels is None else hidden_channels
        branch: NamedLayers = [
            ("depthwise", spatial_convolution(design, channels)),
            ("norm", map_norm(design, channels)),
            *_spatial_mlp(design, channels, MapSpatialMLP),
            ("expand", convolution(channels, hidden, 1)),
            ("activation", activation(design)),
            ("project", convolution(hidden, channels, 1)),
        ]
        if design.branch_norm:
            branch.append(("project_norm", map_norm(design, channels)))
        branch += _branch_end(design, channels, EffectiveSE, MapLayerScale)
        super().__init__(*branch, ("drop_path", DropPath(drop_path_rate)))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        return x + super().forward(x)


class ChannelsLastBlock(nn.Sequential):
    """Residual block that works with channels last, but for the convolution over positions. As published in ConvNeXt
    its branch is depthwise 7x7 -> layer norm -> linear to 4c -> GELU -> linear to c -> layer scale -> drop path; in
    ConvNeXt V2 a global response normalisation of the 4c channels takes the place of the layer scale.

    Args:
        channels: channels of input and output.
        drop_path_rate: probability of dropping the branch of a sample in training.
        hidden_channels: channels between the two linear layers, if not 4c as published.
        design: what the parts are.
    """

    def __init__(
        self,
        channels: int,
        drop_path_rate: float = 0.0,
        hidden_channels: int | None = None,
        design: Design = CONVNEXT,
    ) -> None:
        hidden = EXPANSION * channels if hidden_channels is None else hidden_channels
        branch: NamedLayers = [
            ("depthwise", spatial_convolution(design, channels)),
            ("norm", nn.LayerNorm(channels, epsilon=NORM_EPSILON)),
            *_spatial_mlp(design, channels, WindowedSpatialMLP),
            ("expand", linear(channels, hidden)),
            ("activation", activation(design)),
        ]
        if design.response_norm:
            branch.append(("response_norm", GlobalResponseNorm(hidden)))
        branch.append(("project", linear(hidden, channels)))
        if design.branch_norm:
            branch.append(("project_norm", nn.LayerNorm(channels, epsilon=NORM_EPSILON)))
        branch += _branch_end(design, channels, ChannelsLastSE, LayerScale)
        super().__init__(*branch, ("drop_path", DropPath(drop_path_rate)))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        layers = list(self.children())
        branch = layers[0](x).transpose([0, 2, 3, 1])
        for layer in layers[1:-1]:
            branch = layer(branch)
        return x + layers[-1](branch.transpose([0, 3, 1, 2]))


# A layer norm takes the channels of a pixel together, which is fastest where they lie side by side.
BLOCKS: dict[str, type[nn.Sequential]] = {"batch_norm": Block, "layer_norm": ChannelsLastBlock}


def make_blocks(
    design: Design, channels: int, drop_path_rates: list[float], hidden_channels: list[int] | None = None
) -> nn.Sequential:
    """The blocks of a stage, ``[N, channels, H, W]`` -> the same.

    Args:
        design: what the parts are.
        channels: channels of input and output.
        drop_path_rates: one for each block; their number is the depth of the stage.
        hidden_channels: channels inside each block, if not four times ``channels``.
    """
    hidden = [None] * len(drop_path_rates) if hidden_channels is None else hidden_channels
    kind = BLOCKS[design.norm]
    return nn.Sequential(
        *(kind(channels, rate, width, design) for rate, width in zip(drop_path_rates, hidden, strict=True))
    )
