"""Reads pickled weights of Paddle (``.pdparams``) and PyTorch (``.pth``) without executing what is written in them.

A pickle is a program: it names functions ("globals") and calls them. `SafeUnpickler` answers the few names that honest
files use with stand-ins of our own, which collect shapes, types and raw bytes; any other name refuses the whole file.

``paddle.save`` writes dictionaries of numpy arrays; some objects become ``(name, array)`` tuples. ``torch.save`` writes
the numbers of tensors ("storages") beside the pickle: as entries of a zip archive, before PyTorch 1.6 behind it. A
tensor is a strided view of a storage.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np

from ppcls_ext.utils.errors import UserError, suggestion

# Element types of arrays. Never "O" (objects) or "V" (raw memory).
NUMBER_TYPES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"])
# What is made of a file may take this many times its size: a file of a few bytes could mention one array for ever.
ROOM = 4
# Python computes the hash of tuples in tuples by recursion in C, which beyond this ends the process.
MOST_TUPLES = 50_000
DAMAGE = (
    pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, ImportError, AttributeError, LookupError,
    TypeError, ValueError, MemoryError, OverflowError, RuntimeError,
)  # fmt: skip
LONGEST_NAME, SHOWN_NAMES, SHOWN_ENTRIES = 100, 4, 8


def shown(name: object) -> str:
    """Returns a name of a foreign file as text without line breaks or control characters, cut to a readable length."""
    text = str(name)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}..."


def first_of(names: Iterable[object], count: int = SHOWN_NAMES) -> str:
    """Returns the first ``count`` names in one line."""
    listed = list(names)
    return ", ".join(map(shown, listed[:count])) + (", ..." if len(listed) > count else "")


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """Widens bfloat16 numbers, given as their 16 bits (uint16, any shape), to float32 without loss."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class RefusedError(Exception):
    """The file asks for something that weights never need."""


class StandIn:
    """Stands for an allowed function in a pickle: callable, and the pickle's BUILD instruction cannot alter it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> NoReturn:
        raise RefusedError("it tries to alter a function")


class Opaque:
    """Stands for whatever a checkpoint carries besides weights: takes everything, keeps nothing, does nothing."""

    __slots__ = ()

    def __new__(cls, *_unused: Any, **_also_unused: Any) -> Opaque:
        return object.__new__(cls)

    def __init__(self, *_unused: Any, **_also_unused: Any) -> None: ...

    def _ignore(self, *_unused: Any) -> None: ...

    __setstate__ = __setitem__ = append = extend = add = _ignore


class Table(dict):
    """A dictionary that ignores what a pickle hangs on it, such as the ``_metadata`` of PyTorch's."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None: ...


class PickledType:
    """A ``numpy.dtype``: its code, such as "f4", and from its state the byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_unused: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class PickledArray:
    """A ``numpy.ndarray``, from ``(content, type, shape, order)`` or from its state."""

    __slots__ = ("form",)

    def __init__(self, *form: Any) -> None:
        self.form = form

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, is_fortran, content = state
        self.form = (content, kind, shape, "F" if is_fortran else "C")

    def array(self) -> np.ndarray:
        """Returns the array: a copy in the machine's byte order, because the content is read-only."""
        content, kind, shape, order = self.form or (None, None, None, None)
        if not isinstance(kind, PickledType) or not isinstance(content, bytes | bytearray):
            raise RefusedError("it holds an array without a number type or without raw content")
        code, byte_order = (each.decode() if isinstance(each, bytes) else each for each in (kind.code, kind.order))
        if code not in NUMBER_TYPES or byte_order not in ("<", ">", "|", "="):
            raise RefusedError(f"it holds an array of element type {shown(repr(code))}, which is not a number type")
        element_type = np.dtype(code).newbyteorder(byte_order)
        if not whole_numbers(shape) or len(content) != math.prod(shape) * element_type.itemsize:
            raise RefusedError(f"it holds an array of shape {shown(shape)} with {len(content)} bytes")
        flat = np.frombuffer(content, dtype=element_type)
        return flat.reshape(shape, order=order).astype(element_type.newbyteorder("="), order="C", copy=True)


def whole_numbers(value: Any) -> bool:
    """Whether ``value`` is a tuple of whole numbers, none negative and none absurd."""
    return isinstance(value, tuple) and all(type(number) is int and 0 <= number < 2**48 for number in value)


# PyTorch's tensors. Tuples, because a pickle can alter the attributes of an object, but not a tuple.
class NumberType(NamedTuple):
    """A type of numbers of PyTorch by numpy's code; ``bfloat16``: they are the 16 bits of such numbers."""

    code: str
    bfloat16: bool = False

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return int(self.code[1:])


