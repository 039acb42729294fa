"""The windowed spatial MLP, against a loop over windows in NumPy."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_ext import build_model
from ppcls_ext.arch.ablation import MapSpatialMLP, SpatialMLP
from tests.support.seeded import seed_weights, seeded_array

pytestmark = pytest.mark.portable
# Whole windows; windows that stick out below and to the right; a map smaller than its window; heads of 24 channels.
CASES = [(4, 8, 8, 64), (3, 7, 5, 48), (4, 2, 1, 8), (2, 3, 6, 33)]


def mixed_by_hand(layer: SpatialMLP, x: np.ndarray) -> np.ndarray:
    """``x`` ``[N, H, W, C]`` plus, for each window and channel, the linear function of its head."""
    n = layer.window
    channels = x.shape[3]
    weights = layer.mix.weight.numpy().reshape(layer.heads, n * n, n * n)
    biases = layer.mix.bias.numpy().reshape(layer.heads, n * n)
    result = x.copy()
    for image, channel in np.ndindex(len(x), channels):
        head = channel * layer.heads // channels
        for top in range(0, x.shape[1], n):
            for left in range(0, x.shape[2], n):
                inside = x[image, top : top + n, left : left + n, channel]
                height, width = inside.shape
                window = np.zeros((n, n))
                window[:height, :width] = inside
                mixed = (weights[head] @ window.ravel() + biases[head]).reshape(n, n)
                result[image, top : top + n, left : left + n, channel] += mixed[:height, :width]
    return result


@pytest.mark.parametrize(("window", "height", "width", "channels"), CASES)
def test_each_window_is_mixed_by_its_head(window, height, width, channels):
    layer = SpatialMLP(channels, window)
    seed_weights(layer)
    x = seeded_array("x", (2, height, width, channels))
    expected = mixed_by_hand(layer, x)
    assert np.abs(expected - x).max() > 0.1
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_maps_are_mixed_alike():
    layer = MapSpatialMLP(48, 3)
    seed_weights(layer)
    x = seeded_array("x", (2, 48, 7, 5))
    expected = mixed_by_hand(layer, x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "heads"), [(96, 3), (768, 24), (48, 2), (8, 1), (33, 3)])
def test_heads_have_up_to_32_channels(channels, heads):
    assert SpatialMLP(channels, 4).heads == heads


def test_every_block_of_the_studied_model_has_one():
    with paddle.LazyGuard():
        model = build_model("ConvNeXtV1_tiny", spatial_mlp_window=4)
        plain = build_model("ConvNeXtV1_tiny")
    layers = [layer for layer in model.sublayers() if isinstance(layer, SpatialMLP)]
    assert [layer.heads for layer in layers] == [3] * 3 + [6] * 3 + [12] * 9 + [24] * 3
    more = sum(parameter.size for parameter in model.parameters()) - sum(p.size for p in plain.parameters())
    # 16 x 16 weights and 16 biases for each head.
    assert more == sum(layer.heads * (16 * 16 + 16) for layer in layers)
    names = [name for name, _ in model.stages[0].blocks[0].named_children()]
    assert names[:4] == ["depthwise", "norm", "spatial_mlp", "expand"]
