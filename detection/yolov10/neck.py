"""YOLOv10's neck under PaddleDetection's contract: ``neck: YOLOv10Neck`` in YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional
from ppdet.core.workspace import register, serializable
from ppdet.modeling.shape_spec import ShapeSpec

from detection.yolov10.blocks import C2f, C2fCIB, ConvNorm, SCDown
from detection.yolov10.scales import (
    NECK_PLACES,
    NECK_REPEATS,
    STRIDES,
    WIDTH_PROBLEM,
    find_scale,
    place_problems,
    scaled_repeats,
)


@register
@serializable
class YOLOv10Neck(nn.Layer):
    """Mixes three feature maps, upwards to the finest and down again (a path aggregation network, arXiv 1803.01534).

    It is as wide as its inputs. Depth and blocks follow from ``scale``; with a backbone that has no scale, from the
    other arguments.

    Args:
        in_channels: channels of the inputs, from fine to coarse; ppdet fills them in.
        strides: pixels of the picture to one position of each input; ppdet fills them in.
        scale: a row of :data:`~detection.yolov10.scales.SCALES`, which the inputs must fit, or ``None``.
        depth_mult: factor of the number of blocks, above 0; needed without ``scale``.
        width_mult: refused. It is here because PP-YOLOE's configurations hold one, which would be ignored.
        cib: places with compact inverted blocks, of F4, N4 and N5; needed without ``scale``.
        large_kernel: those of them with 7x7 kernels.

    Raises:
        ValueError: an argument is out of range, missing, or contradicts ``scale``; the message begins with its name.
    """

    __shared__ = ["scale", "depth_mult", "width_mult"]

    def __init__(
        self,
        in_channels: Sequence[int] = (256, 512, 512),
        strides: Sequence[int] = STRIDES,
        scale: str | None = None,
        depth_mult: float | None = None,
        width_mult: float | None = None,
        cib: Sequence[str] | None = None,
        large_kernel: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        _check_inputs(in_channels, strides, scale)
        if width_mult is not None:
            raise ValueError(f"width_mult: {WIDTH_PROBLEM}, got {width_mult!r}")
        depth, cib, large_kernel = _resolved(scale, depth_mult, cib, large_kernel)
        repeats = scaled_repeats(NECK_REPEATS, depth)
        c3, c4, c5 = in_channels
        self.channels = list(in_channels)
        self.strides = list(strides)

        def stage(place: str, inputs: int, outputs: int) -> nn.Layer:
            if place in cib:
                return C2fCIB(inputs, outputs, repeats, place in large_kernel)
            return C2f(inputs, outputs, repeats, shortcut=False)

        self.f4 = stage("F4", c5 + c4, c4)
        self.f3 = C2f(c4 + c3, c3, repeats, shortcut=False)
        self.down_n4 = ConvNorm(c3, c3, 3, stride=2)
        self.n4 = stage("N4", c3 + c4, c4)
        self.down_n5 = SCDown(c4, c4)
        self.n5 = stage("N5", c4 + c5, c5)

    def forward(self, features: Sequence[paddle.Tensor], for_mot: bool = False) -> list[paddle.Tensor]:
        """P3, P4, P5, ``[N, C, H / s, W / s]`` -> F3, N4, N5 of the same shapes; ppdet's ``for_mot`` does nothing."""
        p3, p4, p5 = features
        f4 = self.f4(paddle.concat([_twice(p5), p4], axis=1))
        f3 = self.f3(paddle.concat([_twice(f4), p3], axis=1))
        n4 = self.n4(paddle.concat([self.down_n4(f3), f4], axis=1))
        n5 = self.n5(paddle.concat([self.down_n5(n4), p5], axis=1))
        return [f3, n4, n5]

    @classmethod
    def from_config(cls, cfg: Mapping[str, Any], input_shape: Sequence[ShapeSpec]) -> dict[str, Any]:
        """What ppdet takes from the backbone's ``out_shape``."""
        return {
            "in_channels": [shape.channels for shape in input_shape],
            # ppdet's ConvNeXt names no strides; with the default return_idx they are these.
            "strides": [shape.stride or usual for shape, usual in zip(input_shape, STRIDES, strict=False)],
        }

    @property
    def out_shape(self) -> list[ShapeSpec]:
        """Channels and strides of the outputs, as ppdet's heads want them."""
        return [
            ShapeSpec(channels=channels, stride=stride)
            for channels, stride in zip(self.channels, self.strides, strict=True)
        ]


def _twice(x: paddle.Tensor) -> paddle.Tensor:
    """``[N, C, H, W]`` -> ``[N, C, 2 H, 2 W]``: each position four times."""
    return functional.interpolate(x, scale_factor=2, mode="nearest")


def _check_inputs(in_channels: Sequence[int], strides: Sequence[int], scale: str | None) -> None:
    if len(in_channels) != len(STRIDES):
        raise ValueError(f"in_channels: the neck takes {len(STRIDES)} maps, the backbone gives {len(in_channels)}")
    if strides[1] != 2 * strides[0] or strides[2] != 2 * strides[1]:
        raise ValueError(f"strides: each must be twice the one before, the backbone's are {list(strides)}")
    if scale is not None and list(in_channels) != find_scale(scale).channels()[2:]:
        expected = find_scale(scale).channels()[2:]
        raise ValueError(f"scale: {scale} takes {expected} channels, the backbone gives {list(in_channels)}")


def _resolved(
    scale: str | None, depth_mult: float | None, cib: Sequence[str] | None, large_kernel: Sequence[str] | None
) -> tuple[float, tuple[str, ...], tuple[str, ...]]:
    """Returns depth, places with compact inverted blocks, and those with large kernels."""
    if scale is not None:
        row = find_scale(scale)
        given = {"depth_mult": depth_mult, "cib": cib, "large_kernel": large_kernel}
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"{name}: follows from scale {scale}, so it must not be given; got {value!r}")
        return row.depth, row.cib, row.large_kernel
    if isinstance(depth_mult, bool) or not isinstance(depth_mult, int | float) or depth_mult <= 0:
        raise ValueError(f"depth_mult: without a scale it must be a number above 0, got {depth_mult!r}")
    if cib is None:
        raise ValueError(f"cib: without a scale it must be a list of places ({', '.join(NECK_PLACES)})")
    for name, problem in place_problems(cib, large_kernel or ()).items():
        raise ValueError(f"{name}: {problem}")
    return float(depth_mult), tuple(cib), tuple(large_kernel or ())
