"""The network with switches: every design choice between ConvNeXt and E-ConvNeXt as an argument, for studies.

`AblatedConvNeXt` and `AblatedEConvNeXt` take the arguments of `ConvNeXtV1` and `EConvNeXt` and a switch for each
choice; with the switches' defaults they are those networks, parameter for parameter. `build_model` takes them as soon
as a switch is given, so that ``Arch: {name: EConvNeXt_mini, csp: false}`` works in a configuration. `PATH` walks from
one network to the other, one choice a step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import paddle
from paddle import nn

from ppcls_ext.arch.convnext import NORM_EPSILON, ChannelNorm, LayerScale
from ppcls_ext.arch.econvnext import EConvNeXt, EffectiveSE
from ppcls_ext.arch.layers import (
    BATCH_NORM_EPSILON,
    EXPANSION,
    DropPath,
    GlobalAveragePool,
    StemStride,
    block_expansions,
    check_arguments,
    convolution,
    drop_path_ramp,
    linear,
    scaled_depths,
    scaled_dims,
)

Stem = Literal["patchify", "stepped"]
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
# Most channels that share the weights of a spatial MLP's head, as in Swin, or a group of a grouped convolution.
GROUP_CHANNELS = 32


@dataclass(frozen=True)
class Switches:
    """How the parts of a network are made, alike in all of its stages.

    Attributes:
        norm: every normalisation, that of the vector in front of the classifier too. With ``layer_norm`` blocks keep
            the channels of a pixel side by side and their pointwise layers are linear layers, with ``batch_norm`` they
            are 1x1 convolutions: the same function, each in its faster form.
        spatial: the convolution over positions of each block: ``depthwise`` sees one channel, ``grouped`` as many as
            the largest divisor of the block's channels up to 32, ``dense`` all. No other convolution changes.
        branch_scale: what ends the branch of each block: ``channel_attention`` (a gate for each channel), or
            ``layer_scale`` (a learnt factor for each channel), or nothing. The attention that a cross-stage partial
            stage has in front of its last convolution belongs to ``csp`` and stays.
        activation: inside blocks, and behind every convolution that has one; the gate of the attention stays a hard
            sigmoid.
        kernel_size: side of the window of each block's convolution over positions.
        csp: whether stages are cross-stage partial: half of the channels pass by the blocks. Without it a stage is
            its downsampling, then blocks at the full width of the stage's output.
        branch_norm: whether the branch of each block has a second norm behind its last pointwise layer.
        downsampling: ``norm_conv`` is convolution -> norm in the stem and norm -> convolution between stages, without
            activation, as in ConvNeXt; ``conv_norm_activation`` is that order in both, as in E-ConvNeXt.
        layer_scale_init_value: first value of the layer scale; 0 leaves it out.
        spatial_mlp_window: side of the windows of a `SpatialMLP` between the first norm of each block and its
            pointwise layers; 0 for none.

    Raises:
        ValueError: a number is out of range, or goes with another switch; the message begins with its name. (That
            words are among those allowed, the schema of the constructors has checked.)
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

    def __post_init__(self) -> None:
        scale = self.layer_scale_init_value
        if not 0 <= scale < math.inf:
            raise ValueError(f"layer_scale_init_value: must not be negative or infinite, got {scale}")
        if self.branch_scale != "layer_scale" and scale not in (0, LAYER_SCALE):
            raise ValueError(f"layer_scale_init_value: needs branch_scale: layer_scale, but it is {self.branch_scale}")
        if self.spatial_mlp_window not in (0, *WINDOWS):
            allowed = f"0 (none) or from {WINDOWS[0]} to {WINDOWS[-1]}"
            raise ValueError(f"spatial_mlp_window: must be {allowed}, got {self.spatial_mlp_window!r}")

    def map_norm(self, channels: int) -> nn.Layer:
        """A norm of maps ``[N, channels, H, W]``."""
        if self.norm == "batch_norm":
            return nn.BatchNorm2D(channels, epsilon=BATCH_NORM_EPSILON)
        return ChannelNorm(channels)

    def vector_norm(self, channels: int) -> nn.Layer:
        """A norm of vectors ``[N, channels]``."""
        if self.norm == "batch_norm":
            return nn.BatchNorm1D(channels, epsilon=BATCH_NORM_EPSILON)
        return nn.LayerNorm(channels, epsilon=NORM_EPSILON)

    def activate(self) -> nn.Layer:
        """The activation, for any shape."""
        return nn.GELU() if self.activation == "gelu" else nn.ReLU()

    def groups(self, channels: int) -> int:
        """Groups of a block's convolution over positions."""
        return channels // {"depthwise": 1, "grouped": group_width(channels), "dense": channels}[self.spatial]


def group_width(channels: int) -> int:
    """Channels in each group: the largest divisor of ``channels`` up to 32."""
    return next(width for width in range(min(channels, GROUP_CHANNELS), 0, -1) if channels % width == 0)


