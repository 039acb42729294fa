"""Reads the weights in a file of ``torch.save`` (``.pth``, ``.pt``) without PyTorch; executes nothing in it.

There are two formats: a zip archive, and before PyTorch 1.6 pickles followed by raw numbers. PyTorch writes the numbers
of tensors ("storages") beside the pickle; the pickle tells which part of which storage a tensor is. What it names is
answered, as in `pickles`, with stand-ins: those for tensors collect that description, and those for what checkpoints
carry besides weights (the command line of the training, paths, random states) swallow everything. Any other name
refuses the whole file. Nothing is unpacked to the disk: an entry's name is only ever compared.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from ppcls_ext.utils.errors import UserError, suggestion
from ppcls_ext.weights.files import bfloat16_to_float32
from ppcls_ext.weights.pickles import (
    LONGEST_AXIS,
    RefusedError,
    SafeUnpickler,
    StandIn,
    faults_of_file,
    first_of,
    shown,
)

BFLOAT16 = "bfloat16"


class _Unalterable:
    """What the pickle's BUILD instruction cannot alter."""

    def __setstate__(self, state: Any) -> NoReturn:
        raise RefusedError("it tries to alter a tensor or a type")


@dataclass(frozen=True)
class ElementType(_Unalterable):
    """A type of numbers.

    Attributes:
        name: PyTorch's name.
        code: numpy's code without byte order, "u2" for the bits of a bfloat16; None for a type that numpy has not.
        size: bytes of a number.
    """

    name: str
    code: str | None
    size: int


ELEMENT_TYPES = {
    name: ElementType(name, code, int(code[1:]))
    for name, code in {
        "float64": "f8",
        "float32": "f4",
        "float16": "f2",
        BFLOAT16: "u2",
        "complex64": "c8",
        "complex128": "c16",
        "int64": "i8",
        "int32": "i4",
        "int16": "i2",
        "int8": "i1",
        "uint64": "u8",
        "uint32": "u4",
        "uint16": "u2",
        "uint8": "u1",
        "bool": "b1",
    }.items()
} | {f"float8_{kind}": ElementType(f"float8_{kind}", None, 1) for kind in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz")}
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": BFLOAT16,
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}


@dataclass(frozen=True)
class StorageRecord(_Unalterable):
    """Numbers that lie beside the pickle.

    Attributes:
        key: their name in the file.
        element_type: type of the numbers.
        count: how many the pickle says they are.
    """

    key: str
    element_type: ElementType
    count: int

    @property
    def bytes(self) -> int:
        return self.count * self.element_type.size


@dataclass(frozen=True)
class TensorRecord(_Unalterable):
    """A tensor as the pickle describes it: a part of a storage. Nothing of this is checked yet.

    Attributes:
        storage: where its numbers lie.
        element_type: their type; it may differ from the storage's, which may be plain bytes.
        offset: index of the first number.
        shape: lengths of the axes.
        strides: numbers from one index to the next, for each axis.
    """

    storage: StorageRecord
    element_type: ElementType
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Table(dict):
    """A dictionary that ignores what a pickle wants to hang on it, such as the ``_metadata`` of a state dictionary."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class Opaque:
    """Stands for whatever a checkpoint carries besides weights: takes everything, keeps nothing, does nothing.

    A class and not a ``StandIn``, because the pickle's NEWOBJ instruction accepts classes only.
    """

    __slots__ = ()

    def __new__(cls, *_unused: Any, **_also_unused: Any) -> Opaque:
        return object.__new__(cls)

    def __init__(self, *_unused: Any, **_also_unused: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Takes an item of a list."""

    def extend(self, values: Any) -> None:
        """Takes items of a list."""

    def add(self, value: Any) -> None:
        """Takes an item of a set."""


