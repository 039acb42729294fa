"""One branch of YOLOv10's head (arXiv 2405.14458, sections 3.1 and 3.2): from feature maps to raw predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import paddle
from paddle import nn
from paddle.nn.initializer import Constant

from detection.yolov10.blocks import ConvNorm, depthwise, uniform_weights
from detection.yolov10.scales import STRIDES

# The picture and the number of objects in it from which the classes' first scores are derived.
_USUAL_SIZE = 640
_USUAL_OBJECTS = 5
_BOX_BIAS = 1.0


class DetectionBranch(nn.Layer):
    """Two small stacks of convolutions for each feature map: four box distributions, and a logit for each class.

    Boxes are distances from the anchor to left, top, right and bottom in units of the stride, each a distribution over
    0 ... ``reg_max`` - 1 (generalized focal loss, arXiv 2006.04388); the class stack is depthwise separable.

    Args:
        in_channels: channels of the feature maps, from fine to coarse.
        class_num: number of classes.
        reg_max: bins of each distribution.
        strides: pixels between two anchors of each map; only the first biases depend on them.

    Raises:
        ValueError: an argument is out of range; the message begins with its name.
    """

    def __init__(
        self, in_channels: Sequence[int], class_num: int, reg_max: int = 16, strides: Sequence[int] = STRIDES
    ) -> None:
        super().__init__()
        if isinstance(class_num, bool) or not isinstance(class_num, int) or class_num < 1:
            raise ValueError(f"num_classes: must be a whole number of at least 1, got {class_num!r}")
        if len(in_channels) != len(strides):
            raise ValueError(f"strides: there are {len(in_channels)} feature maps, but {len(strides)} strides")
        box_width = max(16, in_channels[0] // 4, 4 * reg_max)
        class_width = max(in_channels[0], min(class_num, 100))
        self.boxes = nn.LayerList(
            nn.Sequential(
                ConvNorm(channels, box_width, 3),
                ConvNorm(box_width, box_width, 3),
                _prediction(box_width, 4 * reg_max, _BOX_BIAS),
            )
            for channels in in_channels
        )
        self.classes = nn.LayerList(
            nn.Sequential(
                depthwise(channels),
                ConvNorm(channels, class_width),
                depthwise(class_width),
                ConvNorm(class_width, class_width),
                _prediction(class_width, class_num, _first_logit(class_num, stride)),
            )
            for channels, stride in zip(in_channels, strides, strict=True)
        )

    def forward(self, features: Sequence[paddle.Tensor]) -> tuple[list[paddle.Tensor], list[paddle.Tensor]]:
        """Feature maps ``[N, C, H, W]`` -> box distributions ``[N, 4 * reg_max, H, W]`` (logits; the bins of left, then
        top, right and bottom) and class logits ``[N, class_num, H, W]``, one of each for every map."""
        # By index, because Paddle's conversion into a graph knows no strict zip.
        boxes = [layers(features[index]) for index, layers in enumerate(self.boxes)]
        classes = [layers(features[index]) for index, layers in enumerate(self.classes)]
        return boxes, classes


def _prediction(in_channels: int, out_channels: int, bias: float) -> nn.Conv2D:
    return nn.Conv2D(
        in_channels,
        out_channels,
        1,
        weight_attr=uniform_weights(),
        bias_attr=paddle.ParamAttr(initializer=Constant(bias)),
    )


def _first_logit(class_num: int, stride: int) -> float:
    """The logit of a class at one anchor if a picture holds a few objects, evenly over classes and anchors."""
    return math.log(_USUAL_OBJECTS / class_num / (_USUAL_SIZE / stride) ** 2)
