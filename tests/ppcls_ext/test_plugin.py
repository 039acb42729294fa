"""Our models among PaddleClas's architectures, with its wheel, in this process."""

from __future__ import annotations

import sys

import numpy as np
import paddle
import pytest

import ppcls_ext
from ppcls_ext.arch.registry import family_of
from ppcls_ext.utils.errors import UserError
from tests.support.seeded import seed_weights, seeded_array

NAME = "EConvNeXt_mini"


@pytest.fixture
def architectures():
    ppcls_ext.register()
    from paddleclas.ppcls import arch

    return arch


def images() -> paddle.Tensor:
    return paddle.to_tensor(seeded_array("images", (2, 3, 64, 64)))


def test_every_model_is_an_architecture_of_paddleclas(architectures):
    assert ppcls_ext.register() == ppcls_ext.list_models(), "the second time it does nothing"
    for name in ppcls_ext.list_models():
        composed = getattr(architectures, name)
        assert composed is getattr(architectures.backbone, name)
        assert composed.__name__ == name
        assert issubclass(composed, family_of(name).network)
        assert issubclass(composed, architectures.TheseusLayer)
        assert composed.stages_pattern == ["stages[0]", "stages[1]", "stages[2]", "stages[3]"]


def test_a_foreign_name_is_not_overwritten(architectures, monkeypatch):
    foreign = object()
    monkeypatch.setattr(architectures.backbone, NAME, foreign)
    with pytest.raises(UserError, match=rf"already has a '{NAME}' that is not ours"):
        ppcls_ext.register()
    assert getattr(architectures.backbone, NAME) is foreign


def test_without_paddleclas_it_is_said(monkeypatch):
    from ppcls_ext import plugin

    monkeypatch.setattr(plugin, "find_toolkit", lambda: None)
    with pytest.raises(UserError, match="install paddleclas, or put the root of a checkout on PYTHONPATH"):
        ppcls_ext.register()


@pytest.mark.parametrize("name", [NAME, "ConvNeXtV2_atto"])
def test_paddleclas_builds_the_same_network(architectures, name):
    config = {"Arch": {"name": name, "class_num": 5, "drop_path_rate": "1e-1"}, "Global": {"device": "cpu"}}
    registered = architectures.build_model(config)
    plain = ppcls_ext.build_model(name, class_num=5)
    assert not isinstance(plain, architectures.TheseusLayer)
    assert list(registered.state_dict()) == list(plain.state_dict())
    for model in (registered, plain):
        seed_weights(model)
        model.eval()
    np.testing.assert_array_equal(registered(images()).numpy(), plain(images()).numpy())


def test_paddleclas_cuts_taps_and_freezes_the_network(architectures):
    for name, layer, shape in (
        (NAME, "stages[2].blocks[4]", [2, 288, 4, 4]), (NAME, "flatten", [2, 768]),
        ("ConvNeXtV2_atto", "stem", [2, 40, 16, 16]),
    ):  # fmt: skip
        assert getattr(architectures, name)(class_num=5, stop_after=layer)(images()).shape == shape
    model = getattr(architectures, NAME)(class_num=5, return_stages=[1, 3])
    model.eval()
    output, features = model(images()), model.forward_features(images())
    assert set(output) == {"logits", "stages[1]", "stages[3]"}
    for number in (1, 3):
        np.testing.assert_array_equal(output[f"stages[{number}]"].numpy(), features[number].numpy())
    model = getattr(architectures, NAME)(class_num=5, freeze_befor="stages[1]")
    model(images()).sum().backward()
    with_gradient = {key.split(".")[1] for key, value in model.named_parameters() if value.grad is not None}
    assert "2" in with_gradient
    assert not with_gradient & {"0", "1"}


def test_rec_model(architectures):
    model = architectures.RecModel(
        Backbone={"name": NAME, "class_num": 5},
        BackboneStopLayer={"name": "flatten"},
        Neck={"name": "FC", "embedding_size": 768, "class_num": 64},
        Head={"name": "ArcMargin", "embedding_size": 64, "class_num": 5, "margin": 0.15, "scale": 30},
    )
    output = model(images(), paddle.zeros([2, 1], "int64"))
    expected = {"backbone": [2, 768], "neck": [2, 64], "features": [2, 64], "logits": [2, 5]}
    assert {key: value.shape for key, value in output.items()} == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"drop_path": 0.1}, "Arch: EConvNeXt_mini: unknown argument 'drop_path' .did you mean 'drop_path_rate'"),
        ({"drop_path_rate": 2.0}, "Arch: drop_path_rate: must be at least 0"),
        ({"pretrained": True}, "no pretrained weights to download.*Global.pretrained_model"),
    ],
)
def test_wrong_arguments_of_a_registered_model(architectures, arguments, message):
    with pytest.raises(UserError, match=message):
        getattr(architectures, NAME)(**arguments)
    assert "ppcls" not in sys.modules, "the wheel was there, so no checkout should have been loaded"
