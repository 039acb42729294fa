"""Against PyTorch itself, where it is installed: its files, a ConvNeXt of its layers, timm's and torchvision's."""

from __future__ import annotations

import argparse
import importlib

import numpy as np
import paddle
import pytest

from ppcls_ext import build_model
from ppcls_ext.weights import load_weights, read_torch_weights
from ppcls_ext.weights.convert import convert_weights
from tests.support.foreign_convnext import CLASSES, DEPTHS, DIMS, MODELS
from tests.support.seeded import seeded_array
from tests.support.torch_files import Tensor, write_archive, write_old

torch = pytest.importorskip("torch", reason="optional: pip install --no-deps -r requirements-torch.txt")

def package(name: str):
    """Returns a package that needs PyTorch, or skips the test."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError, AttributeError) as error:  # torchvision of another build than torch
        pytest.skip(f"optional: {name} cannot be imported ({str(error)[:80]}); see requirements-torch.txt")


def seed(network) -> None:
    """Fills a network of PyTorch as ``seed_weights`` fills ours: weights by fan-in, vectors about 1 or 0."""
    with torch.no_grad():
        for name, parameter in network.state_dict().items():
            values = torch.from_numpy(seeded_array(name, tuple(parameter.shape)))
            if parameter.ndim > 1 and parameter.numel() > 4 * max(parameter.shape):
                values *= (5.8 / parameter[0].numel()) ** 0.5
            elif name.endswith("weight") and "grn" not in name:
                values = 1 + 0.2 * values
            parameter.copy_(values)


def assert_equal_and_exported(tmp_path, network, origin, model_name) -> None:
    """Converted weights give the same logits, and what we export is strictly loaded and bit for bit the same."""
    safetensors = pytest.importorskip("safetensors.torch")
    seed(network)
    torch.save(network.state_dict(), tmp_path / "theirs.pth")
    convert_weights(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", model_name, origin)
    images = seeded_array("images", (2, 3, 64, 96))
    model = build_model(model_name, class_num=CLASSES)
    model.eval()
    assert load_weights(model, tmp_path / "ours.safetensors").complete
    with torch.no_grad(), paddle.no_grad():
        expected = network.eval()(torch.from_numpy(images)).numpy()
        actual = model(paddle.to_tensor(images)).numpy()
    assert np.abs(expected[0] - expected[1]).max() > 0.01, "the logits do not depend on the image: nothing is tested"
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()
    convert_weights(tmp_path / "ours.safetensors", tmp_path / "back.safetensors", model_name, "ours", origin)
    before, back = network.state_dict(), safetensors.load_file(tmp_path / "back.safetensors")
    assert sorted(back) == sorted(before)
    assert all(torch.equal(back[name], before[name]) for name in before)
    network.load_state_dict(back, strict=True)


@pytest.mark.parametrize("version", [1, 2])
def test_timm(tmp_path, version):
    convnext = package("timm.models.convnext")
    extra = {1: {}, 2: {"use_grn": True, "ls_init_value": None}}[version]
    network = convnext.ConvNeXt(dims=DIMS, depths=DEPTHS, num_classes=CLASSES, **extra)
    assert_equal_and_exported(tmp_path, network, "timm", MODELS[version])


def test_torchvision(tmp_path):
    convnext = package("torchvision.models.convnext")
    settings = [
        convnext.CNBlockConfig(width, after, depth)
        for width, after, depth in zip(DIMS, (*DIMS[1:], None), DEPTHS, strict=True)
    ]
    network = convnext.ConvNeXt(settings, num_classes=CLASSES)
    assert_equal_and_exported(tmp_path, network, "torchvision", MODELS[1])


@pytest.mark.parametrize("zipped", [True, False])
def test_every_type_of_number_and_view(tmp_path, zipped):
    base = torch.arange(24, dtype=torch.float32)
    kinds = ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64")
    weights = {kind: base.to(getattr(torch, kind)).reshape(4, 6) for kind in kinds}
    weights |= {"base": base, "view": base.reshape(4, 6)[1:3, ::2], "transposed": base.reshape(4, 6).T}
    weights |= {"parameter": torch.nn.Parameter(base[3:5]), "scalar": torch.tensor(3), "none": torch.zeros(0, 3)}
    arguments = argparse.Namespace(lr=1e-4, output_dir=tmp_path, device=torch.device("cpu"), best=np.float64(0.5))
    checkpoint = {"model": weights, "epoch": 3, "args": arguments}
    torch.save(checkpoint, tmp_path / "types.pth", _use_new_zipfile_serialization=zipped)
    read = read_torch_weights(tmp_path / "types.pth")
    assert list(read) == list(weights)
    for name, tensor in weights.items():
        expected = tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
        assert (read[name].dtype, read[name].shape) == (expected.numpy().dtype, expected.numpy().shape)
        np.testing.assert_array_equal(read[name], expected.numpy())


@pytest.mark.parametrize("write", [write_archive, write_old])
def test_torch_reads_the_files_that_our_tests_make(tmp_path, write):
    """Else the tests that need no PyTorch would test files that it never writes."""
    numbers = np.arange(6, dtype=np.float32)
    value = {"model": {"w": Tensor(numbers, (2, 3), (1, 2)), "v": numbers}}
    loaded = torch.load(write(tmp_path / "made.pth", value), weights_only=True)["model"]
    np.testing.assert_array_equal(loaded["w"].numpy(), numbers.reshape(3, 2).T)
    np.testing.assert_array_equal(loaded["v"].numpy(), numbers)
