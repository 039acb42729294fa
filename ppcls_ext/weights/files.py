"""Weight files in and out: ``.pdparams`` (Paddle), ``.safetensors`` (exchange) and checkpoint folders.

The manifest of a checkpoint folder lists size and SHA-256 of each file in it; they are compared before one is read.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ppcls_ext.utils.errors import UserError, suggestion
from ppcls_ext.utils.files import atomic_path, sha256_of
from ppcls_ext.utils.names import user_path
from ppcls_ext.weights.pickles import bfloat16_to_float32, read_pickle, shown

SUFFIXES = (".pdparams", ".safetensors")
# Files of torch.save: `pickles.read_torch_weights` reads them, to be converted.
TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar")
# Paddle writes this table (structured name -> generated parameter name) into every state dictionary; it is no weight.
NAME_TABLE = "StructuredToParameterName@@"
MANIFEST, STATE = "manifest.json", "state.json"
FORMAT = "econvnext-paddle checkpoint"
FORMAT_VERSION = 1


def widened(array: np.ndarray) -> np.ndarray:
    """Returns a weight as numbers: a ``.pdparams`` keeps bfloat16 as uint16, and no weight is ever a real uint16."""
    return bfloat16_to_float32(array) if array.dtype == np.uint16 else array


def find_weights(path: str | os.PathLike[str]) -> Path:
    """Returns the weight file that ``path`` means.

    That is a weight file; the same without its suffix (as PaddleClas writes ``Global.pretrained_model``); or a
    checkpoint folder, whose ``state.json`` says under ``evaluated_weights`` whether the reported metrics belong to the
    averaged weights (``ema``) or to the plain ones (``model``).

    Raises:
        UserError: there is no such file, or the folder is not a checkpoint.
    """
    given = user_path(path)
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


def state_of_weights(weights: Path) -> dict[str, Any]:
    """Returns what ``state.json`` beside a file of a checkpoint says, nothing where there is none.

    Raises:
        UserError: it is damaged.
    """
    file = weights.parent / STATE
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file}: damaged ({error})") from error


def _file_of_checkpoint(folder: Path) -> Path:
    if not (folder / STATE).is_file():
        raise UserError(
            f"{folder}: not a checkpoint folder (no state.json); give a checkpoint such as "
            f"RUN/checkpoints/best, or a weight file ({', '.join(SUFFIXES)})"
        )
    which = state_of_weights(folder / STATE).get("evaluated_weights")
    if which not in ("ema", "model"):
        raise UserError(f"{folder / STATE}: 'evaluated_weights' must be 'ema' or 'model', got {which!r}")
    file = folder / f"{which}.pdparams"
    if not file.is_file():
        raise UserError(f"{folder}: damaged checkpoint, {file.name} is missing")
    return file


def class_names_of_weights(weights: Path) -> list[str] | None:
    """Returns the class names of the checkpoint that a weight file stands in, or ``None``; see ``state_of_weights``."""
    names = state_of_weights(weights).get("class_names")
    return [str(name) for name in names] if names else None


def label_order_of_weights(weights: Path) -> list[int] | None:
    """Returns the labels of the training list by class number, as ``relabel`` numbered them for the checkpoint that a
    weight file stands in, or ``None``; see ``state_of_weights``."""
    return state_of_weights(weights).get("label_numbering")


def training_set_of_weights(weights: Path) -> dict[str, Any]:
    """Returns ``DataLoader.Train.dataset`` of the configuration beside a weight file of a checkpoint, else ``{}``."""
    try:
        value = yaml.safe_load((weights.parent / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    for key in ("DataLoader", "Train", "dataset"):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


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
    arrays = {}
    for name, entry in entries:
        content, kind = bytes(entry["data"]), entry["dtype"]
        number = re.fullmatch("([IUF])(8|16|32|64)", kind)
        if number is None and kind not in ("BOOL", "BF16"):
            raise UserError(f"{file}: entry {shown(repr(name))} has the unsupported type {kind}")
        code = f"{number[1].lower()}{int(number[2]) // 8}" if number else {"BOOL": "?", "BF16": "u2"}[kind]
        array = np.frombuffer(content, dtype=f"<{code}").reshape(entry["shape"])
        array = array.astype(array.dtype.newbyteorder("="))
        arrays[name] = bfloat16_to_float32(array) if kind == "BF16" else array
    return arrays


def write_weights(
    path: str | os.PathLike[str], weights: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes weights whole or not at all, in the format of the suffix of ``path``.

    Args:
        path: ends in ``.pdparams`` (``paddle.load`` reads it) or ``.safetensors``.
        weights: numpy arrays or Paddle tensors by name; bfloat16 (uint16) is widened in a ``.safetensors``.
        metadata: texts about the weights; ``.safetensors`` keeps them, ``.pdparams`` has no room for them.

    Raises:
        UserError: the suffix is unknown.
    """
    file = Path(path)
    _check_suffix(file)
    arrays = {
        name: np.asarray(value if isinstance(value, np.ndarray) else value.numpy(), order="C")
        for name, value in weights.items()
    }
    with atomic_path(file) as temporary:
        if file.suffix == ".safetensors":
            from safetensors.numpy import save_file

            arrays = {name: widened(array) for name, array in arrays.items()}
            save_file(arrays, temporary, metadata=dict(metadata) if metadata else None)
        else:
            # paddle.load makes tensors of the entries that this table lists.
            table = {name: name for name in arrays}
            temporary.write_bytes(pickle.dumps({**arrays, NAME_TABLE: table}, protocol=4))


