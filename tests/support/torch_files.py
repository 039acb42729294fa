"""Files of ``torch.save`` made without PyTorch: the pickle opcode by opcode, then the archive or the older format."""

from __future__ import annotations

import pickle
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
STORAGES = {
    "f2": "HalfStorage", "f4": "FloatStorage", "f8": "DoubleStorage", "i1": "CharStorage", "i2": "ShortStorage",
    "i4": "IntStorage", "i8": "LongStorage", "u1": "ByteStorage", "b1": "BoolStorage", "c8": "ComplexFloatStorage",
}  # fmt: skip


@dataclass
class Tensor:
    """A tensor as a file describes it; what is None is taken from ``numbers``, and a test may say anything else."""

    numbers: np.ndarray
    shape: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    offset: int = 0
    storage: str | None = None
    count: int | None = None
    key: str | None = None


@dataclass
class Call:
    """Something that the pickle makes by calling ``module.name(*arguments)``, then giving it ``state``."""

    module: str
    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    new_object: bool = False


@dataclass
class Parameter:
    """A tensor wrapped as ``torch.nn.Parameter``."""

    tensor: Tensor | np.ndarray


class TorchPickle:
    """Writes a value as PyTorch does: protocol 2, tensors by reference to storages.

    Args:
        value: what to write.
        old: for the older format, which tells of views of storages too.

    Attributes:
        storages: bytes of each storage, and how many numbers the pickle claims, by key.
    """

    def __init__(self, value: Any, old: bool = False) -> None:
        self.storages: dict[str, tuple[bytes, int]] = {}
        self.more = (None,) if old else ()
        self.content = b"\x80\x02" + self._of(value) + b"."

    def _of(self, value: Any) -> bytes:
        if isinstance(value, bytes):
            return value
        if isinstance(value, np.ndarray):
            return self._of(Tensor(value))
        writers = {Tensor: self._of_tensor, Call: self._of_call, Parameter: self._of_parameter, dict: self._of_table}
        if type(value) in writers:
            return writers[type(value)](value)
        if isinstance(value, tuple):
            return b"(" + b"".join(map(self._of, value)) + b"t"
        # Plain values: Python's own pickle of them, without its first two bytes and its last.
        return pickle.dumps(value, protocol=2)[2:-1]

    def _of_table(self, table: dict[Any, Any], state: Any = None) -> bytes:
        items = b"".join(self._of(key) + self._of(value) for key, value in table.items())
        written = b"ccollections\nOrderedDict\n)R(" + items + b"u"
        # A state dictionary carries versions of its layers as an attribute.
        return written + b"}(" + self._of("_metadata") + self._of(1) + b"ub"

    def _of_call(self, call: Call) -> bytes:
        written = f"c{call.module}\n{call.name}\n".encode() + self._of(call.arguments)
        written += b"\x81" if call.new_object else b"R"
        return written if call.state is None else written + self._of(call.state) + b"b"

    def _of_parameter(self, parameter: Parameter) -> bytes:
        return self._of(Call("torch._utils", "_rebuild_parameter", (parameter.tensor, True, {})))

    def _of_tensor(self, tensor: Tensor) -> bytes:
        numbers = np.ascontiguousarray(tensor.numbers).reshape(np.shape(tensor.numbers))
        key = tensor.key if tensor.key is not None else str(len(self.storages))
        count = numbers.size if tensor.count is None else tensor.count
        self.storages.setdefault(key, (numbers.tobytes(), count))
        storage = tensor.storage or STORAGES[numbers.dtype.str[1:]]
        kind = f"ctorch\n{storage}\n".encode()
        reference = self._of(("storage", kind, key, "cpu", count, *self.more)) + b"Q"
        shape = numbers.shape if tensor.shape is None else tensor.shape
        steps = [step // numbers.itemsize for step in numbers.strides]
        strides = tuple(steps) if tensor.strides is None else tensor.strides
        arguments: tuple[Any, ...] = (reference, tensor.offset, shape, strides, False, {})
        return self._of(Call("torch._utils", "_rebuild_tensor_v2", arguments))


def write_archive(
    path: Path, value: Any, compression: int = zipfile.ZIP_STORED, byte_order: bytes | None = b"little",
    without: tuple[str, ...] = (),
) -> Path:  # fmt: skip
    """Writes ``value`` in the format of PyTorch 1.6 and later; ``without`` leaves entries out."""
    content = TorchPickle(value)
    entries = {"data.pkl": content.content, "version": b"3\n"}
    entries |= {f"data/{key}": numbers for key, (numbers, _) in content.storages.items()}
    if byte_order is not None:
        entries["byteorder"] = byte_order
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, numbers in entries.items():
            if name not in without:
                archive.writestr(f"archive/{name}", numbers)
    return path


def write_old(path: Path, value: Any) -> Path:
    """Writes ``value`` in the format of PyTorch before 1.6."""
    content = TorchPickle(value, old=True)
    head = [MAGIC_NUMBER, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}]
    keys = sorted(content.storages)
    parts = [pickle.dumps(each, protocol=2) for each in head] + [content.content, pickle.dumps(keys, protocol=2)]
    parts += [struct.pack("<q", content.storages[key][1]) + content.storages[key][0] for key in keys]
    path.write_bytes(b"".join(parts))
    return path
