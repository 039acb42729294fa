"""Reads Paddle's pickled files without ever executing what is written in them.

``paddle.save`` of Paddle 2 and 3 writes pickles of dictionaries of numpy arrays; some versions and some objects (a
bare parameter, a tensor inside a list) become ``(name, array)`` tuples, and every state dictionary carries the entry
``StructuredToParameterName@@`` (a dictionary of strings). A pickle is a program: it names functions ("globals") and
calls them. Here not one of the named functions is ever called. The few names that honest files use are answered with
stand-ins of our own that only collect a shape, a type and raw bytes; any other name refuses the whole file.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import pickletools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from ppcls_ext.common.errors import UserError
from ppcls_ext.weights.names import shown

# Types of array elements that weights and optimizer states are made of. Never "O" (objects) or "V" (raw memory).
ELEMENT_TYPES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"])
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
)


class RefusedError(Exception):
    """The file asks for something that weights never need."""


class StandIn:
    """What a pickle gets for a permitted global: a callable that the pickle's BUILD instruction cannot alter."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise RefusedError(f"it tries to alter a function (attribute {name!r})")

    def __setstate__(self, state: Any) -> NoReturn:
        raise RefusedError("it tries to alter a function")


class _PickledType:
    """Collects the pickled form of a ``numpy.dtype``: ``("f4", False, True)``, then a state with the byte order."""

    __slots__ = ("element_type",)

    def __init__(self, code: Any, *_unused: Any) -> None:
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if code not in ELEMENT_TYPES:
            raise RefusedError(f"it holds an array of element type {code!r}, which is not a number type")
        self.element_type = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        byte_order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if byte_order not in ("<", ">", "|", "="):
            raise RefusedError(f"it holds an array of unknown byte order {byte_order!r}")
        self.element_type = self.element_type.newbyteorder(byte_order)


class _PickledArray:
    """Collects the pickled form of a ``numpy.ndarray``: ``(version, shape, type, is_fortran, bytes)``."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _version, shape, pickled_type, is_fortran, content = state
        self.array = _make_array(content, pickled_type, shape, "F" if is_fortran else "C")


def _make_array(content: Any, pickled_type: Any, shape: Any, order: str) -> np.ndarray:
    if not isinstance(pickled_type, _PickledType) or not isinstance(content, (bytes, bytearray)):
        raise RefusedError("it holds an array without a number type or without raw content")
    if len(content) != math.prod(shape) * pickled_type.element_type.itemsize:
        raise RefusedError(f"it holds an array of shape {list(shape)} with {len(content)} bytes")
    flat = np.frombuffer(content, dtype=pickled_type.element_type)
    # A copy, because the buffer is read-only and may have a foreign byte order.
    native = pickled_type.element_type.newbyteorder("=")
    return flat.reshape(shape, order=order).astype(native, order="C", copy=True)


def _start_array(*_unused: Any) -> _PickledArray:
    return _PickledArray()


def _array_from_buffer(content: Any, pickled_type: Any, shape: Any, order: str) -> np.ndarray:
    return _make_array(content, pickled_type, shape, order)


def _scalar(pickled_type: Any, content: Any) -> np.ndarray:
    return _make_array(content, pickled_type, (), "C")


def _text_to_bytes(text: str, codec: str) -> bytes:
    if codec != "latin1":
        raise RefusedError(f"it asks for the codec {codec!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _ordered_dict(*arguments: Any) -> dict[Any, Any]:
    return dict(*arguments)


def _tuple(items: Any = ()) -> tuple[Any, ...]:
    return tuple(items)


def _never_called(*_unused: Any) -> NoReturn:
    raise RefusedError("it builds an array in an unusual way")


STAND_INS: dict[tuple[str, str], StandIn] = {
    ("numpy", "ndarray"): StandIn(_never_called),
    ("numpy", "dtype"): StandIn(_PickledType),
    ("collections", "OrderedDict"): StandIn(_ordered_dict),
    ("builtins", "tuple"): StandIn(_tuple),
    ("__builtin__", "tuple"): StandIn(_tuple),
    # Protocol 2 has no bytes: they are written as text that is to be encoded.
    ("_codecs", "encode"): StandIn(_text_to_bytes),
    ("__builtin__", "bytes"): StandIn(_no_bytes),
}
for _core in ("numpy.core", "numpy._core"):
    STAND_INS[(f"{_core}.multiarray", "_reconstruct")] = StandIn(_start_array)
    STAND_INS[(f"{_core}.multiarray", "scalar")] = StandIn(_scalar)
    STAND_INS[(f"{_core}.numeric", "_frombuffer")] = StandIn(_array_from_buffer)


class _WeightsUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> StandIn:
        if (module, name) not in STAND_INS:
            raise RefusedError(f"it asks for '{shown(f'{module}.{name}')}'; weight files need numpy arrays only")
        return STAND_INS[(module, name)]


def _plain(value: Any) -> Any:
    """Puts arrays in the place of their pickled forms, through dictionaries, lists and tuples."""
    if isinstance(value, _PickledArray):
        if value.array is None:
            raise RefusedError("it holds an array without content")
        return value.array
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.ndarray)):
        return value
    raise RefusedError(f"it holds a {type(value).__name__}, which is neither an array nor a plain container")


def refuse_claims(stream: IO[bytes]) -> None:
    """Refuses the pickle at the place of ``stream``, without running it, if it would fill the memory.

    A pickle numbers what it will come back to, and Python makes room up to the highest number: eight bytes in a file
    could claim all memory. Honest ones count from zero.

    Raises:
        RefusedError: it skips numbers.
        ValueError: it is damaged.
    """
    place = stream.tell()
    for position, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
        if instruction.name.endswith("PUT") and argument > position:
            raise RefusedError(f"it claims memory for {argument} objects after {position} instructions")
    stream.seek(place)


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
        raise UserError(f"{file}: damaged or not a file of {writer} ({type(error).__name__}: {error})") from error


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Reads a file of ``paddle.save`` (``.pdparams``, ``.pdopt``, ``.pdema``) as numpy arrays in plain containers.

    Tensors of type bfloat16 come back as uint16, as Paddle stores them.

    Raises:
        UserError: the file is missing, damaged, or asks for anything but numpy arrays and plain containers (the message
            names the global that it asked for). Nothing in the file is executed.
    """
    file = Path(path)
    with faults_of_file(file, "paddle.save"), open(file, "rb") as stream:
        refuse_claims(stream)
        return _plain(_WeightsUnpickler(stream).load())
