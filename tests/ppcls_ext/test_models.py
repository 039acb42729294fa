"""One suite over every model of ours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_ext import build_model, list_models
from ppcls_ext.arch.econvnext import EConvNeXt
from ppcls_ext.arch.layers import DropPath
from ppcls_ext.weights.convert import LAYOUTS
from tests.golden.make_models import golden_images, golden_numbers, logits_of_images, settled_model
from tests.support.compiled import check_static_equals_eager
from tests.support.reference import DEPTHS, Reference
from tests.support.seeded import seed_weights, seeded_array

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "models.json").read_text())
# Of golden logits, whose standard deviation is one.
TOLERANCE = 1e-3
# Channels of the four stage outputs, millions of trainable parameters and billions of multiply-adds at 224: from the
# specification, and from the papers (2201.03545 table 9, 2301.00808 appendix A) in as many digits as they print.
SPECIFIED = {
    "EConvNeXt_mini": ([96, 192, 384, 768], "7.658992", "0.931"),
    "EConvNeXt_tiny": ([128, 256, 512, 1024], "13.248520", "2.046"),
    "EConvNeXt_small": ([128, 256, 512, 1024], "19.427848", "3.128"),
    "ConvNeXtV1_tiny": ([96, 192, 384, 768], "28.6", "4.5"),
    "ConvNeXtV1_small": ([96, 192, 384, 768], "50.2", "8.7"),
    "ConvNeXtV1_base": ([128, 256, 512, 1024], "88.6", "15.4"),
    "ConvNeXtV1_large": ([192, 384, 768, 1536], "197.8", "34.4"),
    "ConvNeXtV2_atto": ([40, 80, 160, 320], "3.7", "0.55"),
    "ConvNeXtV2_femto": ([48, 96, 192, 384], "5.2", "0.78"),
    "ConvNeXtV2_pico": ([64, 128, 256, 512], "9.1", "1.37"),
    "ConvNeXtV2_nano": ([80, 160, 320, 640], "15.6", "2.45"),
    # 4.47 in the paper, which counts more than convolutions and linear layers.
    "ConvNeXtV2_tiny": ([96, 192, 384, 768], "28.6", "4.46"),
    "ConvNeXtV2_base": ([128, 256, 512, 1024], "89", "15.4"),
    "ConvNeXtV2_large": ([192, 384, 768, 1536], "198", "34.4"),
}
# The same network as the other rows of their tables, with other widths and depths.
ALIKE = (
    "ConvNeXtV1_base", "ConvNeXtV1_large", "ConvNeXtV1_small", "ConvNeXtV2_base", "ConvNeXtV2_femto",
    "ConvNeXtV2_large", "ConvNeXtV2_nano", "ConvNeXtV2_pico", "ConvNeXtV2_tiny",
)  # fmt: skip

every_model = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in list_models()]
)


def in_digits_of(value: float, text: str) -> str:
    """Returns ``value`` with as many decimals as ``text`` has."""
    return f"{value:.{len(text.partition('.')[2])}f}"


def images(*shape: int) -> paddle.Tensor:
    return paddle.to_tensor(seeded_array("images", shape))


def seeded_model(name: str, **arguments) -> nn.Layer:
    model = build_model(name, **arguments)
    seed_weights(model)
    return model


def test_our_models_are_listed_in_order():
    assert list_models() == sorted(SPECIFIED)


@every_model
def test_shapes_of_stages_and_logits(name):
    model = build_model(name, class_num=7)
    model.eval()
    with paddle.no_grad():
        features = model.forward_features(images(2, 3, 97, 131))
        assert model(images(2, 3, 97, 131)).shape == [2, 7]
    channels = SPECIFIED[name][0]
    assert [tuple(feature.shape) for feature in features] == [
        (2, count, *size) for count, size in zip(channels, [(24, 32), (12, 16), (6, 8), (3, 4)], strict=True)
    ]
    assert (model.feature_channels, model.feature_strides) == (channels, [4, 8, 16, 32])


@pytest.mark.parametrize("name", ["EConvNeXt_mini", "ConvNeXtV2_atto"])
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_small_image_stems_other_channels_and_no_classifier(name, stem_stride):
    model = build_model(name, class_num=0, in_channels=1, stem_stride=stem_stride)
    model.eval()
    with paddle.no_grad():
        features = model.forward_features(images(1, 1, 32, 32))
        assert model(images(2, 1, 32, 32)).shape == [2, model.feature_channels[-1]], "no classifier"
    assert [feature.shape[2] for feature in features] == [32 // stride for stride in model.feature_strides]
    assert model.feature_strides[0] == stem_stride


def biases_before_a_norm(model: nn.Layer) -> set[str]:
    """Biases that a batch norm subtracts again: their gradient is rounding noise. Layer norms subtract no channel's."""
    if not isinstance(model, EConvNeXt):
        return set()
    keys = {key for key, _ in model.named_parameters()}
    plain = {key for key in keys if key.endswith(".conv.bias") and key[: -len("conv.bias")] + "norm.weight" in keys}
    return plain | {key for key in keys if key.endswith((".depthwise.bias", ".project.bias"))}


