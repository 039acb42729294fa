"""Readers and data sets of a detection configuration: every image operator against its constructor."""

from __future__ import annotations

from typing import Any

from detection.configuration.catalog import is_ours
from detection.configuration.modules import Checker
from detection.configuration.signatures import keyword_keys, signature_of
from ppcls_ext.utils.errors import suggestion

# PaddleDetection reads these from the section, past the reader's constructor.
_READ_ELSEWHERE = ("inputs_def", "fuse_normalize")
_PATHS = ("dataset_dir", "image_dir", "anno_path")


def check_reader(checker: Checker, name: str, section: Any) -> None:
    """Checks a section such as ``TrainReader`` with all its operators."""
    catalog = checker.catalog
    signature = signature_of(catalog.modules[name], name, annotated=False)
    if not checker.is_mapping(name, section) or signature is None:
        return
    late = keyword_keys(catalog.folder / "data" / "source" / "dataset.py", "DetDataset", "set_kwargs")
    checker.check_call(name, signature, section, extra=(*sorted(late), *_READ_ELSEWHERE))
    batch_size = section.get("batch_size", 1)
    whole = isinstance(batch_size, int) and not isinstance(batch_size, bool)
    # A text was refused above, by the constructor's default.
    if not isinstance(batch_size, str) and not (whole and batch_size >= 1):
        checker.problems.add(f"{name}.batch_size", f"must be a whole number of at least 1, got {batch_size!r}")
    if name == "TrainReader" and section.get("collate_batch") is False:
        problem = "must be true: boxes reach the model as one array, padded by PadGT"
        checker.problems.add(f"{name}.collate_batch", problem)
    for key, value in section.items():
        if str(key).endswith(("_transforms", "_aug")):
            _check_operators(checker, f"{name}.{key}", value)
    definition = section.get("inputs_def")
    shape = definition.get("image_shape") if isinstance(definition, dict) else None
    if shape is not None and not _is_shape(shape):
        checker.problems.add(f"{name}.inputs_def.image_shape", f"must be [3, height, width], got {shape!r}")


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) in (3, 4)
        and all(isinstance(size, int) and not isinstance(size, bool) for size in shape)
    )


def _check_operators(checker: Checker, key: str, entries: Any) -> None:
    if not isinstance(entries, list):
        checker.problems.add(key, f"must be a list of operators, got {entries!r}")
        return
    for index, entry in enumerate(entries):
        place = f"{key}[{index}]"
        if not isinstance(entry, dict) or not entry:
            checker.problems.add(place, f"must be an operator with arguments, such as 'Permute: {{}}', got {entry!r}")
            continue
        for name, arguments in entry.items():
            _check_operator(checker, place, str(name), arguments)


def _check_operator(checker: Checker, place: str, name: str, arguments: Any) -> None:
    operators = checker.catalog.operators
    if name not in operators:
        checker.problems.add(place, f"unknown operator '{name}'{suggestion(name, operators)}")
        return
    key = f"{place}.{name}"
    signature = signature_of(operators[name], name, is_ours(operators[name]))
    if not checker.is_mapping(key, arguments) or signature is None:
        return
    checker.check_call(key, signature, arguments)
    for argument, value in arguments.items():
        if str(argument).startswith("transforms") and argument in signature.parameters:
            _check_operators(checker, f"{key}.{argument}", value)


def check_dataset(checker: Checker, name: str, section: Any) -> None:
    """Checks a section such as ``TrainDataset``, which names its class."""
    checker.check_named(name, section, "data set", checker.catalog.datasets)
    if not isinstance(section, dict):
        return
    for key in _PATHS:
        value = section.get(key)
        if value is not None and not isinstance(value, str):
            checker.problems.add(f"{name}.{key}", f"must be a path, got {value!r}")