class SpatialMLP(nn.Layer):
    """Adds to each position of a window a linear function of all positions of that window, as in Swin-MLP.

    The map is cut into windows of ``n x n``, filled up with zeros below and to the right where it does not divide (a
    map smaller than the window is one window). In each window and for each channel, the n * n values become ``W v + b``
    with one W and b for each head, a group of up to 32 channels. The sum of input and result is returned. Swin
    (arXiv 2103.14030) shifts every second layer's windows so that neighbours meet; here nothing is shifted, because
    the blocks' convolutions reach across windows.

    ``window`` is the side n; ``channels`` come in and go out.
    """

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.heads = channels // group_width(channels)
        positions = self.heads * window * window
        # A head is a group. As a convolution it is counted by paddle.flops.
        self.mix = convolution(positions, positions, 1, groups=self.heads)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        images, channels, height, width = x.shape
        n, heads, each = self.window, self.heads, channels // self.heads
        rows, columns = (height + n - 1) // n, (width + n - 1) // n
        y = x.transpose([0, 2, 3, 1])
        # More zeros than are needed, then cut: how many are needed may not be known before an image is there. Not by
        # `pad`: in an exported network its oneDNN kernel destroys memory (paddlepaddle 3.2.2).
        y = paddle.concat([y, paddle.zeros([images, n - 1, width, channels], y.dtype)], axis=1)[:, : rows * n]
        y = paddle.concat([y, paddle.zeros([images, rows * n, n - 1, channels], y.dtype)], axis=2)[:, :, : columns * n]
        y = y.reshape([-1, n, columns, n, heads, each]).transpose([0, 4, 1, 3, 2, 5])
        y = self.mix(y.reshape([-1, heads * n * n, columns, each]))
        y = y.reshape([-1, heads, n, n, columns, each]).transpose([0, 2, 4, 3, 1, 5])
        y = y.reshape([-1, rows * n, columns * n, channels])[:, :height, :width]
        return x + y.transpose([0, 3, 1, 2])

    def extra_repr(self) -> str:
        return f"window={self.window}, heads={self.heads}"


class MapLayerScale(LayerScale):
    """`LayerScale` of a map whose channels go first."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        return x * self.weight.reshape([-1, 1, 1])


class ConvNormAct(nn.Layer):
    """Convolution -> norm -> activation, by the switches; see `econvnext.ConvBNAct`."""

    def __init__(
        self, switches: Switches, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1,
        padding: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = convolution(in_channels, out_channels, kernel_size, stride, padding)
        self.norm = switches.map_norm(out_channels)
        self.activation = switches.activate()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, in_channels, H, W]`` -> ``[N, out_channels, H', W']``."""
        return self.activation(self.norm(self.conv(x)))


