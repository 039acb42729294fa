"""Top-level keys that stand for several: ``image_size``, ``dataset_dir`` and ``num_classes: auto``.

The first two work where they stand: they change what the file and its bases say, and what is said later (by a file that
builds on this one, by a later ``-o``) counts. So lists of operators that state their sizes go on working. A resolved
configuration holds neither: loaded again, they would undo what was said later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from detection.annotations import Ledger
from detection.coco import load_coco, read_coco
from ppcls_ext.utils.config import Document
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.names import meant_path, user_path
from ppcls_ext.utils.schema import read_override

logger = logging.getLogger(__name__)

PARTS = ("Train", "Eval", "Test")
# The coarsest feature map of a detector: an input is a multiple of its stride, and PP-YOLOE assigns (ATSS) the nine
# nearest cells of each map.
STRIDE = 32
SMALLEST = 3 * STRIDE
# Arguments of operators that are the size of the picture, or several sizes of which one is drawn.
SIZE_ARGUMENTS = ("target_size", "input_dim")
# Keys of heads that fix the size of the evaluation.
SIZE_KEY = "eval_size"


def set_image_size(document: Document) -> None:
    """Gives the network pictures of ``image_size`` pixels (the longer side) in training, evaluation, test and export.

    Every size in the readers is multiplied by the same factor, to multiples of 32: sizes for training at several scales
    keep their proportion.
    """
    data, key = document.data, "image_size"
    wanted = data[key]
    if type(wanted) is not int or wanted < SMALLEST or wanted % STRIDE:
        nearest = max((wanted + STRIDE // 2) // STRIDE * STRIDE, SMALLEST) if isinstance(wanted, int) else 640
        words = f"must be a multiple of {STRIDE} from {SMALLEST} on (pixels of the longer side), such as {nearest}"
        raise UserError(document.problem(key, f"{words}, got {wanted!r}"))
    readers = [data[f"{part}Reader"] for part in PARTS if isinstance(data.get(f"{part}Reader"), dict)]
    before = input_side(data.get("TestReader"))
    if before is None:
        words = "inputs_def.image_shape or a Resize with target_size"
        raise UserError(document.problem(key, f"TestReader states no size that could follow it ({words})"))
    if before == wanted:
        return

    def scaled(value: Any) -> Any:
        if isinstance(value, list):
            sizes = [scaled(part) for part in value]
            # Of many sizes to draw from, none twice; of two, height and width may be the same.
            return list(dict.fromkeys(sizes)) if len(sizes) > 2 and type(sizes[0]) is int else sizes
        if type(value) is not int or value < 1:
            return value
        return max(round(value * wanted / before / STRIDE) * STRIDE, SMALLEST)

    for reader in readers:
        _change_sizes(reader, scaled)
    for section in (data, *(part for part in data.values() if isinstance(part, dict))):
        if SIZE_KEY in section:
            section[SIZE_KEY] = scaled(section[SIZE_KEY])
    logger.info("image_size: inputs of %d pixels instead of %d; other sizes in proportion", wanted, before)


def warn_of_other_size(data: dict[str, Any], weights: Path, where: Path) -> None:
    """Warns if trained weights were evaluated at another size in their run, by the configuration beside them."""
    try:
        trained = yaml.safe_load((weights.parent / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return
    theirs = input_side(trained.get("TestReader")) if isinstance(trained, dict) else None
    ours = input_side(data.get("TestReader"))
    if theirs and ours and theirs != ours:
        advice = f"-o image_size={theirs} if that is not meant"
        logger.warning("%s: inputs of %d pixels, but %s was trained for %d: %s", where, ours, weights, theirs, advice)


def input_side(reader: Any) -> int | None:
    """Returns the longer side of what a reader makes, or ``None`` where it states no size."""
    stated: list[Any] = []
    if isinstance(reader, dict):
        shape = _input_shape(reader)
        stated += [shape[-2:]] if isinstance(shape, list) else []
        _change_sizes({"sample_transforms": reader.get("sample_transforms")}, lambda size: stated.append(size) or size)
    for size in stated:
        sides = size if isinstance(size, list) else [size]
        if sides and all(type(side) is int and side > 0 for side in sides):
            return max(sides)
    return None


def _input_shape(reader: dict[str, Any]) -> Any:
    inputs = reader.get("inputs_def")
    return inputs.get("image_shape") if isinstance(inputs, dict) else None


def _change_sizes(reader: dict[str, Any], change: Callable[[Any], Any]) -> None:
    """Puts ``change(size)`` in the place of each size in a reader, also of operators inside others."""
    shape = _input_shape(reader)
    if isinstance(shape, list) and len(shape) > 2:
        shape[-2:] = change(shape[-2:])
    for key, entries in reader.items():
        if not str(key).endswith("_transforms") and not str(key).startswith("transforms"):
            continue
        for entry in entries if isinstance(entries, list) else ():
            for name, arguments in entry.items() if isinstance(entry, dict) else ():
                if not isinstance(arguments, dict):
                    continue
                for argument in arguments.keys() & {*SIZE_ARGUMENTS, *(["size"] if name == "Pad" else [])}:
                    arguments[argument] = change(arguments[argument])
                _change_sizes(arguments, change)


def set_dataset_dir(document: Document) -> None:
    """Puts the folder ``dataset_dir`` into ``TrainDataset``, ``EvalDataset`` and ``TestDataset``."""
    folder = _path_at(document, "dataset_dir")
    if not isinstance(folder, str):
        raise UserError(document.problem("dataset_dir", f"must be the path of a folder, got {folder!r}"))
    for part in PARTS:
        if isinstance(document.data.get(f"{part}Dataset"), dict):
            document.data[f"{part}Dataset"]["dataset_dir"] = folder
            # What an earlier -o said there counts no more.
            document.texts.pop(f"{part}Dataset.dataset_dir", None)


def _path_at(document: Document, key: str) -> Any:
    """Returns what stands at the dotted key of a path: if ``-o`` said it, the text as it stands."""
    value: Any = document.data
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return read_override(document.texts[key], str | None) if key in document.texts else value


def set_class_count(document: Document) -> None:
    """Counts the classes of the training set, where ``num_classes`` is ``auto``."""
    data, key = document.data, "num_classes"
    stated = data.get(key)
    if isinstance(stated, str) and stated.isdecimal():
        # An -o in the place of a text is taken for a text.
        data[key] = int(stated)
    if stated != "auto":
        return
    folder, name = (_path_at(document, f"TrainDataset.{argument}") for argument in ("dataset_dir", "anno_path"))
    if not name or not all(isinstance(part, str) for part in (folder or "", name)):
        raise UserError(document.problem(key, "auto needs TrainDataset.anno_path, a file: state a number"))
    file = meant_path(user_path(folder or "") / name)
    if not file.is_file():
        message = f"auto counts the classes of {file}: no such file; {how_to_prepare(file)}"
        raise UserError(document.problem(key, f"{message}; or state a number: -o num_classes=N"))
    data[key] = len(read_coco(file, Ledger(), content=load_coco(file, ("categories",))).names)


def how_to_prepare(annotations: Path) -> str:
    """Says which command writes an annotation file."""
    folder = annotations.parent
    folder = folder.parent if folder.name == "annotations" else folder
    return f"prepare the data first: python tools/prepare_data.py import FOLDER --output {folder}"


SHORT_KEYS: dict[str, Callable[[Document], None]] = {"image_size": set_image_size, "dataset_dir": set_dataset_dir}