def write_manifest(folder: Path) -> None:
    """Lists every file that stands in ``folder`` now."""
    files = {file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in sorted(folder.iterdir())}
    manifest = {"format": FORMAT, "version": FORMAT_VERSION, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns ``{"bytes": size, "sha256": hexadecimal digits}`` of each file of a checkpoint, by name.

    Raises:
        UserError: there is no manifest, it is damaged or of another format, or it names files outside the folder.
    """
    damaged = f"{folder}: damaged checkpoint: {MANIFEST}"
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder}: not a checkpoint of this trainer: {MANIFEST} is missing") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{damaged} cannot be read ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{folder}: not a checkpoint of this trainer: {MANIFEST} does not say '{FORMAT}'")
    if manifest.get("version") != FORMAT_VERSION:
        raise UserError(f"{folder}: checkpoint version {manifest.get('version')}; this software reads {FORMAT_VERSION}")
    files = manifest.get("files")
    if not isinstance(files, dict) or not {"model.pdparams", STATE} <= set(files):
        raise UserError(f"{damaged} lists no model.pdparams and {STATE}")
    if any(Path(name).name != name or name == ".." for name in files):
        raise UserError(f"{folder}: refused: {MANIFEST} names files outside the checkpoint")
    if not all(isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for entry in files.values()):
        raise UserError(f"{damaged} lacks a size or a checksum")
    return files


def verify_file(folder: Path, name: str, expected: dict[str, Any]) -> None:
    """Raises ``UserError`` if a file of a checkpoint differs from its entry of :func:`read_manifest`."""
    file = folder / name
    if not file.is_file():
        raise UserError(f"{folder}: damaged checkpoint: {name} is missing")
    size = file.stat().st_size
    if size != expected["bytes"]:
        raise UserError(f"{folder}: damaged checkpoint: {name} has {size} bytes instead of {expected['bytes']}")
    if sha256_of(file) != expected["sha256"]:
        raise UserError(f"{folder}: damaged checkpoint: the content of {name} has changed (SHA-256 differs)")


def verify_weights(file: Path, chosen_by_name: bool) -> None:
    """Raises ``UserError`` if a weight file, or the ``state.json`` beside it, differs from the manifest beside them.

    If a person named this very file and not the folder (``chosen_by_name``), it may have been put there later, as a
    converted file is, and a manifest of other software beside it is none of our business.
    """
    folder = file.parent
    if not (folder / MANIFEST).is_file() or (chosen_by_name and not (folder / STATE).is_file()):
        return
    files = read_manifest(folder)
    if file.name not in files:
        if chosen_by_name:
            return
        raise UserError(f"{folder}: damaged checkpoint: {MANIFEST} does not list {file.name}")
    for name in (STATE, file.name):
        verify_file(folder, name, files[name])
