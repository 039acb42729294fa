"""YOLOv10's networks without the rest of PaddleDetection: backbone, neck and the branch that predicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle import nn

from detection import toolkit

# Without a scale, the places of the compact inverted blocks in the published rows.
CIB = ["F4", "N4", "N5"]


class Network(nn.Layer):
    """Pictures -> box distributions and class logits of the one-to-one branch."""

    def __init__(self, backbone: nn.Layer, class_num: int, **neck: Any) -> None:
        super().__init__()
        from detection.yolov10.head import DetectionBranch
        from detection.yolov10.network import YOLOv10Neck

        self.backbone = backbone
        self.neck = YOLOv10Neck(**YOLOv10Neck.from_config({}, backbone.out_shape), **neck)
        channels = [shape.channels for shape in self.neck.out_shape]
        self.branch = DetectionBranch(channels, class_num, strides=[shape.stride for shape in self.neck.out_shape])

    def forward(self, image: paddle.Tensor) -> tuple[list[paddle.Tensor], list[paddle.Tensor]]:
        """``[N, 3, H, W]`` -> what ``DetectionBranch`` gives."""
        return self.branch(self.neck(self.backbone({"image": image})))


def make_backbone(name: str, **arguments: Any) -> nn.Layer:
    """Makes a backbone by its name in PaddleDetection's workspace."""
    toolkit.register()
    from ppdet.core.workspace import global_config

    return getattr(global_config[name].pymodule, name)(**arguments)


def scale_network(scale: str, class_num: int = 80) -> Network:
    """Makes the network of a scale, in evaluation mode."""
    network = Network(make_backbone("YOLOv10Backbone", scale=scale), class_num, scale=scale)
    network.eval()
    return network


def trainable(layer: nn.Layer) -> int:
    """Counts what is trained."""
    return sum(int(parameter.size) for parameter in layer.parameters() if not parameter.stop_gradient)


def merge(layer: nn.Layer) -> None:
    """Merges whatever can be merged for deployment."""
    for part in layer.sublayers(include_self=True):
        if hasattr(part, "convert_to_deploy"):
            part.convert_to_deploy()


def multiply_adds(network: nn.Layer, side: int) -> int:
    """Counts the multiply-adds of all convolutions on one picture of ``side`` x ``side``, from what they really get."""
    total = 0

    def count(layer: nn.Conv2D, inputs: Any, result: paddle.Tensor) -> None:
        nonlocal total
        total += int(np.prod(result.shape)) * int(np.prod(layer.weight.shape[1:]))

    hooks = [
        layer.register_forward_post_hook(count) for layer in network.sublayers() if isinstance(layer, nn.Conv2D)
    ]
    with paddle.no_grad():
        network(paddle.zeros([1, 3, side, side]))
    for hook in hooks:
        hook.remove()
    return total


def at_full_size(count: Callable[[int], int], full: int = 640) -> int:
    """Returns ``count(full)`` from two small pictures: what grows with the number of 32 x 32 tiles, and a constant."""
    small, large = count(64), count(128)
    of_each, rest = divmod(large - small, 12)
    assert rest == 0
    return small + of_each * ((full // 32) ** 2 - 4)
