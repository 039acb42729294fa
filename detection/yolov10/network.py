"""YOLOv10's network (arXiv 2405.14458): building blocks, own backbone, and neck. All tensors are NCHW.

Read from top to bottom: ConvNorm, the block C2f with what it is made of, SCDown, SPPF, PSA, then
:class:`YOLOv10Backbone` (P1 to P5) and :class:`YOLOv10Neck` (F4, F3, N4, N5). How deep and wide they are says the table
in ``detection.yolov10.scales``; the head is in ``detection.yolov10.head``.

Layers that a deployed network needs no more are merged by ``convert_to_deploy``: batch norms into the convolutions
before them, the two kernels of :class:`RepVGGDW` into one. It may be called in any order, and again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional
from paddle.nn.initializer import KaimingUniform
from ppdet.core.workspace import register, serializable
from ppdet.modeling.shape_spec import ShapeSpec

from detection.yolov10.scales import (
    BASE_REPEATS,
    NECK_REPEATS,
    STRIDES,
    find_scale,
    scaled_repeats,
)
from ppcls_ext.utils.signature import PositiveNumber

NeckPlace = Literal["F4", "N4", "N5"]
NECK_PLACES = get_args(NeckPlace)
NORM_EPSILON = 1e-3
# Paddle's momentum is the share of the old statistics.
NORM_MOMENTUM = 0.97
LARGE_KERNEL = 7
POOL_KERNEL = 5
ATTENTION_HEAD_WIDTH = 64


def uniform_weights() -> paddle.ParamAttr:
    """Weights drawn evenly from -b to b, b = 1 / sqrt(number of inputs of one output)."""
    return paddle.ParamAttr(initializer=KaimingUniform(negative_slope=math.sqrt(5.0), nonlinearity="leaky_relu"))


class ConvNorm(nn.Layer):
    """Convolution (odd kernel, no bias) -> batch norm -> SiLU (or nothing); keeps the resolution at stride 1."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1,
        activate: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = nn.Conv2D(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, groups=groups,
            weight_attr=uniform_weights(), bias_attr=False,
        )  # fmt: skip
        self.norm = nn.BatchNorm2D(out_channels, momentum=NORM_MOMENTUM, epsilon=NORM_EPSILON)
        self.activation = nn.Silu() if activate else nn.Identity()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, in_channels, H, W]`` -> ``[N, out_channels, ceil(H / stride), ceil(W / stride)]``."""
        return self.activation(self.norm(self.conv(x)))

    def merged_kernel(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns kernel ``[out, in / groups, k, k]`` and bias ``[out]`` (float64) of convolution and norm together.

        As in evaluation: the norm's running statistics count, not those of a batch.
        """
        kernel = self.conv.weight.numpy().astype(np.float64)
        if self.conv.bias is not None:
            return kernel, self.conv.bias.numpy().astype(np.float64)
        norm = {name: value.numpy().astype(np.float64) for name, value in self.norm.state_dict().items()}
        scale = norm["weight"] / np.sqrt(norm["_variance"] + self.norm._epsilon)
        return kernel * scale[:, None, None, None], norm["bias"] - norm["_mean"] * scale

    def merge(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        """Replaces convolution and norm by a convolution of the same shape with this kernel and bias."""
        outputs, inputs, *sides = kernel.shape
        old = self.conv
        self.conv = nn.Conv2D(
            inputs * old._groups, outputs, sides, stride=old._stride, padding=old._padding, groups=old._groups
        )
        self.conv.weight.set_value(kernel.astype(np.float32))
        self.conv.bias.set_value(bias.astype(np.float32))
        self.norm = nn.Identity()

    def convert_to_deploy(self) -> None:
        """Folds the norm into the convolution, which gets a bias. The network can no longer be trained as before."""
        if self.conv.bias is None:
            self.merge(*self.merged_kernel())


def depthwise(channels: int, kernel_size: int = 3, stride: int = 1, activate: bool = True) -> ConvNorm:
    """A depthwise :class:`ConvNorm`: each channel has a kernel of its own."""
    return ConvNorm(channels, channels, kernel_size, stride, groups=channels, activate=activate)


class RepVGGDW(nn.Layer):
    """SiLU of the sum of a 7x7 and a 3x3 depthwise convolution, each with its batch norm; deployed, one 7x7.

    The large-kernel convolution of section 3.3, re-parameterised as RepVGG (arXiv 2101.03697) is.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.large = depthwise(channels, LARGE_KERNEL, activate=False)
        self.small = depthwise(channels, 3, activate=False)
        self.activation = nn.Silu()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        total = self.large(x)
        if self.small is not None:
            total = total + self.small(x)
        return self.activation(total)

    def convert_to_deploy(self) -> None:
        """Adds the small kernel, with zeros around it, to the large one."""
        if self.small is None:
            return
        kernel, bias = self.large.merged_kernel()
        small_kernel, small_bias = self.small.merged_kernel()
        margin = (LARGE_KERNEL - small_kernel.shape[-1]) // 2
        kernel = kernel + np.pad(small_kernel, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
        self.large.merge(kernel, bias + small_bias)
        self.small = None


class Bottleneck(nn.Layer):
    """Two 3x3 convolutions; ``shortcut`` adds the input."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels, 3)
        self.second = ConvNorm(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        y = self.second(self.first(x))
        return x + y if self.shortcut else y


class CIB(nn.Layer):
    """Compact inverted block (section 3.2): depthwise -> 1x1 to 2c -> depthwise -> 1x1 to c -> depthwise, + input.

    With ``large_kernel`` the depthwise convolution in the middle is a :class:`RepVGGDW`.
    """

    def __init__(self, channels: int, large_kernel: bool = False) -> None:
        super().__init__()
        inner = 2 * channels
        self.layers = nn.Sequential(
            depthwise(channels),
            ConvNorm(channels, inner),
            RepVGGDW(inner) if large_kernel else depthwise(inner),
            ConvNorm(inner, channels),
            depthwise(channels),
        )

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        return x + self.layers(x)


class C2f(nn.Layer):
    """1x1 to two halves; each block works on the output of the one before, the first on the second half; all together
    go through a last 1x1. Blocks are half as wide as the output.
    """

    def __init__(self, in_channels: int, out_channels: int, blocks: list[nn.Layer]) -> None:
        super().__init__()
        half = out_channels // 2
        self.entry = ConvNorm(in_channels, 2 * half)
        self.blocks = nn.LayerList(blocks)
        self.merge = ConvNorm((2 + len(blocks)) * half, out_channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, in_channels, H, W]`` -> ``[N, out_channels, H, W]``."""
        parts = list(paddle.chunk(self.entry(x), 2, axis=1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.merge(paddle.concat(parts, axis=1))


def c2f(in_channels: int, out_channels: int, repeats: int, shortcut: bool) -> C2f:
    """Returns a :class:`C2f` of ``repeats`` bottlenecks, which add their input if ``shortcut``."""
    return C2f(in_channels, out_channels, [Bottleneck(out_channels // 2, shortcut) for _ in range(repeats)])


def c2f_cib(in_channels: int, out_channels: int, repeats: int, large_kernel: bool = False) -> C2f:
    """Returns a :class:`C2f` of ``repeats`` compact inverted blocks."""
    return C2f(in_channels, out_channels, [CIB(out_channels // 2, large_kernel) for _ in range(repeats)])


class SCDown(nn.Layer):
    """Spatial-channel decoupled downsampling (section 3.2): 1x1 to the new width, then depthwise 3x3 of stride 2."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.channels = ConvNorm(in_channels, out_channels)
        self.space = depthwise(out_channels, stride=2, activate=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, in_channels, H, W]`` -> ``[N, out_channels, ceil(H / 2), ceil(W / 2)]``."""
        return self.space(self.channels(x))


class SPPF(nn.Layer):
    """Spatial pyramid pooling: 1x1 to half the width, three 5x5 maximum pools in a row, all four together, 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.entry = ConvNorm(channels, channels // 2)
        self.merge = ConvNorm(4 * (channels // 2), channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        parts = [self.entry(x)]
        for _ in range(3):
            parts.append(functional.max_pool2d(parts[-1], POOL_KERNEL, stride=1, padding=POOL_KERNEL // 2))
        return self.merge(paddle.concat(parts, axis=1))


class Attention(nn.Layer):
    """Softmax attention (arXiv 1706.03762) of all positions to all, with keys and queries half as wide as values.

    The values' depthwise 3x3 convolution is added, which tells positions apart. There is one head for each 64 channels
    unless ``heads`` says otherwise; ``ValueError`` if the channels cannot be divided among them, evenly for each.
    """

    def __init__(self, channels: int, heads: int | None = None) -> None:
        super().__init__()
        self.heads = max(channels // ATTENTION_HEAD_WIDTH, 1) if heads is None else heads
        if channels % (2 * self.heads):
            raise ValueError(f"channels: must be a multiple of {2 * self.heads} for {self.heads} heads, got {channels}")
        self.value_width = channels // self.heads
        self.key_width = self.value_width // 2
        self.queries_keys_values = ConvNorm(channels, channels + 2 * self.heads * self.key_width, activate=False)
        self.position = depthwise(channels, activate=False)
        self.project = ConvNorm(channels, channels, activate=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        channels, height, width = x.shape[1], x.shape[2], x.shape[3]
        # Of each head: queries, keys and values, [N, heads, key or value width, positions].
        parts = self.queries_keys_values(x).reshape([0, self.heads, 2 * self.key_width + self.value_width, -1])
        query, key, value = paddle.split(parts, [self.key_width, self.key_width, self.value_width], axis=2)
        # [N, heads, positions that ask, positions that answer]
        weights = functional.softmax(paddle.matmul(query * self.key_width**-0.5, key, transpose_x=True), axis=-1)
        attended = paddle.matmul(value, weights, transpose_y=True).reshape([0, channels, height, width])
        return self.project(attended + self.position(value.reshape([0, channels, height, width])))


class PSA(nn.Layer):
    """Partial self-attention: 1x1, then half of the channels go through attention and a feed-forward network, 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.entry = ConvNorm(channels, 2 * half)
        self.attention = Attention(half)
        self.feed_forward = nn.Sequential(ConvNorm(half, 2 * half), ConvNorm(2 * half, half, activate=False))
        self.merge = ConvNorm(2 * half, channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        passed, attended = paddle.chunk(self.entry(x), 2, axis=1)
        attended = attended + self.attention(attended)
        attended = attended + self.feed_forward(attended)
        return self.merge(paddle.concat([passed, attended], axis=1))


@register
@serializable
class YOLOv10Backbone(nn.Layer):
    """Five stages P1 to P5, each half as fine as the one before (arXiv 2405.14458, figure 2 and appendix).

    ``scale`` is a row of :data:`~detection.yolov10.scales.SCALES`: N, S, M, B, L or X; ``ValueError`` for another.
    """

    __shared__ = ["scale"]

    def __init__(self, scale: str | None = None) -> None:
        super().__init__()
        row = find_scale(scale, type(self).__name__)
        self.scale = scale
        p1, p2, p3, p4, p5 = row.channels()
        repeats = [scaled_repeats(number, row.depth) for number in BASE_REPEATS]
        self.channels = [p3, p4, p5]
        self.to_p3 = nn.Sequential(
            ConvNorm(3, p1, 3, stride=2),
            ConvNorm(p1, p2, 3, stride=2),
            c2f(p2, p2, repeats[0], shortcut=True),
            ConvNorm(p2, p3, 3, stride=2),
            c2f(p3, p3, repeats[1], shortcut=True),
        )

        def stage(place: str, channels: int, count: int) -> nn.Layer:
            if place in row.cib:
                return c2f_cib(channels, channels, count, place in row.large_kernel)
            return c2f(channels, channels, count, shortcut=True)

        self.to_p4 = nn.Sequential(SCDown(p3, p4), stage("P4", p4, repeats[2]))
        self.to_p5 = nn.Sequential(SCDown(p4, p5), stage("P5", p5, repeats[3]), SPPF(p5), PSA(p5))

    def forward(self, inputs: Mapping[str, Any] | paddle.Tensor) -> list[paddle.Tensor]:
        """``inputs['image']`` or a tensor, ``[N, 3, H, W]`` -> P3, P4, P5, ``[N, C, H / s, W / s]``, s = 8, 16, 32."""
        image = inputs if isinstance(inputs, paddle.Tensor) else inputs["image"]
        p3 = self.to_p3(image)
        p4 = self.to_p4(p3)
        return [p3, p4, self.to_p5(p4)]

    @property
    def out_shape(self) -> list[ShapeSpec]:
        """Channels and strides of the outputs, as ppdet's necks want them."""
        return _shapes(self.channels, STRIDES)


@register
@serializable
class YOLOv10Neck(nn.Layer):
    """Mixes three feature maps, upwards to the finest and down again (a path aggregation network, arXiv 1803.01534).

    It is as wide as its inputs. Depth and blocks follow from ``scale``; with a backbone that has no scale, from the
    other arguments.

    Args:
        in_channels, strides: of the inputs, from fine to coarse; ppdet fills them in.
        scale: a row of :data:`~detection.yolov10.scales.SCALES`, which the inputs must fit, or ``None``.
        depth_mult: factor of the number of blocks, above 0; needed without ``scale``.
        width_mult: refused. It is here because PP-YOLOE's configurations hold one, which would be ignored.
        cib: places with compact inverted blocks, of F4, N4 and N5; needed without ``scale``.
        large_kernel: those of them with 7x7 kernels.

    Raises:
        ValueError: an argument is out of range, missing, or contradicts ``scale``; the message begins with its key.
    """

    __shared__ = ["scale", "depth_mult", "width_mult"]

    def __init__(
        self,
        in_channels: Sequence[int] = (256, 512, 512),
        strides: Sequence[int] = STRIDES,
        scale: str | None = None,
        depth_mult: PositiveNumber | None = None,
        width_mult: float | None = None,
        cib: Sequence[NeckPlace] | None = None,
        large_kernel: Sequence[NeckPlace] | None = None,
    ) -> None:
        super().__init__()
        if len(in_channels) != len(STRIDES):
            maps = f"the neck takes {len(STRIDES)} maps, the backbone gives {len(in_channels)}"
            raise ValueError(f"YOLOv10Neck.in_channels: {maps}")
        if strides[1] != 2 * strides[0] or strides[2] != 2 * strides[1]:
            raise ValueError(f"YOLOv10Neck.strides: each must be twice the one before, the backbone's: {list(strides)}")
        if width_mult is not None:
            words = "for it would change nothing: YOLOv10 is as wide as its scale or its backbone says"
            raise ValueError(f"YOLOv10Neck.width_mult: must not be given, {words}, got {width_mult!r}")
        stated = {"depth_mult": depth_mult, "cib": cib, "large_kernel": large_kernel}
        if scale is not None:
            row = find_scale(scale, "YOLOv10Neck")
            for name in (name for name, value in stated.items() if value is not None):
                raise ValueError(f"YOLOv10Neck.{name}: must not be given: it follows from scale {scale}")
            if list(in_channels) != row.channels()[2:]:
                words = f"{scale} takes {row.channels()[2:]} channels, the backbone gives {list(in_channels)}"
                advice = "with another backbone than YOLOv10Backbone leave it out, and give depth_mult and cib"
                raise ValueError(f"YOLOv10Neck.scale: {words}; {advice}")
            depth, cib, large_kernel = row.depth, row.cib, row.large_kernel
        else:
            for name in (name for name in ("depth_mult", "cib") if stated[name] is None):
                raise ValueError(f"YOLOv10Neck.{name}: is missing: it is needed, for there is no scale")
            depth, large_kernel = float(depth_mult), large_kernel or ()
            if unknown := [place for place in cib if place not in NECK_PLACES]:
                raise ValueError(f"YOLOv10Neck.cib: must be places of {', '.join(NECK_PLACES)}, got {unknown[0]!r}")
            if plain := [place for place in large_kernel if place not in cib]:
                words = f"{plain[0]} has no compact inverted block: it is not in cib"
                raise ValueError(f"YOLOv10Neck.large_kernel: {words}")
        self.scale = scale
        repeats = scaled_repeats(NECK_REPEATS, depth)
        c3, c4, c5 = in_channels
        self.channels = list(in_channels)
        self.strides = list(strides)

        def stage(place: str, inputs: int, outputs: int) -> nn.Layer:
            if place in cib:
                return c2f_cib(inputs, outputs, repeats, place in large_kernel)
            return c2f(inputs, outputs, repeats, shortcut=False)

        self.f4 = stage("F4", c5 + c4, c4)
        self.f3 = c2f(c4 + c3, c3, repeats, shortcut=False)
        self.down_n4 = ConvNorm(c3, c3, 3, stride=2)
        self.n4 = stage("N4", c3 + c4, c4)
        self.down_n5 = SCDown(c4, c4)
        self.n5 = stage("N5", c4 + c5, c5)

    def forward(self, features: Sequence[paddle.Tensor], for_mot: bool = False) -> list[paddle.Tensor]:
        """P3, P4, P5, ``[N, C, H / s, W / s]`` -> F3, N4, N5 of the same shapes; ppdet's ``for_mot`` does nothing."""
        p3, p4, p5 = features
        # Upwards: the coarser map, each position four times, beside the finer one.
        p5_up = functional.interpolate(p5, scale_factor=2, mode="nearest")
        f4 = self.f4(paddle.concat([p5_up, p4], axis=1))
        f4_up = functional.interpolate(f4, scale_factor=2, mode="nearest")
        f3 = self.f3(paddle.concat([f4_up, p3], axis=1))
        # And down again.
        n4 = self.n4(paddle.concat([self.down_n4(f3), f4], axis=1))
        n5 = self.n5(paddle.concat([self.down_n5(n4), p5], axis=1))
        return [f3, n4, n5]

    @classmethod
    def from_config(cls, cfg: Mapping[str, Any], input_shape: Sequence[ShapeSpec]) -> dict[str, Any]:
        """The arguments that ppdet takes from the backbone's ``out_shape``."""
        return {
            "in_channels": [shape.channels for shape in input_shape],
            # ppdet's ConvNeXt names no strides; with the default return_idx they are these.
            "strides": [shape.stride or usual for shape, usual in zip(input_shape, STRIDES, strict=False)],
        }

    @property
    def out_shape(self) -> list[ShapeSpec]:
        """Channels and strides of the outputs, as ppdet's heads want them."""
        return _shapes(self.channels, self.strides)


def _shapes(channels: Sequence[int], strides: Sequence[int]) -> list[ShapeSpec]:
    return [ShapeSpec(channels=count, stride=stride) for count, stride in zip(channels, strides, strict=True)]
