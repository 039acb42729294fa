"""Reading a weight file never executes what is written in it."""

from __future__ import annotations

import os
import pickle
import subprocess

import numpy as np
import pytest

from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import read_pickle, read_weights


class _Command:
    """Unpickles by calling ``function(*arguments)``."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, r"posix\.system"), (eval, r"\.eval"), (subprocess.getoutput, r"\.getoutput")],
)
def test_hostile_file_is_refused_by_name_and_nothing_runs(tmp_path, function, name, protocol):
    witness = tmp_path / "witness"
    command = f"open({str(witness)!r}, 'w')" if function is eval else f"touch {witness}"
    hostile = tmp_path / "hostile.pdparams"
    hostile.write_bytes(pickle.dumps({"weight": _Command(function, command)}, protocol=protocol))
    with pytest.raises(UserError, match=name) as refusal:
        read_weights(hostile)
    assert str(hostile) in str(refusal.value)
    assert not witness.exists()
    pickle.loads(hostile.read_bytes())
    assert witness.exists(), "the file was harmless: the test proves nothing"


def test_a_permitted_global_cannot_be_altered(tmp_path):
    """The BUILD instruction sets attributes of whatever a global resolved to."""
    file = tmp_path / "altering.pdparams"
    # GLOBAL numpy.ndarray, state (None, {"_function": None}), BUILD, STOP.
    file.write_bytes(b"cnumpy\nndarray\n(N}X\x09\x00\x00\x00_functionNstb.")
    with pytest.raises(UserError, match="alter a function"):
        read_pickle(file)
    file.write_bytes(pickle.dumps({"fine": np.ones(2)}))
    assert read_pickle(file)["fine"].tolist() == [1.0, 1.0]


LISTS = b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(60))
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR(K\x01M\x00\x10\x85h\x01\x89h\x00tb"
ALIKE = b"B\x00\x10\x00\x00" + bytes(4096) + b"q\x000cnumpy\ndtype\n(X\x02\x00\x00\x00u1K\x00K\x01tRq\x010}("
ALIKE += b"".join(b"X\x01\x00\x00\x00" + letter.to_bytes(1, "big") + ARRAY for letter in range(97, 117)) + b"u"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Nr\x00\x00\x00\x7f", "holds a NoneType, expected a dictionary"),  # remember two thousand million objects
        (b"\x8e\x00\x00\x00\x00\x00\x00\x00\x7f", "damaged"),  # bytes without end
        (b"]q\x00" + LISTS, "holds a list, expected a dictionary"),  # two to the power of 60 lists
        (ALIKE, "larger than the file: they share their content"),
        (b"})" + b"\x85" * 100_000 + b"K\x01s", "a dictionary with a tuple as key"),  # its hash ends the process
        (b"}K\x01)q\x00" + b"0h\x00\x85q\x00" * 300 + b"s", "entry 1 is a tuple, not a weight"),
        (b"\x8f(" + b")" + b"\x85" * 100_000 + b"\x90", "it holds a set"),
        (b"(" + b")" + b"\x85" * 100_000 + b"\x91", "it holds a set"),
        (b"\x8b\x00\x02\x00\x00" + b"\x7f" * 512, "holds a int, expected a dictionary"),
        (b"cbuiltins\ntuple\n]\x85R", "makes a tuple of something else"),
        (b"K\x01(N}X\x03\x00\x00\x00a\nbK\x01stb", r"no attribute 'a\\nb'"),
        (b"Pkey\n", "persistent id"),
        (b"\x82\x01", "unregistered extension"),
        (b"cnumpy\ndtype\n)\x81", "is not a type"),
        (b"cnumpy\ndtype\n)}\x92", "is not a type"),
        (b"(S'x'\niposix\nsystem\n", r"asks for 'posix\.system'"),
        (b"(cposix\nsystem\nS'x'\no", r"asks for 'posix\.system'"),
        (b"X\x05\x00\x00\x00numpyX\x0d\x00\x00\x00dtype.__new__\x93", r"asks for 'numpy\.dtype\.__new__'"),
        (b"}X\x88\x13\x00\x00" + b"k" * 5000 + b"Ns", r"entry 'k+\.\.\. is a NoneType"),
    ],
)
def test_instructions_that_weights_never_need_are_refused_in_one_short_line(tmp_path, content, message):
    file = tmp_path / "odd.pdparams"
    file.write_bytes(b"\x80\x04" + content + b".")
    with pytest.raises(UserError, match=message) as refusal:
        read_weights(file)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < len(str(file)) + 250


def test_object_arrays_are_refused(tmp_path):
    file = tmp_path / "objects.pdparams"
    file.write_bytes(pickle.dumps({"weight": np.array([None, "text"], dtype=object)}))
    with pytest.raises(UserError, match="'O8', which is not a number type"):
        read_pickle(file)


@pytest.mark.parametrize("keep", [0, 1, 30, -1])
def test_truncated_file_is_refused(tmp_path, keep):
    file = tmp_path / "cut.pdparams"
    file.write_bytes(pickle.dumps({"weight": np.arange(100.0)}, protocol=4)[:keep])
    with pytest.raises(UserError, match=r"cut\.pdparams: damaged"):
        read_pickle(file)


def test_content_must_match_the_shape(tmp_path):
    content = pickle.dumps({"weight": np.arange(8, dtype=np.uint8).reshape(2, 4)}, protocol=4)
    shape = b"K\x02K\x04\x86"
    assert content.count(shape) == 1
    file = tmp_path / "shape.pdparams"
    file.write_bytes(content.replace(shape, b"K\x02K\x09\x86"))
    with pytest.raises(UserError, match=r"shape \[2, 9\] with 8 bytes"):
        read_pickle(file)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
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
        assert read[name].shape == array.shape
        assert read[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(read[name], array)
        assert read[name].flags.writeable


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_what_paddle_saves(tmp_path, protocol):
    import paddle

    model = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
    nested = {"model": model.state_dict(), "list": [paddle.arange(3)], "epoch": 3, "parameter": model[0].bias}
    paddle.save(nested, str(tmp_path / "nested.pdparams"), protocol=protocol)
    paddle.save(model.state_dict(), str(tmp_path / "model.pdparams"), protocol=protocol)
    content = read_pickle(tmp_path / "nested.pdparams")
    assert content["epoch"] == 3
    assert content["list"][0][1].tolist() == [0, 1, 2]
    assert content["parameter"][1].tolist() == [0.0] * 4
    weights = read_weights(tmp_path / "model.pdparams")
    assert list(weights) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(weights[name], tensor.numpy())


def test_optimizer_state_is_readable(tmp_path):
    import paddle

    layer = paddle.nn.Linear(2, 2)
    optimizer = paddle.optimizer.AdamW(parameters=layer.parameters())
    layer(paddle.ones([1, 2])).sum().backward()
    optimizer.step()
    paddle.save(optimizer.state_dict(), str(tmp_path / "state.pdopt"))
    state = read_pickle(tmp_path / "state.pdopt")
    moments = [name for name in state if name.endswith("_moment1_0")]
    assert len(moments) == 2
    assert all(np.abs(state[name]).max() > 0 for name in moments)
