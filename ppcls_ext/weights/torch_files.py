"""Reads the weights in a file of ``torch.save`` (``.pth``, ``.pt``) without PyTorch; executes nothing in it."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.utils.errors import UserError, suggestion
from ppcls_ext.weights.files import bfloat16_to_float32
from ppcls_ext.weights.names import first_of, shown
from ppcls_ext.weights.pickle_claims import RefusedError
from ppcls_ext.weights.pickles import faults_of_file
from ppcls_ext.weights.torch_containers import TorchContent, open_torch_file
from ppcls_ext.weights.torch_pickles import BFLOAT16, ElementType, TensorRecord

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
            numbers[kept] = _numbers(name, record, content)
        arrays[name] = _array(name, record, numbers[kept])
    return arrays


def _numbers(name: str, record: TensorRecord, content: TorchContent) -> np.ndarray:
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
