"""Checkpoints of the paper's repository: an independent forward of their weights equals our model."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_ext import build_model
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import load_weights, read_metadata, read_weights, write_weights
from ppcls_ext.weights.convert import convert_weights
from tests.support.reference import CLASSES, DEPTHS, Reference


@pytest.mark.portable
@pytest.mark.parametrize(("variant", "suffix"), [("mini", ".pdparams"), ("tiny", ".safetensors")])
def test_converted_weights_give_the_same_logits(tmp_path, variant, suffix):
    reference = Reference(variant)
    write_weights(tmp_path / "paper.pdparams", reference.weights)
    name = f"EConvNeXt_{variant}"
    conversion = convert_weights(tmp_path / "paper.pdparams", tmp_path / f"ours{suffix}", name, "reference")
    model = build_model(name, class_num=CLASSES)
    model.eval()
    assert load_weights(model, tmp_path / f"ours{suffix}").complete
    images = np.random.default_rng(1).normal(size=(2, 3, 64, 96)).astype(np.float32)
    images[1] += np.linspace(-2, 2, 96, dtype=np.float32)
    expected = reference.forward(images)
    with paddle.no_grad():
        logits = model(paddle.to_tensor(images)).numpy()
    assert np.abs(expected[0] - expected[1]).max() > 0.1, "the logits do not depend on the image: nothing is tested"
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
    expected_drops = [key for key in reference.weights if key.endswith("gamma") or key.startswith("norms.")]
    assert sorted(conversion.dropped) == sorted(expected_drops)
    assert len(expected_drops) == sum(DEPTHS[variant]) + 12


def test_conversion_back_and_forth_between_formats_is_exact(tmp_path):
    write_weights(tmp_path / "paper.pdparams", Reference("mini").weights)
    convert_weights(tmp_path / "paper.pdparams", tmp_path / "a.safetensors", "EConvNeXt_mini", "reference")
    convert_weights(tmp_path / "a.safetensors", tmp_path / "b.pdparams", "EConvNeXt_mini", "ours")
    first, second = read_weights(tmp_path / "a.safetensors"), read_weights(tmp_path / "b.pdparams")
    assert set(first) == set(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    metadata = read_metadata(tmp_path / "a.safetensors")
    assert (metadata["model"], metadata["class_num"]) == ("EConvNeXt_mini", str(CLASSES))


@pytest.fixture(scope="module")
def paper_mini(tmp_path_factory):
    file = tmp_path_factory.mktemp("paper") / "paper.pdparams"
    write_weights(file, Reference("mini").weights)
    return file


@pytest.mark.parametrize(
    ("model", "class_num", "message"),
    [
        ("EConvNeXt_tiny", None, "does not fit EConvNeXt_tiny: this is EConvNeXt_mini: choose --model EConvNeXt_mini"),
        ("EConvNeXt_mini", 1000, "Only the classifier differs: say --class-num 10"),
        ("EConvNeXt_minni", None, "EConvNeXt_mini"),
    ],
)
def test_wrong_model_or_size_is_a_clear_error_and_writes_nothing(tmp_path, paper_mini, model, class_num, message):
    with pytest.raises(UserError, match=message):
        convert_weights(paper_mini, tmp_path / "ours.pdparams", model, "reference", class_num=class_num)
    assert not list(tmp_path.iterdir())
