"""Reads Paddle's pickled files without ever executing what is written in them.

``paddle.save`` of Paddle 2 and 3 writes pickles of dictionaries of numpy arrays; some versions and some objects (a
bare parameter, a tensor inside a list) become ``(name, array)`` tuples, and every state dictionary carries the entry
``StructuredToParameterName@@`` (a dictionary of strings). A pickle is a program: it names functions ("globals") and
calls them. Here not one of the named functions is ever called. The few names that honest files use are answered with
stand-ins of our own that only collect a shape, a type and raw bytes; any other name refuses the whole file.

The unpickler is Python's own in its form written in Python. The one in C makes room for as many objects as a file says
that it will remember, and hashes keys of any depth by recursion: a few bytes could fill the memory or end the process.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from ppcls_ext.utils.errors import UserError

# Types of array elements that weights and optimizer states are made of. Never "O" (objects) or "V" (raw memory).
ELEMENT_TYPES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"])
# No array is longer. Arithmetic with numbers of millions of digits would not end.
LONGEST_AXIS = 2**48
DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    ImportError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    MemoryError,
    OverflowError,
    RecursionError,
    struct.error,
)
LONGEST_NAME = 100
SHOWN_NAMES = 4


def shown(name: object) -> str:
    """Returns a name of a foreign file as text without line breaks or control characters, cut to a readable length."""
    text = str(name)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}..."


def first_of(names: Iterable[object], count: int = SHOWN_NAMES) -> str:
    """Returns the first ``count`` names in one line."""
    listed = list(names)
    return ", ".join(map(shown, listed[:count])) + (", ..." if len(listed) > count else "")


class RefusedError(Exception):
    """The file asks for something that weights never need."""


class _Bounded:
    """A file from which no more can be read than is left in it: a pickle may claim any length."""

    def __init__(self, stream: IO[bytes]) -> None:
        place = stream.tell()
        self.stream, self.size, self.readline = stream, stream.seek(0, os.SEEK_END), stream.readline
        stream.seek(place)

    def read(self, count: int) -> bytes:
        return self.stream.read(min(count, max(self.size - self.stream.tell(), 0)))


class SafeUnpickler(pickle._Unpickler):
    """Reads one pickle; ``permitted`` are the only names that it may ask for, with what it gets for them.

    Args:
        stream: the file, at the beginning of the pickle; it is left at the end of it.
    """

    permitted: dict[tuple[str, str], Any] = {}
    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(_Bounded(stream), encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.permitted:
            raise RefusedError(f"it asks for '{shown(f'{module}.{name}')}'; {self.advice(module)}")
        return self.permitted[(module, name)]

    def advice(self, module: str) -> str:
        """Returns what a user may do about a file that asks for a name of ``module``."""
        return "weight files need numpy arrays only"

    def load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        _check_keys(self.stack[::2])
        super().load_dict()

    def refuse_set(self) -> NoReturn:
        raise RefusedError("it holds a set")

    dispatch |= {
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.EMPTY_SET[0]: refuse_set,
        pickle.FROZENSET[0]: refuse_set,
    }


def _check_keys(keys: list[Any]) -> None:
    """Refuses keys other than texts and numbers: of tuples in tuples Python computes the hash by recursion."""
    for key in keys:
        if not isinstance(key, str | bytes | int | float | None):
            raise RefusedError(f"it holds a dictionary with a {type(key).__name__} as key")


class StandIn:
    """What a pickle gets for a permitted global: a callable that the pickle's BUILD instruction cannot alter."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise RefusedError(f"it tries to alter a function (attribute '{shown(name)}')")

    def __setstate__(self, state: Any) -> NoReturn:
        raise RefusedError("it tries to alter a function")


class _PickledType:
    """Collects the pickled form of a ``numpy.dtype``: ``("f4", False, True)``, then a state with the byte order."""

    __slots__ = ("element_type",)

    def __init__(self, code: Any, *_unused: Any) -> None:
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if code not in ELEMENT_TYPES:
            raise RefusedError(f"it holds an array of element type {shown(repr(code))}, which is not a number type")
        self.element_type = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        byte_order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if byte_order not in ("<", ">", "|", "="):
            raise RefusedError(f"it holds an array of unknown byte order {shown(repr(byte_order))}")
        self.element_type = self.element_type.newbyteorder(byte_order)


class PickledBytes:
    """Bytes as protocol 2 writes them: text that is to be encoded. Encoded when they are used, not at each mention."""

    __slots__ = ("text",)

    def __init__(self, text: Any, codec: Any) -> None:
        if codec != "latin1" or not isinstance(text, str):
            raise RefusedError(f"it asks for the codec {shown(repr(codec))}")
        self.text = text

    @property
    def content(self) -> bytes:
        return self.text.encode("latin1")


