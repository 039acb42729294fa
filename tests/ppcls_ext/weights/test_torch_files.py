"""Files of ``torch.save``, here made byte by byte: every number comes back, and nothing in them is ever executed."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest

from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import read_weights
from ppcls_ext.weights.torch_files import read_torch_weights
from tests.support.torch_files import Call, Parameter, Tensor, TorchPickle, write_archive, write_old

WRITERS = pytest.mark.parametrize("write", [write_archive, write_old])
NUMBERS = np.arange(24, dtype=np.float32)


@WRITERS
def test_numbers_of_every_kind_come_back_exactly(tmp_path, write):
    kinds = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "c8")
    arrays = {kind: np.arange(6, dtype=kind).reshape(2, 3) for kind in kinds}
    arrays |= {"flags": np.array([True, False]), "scalar": np.array(2.5, np.float32), "none": np.zeros((0, 3))}
    read = read_torch_weights(write(tmp_path / "kinds.pth", arrays))
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(read[name], array)


@WRITERS
def test_bfloat16_is_widened_and_plain_bytes_have_the_type_that_the_tensor_says(tmp_path, write):
    bits = np.array([0x3FC0, 0xC000], dtype=np.uint16)
    weights = {
        "brain": Tensor(bits, storage="BFloat16Storage"),
        "bytes": Tensor(NUMBERS.view(np.uint8), (24,), (1,), storage="UntypedStorage", element_type="float32"),
    }
    read = read_torch_weights(write(tmp_path / "types.pt", weights))
    assert read["brain"].dtype == np.float32
    assert read["brain"].tolist() == [1.5, -2.0]
    np.testing.assert_array_equal(read["bytes"], NUMBERS)


@WRITERS
def test_views_of_one_storage(tmp_path, write):
    weights = {
        "whole": Tensor(NUMBERS, (4, 6), (6, 1), key="7"),
        "transposed": Tensor(NUMBERS, (6, 4), (1, 6), key="7"),
        "part": Tensor(NUMBERS, (2, 2), (6, 1), offset=8, key="7"),
        "parameter": Parameter(Tensor(NUMBERS, (24,), (1,), key="7")),
    }
    read = read_torch_weights(write(tmp_path / "views.pth", weights))
    np.testing.assert_array_equal(read["transposed"], NUMBERS.reshape(4, 6).T)
    np.testing.assert_array_equal(read["part"], NUMBERS.reshape(4, 6)[1:3, 2:4])
    np.testing.assert_array_equal(read["parameter"], NUMBERS)


def test_big_endian_archive(tmp_path):
    big = Tensor(NUMBERS.astype(">f4"), storage="FloatStorage")
    read = read_torch_weights(write_archive(tmp_path / "big.pth", {"w": big}, byte_order=b"big"))
    np.testing.assert_array_equal(read["w"], NUMBERS)
    assert read_torch_weights(write_archive(tmp_path / "a.pth", {"w": NUMBERS}, byte_order=None))["w"][1] == 1


@WRITERS
def test_what_training_leaves_beside_the_weights_is_passed_over(tmp_path, write):
    """As the official repositories save: arguments of the training, paths in them, state of the optimizer."""
    moments = {"state": {0: {"step": 3.0, "exp_avg": NUMBERS}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    arguments = {
        "lr": 0.1,
        "output_dir": Call("pathlib", "PosixPath", ("/", "checkpoint")),
        "device": Call("torch", "device", ("cuda",)),
        "seeds": Call("__builtin__", "set", ([1, 2],)),
    }
    value = {
        "model": {"w": NUMBERS},
        "optimizer": moments,
        "epoch": 3,
        "scaler": {"scale": 65536.0},
        "args": Call("argparse", "Namespace", (), arguments, new_object=True),
    }
    read = read_torch_weights(write(tmp_path / "checkpoint.pth", value))
    assert list(read) == ["w"]
    np.testing.assert_array_equal(read["w"], NUMBERS)


def test_several_sets_of_weights_are_chosen_by_name(tmp_path):
    value = {"model": {"w": NUMBERS}, "model_ema": {"w": NUMBERS + 1}, "epoch": 3}
    file = write_archive(tmp_path / "checkpoint.pth", value)
    with pytest.raises(UserError, match=r"several sets of weights \(model, model_ema\): say which with --entry"):
        read_torch_weights(file)
    assert read_torch_weights(file, "model")["w"][0] == 0
    assert read_torch_weights(file, "model_ema")["w"][0] == 1
    with pytest.raises(UserError, match=r"no weights under 'model_emma'; .*did you mean 'model_ema'"):
        read_torch_weights(file, "model_emma")
    plain = write_archive(tmp_path / "plain.pth", {"w": NUMBERS})
    with pytest.raises(UserError, match="leave --entry model out"):
        read_torch_weights(plain, "model")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "holds a list, expected a dictionary"),
        (NUMBERS, "holds a tensor, expected"),
        ({"epoch": 3, "loss": 0.5}, "holds no weights by name, only: epoch, loss"),
        ({}, "holds no weights by name, only: nothing"),
        ({"w": NUMBERS, "note": "text"}, "entry 'note' is a str, not a weight"),
        ({"two\nlines": 3}, r"only: 'two\\nlines'$"),
    ],
)
def test_files_without_weights_are_refused(tmp_path, value, message):
    with pytest.raises(UserError, match=message):
        read_torch_weights(write_archive(tmp_path / "odd.pth", value))


@WRITERS
@pytest.mark.parametrize(
    ("module", "name"), [("posix", "system"), ("builtins", "eval"), ("subprocess", "getoutput"), ("os", "system")]
)
def test_a_hostile_file_is_refused_in_one_line_and_nothing_runs(tmp_path, write, module, name):
    witness = tmp_path / "witness"
    command = f"open({str(witness)!r}, 'w')" if name == "eval" else f"touch {witness}"
    hostile = write(tmp_path / "hostile.pth", {"model": {"w": NUMBERS}, "args": Call(module, name, (command,))})
    with pytest.raises(UserError, match=rf"nothing in it was executed: it asks for '{module}\.{name}'") as line:
        read_torch_weights(hostile)
    assert "\n" not in str(line.value)
    assert not witness.exists()
    pickle.loads(TorchPickle(Call(module, name, (command,))).content)
    assert witness.exists(), "the file was harmless: the test proves nothing"


def test_a_model_saved_with_its_code_is_refused_with_advice(tmp_path):
    whole = write_archive(tmp_path / "whole.pth", Call("torchvision.models.convnext", "ConvNeXt", (), {}, True))
    with pytest.raises(UserError, match=r"saved with its code; save its weights alone, torch\.save\(model\.state_dict"):
        read_torch_weights(whole)


@pytest.mark.parametrize(
    "target", [b"ctorch\nfloat32\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"cargparse\nNamespace\n"]
)
def test_what_stands_for_a_name_cannot_be_altered(tmp_path, target):
    """The BUILD instruction sets attributes of whatever a name resolved to."""
    altering = target + b"}X\x04\x00\x00\x00sizeK\x63sb"
    with pytest.raises(UserError, match=r"alter|damaged"):
        read_torch_weights(write_archive(tmp_path / "altering.pth", {"w": altering}))
    read = read_torch_weights(write_archive(tmp_path / "fine.pth", {"w": NUMBERS}))
    np.testing.assert_array_equal(read["w"], NUMBERS)


@WRITERS
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"})" + b"\x85" * 100_000 + b"K\x01s", "a dictionary with a tuple as key"),  # its hash ends the process
        (Tensor(NUMBERS, (2**2000,), (1,)), "shape is not a row of whole numbers"),
        (Call("torch", "Size", ([1, 2],)), "shape is not a row of whole numbers"),
        (Call("torch", "Size.__init__"), r"asks for 'torch\.Size\.__init__'"),
        (Call("torch._utils", "_rebuild_qtensor"), r"asks for 'torch\._utils\._rebuild_qtensor'"),
        (Call("torch._utils", "_rebuild_sparse_tensor"), r"asks for 'torch\._utils\._rebuild_sparse_tensor'"),
        (b"]Q", "an unknown kind of content"),
        (b"(X\x07\x00\x00\x00storageNNNNtQ", "without a type, a name or a count"),
        (Tensor(np.zeros(1, np.float32), (2,), (1,), key="k" * 3000), r"tensor 'w' of shape \[2\]|'k+\.\.\.'"),
    ],
)
def test_instructions_that_weights_never_need_are_refused_in_one_short_line(tmp_path, write, content, message):
    with pytest.raises(UserError, match=message) as refusal:
        read_torch_weights(write(tmp_path / "odd.pth", {"w": content}))
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < len(str(tmp_path)) + 300


def test_tensors_of_one_storage_take_no_more_memory_than_it(tmp_path):
    bits = np.full(1000, 0x3FC0, np.uint16)
    alike = {f"w{index}": Tensor(bits, storage="BFloat16Storage", key="7") for index in range(3)}
    read = read_torch_weights(write_archive(tmp_path / "alike.pth", alike))
    assert read["w0"].tolist() == [1.5] * 1000
    assert np.shares_memory(read["w0"], read["w2"])


@WRITERS
@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (Tensor(NUMBERS, (5, 5), (5, 1)), r"tensor 'w' of shape \[5, 5\] reaches beyond its 24 numbers"),
        (Tensor(NUMBERS, (4,), (1,), offset=21), "reaches beyond its 24 numbers"),
        (Tensor(NUMBERS, (10**6, 10**6), (0, 0)), "reaches beyond its 24 numbers"),
        (Tensor(NUMBERS, (4,), (-1,), offset=20), "stride is not a row of whole numbers"),
        (Tensor(NUMBERS, (4,), (1, 1)), "1 axes and 2 strides"),
        (Tensor(NUMBERS, (1,) * 40, (1,) * 40), "40 axes"),
        (Tensor(NUMBERS, count=10**12), r"'0' are 96 bytes instead of 4000000000000|cut short or damaged"),
        (Tensor(NUMBERS, element_type="float8_e5m2"), "type float8_e5m2, which numpy has not"),
    ],
)
def test_claims_beyond_the_file_are_refused(tmp_path, write, tensor, message):
    with pytest.raises(UserError, match=rf"claim\.pth: refused.*{message}"):
        read_torch_weights(write(tmp_path / "claim.pth", {"w": tensor}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"without": ("data.pkl",)}, r"holds 0 data\.pkl"),
        ({"without": ("data/0",)}, "the numbers '0' are missing"),
        ({"more": {"../../evil": b"x"}}, "a path out of the archive"),
        ({"more": {"/etc/passwd": b"x"}}, "a path out of the archive"),
        ({"more": {"other/data.pkl": b"x"}}, r"holds 2 data\.pkl"),
        ({"more": {"archive/code/model.py": b"x"}}, "TorchScript program"),
        ({"compression": zipfile.ZIP_DEFLATED}, "compressed or encrypted"),
        ({"byte_order": b"middle"}, "byte order is b'middle'"),
    ],
)
def test_archives_that_torch_never_writes_are_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=rf"odd\.pth: refused.*{message}"):
        read_torch_weights(write_archive(tmp_path / "odd.pth", {"w": NUMBERS}, **options))


def test_a_key_is_no_path(tmp_path):
    (tmp_path / "secret").write_bytes(NUMBERS.tobytes())
    tensor = Tensor(NUMBERS, key=f"../../../../{tmp_path}/secret")
    with pytest.raises(UserError, match="path out of the archive"):
        read_torch_weights(write_archive(tmp_path / "key.pth", {"w": tensor}))


@WRITERS
def test_a_file_cut_anywhere_is_refused(tmp_path, write):
    whole = write(tmp_path / "whole.pth", {"w": NUMBERS, "v": NUMBERS}).read_bytes()
    for keep in [0, 1, 3, 10, *range(20, len(whole) - 1, 40), len(whole) - 1]:
        (tmp_path / "cut.pth").write_bytes(whole[:keep])
        with pytest.raises(UserError, match=r"cut\.pth: (refused|damaged)"):
            read_torch_weights(tmp_path / "cut.pth")


def test_numbers_that_changed_are_found(tmp_path):
    file = write_archive(tmp_path / "changed.pth", {"w": NUMBERS})
    file.write_bytes(file.read_bytes().replace(NUMBERS.tobytes(), (NUMBERS + 1).tobytes()))
    with pytest.raises(UserError, match="its zip archive is damaged at 'archive/data/0'"):
        read_torch_weights(file)


@pytest.mark.parametrize("content", [b"hello", pickle.dumps({"w": 1}, protocol=2), b"\x80\x02K\x01.", b"PK\x03\x04"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "other.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"other\.pth: refused"):
        read_torch_weights(tmp_path / "other.pth")


def test_a_missing_file_and_the_loader_of_our_own_weights_say_what_to_do(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_torch_weights(tmp_path / "none.pth")
    with pytest.raises(UserError, match=r"a format of PyTorch: convert it with tools/convert_weights\.py"):
        read_weights(write_archive(tmp_path / "theirs.pth", {"w": NUMBERS}))
