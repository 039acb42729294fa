"""Weight files in and out: ``.pdparams`` (Paddle), ``.safetensors`` (exchange) and checkpoint folders."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.utils.errors import UserError, suggestion
from ppcls_ext.utils.files import atomic_path
from ppcls_ext.weights.manifest import verify_weights
from ppcls_ext.weights.pickles import read_pickle, shown

SUFFIXES = (".pdparams", ".safetensors")
# Files of torch.save: ``torch_files`` reads them, to be converted.
TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar")
# Paddle writes this table (structured name -> generated parameter name) into every state dictionary; it is no weight.
NAME_TABLE = "StructuredToParameterName@@"
SAFETENSORS_TYPES = {
    "BOOL": np.bool_,
    "I8": np.int8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "U8": np.uint8,
    "U16": np.uint16,
    "U32": np.uint32,
    "U64": np.uint64,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
}


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """Widens bfloat16 numbers, given as their 16 bits (uint16, any shape), to float32 without loss."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def widened(array: np.ndarray) -> np.ndarray:
    """Returns a weight as numbers: a ``.pdparams`` keeps bfloat16 as uint16, and no weight is ever a real uint16."""
    return bfloat16_to_float32(array) if array.dtype == np.uint16 else array


def find_weights(path: str | os.PathLike[str]) -> Path:
    """Returns the weight file that ``path`` means.

    Args:
        path: a weight file; the same without its suffix (as PaddleClas writes ``Global.pretrained_model``); or a
            checkpoint folder, whose ``state.json`` says under ``evaluated_weights`` whether the reported metrics belong
            to the averaged weights (``ema``) or to the plain ones (``model``).

    Raises:
        UserError: there is no such file, or the folder is not a checkpoint.
    """
    given = Path(path)
    if given.is_dir():
        return _file_of_checkpoint(given)
    if given.is_file():
        return given
    for suffix in SUFFIXES:
        with_suffix = given.with_name(given.name + suffix)
        if given.name and with_suffix.is_file():
            return with_suffix
    neighbours = [file.name for file in given.parent.iterdir()] if given.parent.is_dir() else []
    raise UserError(f"{given}: no such weight file or checkpoint folder{suggestion(given.name, neighbours)}")


def _file_of_checkpoint(folder: Path) -> Path:
    state_file = folder / "state.json"
    if not state_file.is_file():
        raise UserError(
            f"{folder}: not a checkpoint folder (no state.json); give a checkpoint such as "
            f"RUN/checkpoints/best, or a weight file ({', '.join(SUFFIXES)})"
        )
    try:
        which = json.loads(state_file.read_text(encoding="utf-8")).get("evaluated_weights")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{state_file}: damaged ({error})") from error
    if which not in ("ema", "model"):
        raise UserError(f"{state_file}: 'evaluated_weights' must be 'ema' or 'model', got {which!r}")
    file = folder / f"{which}.pdparams"
    if not file.is_file():
        raise UserError(f"{folder}: damaged checkpoint, {file.name} is missing")
    return file


