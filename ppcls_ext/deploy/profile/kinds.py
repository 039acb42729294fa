"""What kind of operation a layer is, and how many multiply-adds it takes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import paddle
from paddle import nn

from ppcls_ext.deploy.profile.result import (
    ACTIVATION,
    ATTENTION,
    BETWEEN,
    CONVOLUTION,
    DEPTHWISE,
    NORM,
    OTHER,
    POINTWISE,
    POOLING,
)

CONVOLUTIONS = (
    nn.Conv1D, nn.Conv2D, nn.Conv3D, nn.Conv1DTranspose, nn.Conv2DTranspose, nn.Conv3DTranspose,
)  # fmt: skip
# Blocks that weigh channels or positions: all inside them is the price of attention.
ATTENTION_NAME = re.compile(r"Attention|Attn|Squeeze|PSA|SE(Module|Block|Layer|Unit)?$")
# Where Paddle defines a layer tells its kind; other packages' own layers only their names do.
KIND_OF_MODULE = {
    "paddle.nn.layer.activation": ACTIVATION,
    "paddle.nn.layer.norm": NORM,
    "paddle.nn.layer.pooling": POOLING,
}
KIND_OF_NAME = (
    (re.compile(r"Norm"), NORM),
    (re.compile(r"Pool"), POOLING),
    (re.compile(r"GELU|Gelu|ReLU|Relu|SiLU|Swish|Mish|Sigmoid|Act(ivation)?$"), ACTIVATION),
)


def is_attention(layer: nn.Layer) -> bool:
    """Whether a layer's class is named as attention is."""
    return bool(ATTENTION_NAME.search(type(layer).__name__))


def kind_of(layer: nn.Layer, inside_attention: bool) -> str:
    """Returns the kind of operation of ``layer``.

    Args:
        layer: any layer.
        inside_attention: whether it, or a layer around it, is attention.
    """
    if inside_attention:
        return ATTENTION
    if any(True for _ in layer.children()):
        return BETWEEN
    if isinstance(layer, CONVOLUTIONS):
        return _kind_of_convolution(layer)
    if isinstance(layer, nn.Linear):
        return POINTWISE
    for base in type(layer).__mro__:
        if base.__module__ in KIND_OF_MODULE:
            return KIND_OF_MODULE[base.__module__]
    return next((kind for pattern, kind in KIND_OF_NAME if pattern.search(type(layer).__name__)), OTHER)


def _kind_of_convolution(layer: nn.Layer) -> str:
    # The weight of a group has one input channel if every channel is a group of its own.
    if layer._groups > 1 and layer._groups == layer._in_channels:
        return DEPTHWISE
    return POINTWISE if layer._groups == 1 and math.prod(layer.weight.shape[2:]) == 1 else CONVOLUTION


def count_flops(layer: nn.Layer, inputs: Any, output: Any) -> int:
    """Returns the multiply-adds of one call, by the rules of ``paddle.flops``: for exactly the classes that it knows.

    It counts convolutions and linear layers as multiply-adds (a bias as one more for each output), batch norm as two
    operations for each number, average pools; nothing else.

    Args:
        layer: a layer without sublayers.
        inputs: the positional arguments of the call.
        output: what the call returned.
    """
    rule = FLOPS_RULES.get(type(layer))
    return int(rule(layer, inputs[0], output)) if rule else 0


def _count_convolution(layer: nn.Layer, x: paddle.Tensor, y: paddle.Tensor) -> float:
    of_each = x.shape[1] / layer._groups * math.prod(layer.weight.shape[2:]) + (layer.bias is not None)
    return math.prod(y.shape) * of_each


def _count_adaptive_pool(_: nn.Layer, x: paddle.Tensor, y: paddle.Tensor) -> int:
    window = math.prod(before // after for before, after in zip(x.shape[2:], y.shape[2:], strict=True))
    return (window + 1) * math.prod(y.shape)


def _count_average_pool(_: nn.Layer, __: paddle.Tensor, y: paddle.Tensor) -> int:
    return math.prod(y.shape)


def _count_linear(layer: nn.Layer, _: paddle.Tensor, y: paddle.Tensor) -> int:
    return layer.weight.shape[0] * math.prod(y.shape)


def _count_batch_norm(_: nn.Layer, x: paddle.Tensor, __: paddle.Tensor) -> int:
    return 2 * math.prod(x.shape)


def _count_leaky(_: nn.Layer, x: paddle.Tensor, __: paddle.Tensor) -> int:
    return math.prod(x.shape)


FLOPS_RULES: dict[type, Callable[[nn.Layer, paddle.Tensor, paddle.Tensor], float]] = {
    **dict.fromkeys(CONVOLUTIONS, _count_convolution),
    **dict.fromkeys((nn.BatchNorm2D, nn.BatchNorm), _count_batch_norm),
    **dict.fromkeys((nn.AvgPool1D, nn.AvgPool2D, nn.AvgPool3D), _count_average_pool),
    **dict.fromkeys((nn.AdaptiveAvgPool1D, nn.AdaptiveAvgPool2D, nn.AdaptiveAvgPool3D), _count_adaptive_pool),
    nn.Linear: _count_linear,
    nn.LeakyReLU: _count_leaky,
}
