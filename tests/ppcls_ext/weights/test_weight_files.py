"""Weight files in both formats, and checkpoint folders."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import find_weights, read_weights, write_manifest, write_weights

WEIGHTS = {
    "conv.weight": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32),
    "norm._mean": np.linspace(-1, 1, 4, dtype=np.float32),
    "half": np.array([0.5, 1.5], dtype=np.float16),
    "count": np.array(12, dtype=np.int64),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
}


@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
def test_weights_survive_the_round_trip(tmp_path, suffix):
    file = tmp_path / f"weights{suffix}"
    write_weights(file, WEIGHTS)
    read = read_weights(file)
    assert set(read) == set(WEIGHTS)
    for name, array in WEIGHTS.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(read[name], array)
        assert read[name].flags.writeable


def test_exchange_with_paddle_and_metadata(tmp_path):
    import paddle
    import safetensors.paddle

    write_weights(tmp_path / "weights.pdparams", WEIGHTS)
    loaded = paddle.load(str(tmp_path / "weights.pdparams"))
    assert set(loaded) == set(WEIGHTS) and isinstance(loaded["conv.weight"], paddle.Tensor)
    np.testing.assert_array_equal(loaded["conv.weight"].numpy(), WEIGHTS["conv.weight"])
    write_weights(tmp_path / "ours.safetensors", WEIGHTS, {"model": "EConvNeXt_mini", "classes": "ä"})
    with safetensors.safe_open(tmp_path / "ours.safetensors", "numpy") as file:
        assert file.metadata() == {"model": "EConvNeXt_mini", "classes": "ä"}
    theirs = safetensors.paddle.load_file(str(tmp_path / "ours.safetensors"))
    np.testing.assert_array_equal(theirs["conv.weight"].numpy(), WEIGHTS["conv.weight"])
    brain = {"brain": paddle.to_tensor([1.5, -2.0], dtype="bfloat16")}
    safetensors.paddle.save_file(brain, str(tmp_path / "brain.safetensors"))
    assert read_weights(tmp_path / "brain.safetensors")["brain"].tolist() == [1.5, -2.0]
    write_weights(tmp_path / "widened.safetensors", brain)
    assert read_weights(tmp_path / "widened.safetensors")["brain"].tolist() == [1.5, -2.0]


def test_suffix_may_be_left_out_and_typing_errors_are_named(tmp_path):
    write_weights(tmp_path / "best.pdparams", WEIGHTS)
    assert find_weights(tmp_path / "best") == tmp_path / "best.pdparams"
    with pytest.raises(UserError, match=r"did you mean 'best\.pdparams'"):
        read_weights(tmp_path / "bets.pdparams")
    with pytest.raises(UserError, match=r"unknown weight format '\.npz', allowed are \.pdparams, \.safetensors"):
        write_weights(tmp_path / "weights.npz", WEIGHTS)


def test_damaged_files_and_files_without_plain_weights_are_refused(tmp_path):
    for content in (b"", b"\xff" * 100):
        (tmp_path / "bad.safetensors").write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.safetensors: damaged"):
            read_weights(tmp_path / "bad.safetensors")
    for value in ([1, 2], {"weight": "text"}, {"weight": {"deep": np.ones(2)}}, {}):
        (tmp_path / "odd.pdparams").write_bytes(pickle.dumps(value, protocol=4))
        with pytest.raises(UserError, match=r"odd\.pdparams: (holds|entry)"):
            read_weights(tmp_path / "odd.pdparams")


@pytest.fixture
def checkpoint(tmp_path):
    write_weights(tmp_path / "model.pdparams", {"weight": np.zeros(1)})
    write_weights(tmp_path / "ema.pdparams", {"weight": np.ones(1)})
    return tmp_path


@pytest.fixture
def listed(checkpoint):
    """A checkpoint folder with its manifest."""
    (checkpoint / "state.json").write_text(json.dumps({"evaluated_weights": "ema"}))
    write_manifest(checkpoint)
    return checkpoint


def test_a_checkpoint_folder_gives_the_weights_that_were_evaluated_or_is_refused(checkpoint):
    for state, message in (
        (None, r"no state\.json"),
        ("{", "damaged"),
        ('{"evaluated_weights": "student"}', "must be 'ema' or 'model', got 'student'"),
    ):
        if state:
            (checkpoint / "state.json").write_text(state)
        with pytest.raises(UserError, match=message):
            read_weights(checkpoint)
    for which, value in (("model", 0.0), ("ema", 1.0)):
        (checkpoint / "state.json").write_text(json.dumps({"evaluated_weights": which}))
        assert read_weights(checkpoint)["weight"].tolist() == [value]


@pytest.mark.parametrize("named", ["", "ema"])
def test_weights_that_changed_inside_a_checkpoint_are_refused(listed, named):
    assert read_weights(listed / named)["weight"].tolist() == [1.0]
    file = listed / "ema.pdparams"
    changed = file.read_bytes().replace(np.ones(1).tobytes(), np.full(1, 2.0).tobytes())
    assert changed != file.read_bytes()
    file.write_bytes(changed)
    with pytest.raises(UserError, match=r"damaged checkpoint: the content of ema\.pdparams has changed"):
        read_weights(listed / named)


def test_only_listed_files_stand_for_a_checkpoint(listed):
    write_weights(listed / "converted.safetensors", {"weight": np.full(1, 3.0)})
    assert read_weights(listed / "converted.safetensors")["weight"].tolist() == [3.0]
    for name in ("ema.pdparams", "manifest.json"):
        (listed / name).unlink()
    write_manifest(listed)
    write_weights(listed / "ema.pdparams", {"weight": np.full(1, 4.0)})
    with pytest.raises(UserError, match=r"manifest\.json does not list ema\.pdparams"):
        read_weights(listed)


def test_a_damaged_manifest_is_refused_and_a_foreign_one_beside_a_plain_file_is_not_ours(listed):
    (listed / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        read_weights(listed / "model.pdparams")
    (listed / "manifest.json").write_text(json.dumps({"name": "a web page"}))
    with pytest.raises(UserError, match="not a checkpoint of this trainer"):
        read_weights(listed)
    (listed / "state.json").unlink()
    assert read_weights(listed / "model.pdparams")["weight"].tolist() == [0.0]
