"""The masked autoencoder: what is hidden reaches nothing, for every kind of network."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_ext import build_model
from ppcls_ext.arch.masked import (
    MaskedAutoencoder,
    Piles,
    cut_patches,
    draw_visible,
    join_patches,
    normalised_patches,
)
from ppcls_ext.engine.cpu import accelerate

SMALL = {"class_num": 4, "depth_multiplier": 0.1, "width_multiplier": 0.125}
# With batch norm, and with response norm.
NETWORKS = ["EConvNeXt_mini", "ConvNeXtV2_atto"]


def autoencoder(name: str) -> MaskedAutoencoder:
    paddle.seed(0)
    return MaskedAutoencoder(build_model(name, **SMALL), decoder_channels=16)


@pytest.mark.parametrize("name", NETWORKS)
def test_hidden_pixels_reach_neither_what_is_painted_nor_the_statistics(name):
    network = autoencoder(name)
    network.train()
    images = paddle.randn([2, 3, 128, 96])
    visible = draw_visible(12, 0.6, [[0], [1]])
    network.use(Piles(visible, 4, 3))
    seen = network.lay_out(paddle.ones([2, 1, 5 * 32, 32])) > 0
    network.use(None)
    others = paddle.where(seen, images, paddle.full_like(images, 9.0))
    states = []
    for batch in (images, others):
        start = {key: value.clone() for key, value in network.state_dict().items()}
        _, painted = network(batch, visible)
        states.append((painted.numpy(), {key: value.numpy() for key, value in network.state_dict().items()}))
        network.set_state_dict(start)
    assert np.array_equal(states[0][0], states[1][0])
    assert all(np.array_equal(value, states[1][1][key]) for key, value in states[0][1].items())


@pytest.mark.parametrize("name", NETWORKS)
def test_with_all_patches_visible_the_encoder_is_the_network(name):
    network = autoencoder(name).model
    network.eval()
    hooked = MaskedAutoencoder(network, decoder_channels=16)
    images = paddle.randn([2, 3, 64, 64])
    expected = [feature.numpy() for feature in network.forward_features(images)]
    hooked.use(Piles(np.tile(np.arange(4), (2, 1)), 2, 2))
    found = [hooked.lay_out(feature).numpy() for feature in network.forward_features(hooked.pile(images))]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_fast_kernels_compute_the_same_loss_and_gradients():
    images, visible, results = paddle.randn([2, 3, 128, 128]), draw_visible(16, 0.6, [[0], [1]]), []
    for fast in (False, True):
        network = autoencoder("EConvNeXt_mini")
        if fast:
            assert accelerate(network) > 0
        loss, _ = network(images, visible)
        loss.backward()
        results.append((float(loss), network.model.stem[0].conv.weight.grad.numpy()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
    scale = abs(results[0][1]).max()
    np.testing.assert_allclose(results[1][1], results[0][1], atol=1e-3 * scale)


def test_the_loss_counts_hidden_patches_only_each_by_its_own_scale():
    network = autoencoder("ConvNeXtV2_atto")
    images, visible = paddle.randn([2, 3, 64, 64]) * 5, draw_visible(4, 0.5, [[0], [1]])
    loss, painted = network(images, visible)
    target = normalised_patches(images, 32)[0].numpy()
    assert abs(target.mean(axis=(2, 3, 4))).max() < 1e-5
    np.testing.assert_allclose(target.std(axis=(2, 3, 4)), 1, atol=1e-3)
    errors = ((painted.numpy() - target) ** 2).mean(axis=(2, 3, 4))
    hidden = [errors[i, k] for i in range(2) for k in range(4) if k not in visible[i]]
    assert float(loss) == pytest.approx(np.mean(hidden), rel=1e-5)


def test_patches_are_drawn_by_seed_and_joined_where_they_were():
    drawn = draw_visible(16, 0.6, [[0, 1], [0, 2], [0, 1]])
    assert drawn.shape == (3, 6) and (drawn[0] == drawn[2]).all() and (drawn[0] != drawn[1]).any()
    # Something is hidden, and something is visible, whatever the ratio.
    assert draw_visible(4, 0.999, [[0]]).shape == (1, 1) and draw_visible(4, 0.001, [[0]]).shape == (1, 3)
    images = paddle.randn([2, 3, 8, 12])
    assert (join_patches(cut_patches(images, 4), 2, 3) == images).all()
