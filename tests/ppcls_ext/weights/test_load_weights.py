"""Strict loading: what differs is an error unless permitted, and then it is said."""

from __future__ import annotations

import logging

import numpy as np
import paddle
import pytest

from ppcls_ext import build_model
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import CLASSIFIER, load_weights, write_weights


def small(class_num: int, name: str = "EConvNeXt_mini"):
    return build_model(name, class_num=class_num, depth_multiplier=0.3, width_multiplier=0.1)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    paddle.seed(1)
    model = small(10)
    file = tmp_path_factory.mktemp("source") / "source.pdparams"
    write_weights(file, model.state_dict())
    return file, {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def _snapshot(model):
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def test_fine_tuning_keeps_all_but_the_classifier_and_says_so_in_one_line(source, caplog):
    file, weights = source
    assert load_weights(small(10), file).complete
    assert not caplog.records
    model = small(4)
    head = model.head.weight.numpy().copy()
    with caplog.at_level(logging.INFO):
        report = load_weights(model, file, may_differ=CLASSIFIER)
    assert sorted(report.mismatched) == ["head.bias", "head.weight"]
    after = _snapshot(model)
    np.testing.assert_array_equal(after["head.weight"], head)
    kept = [name for name in weights if not name.startswith("head.")]
    assert sorted(report.loaded) == sorted(kept)
    for name in kept:
        np.testing.assert_array_equal(after[name], weights[name])
    (line,) = caplog.messages
    assert "\n" not in line and f"loaded {len(kept)} of {len(weights)} weights" in line
    assert "head.weight (file [80, 10], model [80, 4])" in line


def test_another_class_num_is_an_error_unless_permitted_and_changes_nothing(source):
    model = small(4)
    before = _snapshot(model)
    with pytest.raises(UserError, match=r"2 of another shape: head\.weight .*set Arch\.class_num"):
        load_weights(model, source[0])
    for name, array in _snapshot(model).items():
        np.testing.assert_array_equal(array, before[name])


def test_every_difference_is_named_even_when_the_classifier_may_differ(source):
    weights = source[1]
    for changed, message in (
        ({name: weights[name] for name in weights if name != "norm.weight"}, "1 missing in the file: norm.weight. Cho"),
        ({**weights, "extra": np.ones(1)}, "1 not in the model: extra"),
        ({**weights, "norm.bias": np.ones(3)}, r"1 of another shape: norm\.bias \(file \[3\]"),
        ({**weights, "Down_Conv.conv1.conv.bias": np.ones(3)}, "--from reference"),
    ):
        with pytest.raises(UserError, match=message):
            load_weights(small(10), changed, may_differ=CLASSIFIER)
    # Of another architecture a few names are shown, and the count.
    with pytest.raises(UserError, match="^.{,200} missing in the file: stem.1.conv.weight, .{,700}$"):
        load_weights(small(10, "EConvNeXt_tiny"), source[0])


def test_other_precisions_are_converted():
    layer = paddle.nn.Linear(2, 1)
    bits = (np.array([[1.5], [-3.0]], dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16)
    load_weights(layer, {"weight": bits, "bias": np.array([0.25], dtype=np.float64)})
    assert layer.weight.dtype == paddle.float32
    assert layer.weight.numpy().tolist() == [[1.5], [-3.0]]
    assert layer.bias.numpy().tolist() == [0.25]
