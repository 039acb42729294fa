"""What is particular to ConvNeXt and ConvNeXt V2, against formulas in numpy and PaddleClas's own ConvNeXt."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from ppcls_ext import build_model
from ppcls_ext.arch.ablation import AblatedConvNeXt
from ppcls_ext.arch.convnext import BlockV2, ConvNeXtV1, ConvNeXtV2, GlobalResponseNorm
from ppcls_ext.deploy.export import export_classifier
from ppcls_ext.deploy.formats import FORMATS
from ppcls_ext.weights import load_weights, write_weights
from ppcls_ext.weights.convert import convert_weights
from tests.support.deployment import NEEDS_ONNX, NEEDS_OPENVINO
from tests.support.seeded import seed_weights, seeded_array


def seeded_norm(channels: int) -> GlobalResponseNorm:
    layer = GlobalResponseNorm(channels)
    layer.weight.set_value(seeded_array("weight", (channels,)))
    layer.bias.set_value(seeded_array("bias", (channels,)))
    return layer


@pytest.mark.portable
def test_global_response_norm_is_the_formula_of_the_paper():
    layer = seeded_norm(5)
    x = seeded_array("x", (2, 3, 4, 5)) * np.linspace(0.1, 3, 5, dtype=np.float32)
    expected = np.empty_like(x)
    for n in range(2):
        energies = [np.sqrt(sum(float(v) ** 2 for v in x[n, :, :, c].ravel())) for c in range(5)]
        for c in range(5):
            response = energies[c] / (sum(energies) / 5 + 1e-6)
            expected[n, :, :, c] = layer.weight.numpy()[c] * x[n, :, :, c] * response + layer.bias.numpy()[c]
    expected += x
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_channel_of_zeros_has_a_finite_gradient():
    x = seeded_array("x", (2, 3, 4, 5))
    x[:, :, :, 2] = 0
    tensor = paddle.to_tensor(x, stop_gradient=False)
    (seeded_norm(5)(tensor) * paddle.to_tensor(seeded_array("loss", x.shape))).sum().backward()
    assert np.isfinite(tensor.grad.numpy()).all()
    assert tensor.grad.numpy().any()


@pytest.mark.portable
def test_block_of_v2_is_the_formula_of_the_paper():
    block = BlockV2(4)
    seed_weights(block)
    x = seeded_array("x", (1, 4, 5, 6))
    state = {name: value.numpy().astype(np.float64) for name, value in block.state_dict().items()}
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (3, 3), (3, 3)))
    hidden = np.empty((5, 6, 4))
    for row in range(5):
        for column in range(6):
            window = padded[0, :, row : row + 7, column : column + 7]
            hidden[row, column] = (window * state["depthwise.weight"][:, 0]).sum((1, 2)) + state["depthwise.bias"]
    hidden -= hidden.mean(-1, keepdims=True)
    hidden /= np.sqrt((hidden**2).mean(-1, keepdims=True) + 1e-6)
    hidden = hidden * state["norm.weight"] + state["norm.bias"]
    hidden = hidden @ state["expand.weight"] + state["expand.bias"]
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / np.sqrt(2)))
    energy = np.sqrt((hidden**2).sum((0, 1)))
    response = hidden * energy / (energy.mean() + 1e-6)
    hidden = state["response_norm.weight"] * response + state["response_norm.bias"] + hidden
    hidden = hidden @ state["project.weight"] + state["project.bias"]
    output = block(paddle.to_tensor(x)).numpy()[0]
    np.testing.assert_allclose(output, x[0] + hidden.transpose(2, 0, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.portable
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("ConvNeXtV1_tiny", "ConvNeXt_tiny"),
        pytest.param("ConvNeXtV1_large", "ConvNeXt_large_224", marks=pytest.mark.slow),
    ],
)
def test_v1_equals_paddleclas_on_its_weights(ours, theirs, tmp_path):
    toolkit = build_model(theirs, class_num=7)
    seed_weights(toolkit)
    toolkit.eval()
    weights = {name: value.numpy() for name, value in toolkit.state_dict().items()}
    write_weights(tmp_path / "theirs.safetensors", weights, {})
    conversion = convert_weights(tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors", ours, "paddleclas")
    assert len(conversion.weights) == len(weights)
    model = build_model(ours, class_num=7)
    load_weights(model, tmp_path / "ours.safetensors")
    model.eval()
    x = paddle.to_tensor(seeded_array("images", (2, 3, 64, 96)))
    with paddle.no_grad():
        expected = toolkit(x).numpy()
        logits = model(x).numpy()
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@NEEDS_ONNX
@NEEDS_OPENVINO
@pytest.mark.parametrize(
    ("network", "arguments"), [(ConvNeXtV1, {}), (ConvNeXtV2, {}), (AblatedConvNeXt, {"spatial_mlp_window": 3})]
)
def test_every_engine_computes_what_the_model_computes(network, arguments, tmp_path):
    model = network(dims=(8, 16, 24, 32), depths=(1, 1, 2, 1), class_num=4, **arguments)
    seed_weights(model)
    # The export compares each file with the model and refuses what disagrees.
    description = export_classifier(
        model, tmp_path / "export", model_name="small", class_num=4, image_shape=[3, 64, 48],
        preprocess=[{"ResizeImage": {"size": [48, 64]}}, {"NormalizeImage": {"order": ""}}],
        formats=list(FORMATS),
    )  # fmt: skip
    suffixes = {path.suffix for path in description.folder.iterdir()}
    assert {".onnx", ".xml", ".json"} <= suffixes
