"""What is particular to ConvNeXt and ConvNeXt V2, against formulas in numpy and PaddleClas's own ConvNeXt."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_ext import build_model
from ppcls_ext.arch.ablation import AblatedConvNeXt
from ppcls_ext.arch.convnext import ConvNeXtV1, ConvNeXtV2, GlobalResponseNorm
from ppcls_ext.deploy.export import export_classifier
from ppcls_ext.deploy.formats import FORMATS
from ppcls_ext.weights import load_weights, write_weights
from ppcls_ext.weights.convert import convert_weights
from tests.support.deployment import NEEDS_ONNX, NEEDS_OPENVINO
from tests.support.seeded import seed_weights, seeded_array


def test_a_channel_of_zeros_has_a_finite_gradient():
    x = seeded_array("x", (2, 3, 4, 5))
    x[:, :, :, 2] = 0
    tensor = paddle.to_tensor(x, stop_gradient=False)
    layer = GlobalResponseNorm(5)
    seed_weights(layer)
    (layer(tensor) * paddle.to_tensor(seeded_array("loss", x.shape))).sum().backward()
    assert np.isfinite(tensor.grad.numpy()).all()
    assert tensor.grad.numpy().any()


@pytest.mark.portable
def test_v1_equals_paddleclas_on_its_weights(tmp_path):
    ours = "ConvNeXtV1_tiny"
    toolkit = build_model("ConvNeXt_tiny", class_num=7)
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
