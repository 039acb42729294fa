"""Checkpoints of facebook, timm and torchvision: equal outputs, the way back bit for bit, and clear refusals.

The checkpoints are made in numpy; ``test_torch_conversion.py`` compares with PyTorch itself.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_ext import build_model
from ppcls_ext.arch.registry import families
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import CLASSIFIER, load_weights, read_metadata, read_weights, write_weights
from ppcls_ext.weights.convert import Request, convert_weights
from tests.support.foreign_convnext import CLASSES, DEPTHS, DIMS, ForeignConvNeXt
from tests.support.torch_files import Call, write_archive, write_old

NAMES = {1: "ConvNeXtV1_test", 2: "ConvNeXtV2_test"}
# The layouts, each with the versions that it knows and whether blocks hold 1x1 convolutions.
KINDS = [("facebook", 1, False), ("facebook", 2, False), ("timm", 1, False), ("timm", 2, False), ("timm", 2, True)]
KINDS += [("timm", 1, True), ("torchvision", 1, False)]


@pytest.fixture(autouse=True)
def small_models(monkeypatch):
    """A small model of each family: one row more in its table, as for any new model."""
    for family in families():
        if family.network.__name__ in ("ConvNeXtV1", "ConvNeXtV2"):
            monkeypatch.setitem(family.models, f"{family.network.__name__}_test", {"dims": DIMS, "depths": DEPTHS})


def logits(name, file, images, class_num=CLASSES):
    model = build_model(name, class_num=class_num)
    model.eval()
    assert load_weights(model, file).complete
    with paddle.no_grad():
        return model(paddle.to_tensor(images)).numpy()


def images_of(size=(64, 96)):
    images = np.random.default_rng(1).normal(size=(2, 3, *size)).astype(np.float32)
    images[1] += np.linspace(-2, 2, size[1], dtype=np.float32)
    return images


def assert_same_logits(actual, expected):
    assert np.abs(expected[0] - expected[1]).max() > 0.1, "the logits do not depend on the image: nothing is tested"
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


def assert_same_weights(first, second):
    assert sorted(first) == sorted(second)
    for name, array in first.items():
        assert (second[name].dtype, second[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(second[name], array)


@pytest.mark.portable
@pytest.mark.parametrize(("layout", "version", "pointwise"), KINDS)
def test_converted_weights_give_the_same_logits(tmp_path, layout, version, pointwise):
    foreign = ForeignConvNeXt(layout, version, pointwise=pointwise)
    request = Request(NAMES[version], layout)
    write_archive(tmp_path / "theirs.pth", foreign.weights)
    write_old(tmp_path / "old.pth", {"model": foreign.weights, "args": Call("argparse", "Namespace", (), {"lr": 1.0})})
    write_weights(tmp_path / "theirs.safetensors", foreign.weights)
    converted = []
    for source in ("theirs.pth", "old.pth", "theirs.safetensors"):
        assert not convert_weights(tmp_path / source, tmp_path / "ours.pdparams", request).dropped
        converted.append(read_weights(tmp_path / "ours.pdparams"))
    assert_same_weights(converted[0], converted[1])
    assert_same_weights(converted[0], converted[2])
    images = images_of()
    assert_same_logits(logits(request.model_name, tmp_path / "ours.pdparams", images), foreign.forward(images))


@pytest.mark.parametrize(("layout", "version"), [kind[:2] for kind in KINDS if not kind[2]])
def test_there_and_back_is_the_identity_bit_for_bit(tmp_path, layout, version):
    foreign, name = ForeignConvNeXt(layout, version), NAMES[version]
    write_archive(tmp_path / "theirs.pth", foreign.weights)
    convert_weights(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", Request(name, layout))
    convert_weights(tmp_path / "ours.safetensors", tmp_path / "back.safetensors", Request(name, "ours", layout))
    assert_same_weights(foreign.weights, read_weights(tmp_path / "back.safetensors"))
    assert read_metadata(tmp_path / "back.safetensors")["format"] == "pt"
    convert_weights(tmp_path / "back.safetensors", tmp_path / "again.safetensors", Request(name, layout))
    assert_same_weights(read_weights(tmp_path / "ours.safetensors"), read_weights(tmp_path / "again.safetensors"))


def test_from_one_foreign_layout_to_another(tmp_path):
    foreign = ForeignConvNeXt("timm", 1)
    write_archive(tmp_path / "timm.pth", foreign.weights)
    convert_weights(tmp_path / "timm.pth", tmp_path / "tv.safetensors", Request(NAMES[1], "timm", "torchvision"))
    # The same generator in the same order: the same numbers under other names.
    assert_same_weights(ForeignConvNeXt("torchvision", 1).weights, read_weights(tmp_path / "tv.safetensors"))
    convert_weights(tmp_path / "timm.pth", tmp_path / "pc.pdparams", Request(NAMES[1], "timm", "paddleclas"))
    assert read_weights(tmp_path / "pc.pdparams")["stages.3.0.pwconv1.weight"].shape == (24, 96)


def test_timm_gets_convolutions_where_it_has_them(tmp_path):
    sizes = {"dims": (40, 80, 160, 320), "depths": (2, 2, 6, 2)}
    foreign = ForeignConvNeXt("timm", 2, **sizes, pointwise=True)
    write_archive(tmp_path / "atto.pth", foreign.weights)
    convert_weights(tmp_path / "atto.pth", tmp_path / "ours.safetensors", Request("ConvNeXtV2_atto", "timm"))
    request = Request("ConvNeXtV2_atto", "ours", "timm")
    convert_weights(tmp_path / "ours.safetensors", tmp_path / "back.safetensors", request)
    assert_same_weights(foreign.weights, read_weights(tmp_path / "back.safetensors"))
    images = images_of((32, 32))
    assert_same_logits(logits("ConvNeXtV2_atto", tmp_path / "ours.safetensors", images), foreign.forward(images))


def test_wrappers_and_bfloat16(tmp_path):
    weights = ForeignConvNeXt("facebook", 2).weights
    write_archive(tmp_path / "plain.pth", weights)
    wrapped = {f"module._orig_mod.{name}": array for name, array in weights.items()}
    write_archive(tmp_path / "wrapped.pth", wrapped)
    for name in ("plain", "wrapped"):
        convert_weights(tmp_path / f"{name}.pth", tmp_path / f"{name}.pdparams", Request(NAMES[2], "facebook"))
    assert_same_weights(read_weights(tmp_path / "plain.pdparams"), read_weights(tmp_path / "wrapped.pdparams"))
    # As Paddle keeps bfloat16: PyTorch must get numbers.
    brain = {name: (array.view(np.uint32) >> 16).astype(np.uint16)
             for name, array in read_weights(tmp_path / "plain.pdparams").items()}  # fmt: skip
    write_weights(tmp_path / "brain.pdparams", brain)
    convert_weights(tmp_path / "brain.pdparams", tmp_path / "back.safetensors", Request(NAMES[2], "ours", "facebook"))
    for name, array in read_weights(tmp_path / "back.safetensors").items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, weights[name], rtol=2**-7)


def sparse_weights(weights, prefix="encoder."):
    """ConvNeXt V2 as the masked autoencoder keeps it: the layers of MinkowskiEngine, and a decoder behind them."""
    sparse = {"mask_token": np.zeros((1, 4, 1, 1), np.float32), "proj.bias": np.zeros(4, np.float32)}
    sparse |= {"decoder.0.grn.gamma": np.zeros((1, 1, 1, 4), np.float32), "pred.bias": np.zeros(4, np.float32)}
    for name, array in weights.items():
        first, part = name.split(".")[0], name.rpartition(".")[2]
        if first in ("norm", "head"):
            continue
        dense = name.startswith("downsample_layers.0.")
        if not dense and array.ndim == 4 and part == "weight":
            # Window positions run down the columns: [out, in, height, width] -> [width * height, in, out].
            kernel = array.transpose(3, 2, 1, 0).reshape(-1, *array.shape[1::-1])
            name, array = name.removesuffix("weight") + "kernel", kernel[:, 0] if "dwconv" in name else kernel
        elif not dense and "pwconv" in name:
            name = name.replace("pwconv1", "pwconv1.linear").replace("pwconv2", "pwconv2.linear")
        elif not dense and (".norm." in name or name.split(".")[2] == "0" and first == "downsample_layers"):
            name = f"{name.removesuffix(part)}ln.{part}"
        if part in ("bias", "gamma", "beta") and not dense and ".ln." not in name:
            array = array.reshape(1, -1)
        sparse[prefix + name] = array
    return sparse


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_self_supervised_pretraining_without_a_classifier(tmp_path, kind):
    weights = ForeignConvNeXt("facebook", 2).weights
    features = {name: array for name, array in weights.items() if name.split(".")[0] not in ("norm", "head")}
    given = features if kind == "dense" else sparse_weights(weights)
    write_archive(tmp_path / "fcmae.pt", {"model": given})
    write_archive(tmp_path / "whole.pt", {"model": weights})
    convert_weights(tmp_path / "whole.pt", tmp_path / "whole.pdparams", Request(NAMES[2], "facebook"))
    with pytest.raises(UserError, match=r"4 missing in the file: norm\.weight.*features alone.*--drop-head"):
        convert_weights(tmp_path / "fcmae.pt", tmp_path / "ours.pdparams", Request(NAMES[2], "facebook"))
    request = Request(NAMES[2], "facebook", drop_head=True)
    conversion = convert_weights(tmp_path / "fcmae.pt", tmp_path / "ours.pdparams", request)
    assert conversion.fresh == ["norm.weight", "norm.bias"]
    assert sorted(conversion.dropped) == sorted(set(given) - set(features) if kind == "dense" else list(given)[:4])
    whole, ours = read_weights(tmp_path / "whole.pdparams"), read_weights(tmp_path / "ours.pdparams")
    assert set(ours) == {name for name in whole if not name.startswith("head.")}
    for name, array in ours.items():
        if name.startswith("norm."):
            assert array.tolist() == [float(name == "norm.weight")] * DIMS[-1]
        else:
            np.testing.assert_array_equal(array, whole[name])
    report = load_weights(build_model(NAMES[2], class_num=3), tmp_path / "ours.pdparams", may_differ=CLASSIFIER)
    assert report.missing == ["head.weight", "head.bias"]


@pytest.fixture
def theirs(tmp_path):
    """Writes weights of facebook's layout, changed by the test, and returns what the conversion says of them."""

    def refusal(weights, request, suffix=".pth"):
        file = tmp_path / f"theirs{suffix}"
        write_archive(file, weights) if suffix == ".pth" else write_weights(file, weights)
        with pytest.raises(UserError) as error:
            convert_weights(file, tmp_path / "ours.safetensors", request)
        assert [path.name for path in tmp_path.iterdir()] == [file.name], "something was written"
        message = str(error.value)
        assert "\n" not in message and len(message) < 700
        return message

    return refusal