@every_model
def test_every_trainable_parameter_has_a_gradient(name):
    paddle.seed(0)
    model = build_model(name, class_num=5)
    model.train()
    logits = model(images(4, 3, 64, 64))
    (logits * paddle.to_tensor(seeded_array("loss", (4, 5)))).sum().backward()
    noise_only = biases_before_a_norm(model)
    assert noise_only or not isinstance(model, EConvNeXt)
    for key, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            gradient = parameter.grad.numpy()
            assert np.isfinite(gradient).all() and (gradient.any() or key in noise_only), key


def test_drop_path_acts_in_training_only_on_whole_samples_and_keeps_the_expectation():
    model = build_model("EConvNeXt_mini", class_num=5, drop_path_rate=0.5)
    rates = [layer.rate for layer in model.sublayers() if isinstance(layer, DropPath)]
    np.testing.assert_allclose(rates, np.linspace(0.0, 0.5, len(rates)))
    paddle.seed(1)
    layer, ones = DropPath(0.25), paddle.ones([4000, 3, 2, 2])
    output = layer(ones).numpy().reshape(4000, -1)
    assert (output == output[:, :1]).all()
    np.testing.assert_allclose(np.unique(output), [0.0, 1 / 0.75], rtol=1e-6)
    # Five standard errors of 4000 draws.
    assert abs(output.mean() - 1.0) < 5 * np.sqrt(0.25 / 0.75 / 4000)
    layer.eval()
    assert (layer(ones) == ones).all()


def test_initial_weights():
    paddle.seed(0)
    model = build_model("EConvNeXt_mini", class_num=100)
    layers = [layer for layer in model.sublayers() if isinstance(layer, nn.Conv2D | nn.Linear)]
    weights = np.concatenate([layer.weight.numpy().ravel() for layer in layers])
    assert abs(weights.std() / 0.02 - 1) < 0.01 and abs(weights.mean()) < 1e-4
    assert not any(layer.bias.numpy().any() for layer in layers)


@pytest.mark.parametrize("name", list_models())
def test_parameters_and_flops_are_the_published_ones(name):
    with paddle.LazyGuard():  # Shapes without values: 200 M parameters in no time.
        model = build_model(name)
    trainable = sum(parameter.size for parameter in model.parameters() if not parameter.stop_gradient)
    expected = GOLDEN[name]
    _, parameters, flops = SPECIFIED[name]
    assert trainable == expected["parameters"]
    assert in_digits_of(trainable / 1e6, parameters) == parameters
    assert in_digits_of(expected["flops"] / 1e9, flops) == flops


@every_model
@pytest.mark.portable
def test_golden_numbers(name):
    measured = golden_numbers(name)
    expected = GOLDEN[name]
    assert measured["parameters"] == expected["parameters"]
    assert measured["flops"] == expected["flops"]
    logits = np.array(expected["logits"])
    assert np.abs(logits[0] - logits[1]).max() > 0.5, "golden logits that do not depend on the image"
    np.testing.assert_allclose(measured["logits"], logits, atol=TOLERANCE, rtol=0)


@every_model
@pytest.mark.portable
def test_golden_logits_are_well_conditioned(name):
    model = settled_model(name)
    logits = logits_of_images(model)
    # Rounding of another processor is of the size of this difference.
    assert np.abs(logits - logits_of_images(model, "float64")).max() < TOLERANCE / 8


@pytest.mark.portable
@pytest.mark.parametrize("variant", DEPTHS)
def test_econvnext_is_the_network_of_the_paper(variant):
    model = settled_model(f"EConvNeXt_{variant}")
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    expected = Reference(variant, weights=LAYOUTS["reference"].to_theirs(weights)).forward(golden_images()[:2])
    np.testing.assert_allclose(logits_of_images(model)[:2], expected, atol=TOLERANCE / 8, rtol=0)


@pytest.mark.portable
@every_model
def test_to_static_equals_eager(name):
    model = seeded_model(name, class_num=5)
    check_static_equals_eager(model, [images(2, 3, 64, 64), images(1, 3, 97, 131)])
