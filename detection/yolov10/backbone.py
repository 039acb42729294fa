"""YOLOv10's own backbone under PaddleDetection's contract: ``backbone: YOLOv10Backbone`` in YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle
from paddle import nn
from ppdet.core.workspace import register, serializable
from ppdet.modeling.shape_spec import ShapeSpec

from detection.yolov10.attention import PSA
from detection.yolov10.blocks import SPPF, C2f, C2fCIB, ConvNorm, SCDown
from detection.yolov10.scales import BASE_REPEATS, STRIDES, Scale, find_scale, scaled_repeats


@register
@serializable
class YOLOv10Backbone(nn.Layer):
    """Five stages P1 to P5, each half as fine as the one before (arXiv 2405.14458, figure 2 and appendix).

    Args:
        scale: a row of :data:`~detection.yolov10.scales.SCALES`: N, S, M, B, L or X.

    Raises:
        ValueError: there is no such scale.
    """

    __shared__ = ["scale"]

    def __init__(self, scale: str | None = None) -> None:
        super().__init__()
        row = find_scale(scale)
        p1, p2, p3, p4, p5 = row.channels()
        repeats = [scaled_repeats(number, row.depth) for number in BASE_REPEATS]
        self.channels = [p3, p4, p5]
        self.to_p3 = nn.Sequential(
            ConvNorm(3, p1, 3, stride=2),
            ConvNorm(p1, p2, 3, stride=2),
            C2f(p2, p2, repeats[0], shortcut=True),
            ConvNorm(p2, p3, 3, stride=2),
            C2f(p3, p3, repeats[1], shortcut=True),
        )
        self.to_p4 = nn.Sequential(SCDown(p3, p4), _stage("P4", row, p4, repeats[2]))
        self.to_p5 = nn.Sequential(SCDown(p4, p5), _stage("P5", row, p5, repeats[3]), SPPF(p5), PSA(p5))

    def forward(self, inputs: Mapping[str, Any] | paddle.Tensor) -> list[paddle.Tensor]:
        """``inputs['image']`` or a tensor, ``[N, 3, H, W]`` -> P3, P4, P5, ``[N, C, H / s, W / s]``, s = 8, 16, 32."""
        image = inputs if isinstance(inputs, paddle.Tensor) else inputs["image"]
        p3 = self.to_p3(image)
        p4 = self.to_p4(p3)
        return [p3, p4, self.to_p5(p4)]

    @property
    def out_shape(self) -> list[ShapeSpec]:
        """Channels and strides of the outputs, as ppdet's necks want them."""
        return [
            ShapeSpec(channels=channels, stride=stride)
            for channels, stride in zip(self.channels, STRIDES, strict=True)
        ]


def _stage(place: str, row: Scale, channels: int, repeats: int) -> nn.Layer:
    if place in row.cib:
        return C2fCIB(channels, channels, repeats, place in row.large_kernel)
    return C2f(channels, channels, repeats, shortcut=True)