def without(weights, *names):
    return {name: array for name, array in weights.items() if name not in names}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_another_size_is_named(theirs, suffix):
    message = theirs(ForeignConvNeXt("timm", 1).weights, Request("ConvNeXtV1_tiny", "timm"), suffix)
    assert f"does not fit ConvNeXtV1_tiny: this is {NAMES[1]}: choose --model {NAMES[1]}" in message


def test_another_family_is_named(theirs):
    message = theirs(ForeignConvNeXt("facebook", 2).weights, Request(NAMES[1], "facebook"))
    assert f"does not fit {NAMES[1]}: this is {NAMES[2]}: choose --model {NAMES[2]}" in message


def test_a_size_that_we_have_not_is_described(theirs):
    weights = ForeignConvNeXt("facebook", 2, dims=(8, 12, 16, 20)).weights
    message = theirs(weights, Request(NAMES[2], "facebook"))
    assert "its stages have 1, 2, 3, 1 blocks of 8, 12, 16, 20 channels (ConvNeXtV2), which no model of ours" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: without(w, "norm.bias"), "1 missing in the file: norm.bias. The file is incomplete or altered"),
        (lambda w: without(w, *[n for n in w if n.endswith("gamma")]), "7 missing in the file: stages.0.blocks.0.la"),
        (lambda w: {**w, "norm_pre.weight": w["norm.weight"]}, "1 of 84 names are unknown: norm_pre.weight"),
        (lambda w: {**w, "stages.0.1.gamma": w["stages.0.0.gamma"]}, "1 not in the model: stages.0.blocks.1.layer_sc"),
        (lambda w: {**w, "head.bias": w["head.bias"][:3]}, "Only the classifier differs: say --class-num"),
        (lambda w: without(w, "head.bias", "head.weight"), "Only the classifier is missing: --drop-head"),
        (lambda w: {**w, "downsample_layers.0.0.weight": np.zeros((8, 1, 2, 2), np.float32)}, "Only the stem differs"),
        (lambda w: {**w, "norm.bias": np.zeros(24, np.int32)}, "norm.bias is of type int32, not a weight"),
    ],
)
def test_a_changed_checkpoint_is_refused_with_the_names(theirs, change, message):
    assert message in theirs(change(ForeignConvNeXt("facebook", 1).weights), Request(NAMES[1], "facebook"))