class Storage(NamedTuple):
    """Numbers beside the pickle: raw bytes ``[B]`` (uint8) and their type."""

    kind: NumberType
    content: np.ndarray


class Tensor(NamedTuple):
    """A view of a storage."""

    kind: NumberType
    view: np.ndarray


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_unused: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise RefusedError("it holds a tensor without numbers")
    kind = storage.kind
    if not whole_numbers((offset,)) or not whole_numbers(shape) or not whole_numbers(strides):
        raise RefusedError("it holds a tensor whose offset, shape or stride is not a row of whole numbers")
    count = storage.content.size // kind.size
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and (last >= count or math.prod(shape) > count):
        raise RefusedError(f"it holds a tensor of shape {shown(shape)} that reaches beyond its {count} numbers")
    numbers = storage.content[: count * kind.size].view(f"<{kind.code}")
    if not math.prod(shape):
        return Tensor(kind, np.empty(shape, numbers.dtype))
    steps = [stride * kind.size for stride in strides]
    return Tensor(kind, np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps, writeable=False))


STORAGES = {
    "Double": "f8", "Float": "f4", "Half": "f2", "ComplexFloat": "c8", "ComplexDouble": "c16", "Long": "i8",
    "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "b1",
}  # fmt: skip
FUNCTIONS = {
    "numpy dtype": PickledType,
    "numpy.core.multiarray _reconstruct": lambda *_unused: PickledArray(),
    "numpy.core.multiarray scalar": lambda kind, content: PickledArray(content, kind, (), "C"),
    "numpy.core.numeric _frombuffer": PickledArray,
    "collections OrderedDict": lambda *_unused: Table(),
    "collections defaultdict": lambda *_unused: Table(),
    "builtins tuple": lambda items=(): items,
    "builtins bytes": lambda: b"",
    "torch Size": lambda lengths=(): lengths,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": lambda data, *_unused: data,
}
# What training loops put beside the weights. None of it is ever called or built.
IGNORED = {
    "argparse": "Namespace",
    "builtins": "set frozenset slice range complex bytearray int float str dict list",
    "collections": "Counter deque",
    "datetime": "datetime date time timedelta timezone",
    "pathlib": "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
    "numpy": "ndarray float64 float32 int64 int32 bool_",
    "torch": "device Tensor Generator float32 float16 bfloat16",
    "torch.nn.parameter": "Parameter",
}
ALLOWED: dict[str, Any] = {
    **{name: StandIn(function) for name, function in FUNCTIONS.items()},
    **{f"{module} {name}": Opaque for module, names in IGNORED.items() for name in names.split()},
    **{f"torch {name}Storage": NumberType(code) for name, code in STORAGES.items()},
    "torch BFloat16Storage": NumberType("u2", bfloat16=True),
}
# The same modules under other names: Python 2, numpy 2, and PyTorch on a GPU.
SYNONYMS = {
    "__builtin__": "builtins", "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric", "torch.cuda": "torch",
}  # fmt: skip
# Of these a pickle names classes when a whole model was saved, with its code, in the place of its weights.
CODE = ("torch.nn.", "torchvision.", "timm.", "models.", "__main__", "__torch__")


