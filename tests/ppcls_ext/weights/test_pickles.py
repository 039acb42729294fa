"""Reading pickled weights of Paddle and PyTorch: every number comes back, and nothing in them is ever executed."""

from __future__ import annotations

import os
import pickle
import zipfile

import numpy as np
import pytest

from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import read_pickle, read_torch_weights, read_weights
from tests.support.torch_files import Call, Parameter, Tensor, TorchPickle, write_archive, write_old

WRITERS = pytest.mark.parametrize("write", [write_archive, write_old])
NUMBERS = np.arange(24, dtype=np.float32)


class _Command:
    """Unpickles by calling ``function(*arguments)``."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def assert_refused(read, file, message="") -> None:
    """The file is refused in one short line that names it."""
    with pytest.raises(UserError, match=message) as refusal:
        read(file)
    line = str(refusal.value)
    assert line.startswith(f"{file}: ") and "\n" not in line
    assert len(line) < len(str(file)) + 250


@pytest.mark.parametrize("kind", ["paddle", "zip", "old"])
def test_a_hostile_file_is_refused_by_name_and_nothing_runs(tmp_path, kind):
    witness, hostile = tmp_path / "witness", tmp_path / "hostile.pth"
    if kind == "paddle":
        content = pickle.dumps({"weight": _Command(os.system, f"touch {witness}")}, protocol=4)
        hostile = tmp_path / "hostile.pdparams"
        hostile.write_bytes(content)
        assert_refused(read_weights, hostile, r"nothing in it was executed: it asks for 'posix\.system'")
    else:
        command = Call("builtins", "eval", (f"open({str(witness)!r}, 'w')",))
        content = TorchPickle(command).content
        {"zip": write_archive, "old": write_old}[kind](hostile, {"model": {"w": NUMBERS}, "args": command})
        assert_refused(read_torch_weights, hostile, r"nothing in it was executed: it asks for 'builtins\.eval'")
    assert not witness.exists()
    pickle.loads(content)
    assert witness.exists(), "the file was harmless: the test proves nothing"


LISTS = b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(60))
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR(K\x01M\x00\x10\x85h\x01\x89h\x00tb"
ALIKE = b"B\x00\x10\x00\x00" + bytes(4096) + b"q\x000cnumpy\ndtype\n(X\x02\x00\x00\x00u1K\x00K\x01tRq\x010}("
ALIKE += b"".join(b"X\x01\x00\x00\x00" + letter.to_bytes(1, "big") + ARRAY for letter in range(65, 125)) + b"u"

WRONG_SHAPE = pickle.dumps({"w": np.ones((2, 4), np.uint8)}, 4).replace(b"K\x02K\x04", b"K\x02K\x09")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Nr\x00\x00\x00\x7f", "it holds LONG_BINPUT"),  # remember two thousand million objects
        (b"\x8e\x00\x00\x00\x00\x00\x00\x00\x7f", "damaged"),  # bytes without end
        (b"]q\x00" + LISTS, "holds a list, expected a dictionary"),  # two to the power of 60 lists
        (ALIKE, "larger than the file: they share their content"),
        (b"})" + b"\x85" * 100_000 + b"K\x01s", "it holds TUPLE1"),  # its hash ends the process
        (b"cnumpy\ndtype\n(N}X\x09\x00\x00\x00_functionNstb", "alter a function"),
        (b"(S'x'\niposix\nsystem\n", r"asks for 'posix\.system'"),
        (b"X\x05\x00\x00\x00numpyX\x0d\x00\x00\x00dtype.__new__\x93", r"asks for 'numpy\.dtype\.__new__'"),
        (pickle.dumps({"w": np.array([None], dtype=object)})[2:-1], "without a number type"),
        (WRONG_SHAPE[2:-1], r"shape \(2, 9\) with 8 bytes"),
    ],
)
def test_instructions_that_weights_never_need_are_refused(tmp_path, content, message):
    file = tmp_path / "odd.pdparams"
    file.write_bytes(b"\x80\x04" + content + b".")
    assert_refused(read_weights, file, message)


@WRITERS
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Tensor(NUMBERS, (4,), (1,), offset=21), "reaches beyond its 24 numbers"),
        (Tensor(NUMBERS, (10**6, 10**6), (0, 0)), "reaches beyond its 24 numbers"),
        (Tensor(NUMBERS, (4,), (-1,), offset=20), "stride is not a row of whole numbers"),
        (Tensor(NUMBERS, count=10**12), "cut short"),
        (Call("torch._utils", "_rebuild_sparse_tensor"), r"asks for 'torch\._utils\._rebuild_sparse_tensor'"),
        (b"ctorch\nFloatStorage\n}X\x04\x00\x00\x00sizeK\x63sb", "damaged"),  # alters a type
        (b"ctorch._utils\n_rebuild_tensor_v2\n}b", "alter a function"),
        (Call("torchvision.models.convnext", "ConvNeXt", (), {}, True), r"with its code; save torch\.save\(model"),
    ],
)
def test_claims_beyond_the_file_and_unknown_instructions_are_refused(tmp_path, write, content, message):
    assert_refused(read_torch_weights, write(tmp_path / "odd.pth", {"w": content}), message)


@WRITERS
def test_what_is_made_of_a_file_is_no_more_than_a_few_times_its_size(tmp_path, write):
    bits = Tensor(np.full(10_000, 0x3FC0, np.uint16), storage="BFloat16Storage", key="7")
    alike = {f"w{index}": bits for index in range(50)}
    assert_refused(read_torch_weights, write(tmp_path / "alike.pth", alike), "larger than the file")


def test_archives_that_torch_never_writes_are_refused(tmp_path):
    for options, message in (
        ({"without": ("data.pkl",)}, r"holds 0 data\.pkl"),
        ({"without": ("data/0",)}, "data/0 is missing"),
        ({"compression": zipfile.ZIP_DEFLATED}, "compressed"),
        ({"byte_order": b"big"}, "another byte order"),
    ):
        assert_refused(read_torch_weights, write_archive(tmp_path / "odd.pth", {"w": NUMBERS}, **options), message)
    # Older versions of PyTorch do not state the order of bytes.
    archive = write_archive(tmp_path / "old.pth", {"w": NUMBERS}, byte_order=None)
    assert np.array_equal(read_torch_weights(archive)["w"], NUMBERS)


@WRITERS
def test_a_file_cut_anywhere_is_refused(tmp_path, write):
    whole = write(tmp_path / "whole.pth", {"w": NUMBERS, "v": NUMBERS}).read_bytes()
    for keep in [0, 1, 3, *range(20, len(whole) - 1, 40), len(whole) - 1]:
        (tmp_path / "cut.pth").write_bytes(whole[:keep])
        assert_refused(read_torch_weights, tmp_path / "cut.pth", "refused|damaged")
    for keep in (0, 1, 30, -1):
        (tmp_path / "cut.pdparams").write_bytes(pickle.dumps({"weight": np.arange(100.0)}, protocol=4)[:keep])
        assert_refused(read_pickle, tmp_path / "cut.pdparams", "damaged")


def test_changed_other_and_missing_files_are_refused(tmp_path):
    file = write_archive(tmp_path / "changed.pth", {"w": NUMBERS})
    assert_refused(read_weights, file, r"a format of PyTorch: convert it with tools/convert_weights\.py")
    file.write_bytes(file.read_bytes().replace(NUMBERS.tobytes(), (NUMBERS + 1).tobytes()))
    assert_refused(read_torch_weights, file, "CRC-32.*data/0")
    for content in (b"hello", pickle.dumps({"w": 1}, protocol=2), b"PK\x03\x04"):
        (tmp_path / "other.pth").write_bytes(content)
        assert_refused(read_torch_weights, tmp_path / "other.pth", "refused|damaged")
    assert_refused(read_torch_weights, tmp_path / "none.pth", "cannot be read")


@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_every_kind_come_back_exactly(tmp_path, protocol):
    arrays = {
        "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">i4"),
        "half": np.array([0.5, -2.0], dtype=np.float16),
        "flags": np.array([True, False]),
        "scalar": np.float32(2.5),
        "nothing": np.zeros((0, 3), dtype=np.int64),
        "point": np.array(7, dtype=np.int64),
    }
    file = tmp_path / "arrays.pdparams"
    file.write_bytes(pickle.dumps(arrays, protocol=protocol))
    read = read_pickle(file)
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert (read[name].shape, read[name].dtype) == (array.shape, array.dtype.newbyteorder("="))
        np.testing.assert_array_equal(read[name], array)
        assert read[name].flags.writeable


def test_reads_what_paddle_saves(tmp_path):
    import paddle

    model = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
    optimizer = paddle.optimizer.AdamW(parameters=model.parameters())
    model(paddle.ones([1, 3, 8, 8])).sum().backward()
    optimizer.step()
    nested = {"model": model.state_dict(), "list": [paddle.arange(3)], "epoch": 3, "parameter": model[0].bias}
    paddle.save(nested, str(tmp_path / "nested.pdparams"))
    paddle.save(model.state_dict(), str(tmp_path / "model.pdparams"))
    paddle.save(optimizer.state_dict(), str(tmp_path / "state.pdopt"))
    content = read_pickle(tmp_path / "nested.pdparams")
    assert content["epoch"] == 3
    assert content["list"][0][1].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(content["parameter"][1], model[0].bias.numpy())
    weights = read_weights(tmp_path / "model.pdparams")
    assert list(weights) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(weights[name], tensor.numpy())
    state = read_pickle(tmp_path / "state.pdopt")
    assert sum(name.endswith("_moment1_0") for name in state) == 4


@WRITERS
def test_tensors_of_every_kind_views_and_bfloat16(tmp_path, write):
    kinds = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "c8")
    arrays = {kind: np.arange(6, dtype=kind).reshape(2, 3) for kind in kinds}
    arrays |= {"flags": np.array([True, False]), "scalar": np.array(2.5, np.float32), "none": np.zeros((0, 3))}
    weights = {
        **arrays,
        "whole": Tensor(NUMBERS, (4, 6), (6, 1), key="base"),
        "transposed": Tensor(NUMBERS, (6, 4), (1, 6), key="base"),
        "part": Tensor(NUMBERS, (2, 2), (6, 1), offset=8, key="base"),
        "parameter": Parameter(Tensor(NUMBERS, (24,), (1,), key="base")),
        "brain": Tensor(np.array([0x3FC0, 0xC000], dtype=np.uint16), storage="BFloat16Storage"),
    }
    read = read_torch_weights(write(tmp_path / "views.pth", weights))
    assert list(read) == list(weights)
    for name, array in arrays.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(read[name], array)
    np.testing.assert_array_equal(read["transposed"], NUMBERS.reshape(4, 6).T)
    np.testing.assert_array_equal(read["part"], NUMBERS.reshape(4, 6)[1:3, 2:4])
    np.testing.assert_array_equal(read["parameter"], NUMBERS)
    assert (read["brain"].dtype, read["brain"].tolist()) == (np.float32, [1.5, -2.0])


@WRITERS
def test_what_training_leaves_beside_the_weights_is_passed_over(tmp_path, write):
    """As the official repositories save: arguments of the training, paths in them, state of the optimizer."""
    arguments = {
        "output_dir": Call("pathlib", "PosixPath", ("/", "checkpoint")),
        "device": Call("torch", "device", ("cuda",)),
        "seeds": Call("__builtin__", "set", ([1, 2],)),
    }
    value = {
        "model": {"w": NUMBERS},
        "optimizer": {"state": {0: {"step": 3.0, "exp_avg": NUMBERS}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "epoch": 3,
        "args": Call("argparse", "Namespace", (), arguments, new_object=True),
    }
    read = read_torch_weights(write(tmp_path / "checkpoint.pth", value))
    assert list(read) == ["w"]
    np.testing.assert_array_equal(read["w"], NUMBERS)


def test_the_weights_are_chosen_among_entries_or_refused(tmp_path):
    several = {"model": {"w": NUMBERS}, "model_ema": {"w": NUMBERS + 1}, "epoch": 3}
    file = write_archive(tmp_path / "checkpoint.pth", several)
    assert read_torch_weights(file, "model_ema")["w"][0] == 1
    for value, entry, message in (
        (several, None, r"several sets of weights \(model, model_ema\): say which with --entry"),
        (several, "model_emma", "no weights under 'model_emma'; .*did you mean 'model_ema'"),
        ({"w": NUMBERS}, "model", "leave --entry model out"),
        ([1, 2], None, "holds a list, expected a dictionary"),
        ({}, None, "holds no weights"),
        ({"w": NUMBERS, "note": "text"}, None, "entry 'note' is a str, not a weight"),
        ({"two\nlines": 3}, None, r"entry 'two\\nlines' is a int, not a weight"),
    ):
        write_archive(file, value)
        assert_refused(lambda file, entry=entry: read_torch_weights(file, entry), file, message)