def test_the_same_weight_twice_is_refused(theirs):
    weights = ForeignConvNeXt("facebook", 2).weights
    twice = {**weights, "encoder.stages.0.0.grn.beta": weights["stages.0.0.grn.beta"]}
    assert "holds stages.0.blocks.0.response_norm.bias twice" in theirs(twice, Request(NAMES[2], "facebook"))


@pytest.mark.parametrize(
    ("layout", "said", "message"),
    [
        ("timm", "facebook", "These are the names of timm's ConvNeXt: say --from timm"),
        ("torchvision", "timm", "These are the names of torchvision's ConvNeXt: say --from torchvision"),
        ("facebook", "paddleclas", "Its linear layers lie the other way round: say --from facebook"),
    ],
)
def test_another_layout_is_named(theirs, layout, said, message):
    assert message in theirs(ForeignConvNeXt(layout, 1).weights, Request(NAMES[1], said))


def test_names_cannot_write_more_than_a_line(theirs):
    weights = {"two\nlines": np.zeros(1, np.float32), "long" * 1000: np.zeros(1, np.float32)}
    message = theirs(weights, Request(NAMES[1], "timm"))
    assert r"2 of 2 names are unknown: 'two\nlines', longlong" in message


def test_a_network_of_another_kind(theirs):
    weights = {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32), "bn1.weight": np.zeros(64, np.float32)}
    message = theirs(weights, Request(NAMES[1], "torchvision"))
    assert "not a checkpoint of torchvision's ConvNeXt, 2 of 2 names are unknown: conv1.weight, bn1.weight" in message