class _PickledArray:
    """Collects the pickled form of a ``numpy.ndarray``: ``(version, shape, type, is_fortran, bytes)``.

    The array is made when it is asked for: a file of a few bytes could mention the same content thousands of times.
    """

    __slots__ = ("form",)

    def __init__(self, *form: Any) -> None:
        self.form = form

    def __setstate__(self, state: Any) -> None:
        _version, shape, pickled_type, is_fortran, content = state
        self.form = (content, pickled_type, shape, "F" if is_fortran else "C")

    @property
    def array(self) -> np.ndarray:
        if not self.form:
            raise RefusedError("it holds an array without content")
        return _make_array(*self.form)


def _make_array(content: Any, pickled_type: Any, shape: Any, order: str) -> np.ndarray:
    content = content.content if isinstance(content, PickledBytes) else content
    if not isinstance(pickled_type, _PickledType) or not isinstance(content, (bytes, bytearray)):
        raise RefusedError("it holds an array without a number type or without raw content")
    if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n <= LONGEST_AXIS for n in shape):
        raise RefusedError("it holds an array whose shape is not a row of whole numbers")
    if len(content) != math.prod(shape) * pickled_type.element_type.itemsize:
        raise RefusedError(f"it holds an array of shape {shown(list(shape))} with {len(content)} bytes")
    flat = np.frombuffer(content, dtype=pickled_type.element_type)
    # A copy, because the buffer is read-only and may have a foreign byte order.
    native = pickled_type.element_type.newbyteorder("=")
    return flat.reshape(shape, order=order).astype(native, order="C", copy=True)


def _start_array(*_unused: Any) -> _PickledArray:
    return _PickledArray()


def _array_from_buffer(content: Any, pickled_type: Any, shape: Any, order: str) -> _PickledArray:
    return _PickledArray(content, pickled_type, shape, order)


def _scalar(pickled_type: Any, content: Any) -> _PickledArray:
    return _PickledArray(content, pickled_type, (), "C")


def _no_bytes() -> bytes:
    return b""


def _ordered_dict() -> dict[Any, Any]:
    return {}


def _tuple(items: Any = ()) -> tuple[Any, ...]:
    if not isinstance(items, tuple):
        raise RefusedError("it makes a tuple of something else")
    return items


def _never_called(*_unused: Any) -> NoReturn:
    raise RefusedError("it builds an array in an unusual way")


STAND_INS: dict[tuple[str, str], StandIn] = {
    ("numpy", "ndarray"): StandIn(_never_called),
    ("numpy", "dtype"): StandIn(_PickledType),
    ("collections", "OrderedDict"): StandIn(_ordered_dict),
    ("builtins", "tuple"): StandIn(_tuple),
    ("__builtin__", "tuple"): StandIn(_tuple),
    # Protocol 2 has no bytes: they are written as text that is to be encoded.
    ("_codecs", "encode"): StandIn(PickledBytes),
    ("__builtin__", "bytes"): StandIn(_no_bytes),
}
for _core in ("numpy.core", "numpy._core"):
    STAND_INS[(f"{_core}.multiarray", "_reconstruct")] = StandIn(_start_array)
    STAND_INS[(f"{_core}.multiarray", "scalar")] = StandIn(_scalar)
    STAND_INS[(f"{_core}.numeric", "_frombuffer")] = StandIn(_array_from_buffer)


class _WeightsUnpickler(SafeUnpickler):
    permitted = STAND_INS


class _Plain:
    """Puts arrays in the place of their pickled forms, through dictionaries, lists and tuples.

    What a file mentions twice is made once: lists of the same lists would else become endless, and arrays of the same
    content fill the memory.

    Args:
        size: bytes of the file, which no more bytes of arrays than these can come from.
    """

    def __init__(self, size: int) -> None:
        self.left = size
        self.made: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        """Returns ``value`` with arrays in it."""
        if id(value) not in self.made:
            self.made[id(value)] = self._made_of(value)
        return self.made[id(value)]

    def _made_of(self, value: Any) -> Any:
        if isinstance(value, _PickledArray):
            return self._counted(array := value.array, array.nbytes)
        if isinstance(value, PickledBytes):
            return self._counted(content := value.content, len(content))
        if isinstance(value, dict):
            return {key: self.of(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.of(item) for item in value)
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            return value
        raise RefusedError(f"it holds a {type(value).__name__}, which is neither an array nor a plain container")

    def _counted(self, content: Any, size: int) -> Any:
        self.left -= size
        if self.left < 0:
            raise RefusedError("its arrays are larger than the file: they share their content")
        return content


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


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Reads a file of ``paddle.save`` (``.pdparams``, ``.pdopt``, ``.pdema``) as numpy arrays in plain containers.

    Tensors of type bfloat16 come back as uint16, as Paddle stores them.

    Raises:
        UserError: the file is missing, damaged, or asks for anything but numpy arrays and plain containers (the message
            names the global that it asked for). Nothing in the file is executed.
    """
    file = Path(path)
    with faults_of_file(file, "paddle.save"), open(file, "rb") as stream:
        return _Plain(file.stat().st_size).of(_WeightsUnpickler(stream).load())
