"""The pickles inside files of ``torch.save``, read without PyTorch and without ever calling what they name.

PyTorch writes the numbers of tensors ("storages") beside the pickle; the pickle tells which part of which storage a
tensor is. What it names is answered, as in ``pickles``, with stand-ins: those for tensors collect that description,
and those for what checkpoints carry besides weights (the command line of the training, paths, random states) swallow
everything. Any other name refuses the whole file.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import IO, Any, NoReturn

from ppcls_ext.weights.names import shown
from ppcls_ext.weights.pickle_claims import RefusedError
from ppcls_ext.weights.pickles import StandIn

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
    if not isinstance(value, tuple) or not all(type(number) is int and number >= 0 for number in value):
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


class TorchUnpickler(pickle.Unpickler):
    """Reads one pickle of a file of ``torch.save``; tensors become ``TensorRecord``.

    Args:
        stream: what to read from.

    Attributes:
        storages: every storage that the pickle named, by its key.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream, encoding="latin1")
        self.storages: dict[str, StorageRecord] = {}

    def find_class(self, module: str, name: str) -> StandIn | ElementType | type[Opaque]:
        if (module, name) in PERMITTED:
            return PERMITTED[(module, name)]
        advice = "checkpoints need tensors and plain values only"
        if module.startswith(CODE):
            advice = "a model was saved with its code; save its weights alone, torch.save(model.state_dict(), ...)"
        raise RefusedError(f"it asks for '{shown(f'{module}.{name}')}'; {advice}")

    def persistent_load(self, pid: Any) -> StorageRecord:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise RefusedError("it names an unknown kind of content")
        _kind, element_type, key, _device, count = pid[:5]
        if not isinstance(element_type, ElementType) or not isinstance(key, str) or type(count) is not int or count < 0:
            raise RefusedError("it holds numbers without a type, a name or a count")
        if len(pid) == 6 and pid[5] is not None:
            raise RefusedError("it holds views of storages, as files older than PyTorch 0.4 do: save it anew")
        record = StorageRecord(key, element_type, count)
        if self.storages.setdefault(key, record).bytes != record.bytes:
            raise RefusedError(f"it gives the numbers '{shown(key)}' two sizes")
        return record
