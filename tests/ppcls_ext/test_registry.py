"""Models by name: ours and PaddleClas's."""

from __future__ import annotations

import sys

import pytest

from ppcls_ext import build_model
from ppcls_ext.arch import architecture_parameters, flops
from ppcls_ext.utils.errors import UserError


def test_most_of_paddleclas_can_be_configured():
    from ppcls_ext import plugin

    names = plugin.toolkit_architectures()
    assert len(names) > 300
    missing = [name for name in names if not {"class_num", "num_classes"} & set(architecture_parameters(name))]
    # The first take sizes of embeddings, the last fixes the number of classes itself.
    families = ("AdaFace", "MobileFaceNet", "CLIP_large_patch14_224_aesthetic")
    assert [name for name in missing if not name.startswith(families)] == []
    given = architecture_parameters("ConvNeXt_tiny")
    assert given["class_num"].annotation is int
    assert given["layer_scale_init_value"].annotation == int | float | None
    assert not {"pretrained", "use_ssld"} & set(given)


def test_a_checkout_goes_before_the_wheel(tmp_path, monkeypatch):
    from ppcls_ext import plugin

    assert plugin.find_toolkit() == "paddleclas.ppcls.arch"
    arch = tmp_path / "ppcls" / "arch"
    arch.mkdir(parents=True)
    (tmp_path / "ppcls" / "__init__.py").touch()
    (arch / "__init__.py").touch()
    (tmp_path / "paddleclas.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert plugin.find_toolkit() == "ppcls.arch"


def test_an_unknown_name_gives_the_nearest():
    for name, near in (("EConvNeXt_mni", "EConvNeXt_mini"), ("ResNet5O", "ResNet50")):
        with pytest.raises(ValueError, match=rf"unknown model '{name}'; did you mean .*\b{near}\b"):
            build_model(name)


def test_without_paddleclas_only_ours_are_known(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.delitem(sys.modules, "paddleclas", raising=False)
    with pytest.raises(ValueError, match="unknown model 'ResNet50'.*PaddleClas.*not installed"):
        architecture_parameters("ResNet50")
    assert "class_num" in architecture_parameters("EConvNeXt_mini")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("EConvNeXt_mini", {"drop_path": 0.1}, "unknown argument 'drop_path' .did you mean 'drop_path_rate'"),
        ("ConvNeXtV2_atto", {"stem_stride": 3}, "stem_stride: must be one of 1, 2, 4"),
        # It swallows what it does not know.
        ("ResNet50", {"clas_num": 10}, "unknown argument 'clas_num' .did you mean 'class_num'"),
        # Filled in by the function itself.
        ("ConvNeXt_tiny", {"depths": [1, 1, 1, 1]}, "ConvNeXt_tiny: .*'depths'.* the architecture fixes it itself"),
        # It would evaluate the text.
        ("ViT_small_patch16_224", {"norm_layer": "nn.LayerNorm or 1"}, "norm_layer: .* only names such as nn.LayerNo"),
        ("PPLCNet_x0_25", {"lr_mult_list": ["exit()"]}, "lr_mult_list: .* only names .* got 'exit\\(\\)'"),
        ("ViT_small_patch16_224", {"norm_layer": "foo"}, "refuses a value: name 'foo' is not defined"),
        # It would unpickle the file.
        ("ResNet50", {"pretrained": "weights"}, "unknown argument 'pretrained'"),
    ],
)
def test_wrong_arguments_are_refused_before_building(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, **arguments)


def test_what_cannot_be_counted(monkeypatch):
    with pytest.raises(UserError, match="ConvNeXtV2_atto: images of 16 px leave its last stage no position"):
        flops.count_model("ConvNeXtV2_atto", {}, 16)
    monkeypatch.setattr(flops, "MOST_PARAMETERS", 7_000_000)
    with pytest.raises(UserError, match="EConvNeXt_mini: 0.0 billion parameters are too many to be run"):
        flops.count_model("EConvNeXt_mini", {}, 32)
