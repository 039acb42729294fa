"""Each building block of YOLOv10 against its formula in NumPy; what is merged for deployment changes no output."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from detection.yolov10.network import CIB, PSA, SPPF, Attention, ConvNorm, RepVGGDW, SCDown, c2f, c2f_cib, depthwise
from tests.support.plain_layers import conv_norm, convolve, max_pool, silu, softmax
from tests.support.seeded import seed_weights, seeded_array
from tests.support.yolov10_networks import merge

pytestmark = pytest.mark.portable
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def prepared(layer: nn.Layer) -> nn.Layer:
    """With weights and running statistics that are all different, in evaluation mode."""
    seed_weights(layer)
    layer.eval()
    return layer


def image(channels: int, height: int = 7, width: int = 6, name: str = "x") -> np.ndarray:
    return 2.0 * seeded_array(name, (2, channels, height, width)).astype(np.float64)


def output(layer: nn.Layer, x: np.ndarray) -> np.ndarray:
    return layer(paddle.to_tensor(x.astype(np.float32))).numpy()


def large_kernel(layer: RepVGGDW, x: np.ndarray) -> np.ndarray:
    return silu(conv_norm(layer.large, x, activate=False) + conv_norm(layer.small, x, activate=False))


def inverted(layer: CIB, x: np.ndarray) -> np.ndarray:
    first, widen, middle, narrow, last = layer.layers
    y = conv_norm(widen, conv_norm(first, x))
    y = large_kernel(middle, y) if isinstance(middle, RepVGGDW) else conv_norm(middle, y)
    return x + conv_norm(last, conv_norm(narrow, y))


def split_stage(layer: nn.Layer, x: np.ndarray, formulas: list) -> np.ndarray:
    y = conv_norm(layer.entry, x)
    parts = [y[:, : y.shape[1] // 2], y[:, y.shape[1] // 2 :]]
    for formula in formulas:
        parts.append(formula(parts[-1]))
    return conv_norm(layer.merge, np.concatenate(parts, axis=1))


@pytest.mark.parametrize(("kernel_size", "stride", "groups", "activate"), [
    (1, 1, 1, True), (3, 2, 4, False),
])  # fmt: skip
def test_convolution_norm_and_silu(kernel_size: int, stride: int, groups: int, activate: bool) -> None:
    layer = prepared(ConvNorm(4, 8, kernel_size, stride, groups, activate))
    assert layer.conv.bias is None
    x = image(4)
    assert output(layer, x).shape == (2, 8, -(-7 // stride), -(-6 // stride))
    np.testing.assert_allclose(output(layer, x), conv_norm(layer, x, stride, activate), **TOLERANCE)


def test_first_weights_and_the_norm_that_follows_three_percent_of_each_batch() -> None:
    paddle.seed(0)
    for layer, fan_in in ((ConvNorm(16, 64, 3), 16 * 9), (depthwise(512), 9)):
        # Even within 1 / sqrt(number of inputs).
        weights = layer.conv.weight.numpy() * np.sqrt(fan_in)
        assert 0.97 < np.abs(weights).max() <= 1.0 + 1e-6
        assert abs(weights.std() - 1 / np.sqrt(3)) < 0.02
    layer, x = ConvNorm(3, 4), image(3)
    layer.train()
    output(layer, x)
    mean = convolve(x, layer.conv.weight.numpy().astype(np.float64)).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(layer.norm._mean.numpy(), 0.03 * mean, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("shortcut", [False, True])
def test_c2f(shortcut: bool) -> None:
    layer = prepared(c2f(6, 8, 3, shortcut))
    x = image(6)
    formulas = [lambda y, block=block: shortcut * y + conv_norm(block.second, conv_norm(block.first, y))
                for block in layer.blocks]  # fmt: skip
    assert len(formulas) == 3
    np.testing.assert_allclose(output(layer, x), split_stage(layer, x, formulas), **TOLERANCE)


@pytest.mark.parametrize("large", [False, True])
def test_c2f_of_compact_inverted_blocks(large: bool) -> None:
    layer = prepared(c2f_cib(6, 8, 2, large))
    x = image(6)
    formulas = [lambda y, block=block: inverted(block, y) for block in layer.blocks]
    np.testing.assert_allclose(output(layer, x), split_stage(layer, x, formulas), **TOLERANCE)


def test_spatial_channel_decoupled_downsampling() -> None:
    layer = prepared(SCDown(4, 6))
    x = image(4)
    expected = conv_norm(layer.space, conv_norm(layer.channels, x), stride=2, activate=False)
    assert expected.shape == (2, 6, 4, 3)
    np.testing.assert_allclose(output(layer, x), expected, **TOLERANCE)
    assert (expected < -0.3).any(), "SiLU does not go below -0.28: there is none at the end"


def test_pyramid_pooling() -> None:
    layer = prepared(SPPF(6))
    x = image(6, 15, 14)
    y = conv_norm(layer.entry, x)
    # Pools in a row are one larger pool: 5, 9 and 13 wide.
    parts = [y, max_pool(y, 5), max_pool(y, 9), max_pool(y, 13)]
    np.testing.assert_allclose(output(layer, x), conv_norm(layer.merge, np.concatenate(parts, axis=1)), **TOLERANCE)


def attention(layer: Attention, x: np.ndarray, heads: int) -> np.ndarray:
    """``softmax(q^T k / sqrt(key width)) v`` head by head and picture by picture, positions in a row."""
    pictures, channels, height, width = x.shape
    value_width, key_width = channels // heads, channels // heads // 2
    mixed = conv_norm(layer.queries_keys_values, x, activate=False).reshape(pictures, -1, height * width)
    attended, values = np.zeros((2, pictures, channels, height * width))
    for picture in range(pictures):
        for head in range(heads):
            start = head * (2 * key_width + value_width)
            query, key = mixed[picture, start : start + key_width], mixed[picture, start + key_width :][:key_width]
            value = mixed[picture, start + 2 * key_width :][:value_width]
            place = slice(head * value_width, (head + 1) * value_width)
            values[picture, place] = value
            attended[picture, place] = (softmax(query.T @ key / np.sqrt(key_width)) @ value.T).T
    position = conv_norm(layer.position, values.reshape(x.shape), activate=False)
    return conv_norm(layer.project, attended.reshape(x.shape) + position, activate=False)


@pytest.mark.parametrize(("channels", "heads", "expected"), [(12, 3, 3), (144, None, 2)])
def test_attention_is_a_softmax_over_all_positions(channels: int, heads: int | None, expected: int) -> None:
    layer = prepared(Attention(channels, heads))
    assert layer.heads == expected
    x = image(channels, 4, 5)
    np.testing.assert_allclose(output(layer, x), attention(layer, x, expected), **TOLERANCE)


def test_partial_self_attention() -> None:
    layer = prepared(PSA(16))
    x = image(16, 4, 5)
    y = conv_norm(layer.entry, x)
    passed, attended = y[:, :8], y[:, 8:]
    attended = attended + attention(layer.attention, attended, 1)
    widen, narrow = layer.feed_forward
    attended = attended + conv_norm(narrow, conv_norm(widen, attended), activate=False)
    expected = conv_norm(layer.merge, np.concatenate([passed, attended], axis=1))
    np.testing.assert_allclose(output(layer, x), expected, **TOLERANCE)


def test_the_large_kernel_unmerged_and_merged_in_any_order_and_again() -> None:
    outer, inner = prepared(RepVGGDW(6)), prepared(RepVGGDW(6))
    x = image(6, 11, 10)
    before = output(outer, x)
    np.testing.assert_allclose(before, large_kernel(outer, x), **TOLERANCE)
    for part in [*list(inner.children()), inner, inner, outer, outer]:
        if hasattr(part, "convert_to_deploy"):
            part.convert_to_deploy()
    for layer in (outer, inner):
        assert [list(parameter.shape) for parameter in layer.parameters()] == [[6, 1, 7, 7], [6]]
        np.testing.assert_allclose(output(layer, x), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", [
    ConvNorm(4, 8, 3, 2), c2f(4, 8, 2, True), c2f_cib(4, 8, 1, True), SCDown(4, 6), SPPF(4), PSA(4),
], ids=lambda layer: type(layer).__name__)  # fmt: skip
def test_merging_leaves_no_norm_and_the_same_output(layer: nn.Layer) -> None:
    layer = prepared(layer)
    x = image(4)
    before = output(layer, x)
    # As in a run on several GPUs; plain norms are merged in the tests of whole networks.
    layer = nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    assert any(isinstance(part, nn.SyncBatchNorm) for part in layer.sublayers())
    merge(layer)
    assert not any(isinstance(part, nn.SyncBatchNorm) for part in layer.sublayers())
    assert all(part.bias is not None for part in layer.sublayers() if isinstance(part, nn.Conv2D))
    np.testing.assert_allclose(output(layer, x), before, rtol=1e-4, atol=1e-5)