def read_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the weights of a file or of a checkpoint folder (see ``find_weights``); executes nothing in it.

    What lies in a checkpoint folder is compared with the checksums there before it is read.

    Returns:
        Arrays by name. In a ``.pdparams``, bfloat16 tensors are uint16 (``bfloat16_to_float32`` widens them); those of
        a ``.safetensors`` are widened here, because the file says which they are.

    Raises:
        UserError: missing, damaged, changed since it was saved, refused, of unknown suffix, or without weights.
    """
    file = find_weights(path)
    _check_suffix(file)
    verify_weights(file, chosen_by_name=not Path(path).is_dir())
    weights = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pdparams(file)
    if not weights:
        raise UserError(f"{file}: holds no weights")
    return weights


def _check_suffix(file: Path) -> None:
    if file.suffix in TORCH_SUFFIXES:
        converter = "tools/convert_weights.py --from facebook|timm|torchvision"
        raise UserError(f"{file}: '{file.suffix}' is a format of PyTorch: convert it with {converter}")
    if file.suffix not in SUFFIXES:
        raise UserError(f"{file}: unknown weight format '{file.suffix}', allowed are {', '.join(SUFFIXES)}")


def _read_pdparams(file: Path) -> dict[str, np.ndarray]:
    content = read_pickle(file)
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds a {type(content).__name__}, expected a dictionary of weights by name")
    weights: dict[str, np.ndarray] = {}
    for name, value in content.items():
        if name == NAME_TABLE:
            continue
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
            value = value[1]
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise UserError(f"{file}: entry {shown(repr(name))} is a {type(value).__name__}, not a weight")
        weights[name] = value
    return weights


def _read_safetensors(file: Path) -> dict[str, np.ndarray]:
    import safetensors

    try:
        entries = safetensors.deserialize(file.read_bytes())
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{file}: damaged or not a safetensors file ({error})") from error
    return {name: _array_of_entry(file, name, entry) for name, entry in entries}


def _array_of_entry(file: Path, name: str, entry: dict[str, Any]) -> np.ndarray:
    content, shape, kind = bytes(entry["data"]), entry["shape"], entry["dtype"]
    if kind == "BF16":
        return bfloat16_to_float32(np.frombuffer(content, dtype="<u2")).reshape(shape)
    if kind not in SAFETENSORS_TYPES:
        raise UserError(f"{file}: entry {shown(repr(name))} has the unsupported type {kind}")
    element_type = np.dtype(SAFETENSORS_TYPES[kind]).newbyteorder("<")
    return np.frombuffer(content, dtype=element_type).reshape(shape).astype(SAFETENSORS_TYPES[kind])


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Returns the metadata of a ``.safetensors`` file; empty for a ``.pdparams``, which has room for weights only.

    Raises:
        UserError: the file is missing or damaged.
    """
    file = find_weights(path)
    if file.suffix != ".safetensors":
        return {}
    import safetensors

    try:
        with safetensors.safe_open(file, framework="numpy") as reader:
            return dict(reader.metadata() or {})
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{file}: damaged or not a safetensors file ({error})") from error


def write_weights(
    path: str | os.PathLike[str], weights: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes weights whole or not at all, in the format of the suffix of ``path``.

    Args:
        path: ends in ``.pdparams`` (``paddle.load`` reads it) or ``.safetensors``.
        weights: numpy arrays or Paddle tensors by name.
        metadata: texts about the weights; ``.safetensors`` keeps them, ``.pdparams`` has no room for them.

    Raises:
        UserError: the suffix is unknown.
        OSError: the disk is full; an older file at ``path`` is then untouched.
    """
    file = Path(path)
    _check_suffix(file)
    arrays = {name: np.ascontiguousarray(_as_array(value)) for name, value in weights.items()}
    # ascontiguousarray makes vectors of scalars: keep the shape.
    arrays = {name: array.reshape(np.shape(weights[name])) for name, array in arrays.items()}
    with atomic_path(file) as temporary:
        if file.suffix == ".safetensors":
            from safetensors.numpy import save_file

            save_file(arrays, temporary, metadata=dict(metadata) if metadata else None)
        else:
            # paddle.load makes tensors of the entries that this table lists.
            table = {name: name for name in arrays}
            temporary.write_bytes(pickle.dumps({**arrays, NAME_TABLE: table}, protocol=4))


def _as_array(value: Any) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else np.asarray(value.numpy())


def class_names_of_weights(weights: Path) -> list[str] | None:
    """Returns the class names that lie in ``state.json`` beside a weight file of a checkpoint, or ``None``.

    Raises:
        UserError: the file is damaged.
    """
    state = weights.parent / "state.json"
    if not state.is_file():
        return None
    try:
        names = json.loads(state.read_text(encoding="utf-8")).get("class_names")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{state}: damaged ({error})") from error
    return [str(name) for name in names] if names else None