def test_number_of_classes(tmp_path, theirs):
    weights = ForeignConvNeXt("torchvision", 1).weights
    message = theirs(weights, Request(NAMES[1], "torchvision", class_num=10))
    assert f"Only the classifier differs: say --class-num {CLASSES}, or --drop-head" in message
    conversion = convert_weights(
        tmp_path / "theirs.pth", tmp_path / "o.pdparams", Request(NAMES[1], "torchvision", drop_head=True)
    )
    assert conversion.dropped == ["head.weight", "head.bias"]
    assert not conversion.fresh


@pytest.mark.parametrize(
    ("request_", "destination", "message"),
    [
        (Request("ConvNeXtV2_atto", "torchvision"), "o.pdparams", "--from torchvision is for .* not for ConvNeXtV2_"),
        (Request("EConvNeXt_mini", "ours", "timm"), "o.safetensors", "--to timm is for .* choose --model among ConvN"),
        (Request("ConvNeXtV1_tiny", "ours", "timm"), "o.pdparams", r"weights for timm must be \.safetensors"),
        (Request("ConvNeXtV1_tiny", "ours"), "o.pth", r"the suffix must be \.pdparams or \.safetensors"),
        (Request("ConvNeXtV1_tiny", "timm", class_num=3, drop_head=True), "o.pdparams", "leave --class-num out too"),
        (Request("ConvNeXtV1_tiny", "timm", entry="model"), "o.pdparams", "--entry model is for files of torch"),
    ],
)
def test_requests_that_contradict_themselves(tmp_path, request_, destination, message):
    write_weights(tmp_path / "source.safetensors", {"w": np.zeros(1, np.float32)})
    with pytest.raises(UserError, match=message):
        convert_weights(tmp_path / "source.safetensors", tmp_path / destination, request_)