def _numbers(value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not all(type(number) is int and 0 <= number <= LONGEST_AXIS for number in value):
        raise RefusedError(f"it holds a tensor whose {what} is not a row of whole numbers")
    return value


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_unused: Any) -> TensorRecord:
    if not isinstance(storage, StorageRecord):
        raise RefusedError("it holds a tensor without numbers")
    (start,) = _numbers((offset,), "offset")
    return TensorRecord(storage, storage.element_type, start, _numbers(shape, "shape"), _numbers(strides, "stride"))


def _tensor_of_type(
    storage: Any, offset: Any, shape: Any, strides: Any, _gradient: Any, _hooks: Any, element_type: Any, *_unused: Any
) -> TensorRecord:
    record = _tensor(storage, offset, shape, strides)
    if not isinstance(element_type, ElementType):
        raise RefusedError("it holds a tensor without a number type")
    return TensorRecord(record.storage, element_type, record.offset, record.shape, record.strides)


def _size(lengths: Any = ()) -> tuple[int, ...]:
    # The very same, not a copy: a file could ask for many of a long one.
    return _numbers(lengths, "shape")


def _parameter(data: Any, *_unused: Any) -> TensorRecord:
    if not isinstance(data, TensorRecord):
        raise RefusedError("it holds a parameter without a tensor")
    return data


def _tensor_with_attributes(function: Any, _kind: Any, arguments: Any, _attributes: Any) -> TensorRecord:
    if function not in _TENSOR_STAND_INS.values() or not isinstance(arguments, tuple):
        raise RefusedError("it builds a tensor in an unusual way")
    return function(*arguments)


_TENSOR_STAND_INS = {
    ("torch._utils", "_rebuild_tensor"): StandIn(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): StandIn(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): StandIn(_tensor_of_type),
    ("torch._utils", "_rebuild_parameter"): StandIn(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): StandIn(_parameter),
}
_PLAIN_STAND_INS = {
    ("torch._tensor", "_rebuild_from_type_v2"): StandIn(_tensor_with_attributes),
    ("torch", "Size"): StandIn(_size),
    ("collections", "OrderedDict"): StandIn(lambda: _Table()),
    ("collections", "defaultdict"): StandIn(lambda *_unused: _Table()),
}
# What training loops put beside the weights. None of it is ever called or built.
_INERT = {
    "argparse": ("Namespace",),
    "builtins": ("set", "frozenset", "slice", "range", "complex", "bytearray", "int", "float", "str", "dict", "list"),
    "collections": ("Counter", "deque"),
    "datetime": ("datetime", "date", "time", "timedelta", "timezone"),
    "pathlib": ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"),
    "numpy": ("dtype", "ndarray", "float64", "float32", "int64", "int32", "bool_"),
    "numpy.core.multiarray": ("scalar", "_reconstruct"),
    "numpy._core.multiarray": ("scalar", "_reconstruct"),
    "torch": ("device", "Tensor", "Generator"),
    "torch.nn.parameter": ("Parameter",),
    "_codecs": ("encode",),
}
_INERT["__builtin__"] = _INERT["builtins"]


def _permitted() -> dict[tuple[str, str], Any]:
    permitted: dict[tuple[str, str], Any] = {**_TENSOR_STAND_INS, **_PLAIN_STAND_INS}
    permitted |= {(module, name): Opaque for module, names in _INERT.items() for name in names}
    permitted |= {("torch", name): element_type for name, element_type in ELEMENT_TYPES.items()}
    for storage, name in STORAGES.items():
        permitted |= {(module, storage): ELEMENT_TYPES[name] for module in ("torch", "torch.cuda", "torch.storage")}
    return permitted


PERMITTED = _permitted()
# Of these a pickle names classes when a whole model was saved, with its code, in the place of its weights.
CODE = ("torch.nn.", "torchvision.", "timm.", "models.", "__main__", "__torch__")