class SafeUnpickler(pickle.Unpickler):
    """Reads one pickle; only the names of `ALLOWED` are answered.

    Args:
        stream: where the pickle begins; left at its end.
        size: bytes of the file, for the limit on what is made of it.
        encoding: of Python 2's texts.
        read_storage: for files of ``torch.save``: from key and size in bytes to the content, uint8.
    """

    def __init__(
        self, stream: IO[bytes], size: int, encoding: str = "latin1",
        read_storage: Callable[[str, int], np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(stream, encoding=encoding)
        self.stream, self.left, self.read_storage = stream, ROOM * size, read_storage
        self.storages: dict[str, np.ndarray] = {}

    def load(self) -> Any:
        """Returns what the pickle holds, arrays still as `PickledArray`."""
        place, tuples = self.stream.tell(), 0
        for count, (operation, argument, _) in enumerate(pickletools.genops(self.stream)):
            # Objects are remembered under rising numbers; Python makes room up to any number that a file says.
            absurd = operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count
            tuples += operation.name.startswith("TUPLE")
            if absurd or tuples > MOST_TUPLES or operation.name in ("EMPTY_SET", "FROZENSET"):
                raise RefusedError(f"it holds {operation.name}, which weights do not need or not as often")
        self.stream.seek(place)
        return super().load()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return StandIn(self._encode)
        asked = f"{SYNONYMS.get(module, module)} {name}"
        if asked not in ALLOWED:
            saved_whole = "a model was saved with its code; save torch.save(model.state_dict(), ...) instead"
            advice = saved_whole if module.startswith(CODE) else "weights need arrays and plain values only"
            raise RefusedError(f"it asks for '{shown(f'{module}.{name}')}'; {advice}")
        return ALLOWED[asked]

    def _encode(self, text: str, codec: Any) -> bytes:
        """Python 2's protocol writes bytes as text that is to be encoded."""
        if codec not in ("latin1", b"latin1"):
            raise RefusedError(f"it asks for the codec {shown(repr(codec))}")
        self.take(len(text))
        return text.encode("latin1")

    def take(self, size: int) -> None:
        """Counts bytes that are made of the file; refuses it when they become too many."""
        self.left -= size
        if self.left < 0:
            raise RefusedError("its arrays are larger than the file: they share their content, or it is cut short")

    def persistent_load(self, pid: Any) -> Storage:
        """Returns the storage that ``("storage", type, key, device, count)`` means."""
        known = isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage" and pid[5:] in ((), (None,))
        if not known or self.read_storage is None:
            raise RefusedError("it names an unknown kind of content")
        kind, key, _device, count = pid[1:5]
        if not isinstance(kind, NumberType) or not isinstance(key, str) or not whole_numbers((count,)):
            raise RefusedError("it holds numbers without a type, a name or a count")
        if key not in self.storages:
            self.take(count * kind.size)
            self.storages[key] = self.read_storage(key, count * kind.size)
        if self.storages[key].size < count * kind.size:
            raise RefusedError(f"it is cut short or damaged at the numbers '{shown(key)}'")
        return Storage(kind, self.storages[key])

    def plain(self, value: Any, made: dict[int, Any]) -> Any:
        """Returns ``value`` with arrays in the place of their pickled forms, through dictionaries, lists and tuples.

        ``made`` are results by the id of their source: what a file mentions twice is made once, or lists of the same
        lists would become endless.
        """
        if id(value) not in made:
            result = value
            if isinstance(value, PickledArray):
                result = value.array()
                self.take(result.nbytes)
            elif isinstance(value, dict):
                result = {key: self.plain(item, made) for key, item in value.items()}
            elif type(value) in (list, tuple):
                result = type(value)(self.plain(item, made) for item in value)
            elif not (value is None or isinstance(value, bool | int | float | complex | str | bytes)):
                raise RefusedError(f"it holds a {type(value).__name__}, neither an array nor a plain container")
            made[id(value)] = result
        return made[id(value)]


@contextlib.contextmanager
def faults_of_file(file: Path, writer: str) -> Iterator[None]:
    """Says in one line what is wrong with ``file``, which ``writer`` ("paddle.save") should have written.

    Raises:
        UserError: inside, the file was refused, could not be read, or was found damaged.
    """
    try:
        yield
    except RefusedError as error:
        raise UserError(f"{file}: refused, nothing in it was executed: {error}") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    except DAMAGE as error:
        fault = f"{type(error).__name__}: {shown(error)}"
        raise UserError(f"{file}: damaged or not a file of {writer} ({fault})") from error


def unpickle(content: bytes, encoding: str = "latin1") -> Any:
    """Returns what a pickle holds as numpy arrays in plain containers.

    Raises:
        RefusedError: it asks for anything else. One of `DAMAGE` where it is damaged.
    """
    unpickler = SafeUnpickler(io.BytesIO(content), len(content), encoding)
    return unpickler.plain(unpickler.load(), {})


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Reads a file of ``paddle.save`` (``.pdparams``, ``.pdopt``, ``.pdema``) as numpy arrays in plain containers.

    Tensors of type bfloat16 come back as uint16, as Paddle stores them.

    Raises:
        UserError: the file is missing, damaged, or asks for anything but numpy arrays and plain containers (the message
            names the global that it asked for). Nothing in the file is executed.
    """
    with faults_of_file(Path(path), "paddle.save"):
        return unpickle(Path(path).read_bytes())


def read_torch_weights(path: str | os.PathLike[str], entry: str | None = None) -> dict[str, np.ndarray]:
    """Reads one set of weights of a file of ``torch.save`` (``.pth``, ``.pt``): that under ``entry`` ("model",
    "model_ema"), or the only one.

    Returns:
        Arrays by name, not to be written to; bfloat16 is widened to float32.

    Raises:
        UserError: missing, damaged, refused, without weights, or with several sets of them and no ``entry``. Nothing in
            the file is executed.
    """
    file = Path(path)
    with faults_of_file(file, "torch.save"):
        content = file.read_bytes()
        read = _load_archive if content.startswith(b"PK\x03\x04") else _load_old
        value, unpickler = read(content)
        arrays = {}
        for name, tensor in _chosen(value, entry, str(file)).items():
            if tensor.kind.bfloat16:
                unpickler.take(2 * tensor.view.nbytes)
            arrays[name] = bfloat16_to_float32(tensor.view) if tensor.kind.bfloat16 else tensor.view
        return arrays


def _load_archive(content: bytes) -> tuple[Any, SafeUnpickler]:
    """Loads the format of PyTorch 1.6 and later. Nothing is unpacked to the disk."""
    archive = zipfile.ZipFile(io.BytesIO(content))
    pickles = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise RefusedError(f"its zip archive holds {len(pickles)} data.pkl, expected one: not a file of torch.save")
    folder = pickles[0].removesuffix("data.pkl")

    def read(name: str) -> bytes:
        if f"{folder}{name}" not in archive.NameToInfo:
            raise RefusedError(f"{shown(name)} is missing in its zip archive")
        entry = archive.getinfo(f"{folder}{name}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(content):
            raise RefusedError(f"its zip archive holds '{shown(name)}' compressed, which torch.save never does")
        return archive.read(entry)  # Compares the checksum.

    if f"{folder}byteorder" in archive.NameToInfo and read("byteorder") != b"little":
        raise RefusedError("it was written on a machine of another byte order")

    def storage(key: str, _size: int) -> np.ndarray:
        return np.frombuffer(read(f"data/{key}"), np.uint8)

    unpickler = SafeUnpickler(io.BytesIO(read("data.pkl")), len(content), read_storage=storage)
    return unpickler.load(), unpickler


def _load_old(content: bytes) -> tuple[Any, SafeUnpickler]:
    """Loads the format before PyTorch 1.6: five pickles, then each storage behind the count of its numbers."""
    stream, size = io.BytesIO(content), len(content)
    if not content.startswith(b"\x80") or SafeUnpickler(stream, size).load() != 0x1950A86A20F9469CFC6C:
        raise RefusedError("it is none of torch.save; save it anew with today's PyTorch")
    if SafeUnpickler(stream, size).load() != 1001:
        raise RefusedError("it is of an unknown version of torch.save; save it anew with today's PyTorch")
    system = SafeUnpickler(stream, size).load()
    if isinstance(system, dict) and not system.get("little_endian", True):
        raise RefusedError("it was written on a machine of another byte order")
    unpickler = SafeUnpickler(stream, size, read_storage=lambda _, count: np.zeros(count, np.uint8))
    value = unpickler.load()
    for key in SafeUnpickler(stream, size).load():
        stream.read(8)
        storage = unpickler.storages.pop(key)
        if stream.readinto(memoryview(storage)) != storage.size:
            raise RefusedError(f"it is cut short or damaged at the numbers '{shown(key)}'")
    if unpickler.storages:
        raise RefusedError(f"the numbers {first_of(unpickler.storages)} are missing in it")
    return value, unpickler


def _chosen(value: Any, entry: str | None, label: str) -> dict[str, Tensor]:
    """Returns the one set of weights that is meant: a dictionary of tensors, an entry of ``value`` or itself."""
    if not isinstance(value, dict):
        raise UserError(f"{label}: holds a {type(value).__name__.lower()}, expected a dictionary of weights by name")
    found = {
        name: each for name, each in value.items()
        if isinstance(name, str) and isinstance(each, dict) and any(isinstance(one, Tensor) for one in each.values())
    }  # fmt: skip
    entries = first_of(found, SHOWN_ENTRIES)
    if entry is None and len(found) > 1:
        raise UserError(f"{label}: holds several sets of weights ({entries}): say which with --entry")
    if entry is not None and entry not in found:
        there = f"there are {entries}{suggestion(entry, found)}" if found else f"leave --entry {entry} out"
        raise UserError(f"{label}: no weights under '{entry}'; {there}")
    weights = found[entry] if entry is not None else next(iter(found.values()), value)
    for name, each in weights.items():
        if not isinstance(name, str) or not isinstance(each, Tensor):
            raise UserError(f"{label}: entry {shown(repr(name))} is a {type(each).__name__.lower()}, not a weight")
    if not weights:
        raise UserError(f"{label}: holds no weights")
    return weights