class AblatedBlock(nn.Layer):
    """Residual block by the switches; see `econvnext.Block` and `convnext.BlockV1`. What is left out is an identity."""

    def __init__(
        self, switches: Switches, channels: int, drop_path_rate: float = 0.0, expansion_channels: int | None = None
    ) -> None:
        super().__init__()
        inside = expansion_channels or EXPANSION * channels
        self.channels_last = last = switches.norm == "layer_norm"
        side, window, scale = switches.kernel_size, switches.spatial_mlp_window, switches.branch_scale
        factor = switches.layer_scale_init_value if scale == "layer_scale" else 0
        self.depthwise = convolution(channels, channels, side, padding=side // 2, groups=switches.groups(channels))
        self.norm = switches.map_norm(channels)
        self.spatial_mlp = SpatialMLP(channels, window) if window else nn.Identity()
        self.expand = linear(channels, inside) if last else convolution(channels, inside, 1)
        self.activation = switches.activate()
        self.project = linear(inside, channels) if last else convolution(inside, channels, 1)
        self.project_norm = switches.map_norm(channels) if switches.branch_norm else nn.Identity()
        self.attention = EffectiveSE(channels) if scale == "channel_attention" else nn.Identity()
        self.layer_scale = MapLayerScale(channels, factor) if factor else nn.Identity()
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        y = self.spatial_mlp(self.norm(self.depthwise(x)))
        y = y.transpose([0, 2, 3, 1]) if self.channels_last else y
        y = self.project(self.activation(self.expand(y)))
        y = y.transpose([0, 3, 1, 2]) if self.channels_last else y
        y = self.layer_scale(self.attention(self.project_norm(y)))
        return x + self.drop_path(y)


class AblatedStage(nn.Layer):
    """Stage by the switches; see `econvnext.CSPStage` and `convnext.Stage`.

    Args:
        switches, in_channels, out_channels: what the parts are, and channels of the ends.
        middle_channels: channels behind the downsampling; without ``csp`` those of the output.
        stride: 2 halves the resolution with a 2x2 convolution; 1 keeps it (by a 1x1 convolution if the input does not
            have ``middle_channels`` yet).
        drop_path_rates, expansion_channels: of each block; None for four times the block's channels.
    """

    def __init__(
        self, switches: Switches, in_channels: int, middle_channels: int, out_channels: int, stride: int,
        drop_path_rates: Sequence[float], expansion_channels: Sequence[int | None],
    ) -> None:  # fmt: skip
        super().__init__()
        self.csp = switches.csp
        width = middle_channels // 2 if self.csp else middle_channels

        def make_blocks() -> nn.Sequential:
            rows = zip(drop_path_rates, expansion_channels, strict=True)
            return nn.Sequential(*(AblatedBlock(switches, width, *row) for row in rows))

        # Made first without ``csp``, as ConvNeXt makes its parameters.
        blocks = None if self.csp else make_blocks()
        if stride == 1 and in_channels == middle_channels:
            self.downsample = nn.Identity()
        elif switches.downsampling == "norm_conv":
            self.downsample = nn.Sequential(
                switches.map_norm(in_channels), convolution(in_channels, middle_channels, stride, stride)
            )
        else:
            self.downsample = ConvNormAct(switches, in_channels, middle_channels, stride, stride)
        if self.csp:
            self.shortcut = ConvNormAct(switches, middle_channels, width, 1)
            self.entry = ConvNormAct(switches, middle_channels, width, 1)
        self.blocks = blocks or make_blocks()
        if self.csp:
            self.attention = EffectiveSE(2 * width)
            self.merge = ConvNormAct(switches, 2 * width, out_channels, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, in_channels, H, W]`` -> ``[N, out_channels, H // stride, W // stride]``."""
        x = self.downsample(x)
        if not self.csp:
            return self.blocks(x)
        both = paddle.concat([self.shortcut(x), self.blocks(self.entry(x))], axis=1)
        return self.merge(self.attention(both))


class AblationNetwork(nn.Layer):
    """Stem, stages, global pool, norm of the vector, linear classifier, by the switches.

    With ``csp`` stage i (from 1) takes d_{i-1} channels to d_i, at a width between; without it the channels of a stage
    are d_i from its downsampling on, and a patchify stem gives d_1.

    The arguments are those of `econvnext.EConvNeXt`; a ValueError names the one that is out of range first.
    """

    def __init__(
        self, switches: Switches, stem: Stem, dims: Sequence[int], depths: Sequence[int], strides: Sequence[int],
        class_num: int, drop_path_rate: float, stem_stride: StemStride, in_channels: int,
        expansion_channels: list | None,
    ) -> None:  # fmt: skip
        super().__init__()
        check_arguments(class_num, drop_path_rate, stem_stride, in_channels)
        middles = list(dims[1:])
        if switches.csp:
            middles = [(before + after) // 2 for before, after in zip(dims[:-1], dims[1:], strict=True)]
        inputs, strides = list(dims[:-1]), list(strides)
        convolutions = []
        if stem == "patchify":
            inputs[0] = middles[0]
            shape = (3, 1, 1) if stem_stride == 1 else (stem_stride, stem_stride, 0)
            last = (in_channels, middles[0], *shape)
        else:
            half = dims[0] // 2
            first = (2, 2, 0) if stem_stride == 4 else (3, 1, 1)
            convolutions = [ConvNormAct(switches, in_channels, half, *first),
                            ConvNormAct(switches, half, half, 3, padding=1)]  # fmt: skip
            last = (half, dims[0], 3, 1, 1)
            strides[0] = 1 if stem_stride == 1 else strides[0]
        if switches.downsampling == "norm_conv":
            convolutions += [convolution(*last), switches.map_norm(last[1])]
        else:
            convolutions.append(ConvNormAct(switches, *last))
        self.stem = nn.Sequential(*convolutions)
        rates, inside = drop_path_ramp(drop_path_rate, depths), block_expansions(expansion_channels, depths)
        rows = zip(inputs, middles, dims[1:], strides, rates, inside, strict=True)
        self.stages = nn.Sequential(*(AblatedStage(switches, *row) for row in rows))
        self.pool = GlobalAveragePool()
        self.flatten = nn.Flatten()
        self.norm = switches.vector_norm(dims[-1])
        self.head = linear(dims[-1], class_num) if class_num else nn.Identity()
        self.class_num = class_num
        self.feature_channels = list(dims[1:])
        self.feature_strides = [stem_stride * 2**i for i in range(len(depths))]

    forward_features = EConvNeXt.forward_features
    forward = EConvNeXt.forward


class AblatedEConvNeXt(AblationNetwork):
    """`EConvNeXt` with switches, see `Switches`.

    Without ``csp`` stage i is its downsampling to d_i channels, then blocks of d_i channels, about twice as wide.
    """

    def __init__(
        self, stem: Stem, dims: Sequence[int], depths: Sequence[int], strides: Sequence[int], class_num: int = 1000,
        drop_path_rate: float = 0.0, stem_stride: StemStride = 4, in_channels: int = 3,
        expansion_channels: list | None = None, norm: Norm = "batch_norm", spatial: Spatial = "depthwise",
        branch_scale: BranchScale = "channel_attention", activation: Activation = "gelu", kernel_size: KernelSize = 7,
        csp: bool = True, branch_norm: bool = True, downsampling: Downsampling = "conv_norm_activation",
        layer_scale_init_value: float = LAYER_SCALE, depth_multiplier: float = 1.0, width_multiplier: float = 1.0,
    ) -> None:  # fmt: skip
        switches = Switches(
            norm, spatial, branch_scale, activation, kernel_size, csp, branch_norm, downsampling,
            layer_scale_init_value,
        )  # fmt: skip
        dims, depths = scaled_dims(dims, width_multiplier), scaled_depths(depths, depth_multiplier)
        super().__init__(
            switches, stem, dims, depths, strides, class_num, drop_path_rate, stem_stride, in_channels,
            expansion_channels,
        )  # fmt: skip


class AblatedConvNeXt(AblationNetwork):
    """`ConvNeXtV1` with switches, see `Switches`.

    With ``csp`` the stages are those of E-ConvNeXt, with its widths: the stem has half of d_0 + d_1, where d_0 is half
    of the first stage's channels d_1, and stage i works at half of (d_{i-1} + d_i) between its downsampling and its
    last convolution.
    """

    def __init__(
        self, dims: Sequence[int], depths: Sequence[int], class_num: int = 1000, drop_path_rate: float = 0.0,
        stem_stride: StemStride = 4, in_channels: int = 3, layer_scale_init_value: float = LAYER_SCALE,
        norm: Norm = "layer_norm", spatial: Spatial = "depthwise", branch_scale: BranchScale = "layer_scale",
        activation: Activation = "gelu", kernel_size: KernelSize = 7, csp: bool = False, branch_norm: bool = False,
        downsampling: Downsampling = "norm_conv", depth_multiplier: float = 1.0, width_multiplier: float = 1.0,
        spatial_mlp_window: int = 0, expansion_channels: list | None = None,
    ) -> None:  # fmt: skip
        switches = Switches(
            norm, spatial, branch_scale, activation, kernel_size, csp, branch_norm, downsampling,
            layer_scale_init_value, spatial_mlp_window,
        )  # fmt: skip
        dims, depths = scaled_dims((dims[0] // 2, *dims), width_multiplier), scaled_depths(depths, depth_multiplier)
        strides = (1, *(2 for _ in depths[1:]))
        super().__init__(
            switches, "patchify", dims, depths, strides, class_num, drop_path_rate, stem_stride, in_channels,
            expansion_channels,
        )  # fmt: skip


class Step(NamedTuple):
    """A network on the path from ConvNeXt to E-ConvNeXt: what differs from the step before, and what ``Arch`` says."""

    change: str
    model: str
    arguments: Mapping[str, Any]


NORM = {"norm": "batch_norm"}
DOWNSAMPLING = {**NORM, "downsampling": "conv_norm_activation"}
CSP = {**DOWNSAMPLING, "csp": True}
ATTENTION = {**CSP, "branch_scale": "channel_attention"}
# What makes a ConvNeXt-T of E-ConvNeXt-mini, parameter by parameter, and the other way round.
TO_ECONVNEXT = {**ATTENTION, "branch_norm": True}
TO_CONVNEXT = {
    "norm": "layer_norm", "downsampling": "norm_conv", "csp": False, "branch_scale": "layer_scale",
    "branch_norm": False,
}  # fmt: skip

PATH: tuple[Step, ...] = (
    Step("ConvNeXt-T", "ConvNeXtV1_tiny", {}),
    Step("batch norm in the place of every layer norm, the classifier's too", "ConvNeXtV1_tiny", NORM),
    Step("stem and downsampling: convolution, norm, GELU", "ConvNeXtV1_tiny", DOWNSAMPLING),
    Step("cross-stage partial stages, and the narrower stem that goes with them", "ConvNeXtV1_tiny", CSP),
    Step("channel attention in the place of the layer scale", "ConvNeXtV1_tiny", ATTENTION),
    Step("a second norm in each block: this is E-ConvNeXt-mini", "EConvNeXt_mini", {}),
    Step("a stem of three small convolutions", "EConvNeXt_tiny", {"width_multiplier": 0.75}),
    Step("a third wider: this is E-ConvNeXt-tiny", "EConvNeXt_tiny", {}),
)
# What the path changes.
CHOICES = {name for step in PATH for name in step.arguments} | set(TO_CONVNEXT)