class TorchUnpickler(SafeUnpickler):
    """Reads one pickle of a file of ``torch.save``; tensors become ``TensorRecord``.

    Args:
        stream: what to read from.

    Attributes:
        storages: every storage that the pickle named, by its key.
    """

    permitted = PERMITTED

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)
        self.storages: dict[str, StorageRecord] = {}

    def advice(self, module: str) -> str:
        if module.startswith(CODE):
            return "a model was saved with its code; save its weights alone, torch.save(model.state_dict(), ...)"
        return "checkpoints need tensors and plain values only"

    def persistent_load(self, pid: Any) -> StorageRecord:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise RefusedError("it names an unknown kind of content")
        _kind, element_type, key, _device, count = pid[:5]
        counted = type(count) is int and 0 <= count <= LONGEST_AXIS
        if not isinstance(element_type, ElementType) or not isinstance(key, str) or not counted:
            raise RefusedError("it holds numbers without a type, a name or a count")
        if len(pid) == 6 and pid[5] is not None:
            raise RefusedError("it holds views of storages, as files older than PyTorch 0.4 do: save it anew")
        record = StorageRecord(key, element_type, count)
        if self.storages.setdefault(key, record).bytes != record.bytes:
            raise RefusedError(f"it gives the numbers '{shown(key)}' two sizes")
        return record


ZIP_START = b"PK\x03\x04"
PICKLE_START = b"\x80"
# The number that opens a file of the older format, and the only version of it.
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
OLD_VERSION = 1001
# Before the numbers of each storage there stands their count, as 8 bytes.
COUNT_BYTES = 8
PICKLE = "data.pkl"
BYTE_ORDERS = {b"little": "<", b"big": ">"}
ZIP_FAULTS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error)
RESAVE = "save it anew with today's PyTorch"


@dataclass(frozen=True)
class TorchContent:
    """What a file of ``torch.save`` holds.

    Attributes:
        value: the saved object; tensors in it are ``TensorRecord``.
        read: returns the bytes of a storage, as many as its record says or more; valid while the file is open.
        byte_order: of all numbers, "<" or ">".
    """

    value: Any
    read: Callable[[StorageRecord], bytes]
    byte_order: str


def open_torch_file(stream: IO[bytes], size: int) -> TorchContent:
    """Reads all of a file of ``torch.save`` but the numbers.

    Args:
        stream: the file, at its beginning.
        size: its bytes.

    Raises:
        RefusedError: it is of neither format, holds what weights never need, or contradicts itself.
    """
    start = stream.read(len(ZIP_START))
    stream.seek(0)
    if start == ZIP_START:
        return _open_archive(stream, size)
    if start.startswith(PICKLE_START):
        return _open_old(stream, size)
    raise RefusedError(f"it begins neither as a zip archive nor as a pickle, as files of torch.save do; {RESAVE}")


def _open_archive(stream: IO[bytes], size: int) -> TorchContent:
    try:
        archive = zipfile.ZipFile(stream)
    except ZIP_FAULTS as error:
        raise RefusedError(f"its zip archive is cut short or damaged ({shown(error)})") from error
    entries = _checked_entries(archive, size)
    pickles = [name for name in entries if name.rpartition("/")[2] == PICKLE]
    if len(pickles) != 1:
        raise RefusedError(f"its zip archive holds {len(pickles)} {PICKLE}, expected one: not a file of torch.save")
    folder = pickles[0].removesuffix(PICKLE)
    if any(name.startswith(f"{folder}code/") for name in entries):
        raise RefusedError("it is a TorchScript program, not a checkpoint: save the weights alone")
    stream_of_pickle = io.BytesIO(_content(archive, entries[pickles[0]]))
    order = _content(archive, entries[f"{folder}byteorder"]) if f"{folder}byteorder" in entries else b"little"
    if order not in BYTE_ORDERS:
        raise RefusedError(f"its byte order is {order[:20]!r}")

    def read(record: StorageRecord) -> bytes:
        entry = entries.get(f"{folder}data/{record.key}")
        key = shown(record.key)
        if entry is None:
            raise RefusedError(f"the numbers '{key}' are missing in it")
        if entry.file_size < record.bytes:
            raise RefusedError(f"the numbers '{key}' are {entry.file_size} bytes instead of {record.bytes}")
        return _content(archive, entry)

    return TorchContent(_unpickled(stream_of_pickle)[0], read, BYTE_ORDERS[order])


