"""The switches of ConvNeXt and E-ConvNeXt: each value builds, trains, is of its golden size, and does what it says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_ext import build_model
from ppcls_ext.arch.ablation import PATH, TO_CONVNEXT, TO_ECONVNEXT, AblatedBlock, SpatialMLP, Switches
from ppcls_ext.arch.convnext import BlockV1, BlockV2, ChannelNorm, LayerScale
from ppcls_ext.arch.econvnext import Block, EffectiveSE
from ppcls_ext.arch.flops import count_network
from ppcls_ext.arch.registry import architecture_parameters
from tests.golden.make_designs import SMALL, SMALL_SIZE, SWITCHED, path_numbers, switch_values
from tests.support.compiled import check_static_equals_eager
from tests.support.seeded import seed_weights, seeded_array

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "designs.json").read_text())
ALL_SWITCHES = [(name, switch, value) for name in SWITCHED for switch, value in switch_values(name)]
EXPORTED = [
    ("EConvNeXt_mini", {"norm": "layer_norm", "spatial": "grouped", "kernel_size": 3, "downsampling": "norm_conv"}),
    ("EConvNeXt_tiny", {"csp": False, "branch_scale": "layer_scale", "activation": "relu"}),
    ("ConvNeXtV1_tiny", {"csp": True, "branch_scale": "channel_attention", "spatial_mlp_window": 3}),
]


def images(*shape: int) -> paddle.Tensor:
    return paddle.to_tensor(seeded_array("images", shape))


def small(name: str, **arguments) -> nn.Layer:
    return build_model(name, **{**SMALL, **arguments})


def layers_of(model: nn.Layer, *kinds: type) -> list[nn.Layer]:
    return [layer for layer in model.sublayers() if isinstance(layer, kinds)]


def blocks_of(model: nn.Layer) -> list[nn.Layer]:
    return layers_of(model, Block, BlockV1, BlockV2, AblatedBlock)


@pytest.mark.parametrize(("name", "switch", "value"), ALL_SWITCHES)
def test_every_value_trains_and_has_its_golden_size(name, switch, value):
    paddle.seed(0)
    model = small(name, **{switch: value})
    model.train()
    logits = model(images(2, 3, SMALL_SIZE, SMALL_SIZE))
    assert logits.shape == [2, 5]
    (logits * paddle.to_tensor(seeded_array("loss", (2, 5)))).sum().backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters() if not parameter.stop_gradient}
    assert [key for key, gradient in gradients.items() if gradient is None] == []
    assert all(np.isfinite(gradient.numpy()).all() for gradient in gradients.values())
    count = count_network(model, SMALL_SIZE)
    assert [count.parameters, count.flops] == GOLDEN["switches"][name][f"{switch}={value}"]


@pytest.mark.parametrize("name", SWITCHED)
def test_with_the_defaults_of_its_switches_a_network_is_the_published_one(name):
    defaults = {key: parameter.default for key, parameter in architecture_parameters(name).items()}
    paddle.seed(3)
    published = small(name)
    paddle.seed(3)
    switched = small(name, norm=defaults["norm"])
    assert type(switched) is not type(published)
    names = list(published.state_dict())
    assert list(switched.state_dict()) == names
    for key in names:  # the seed gives the same weights
        np.testing.assert_array_equal(switched.state_dict()[key].numpy(), published.state_dict()[key].numpy())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "layernorm"}, r"norm: must be one of batch_norm, layer_norm, got .*did you mean 'layer_norm'"),
        ({"kernel_size": 4}, "kernel_size: must be one of 3, 5, 7, got 4"),
        ({"csp": "yes"}, "csp: must be true or false, got 'yes'"),
        ({"layer_scale_init_value": 0.1, "branch_scale": "none"}, "layer_scale_init_value: needs branch_scale"),
        ({"spatial_mlp_window": 1}, "^spatial_mlp_window: must be 0 .none. or from 2 to 32, got 1"),
        ({"depth_multiplier": 0}, "^depth_multiplier: must be from 0.01 to 16, got 0"),
    ],
)
def test_wrong_values_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as refusal:
        build_model("ConvNeXtV1_tiny", **arguments)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("width", "dims"), [(0.1, [8, 16, 40, 80]), (0.01, [8] * 4)])
@pytest.mark.parametrize("name", ["EConvNeXt_mini", "ConvNeXtV1_tiny"])
def test_multipliers_round_widths_to_eights_and_depths_up(name, width, dims):
    with paddle.LazyGuard():
        model = build_model(name, width_multiplier=width, depth_multiplier=0.34)
    assert model.feature_channels == dims
    assert [len(blocks_of(stage)) for stage in model.stages.children()] == [2, 2, 4, 2]


@pytest.mark.portable
@pytest.mark.parametrize("stem_stride", [1, 4])
@pytest.mark.parametrize(
    ("switched", "arguments", "published"),
    [("ConvNeXtV1_tiny", TO_ECONVNEXT, "EConvNeXt_mini"), ("EConvNeXt_mini", TO_CONVNEXT, "ConvNeXtV1_tiny")],
)
def test_either_end_of_the_path_is_the_other_family_switched(switched, arguments, published, stem_stride):
    results = []
    for name, switches in ((switched, arguments), (published, {})):
        model = small(name, stem_stride=stem_stride, **switches)
        seed_weights(model)
        model.eval()
        with paddle.no_grad():
            logits = model(images(2, 3, 48, 32)).numpy()
        results.append((list(model.state_dict()), logits, count_network(model, SMALL_SIZE)))
    (names, logits, count), (expected_names, expected_logits, expected_count) = results
    assert names == expected_names
    assert count == expected_count
    assert np.abs(logits[0] - logits[1]).max() > 0
    np.testing.assert_array_equal(logits, expected_logits)


@pytest.mark.parametrize("step", [number for number, step in enumerate(PATH) if step.arguments])
def test_steps_of_the_path_have_their_golden_sizes(step):
    assert path_numbers(step) == GOLDEN["path"][step]


@pytest.mark.portable
@pytest.mark.parametrize("branch_norm", [True, False])
@pytest.mark.parametrize("branch_scale", ["channel_attention", "layer_scale", "none"])
def test_both_forms_of_the_block_are_one_function(branch_scale, branch_norm):
    rest = {"spatial": "grouped", "branch_scale": branch_scale, "activation": "gelu", "kernel_size": 5, "csp": False}
    rest |= {"branch_norm": branch_norm, "downsampling": "norm_conv", "spatial_mlp_window": 3}
    channels_last = AblatedBlock(Switches(norm="layer_norm", **rest), 12)
    maps = AblatedBlock(Switches(norm="batch_norm", **rest), 12)
    for name, layer in list(maps.named_children()):  # of the two only the norms differ
        if isinstance(layer, nn.BatchNorm2D):
            setattr(maps, name, ChannelNorm(12))
    seed_weights(channels_last)
    weights = {key: value.numpy() for key, value in channels_last.state_dict().items()}
    for key in ("expand.weight", "project.weight"):
        weights[key] = weights[key].T[:, :, np.newaxis, np.newaxis]
    assert maps.set_state_dict(weights) == ([], [])
    x = images(2, 12, 5, 7)
    with paddle.no_grad():
        expected = channels_last(x).numpy()
        np.testing.assert_allclose(maps(x).numpy(), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected - x.numpy()).max() > 0.01
    scaled = bool(layers_of(maps, LayerScale)), bool(layers_of(maps, EffectiveSE))
    assert scaled == (branch_scale == "layer_scale", branch_scale == "channel_attention")


@pytest.mark.parametrize(("name", "arguments"), EXPORTED)
def test_to_static_equals_eager(name, arguments):
    model = small(name, **arguments)
    seed_weights(model)
    check_static_equals_eager(model, [images(2, 3, 64, 64), images(1, 3, 41, 70)])


# The windowed spatial MLP, against a loop over windows in NumPy.
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


@pytest.mark.portable
@pytest.mark.parametrize(("window", "height", "width", "channels"), CASES)
def test_each_window_is_mixed_by_its_head(window, height, width, channels):
    layer = SpatialMLP(channels, window)
    seed_weights(layer)
    x = seeded_array("x", (2, height, width, channels))
    expected = mixed_by_hand(layer, x)
    assert np.abs(expected - x).max() > 0.1
    output = layer(paddle.to_tensor(x.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
