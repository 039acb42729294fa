"""Checkpoints of facebook, timm, torchvision and the paper's repository: equal outputs, the way back bit for bit,
clear refusals.

The checkpoints are made in numpy; ``test_torch_conversion.py`` compares with PyTorch itself.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import safetensors

from ppcls_ext import build_model
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import CLASSIFIER, load_weights, read_weights, write_weights
from ppcls_ext.weights.convert import convert_weights
from tests.support.foreign_convnext import CLASSES, DIMS, MODELS, ForeignConvNeXt
from tests.support.reference import CLASSES as PAPER_CLASSES
from tests.support.reference import DEPTHS as PAPER_DEPTHS
from tests.support.reference import Reference
from tests.support.torch_files import Call, write_archive, write_old

# The layouts, each with the versions that it knows and whether blocks hold 1x1 convolutions.
KINDS = [("facebook", 1, False), ("facebook", 2, False), ("timm", 1, False), ("timm", 2, True)]
KINDS += [("torchvision", 1, False)]


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
def test_converted_weights_give_the_same_logits_and_come_back_bit_for_bit(tmp_path, layout, version, pointwise):
    foreign, name = ForeignConvNeXt(layout, version, pointwise=pointwise), MODELS[version]
    write_archive(tmp_path / "theirs.pth", foreign.weights)
    write_old(tmp_path / "old.pth", {"model": foreign.weights, "args": Call("argparse", "Namespace", (), {"lr": 1.0})})
    write_weights(tmp_path / "theirs.safetensors", foreign.weights)
    converted = []
    for source in ("theirs.pth", "old.pth", "theirs.safetensors"):
        assert not convert_weights(tmp_path / source, tmp_path / "ours.pdparams", name, layout).dropped
        converted.append(read_weights(tmp_path / "ours.pdparams"))
    assert_same_weights(converted[0], converted[1])
    assert_same_weights(converted[0], converted[2])
    images = images_of()
    assert_same_logits(logits(name, tmp_path / "ours.pdparams", images), foreign.forward(images))
    if not pointwise:
        convert_weights(tmp_path / "ours.pdparams", tmp_path / "back.safetensors", name, "ours", layout)
        assert_same_weights(foreign.weights, read_weights(tmp_path / "back.safetensors"))
        assert metadata_of(tmp_path / "back.safetensors")["format"] == "pt"


def test_from_one_foreign_layout_to_another_and_to_convolutions_where_timm_has_them(tmp_path):
    write_archive(tmp_path / "timm.pth", ForeignConvNeXt("timm", 1).weights)
    convert_weights(tmp_path / "timm.pth", tmp_path / "tv.safetensors", MODELS[1], "timm", "torchvision")
    # The same generator in the same order: the same numbers under other names.
    assert_same_weights(ForeignConvNeXt("torchvision", 1).weights, read_weights(tmp_path / "tv.safetensors"))
    convert_weights(tmp_path / "timm.pth", tmp_path / "pc.pdparams", MODELS[1], "timm", "paddleclas")
    assert read_weights(tmp_path / "pc.pdparams")["stages.3.0.pwconv1.weight"].shape == (24, 96)
    foreign = ForeignConvNeXt("timm", 2, dims=(40, 80, 160, 320), depths=(2, 2, 6, 2), pointwise=True)
    write_archive(tmp_path / "atto.pth", foreign.weights)
    convert_weights(tmp_path / "atto.pth", tmp_path / "back.safetensors", "ConvNeXtV2_atto", "timm", "timm")
    assert_same_weights(foreign.weights, read_weights(tmp_path / "back.safetensors"))


def test_wrappers_and_bfloat16(tmp_path):
    weights = ForeignConvNeXt("facebook", 2).weights
    write_archive(tmp_path / "plain.pth", weights)
    write_archive(tmp_path / "wrapped.pth", {f"module._orig_mod.{name}": array for name, array in weights.items()})
    for name in ("plain", "wrapped"):
        convert_weights(tmp_path / f"{name}.pth", tmp_path / f"{name}.pdparams", MODELS[2], "facebook")
    plain = read_weights(tmp_path / "plain.pdparams")
    assert_same_weights(plain, read_weights(tmp_path / "wrapped.pdparams"))
    # As Paddle keeps bfloat16: PyTorch must get numbers.
    brain = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in plain.items()}
    write_weights(tmp_path / "brain.pdparams", brain)
    convert_weights(tmp_path / "brain.pdparams", tmp_path / "back.safetensors", MODELS[2], "ours", "facebook")
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


def test_self_supervised_pretraining_without_a_classifier(tmp_path):
    weights = ForeignConvNeXt("facebook", 2).weights
    given = sparse_weights(weights)
    # The order of names in a file means nothing.
    write_archive(tmp_path / "fcmae.pt", {"model": dict(reversed(given.items()))})
    write_archive(tmp_path / "whole.pt", {"model": weights})
    convert_weights(tmp_path / "whole.pt", tmp_path / "whole.pdparams", MODELS[2], "facebook")
    ours_file = tmp_path / "ours.pdparams"
    with pytest.raises(UserError, match=r"4 missing in the file: norm\.weight.*features alone.*--drop-head"):
        convert_weights(tmp_path / "fcmae.pt", ours_file, MODELS[2], "facebook")
    with pytest.raises(UserError, match=f"say --from facebook --model {MODELS[2]} --drop-head"):
        convert_weights(tmp_path / "fcmae.pt", ours_file, MODELS[2], "timm")
    conversion = convert_weights(tmp_path / "fcmae.pt", ours_file, MODELS[2], "facebook", drop_head=True)
    assert conversion.fresh == ["norm.weight", "norm.bias"]
    assert sorted(conversion.dropped) == sorted(list(given)[:4])
    whole, ours = read_weights(tmp_path / "whole.pdparams"), read_weights(ours_file)
    assert set(ours) == {name for name in whole if not name.startswith("head.")}
    for name, array in ours.items():
        if name.startswith("norm."):
            assert array.tolist() == [float(name == "norm.weight")] * DIMS[-1]
        else:
            np.testing.assert_array_equal(array, whole[name])
    report = load_weights(build_model(MODELS[2], class_num=3), ours_file, may_differ=CLASSIFIER)
    assert report.missing == ["head.weight", "head.bias"]


def metadata_of(file):
    with safetensors.safe_open(file, "numpy") as opened:
        return opened.metadata()


def without(weights, *names):
    return {name: array for name, array in weights.items() if name not in names}


@pytest.mark.parametrize(
    ("layout", "change", "model", "said", "message"),
    [
        ("timm", None, "ConvNeXtV1_tiny", "timm", f"this is {MODELS[1]}: choose --model {MODELS[1]}"),
        ("facebook", None, MODELS[1], "timm", "These are the names of the official .*: say --from facebook"),
        ("facebook", lambda w: without(w, "norm.bias"), MODELS[1], "facebook", "missing in the file: norm.bias. The"),
        ("facebook", lambda w: {**w, "pre.weight": w["norm.bias"]}, MODELS[1], "facebook", "1 of 84 names are unknown"),
        ("facebook", lambda w: {**w, "head.bias": w["head.bias"][:3]}, MODELS[1], "facebook", "say --class-num"),
        ("facebook", lambda w: without(w, "head.weight", "head.bias"), MODELS[1], "facebook",
         "Only the classifier is missing: --drop-head"),
        ("facebook", lambda w: {**w, "norm.bias": np.zeros(24, np.int32)}, MODELS[1], "facebook", "is of type int32"),
        ("facebook", lambda w: {**w, "encoder.stages.0.0.dwconv.bias": w["stages.0.0.dwconv.bias"]}, MODELS[1],
         "facebook", "holds stages.0.blocks.0.depthwise.bias twice"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path, layout, change, model, said, message):
    weights = ForeignConvNeXt(layout, 1).weights
    write_archive(tmp_path / "theirs.pth", change(weights) if change else weights)
    with pytest.raises(UserError, match=message) as error:
        convert_weights(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", model, said)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.pth"], "something was written"
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


def test_arguments_that_contradict_each_other(tmp_path):
    write_weights(tmp_path / "source.pdparams", {"norm.bias": np.zeros(1, np.float32)})
    for arguments, options, destination, message in (
        (("ConvNeXtV2_atto", "torchvision"), {}, "o.pdparams", "--from torchvision is for .* not for ConvNeXtV2_"),
        (("ConvNeXtV1_tiny", "ours", "timm"), {}, "o.pdparams", r"weights for timm must be \.safetensors"),
        (("ConvNeXtV1_tiny", "timm"), {"entry": "model"}, "o.pdparams", "--entry model is for files of torch"),
    ):
        with pytest.raises(UserError, match=message):
            convert_weights(tmp_path / "source.pdparams", tmp_path / destination, *arguments, **options)


@pytest.mark.portable
def test_the_papers_weights_give_the_same_logits(tmp_path):
    """An independent forward of them; `test_models.py` compares the names of the other sizes."""
    reference, name = Reference("mini"), "EConvNeXt_mini"
    write_weights(tmp_path / "paper.pdparams", reference.weights)
    conversion = convert_weights(tmp_path / "paper.pdparams", tmp_path / "ours.safetensors", name, "reference")
    images = images_of()
    actual = logits(name, tmp_path / "ours.safetensors", images, PAPER_CLASSES)
    assert_same_logits(actual, reference.forward(images))
    expected_drops = [key for key in reference.weights if key.endswith("gamma") or key.startswith("norms.")]
    assert sorted(conversion.dropped) == sorted(expected_drops)
    assert len(expected_drops) == sum(PAPER_DEPTHS["mini"]) + 12
    convert_weights(tmp_path / "ours.safetensors", tmp_path / "other.pdparams", name, "ours")
    assert_same_weights(read_weights(tmp_path / "ours.safetensors"), read_weights(tmp_path / "other.pdparams"))
    metadata = metadata_of(tmp_path / "ours.safetensors")
    assert (metadata["model"], metadata["class_num"]) == (name, str(PAPER_CLASSES))