def _unpickled(stream: IO[bytes]) -> tuple[Any, dict[str, StorageRecord]]:
    """Returns what the pickle at the place of ``stream`` holds, and the storages that it names."""
    unpickler = TorchUnpickler(stream)
    return unpickler.load(), unpickler.storages


def _checked_entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Returns the archive's entries by name. PyTorch compresses nothing, so that no entry is larger than the file."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name, fault = entry.filename, None
        if name in entries:
            fault = "twice"
        elif name.startswith("/") or "\\" in name or ".." in name.split("/"):
            fault = "a path out of the archive"
        elif entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            fault = "compressed or encrypted, which torch.save never does"
        if fault:
            raise RefusedError(f"its zip archive holds '{shown(name)}', {fault}")
        entries[name] = entry
    if sum(entry.file_size for entry in entries.values()) > size:
        raise RefusedError("its zip archive claims more content than the file has bytes")
    return entries


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    try:
        content = archive.read(entry)
    except ZIP_FAULTS as error:  # among others, the checksum of the content
        raise RefusedError(f"its zip archive is damaged at '{shown(entry.filename)}' ({shown(error)})") from error
    if len(content) != entry.file_size:
        raise RefusedError(f"its zip archive is cut short at '{shown(entry.filename)}'")
    return content


def _open_old(stream: IO[bytes], size: int) -> TorchContent:
    if _unpickled(stream)[0] != MAGIC_NUMBER:
        raise RefusedError("it is a pickle, but none of torch.save")
    version, _ = _unpickled(stream)
    if version != OLD_VERSION:
        raise RefusedError(f"it is of version {shown(repr(version))} of the older format of torch.save; {RESAVE}")
    system, _ = _unpickled(stream)
    little = system.get("little_endian", True) if isinstance(system, dict) else True
    value, storages = _unpickled(stream)
    keys, _ = _unpickled(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise RefusedError("it does not list its numbers")
    places = _places_of_storages(stream, size, keys, storages, "little" if little else "big")

    def read(record: StorageRecord) -> bytes:
        if record.key not in places:
            raise RefusedError(f"the numbers '{shown(record.key)}' are missing in it")
        stream.seek(places[record.key])
        return stream.read(record.bytes)

    return TorchContent(value, read, "<" if little else ">")


def _places_of_storages(
    stream: IO[bytes], size: int, keys: list[str], storages: dict[str, StorageRecord], byte_order: str
) -> dict[str, int]:
    """Returns where the numbers of each storage begin in a file of the older format."""
    places = {}
    for key in keys:
        if key not in storages or key in places:
            raise RefusedError(f"it lists the numbers '{shown(key)}', which no tensor has, or lists them twice")
        record = storages[key]
        count = int.from_bytes(stream.read(COUNT_BYTES), byte_order)
        places[key] = stream.tell()
        if count != record.count or places[key] + record.bytes > size:
            raise RefusedError(f"it is cut short or damaged at the numbers '{shown(key)}'")
        stream.seek(places[key] + record.bytes)
    return places


# numpy has no more axes.
MOST_AXES = 32
SHOWN_ENTRIES = 8


def read_torch_weights(path: str | os.PathLike[str], entry: str | None = None) -> dict[str, np.ndarray]:
    """Reads one set of weights of a file of ``torch.save``: the format of today (zip) or that before PyTorch 1.6.

    What else lies in the file (optimizer state, arguments of the training) is not read.

    Args:
        path: the file.
        entry: which entry of the file holds the weights ("model", "model_ema"); None: there must be one only.

    Returns:
        Arrays by name, not to be written to; bfloat16 is widened to float32.

    Raises:
        UserError: missing, damaged, refused, without weights, or with several sets of them and no ``entry``. Nothing in
            the file is executed.
    """
    file = Path(path)
    with faults_of_file(file, "torch.save"), open(file, "rb") as stream:
        content = open_torch_file(stream, file.stat().st_size)
        records = _chosen(content.value, entry, str(file))
        return _arrays(content, records)


def _chosen(value: Any, entry: str | None, label: str) -> dict[str, TensorRecord]:
    """Returns the one set of weights that is meant."""
    if not isinstance(value, dict):
        raise UserError(f"{label}: holds a {_kind(value)}, expected a dictionary of weights by name")
    found = {name: each for name, each in value.items() if isinstance(name, str) and _is_weights(each)}
    if not found and _is_weights(value):
        if entry is not None:
            raise UserError(f"{label}: holds the weights themselves and no entries: leave --entry {entry} out")
        return _checked(value, label)
    if not found:
        names = first_of(value, SHOWN_ENTRIES) or "nothing"
        raise UserError(f"{label}: holds no weights by name, only: {names}")
    entries = first_of(found, SHOWN_ENTRIES)
    if entry is None and len(found) > 1:
        raise UserError(f"{label}: holds several sets of weights ({entries}): say which with --entry")
    chosen = entry if entry is not None else next(iter(found))
    if chosen not in found:
        near = suggestion(chosen, found)
        raise UserError(f"{label}: no weights under '{chosen}'; there are {entries}{near}")
    return _checked(found[chosen], f"{label}: {shown(chosen)}")


def _is_weights(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(each, TensorRecord) for each in value.values())


def _checked(weights: dict[Any, Any], label: str) -> dict[str, TensorRecord]:
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, TensorRecord):
            raise UserError(f"{label}: entry {shown(repr(name))} is a {_kind(value)}, not a weight")
    return weights


