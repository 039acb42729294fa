"""Kinds and multiply-adds of single layers, counted by hand."""

from __future__ import annotations

import paddle
import pytest
from paddle import nn

from ppcls_ext.arch.convnext import ChannelNorm, GlobalResponseNorm
from ppcls_ext.arch.econvnext import Block, EffectiveSE
from ppcls_ext.arch.layers import DropPath, GlobalAveragePool
from ppcls_ext.deploy.profile import result
from ppcls_ext.deploy.profile.kinds import count_flops, is_attention, kind_of


@pytest.mark.parametrize(
    ("layer", "shape", "kind", "flops"),
    [
        # 6 x 5 positions of 8 channels, each of 3 x 3 x 4 products and a bias.
        (nn.Conv2D(4, 8, 3, padding=1), (1, 4, 6, 5), result.CONVOLUTION, 6 * 5 * 8 * (9 * 4 + 1)),
        (nn.Conv2D(4, 8, 2, 2, bias_attr=False), (1, 4, 6, 4), result.CONVOLUTION, 3 * 2 * 8 * (4 * 4)),
        (nn.Conv2D(4, 8, 3, padding=1, groups=2), (1, 4, 6, 5), result.CONVOLUTION, 6 * 5 * 8 * (9 * 2 + 1)),
        (nn.Conv2D(4, 4, 7, padding=3, groups=4), (1, 4, 6, 5), result.DEPTHWISE, 6 * 5 * 4 * (49 + 1)),
        (nn.Conv2D(4, 8, 1), (1, 4, 6, 5), result.POINTWISE, 6 * 5 * 8 * (4 + 1)),
        # paddle.flops leaves the bias of a linear layer out.
        (nn.Linear(4, 3), (1, 6, 5, 4), result.POINTWISE, 6 * 5 * 3 * 4),
        (nn.BatchNorm2D(4), (1, 4, 6, 5), result.NORM, 2 * 4 * 6 * 5),
        (nn.LayerNorm(4), (1, 6, 5, 4), result.NORM, 0),
        (ChannelNorm(4), (1, 4, 6, 5), result.NORM, 0),
        (GlobalResponseNorm(4), (1, 6, 5, 4), result.NORM, 0),
        (nn.GELU(), (1, 4, 6, 5), result.ACTIVATION, 0),
        (nn.LeakyReLU(), (1, 4, 6, 5), result.ACTIVATION, 4 * 6 * 5),
        (nn.AvgPool2D(2), (1, 4, 6, 4), result.POOLING, 4 * 3 * 2),
        (nn.AdaptiveAvgPool2D(1), (1, 4, 6, 5), result.POOLING, 4 * (6 * 5 + 1)),
        (GlobalAveragePool(), (1, 4, 6, 5), result.POOLING, 0),
        (DropPath(0.1), (1, 4, 6, 5), result.OTHER, 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Layer) else None,
)
def test_kind_and_flops(layer, shape, kind, flops):
    layer.eval()
    x = paddle.zeros(shape)
    assert kind_of(layer, inside_attention=False) == kind
    assert count_flops(layer, (x,), layer(x)) == flops


def test_what_a_block_does_itself_is_between_layers():
    assert kind_of(Block(4), inside_attention=False) == result.BETWEEN
    assert kind_of(nn.Sequential(nn.GELU()), inside_attention=False) == result.BETWEEN


def test_all_inside_attention_is_attention():
    assert is_attention(EffectiveSE(4))
    assert kind_of(EffectiveSE(4), inside_attention=True) == result.ATTENTION
    assert kind_of(nn.Conv2D(4, 4, 1), inside_attention=True) == result.ATTENTION


@pytest.mark.parametrize(
    ("name", "expected"),
    [("SELayer", True), ("WindowAttention", True), ("ESEAttn", True), ("PSA", True), ("SENet", False), ("Base", False)],
)
def test_attention_by_name(name, expected):
    assert is_attention(type(name, (nn.Layer,), {})()) is expected