def _kind(value: Any) -> str:
    return "tensor" if isinstance(value, TensorRecord) else type(value).__name__.lower().lstrip("_")


def _arrays(content: TorchContent, records: dict[str, TensorRecord]) -> dict[str, np.ndarray]:
    # By storage and type: thousands of tensors may be parts of the same numbers, which are read and turned round once.
    numbers: dict[tuple[str, ElementType], np.ndarray] = {}
    arrays = {}
    for name, record in records.items():
        kept = (record.storage.key, record.element_type)
        if kept not in numbers:
            numbers[kept] = _numbers_of(name, record, content)
        arrays[name] = _array(name, record, numbers[kept])
    return arrays


def _numbers_of(name: str, record: TensorRecord, content: TorchContent) -> np.ndarray:
    """Returns all numbers of the storage of a tensor, ``[N]``, as this machine keeps them."""
    kind = record.element_type
    if kind.code is None:
        raise RefusedError(f"tensor '{shown(name)}' is of type {kind.name}, which numpy has not")
    theirs = np.dtype(kind.code).newbyteorder(content.byte_order)
    storage = content.read(record.storage)
    numbers = np.frombuffer(storage, dtype=theirs, count=len(storage) // theirs.itemsize)
    numbers = numbers.astype(theirs.newbyteorder("="), copy=False)
    return bfloat16_to_float32(numbers) if kind.name == BFLOAT16 else numbers


def _array(name: str, record: TensorRecord, numbers: np.ndarray) -> np.ndarray:
    """Cuts a tensor out of the numbers of its storage, as a view: however many there are, they take no memory."""
    shape, strides = record.shape, record.strides
    if len(shape) != len(strides) or len(shape) > MOST_AXES:
        raise RefusedError(f"tensor '{shown(name)}' has {len(shape)} axes and {len(strides)} strides")
    size = math.prod(shape)
    last = record.offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if size and (last >= numbers.size or size > numbers.size):
        raise RefusedError(
            f"tensor '{shown(name)}' of shape {shown(list(shape))} reaches beyond its {numbers.size} numbers"
        )
    if not size:
        return np.empty(shape, dtype=numbers.dtype)
    steps = [stride * numbers.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(numbers[record.offset :], shape, steps, writeable=False)
