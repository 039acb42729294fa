"""Converts a weight file: from the names of another code base to ours or back, and between file formats."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.arch.registry import build_model, families, family_of
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights.files import (
    SUFFIXES,
    TORCH_SUFFIXES,
    find_weights,
    read_weights,
    widened,
    write_weights,
)
from ppcls_ext.weights.layouts import LAYOUTS, TARGETS, Conversion, Layout, layout_to_write
from ppcls_ext.weights.load import CLASSIFIER, LoadReport, compare
from ppcls_ext.weights.torch_files import read_torch_weights

Shapes = Mapping[str, tuple[int, ...]]
# What only the blocks or stages of one class have.
MARKS = {"ConvNeXtV1": ".layer_scale.", "ConvNeXtV2": ".response_norm.", "EConvNeXt": ".shortcut."}
DEPTHWISE = ".depthwise.weight"
STEM_WEIGHT = "stem.0.weight"
# What a network that was pretrained without labels lacks.
BEHIND_FEATURES = ("norm.weight", "norm.bias", "head.weight", "head.bias")
CLASSIFIER_BIAS = "head.bias"
DEFAULT_CLASSES = 1000
# Between the pool and the classifier. Self-supervised pretraining knows neither; the authors' fine-tuning begins with
# these values.
LAST_NORM = {"norm.weight": 1.0, "norm.bias": 0.0}
# In these the weights are read by Paddle, in all others by PyTorch.
PADDLE_TARGETS = ("ours", "paddleclas")


@dataclass(frozen=True)
class Request:
    """What is to be converted, and into what.

    Attributes:
        model_name: a name of ``list_models()``; the converted weights must fit it exactly.
        origin: a key of ``LAYOUTS``: whose names the source uses.
        target: one of ``TARGETS``: whose names are written.
        class_num: number of classes; None takes it from the source's classifier.
        drop_head: leave the classifier out; the last norm may then be missing as well, and begins anew.
        entry: which entry of a file of ``torch.save`` holds the weights, if several do.
    """

    model_name: str
    origin: str
    target: str = "ours"
    class_num: int | None = None
    drop_head: bool = False
    entry: str | None = None


def convert_weights(
    source: str | os.PathLike[str], destination: str | os.PathLike[str], request: Request
) -> Conversion:
    """Converts the weights in ``source`` to ``destination``; the suffixes choose the formats.

    Args:
        source: weight file (``.pdparams``, ``.safetensors``, ``.pth``, ``.pt``) or checkpoint folder.
        destination: file to write, ``.safetensors``, or for Paddle also ``.pdparams``.
        request: the rest.

    Returns:
        The weights by our names, what was dropped and what begins anew.

    Raises:
        UserError: the source cannot be read or does not fit the model, or the request contradicts itself.
    """
    _check(destination, request)
    label = str(find_weights(source))
    conversion = _renamed(_read(source, request.entry), LAYOUTS[request.origin], label, request)
    class_num = _class_num(conversion.weights, request)
    if request.drop_head:
        _drop_head(conversion)
    check_fit(label, _shapes_of(request.model_name, class_num), conversion.weights, request.model_name, request.origin)
    if request.target == "ours":
        written, kind = conversion.weights, "paddle"
    else:
        plain = {name: widened(array) for name, array in conversion.weights.items()}
        written = layout_to_write(request.target, request.model_name).to_theirs(plain)
        kind = "paddle" if request.target in PADDLE_TARGETS else "pt"
    metadata = {"format": kind, "model": request.model_name, "class_num": str(class_num), "origin": request.origin}
    write_weights(destination, written, metadata)
    return conversion


def _check(destination: str | os.PathLike[str], request: Request) -> None:
    """Refuses what no source could mend."""
    suffix = Path(destination).suffix
    allowed = SUFFIXES if request.target in PADDLE_TARGETS else (".safetensors",)
    if suffix not in allowed:
        named = f" of weights for {request.target}" if len(allowed) == 1 else ""
        raise UserError(f"{destination}: the suffix{named} must be {' or '.join(allowed)}")
    if request.drop_head and request.class_num:
        raise UserError("--drop-head leaves the classifier out: leave --class-num out too")
    if request.target not in TARGETS:
        raise UserError(f"weights can be written for {', '.join(TARGETS)}, not for {request.target}")
    family = family_of(request.model_name)
    for option, name in (("--from", request.origin), ("--to", request.target)):
        classes = LAYOUTS[name].classes
        if classes and (family is None or family.network.__name__ not in classes):
            models = [model for each in families() if each.network.__name__ in classes for model in each.models]
            raise UserError(
                f"{option} {name} is for {LAYOUTS[name].title}, not for {request.model_name}: "
                f"choose --model among {', '.join(models)}"
            )


def _read(source: str | os.PathLike[str], entry: str | None) -> dict[str, np.ndarray]:
    file = find_weights(source)
    if file.suffix in TORCH_SUFFIXES:
        return read_torch_weights(file, entry)
    if entry is not None:
        raise UserError(f"{file}: --entry {entry} is for files of torch.save ({', '.join(TORCH_SUFFIXES)})")
    return read_weights(source)


def _renamed(weights: Mapping[str, np.ndarray], layout: Layout, label: str, request: Request) -> Conversion:
    try:
        return layout.to_ours(weights, label)
    except UserError as error:
        other = origin_of(weights)
        if other in (None, request.origin):
            raise
        raise UserError(f"{error}. These are the names of {LAYOUTS[other].title}: say --from {other}") from error


def _class_num(weights: Mapping[str, np.ndarray], request: Request) -> int:
    if request.drop_head:
        return 0
    if request.class_num is not None:
        return request.class_num
    bias = weights.get(CLASSIFIER_BIAS)
    return len(bias) if bias is not None and bias.ndim == 1 else DEFAULT_CLASSES


def _drop_head(conversion: Conversion) -> None:
    """Takes the classifier away; a last norm that is missing begins as the identity."""
    for name in [name for name in conversion.weights if name.startswith(CLASSIFIER)]:
        del conversion.weights[name]
        conversion.dropped.append(name)
    features = [array for name, array in conversion.weights.items() if name.endswith(".project.bias")]
    if features and not any(name.startswith("norm.") for name in conversion.weights):
        for name, value in LAST_NORM.items():
            conversion.weights[name] = np.full(features[-1].shape, value, dtype=np.float32)
            conversion.fresh.append(name)


def _shapes_of(model_name: str, class_num: int) -> Shapes:
    import paddle

    try:
        # Only the shapes are wanted: without initial values a large model takes a tenth of a second, not ten. The
        # toolkit's models may compute with their initial values.
        with paddle.LazyGuard() if family_of(model_name) else contextlib.nullcontext():
            model = build_model(model_name, class_num=class_num)
    except ValueError as error:
        raise UserError(str(error)) from error
    return {name: tuple(weight.shape) for name, weight in model.state_dict().items()}


@dataclass(frozen=True)
class Structure:
    """What the weights tell of their network.

    Attributes:
        classes: our classes whose marks they bear.
        depths: blocks in each stage.
        widths: channels of the blocks in each stage.
    """

    classes: tuple[str, ...]
    depths: tuple[int, ...]
    widths: tuple[int, ...]


def structure_of(weights: Mapping[str, np.ndarray]) -> Structure:
    """Reads the structure of a network from its weights by our names; empty if there are no stages of blocks."""
    stages: dict[int, list[int]] = {}
    for name, array in weights.items():
        parts = name.split(".")
        if name.endswith(DEPTHWISE) and len(parts) == 6 and parts[1].isdecimal() and array.ndim:
            stages.setdefault(int(parts[1]), []).append(array.shape[0])
    classes = tuple(kind for kind, mark in MARKS.items() if any(mark in name for name in weights))
    ordered = [stages[stage] for stage in sorted(stages)]
    return Structure(classes, tuple(map(len, ordered)), tuple(widths[0] for widths in ordered))


def fitting_model(structure: Structure) -> str | None:
    """Returns the name of our model with this structure, or None."""
    for family in families():
        for name, row in family.models.items():
            same = row["depths"] == structure.depths and _block_widths(row) == structure.widths
            if same and structure.classes == (family.network.__name__,):
                return name
    return None


def _block_widths(row: Mapping[str, Any]) -> tuple[int, ...]:
    dims = row["dims"]
    if len(dims) == len(row["depths"]):
        return dims
    # The blocks of a stage of E-ConvNeXt are half as wide as the mean of what goes in and out of it.
    return tuple((before + after) // 2 // 2 for before, after in zip(dims[:-1], dims[1:], strict=True))


def check_fit(
    label: str, shapes: Shapes, converted: Mapping[str, np.ndarray], model_name: str, origin: str
) -> None:
    """Accepts weights that have all names and shapes of a model and no others.

    Args:
        label: names the source in messages.
        shapes: shapes of the model's weights by name.
        converted: the weights by our names.
        model_name: the model.
        origin: whose names the source has, a key of ``LAYOUTS``.

    Raises:
        UserError: they differ; the message names the first differences and what to say on the command line.
    """
    report = compare(label, shapes, converted)
    if report.complete:
        # A .pdparams keeps bfloat16 as 16-bit integers; no weight is ever a real uint16.
        integers = [name for name, array in converted.items() if array.dtype.kind != "f" and array.dtype != np.uint16]
        if integers:
            raise UserError(f"{label}: {integers[0]} is of type {converted[integers[0]].dtype}, not a weight")
        return
    structure = structure_of(converted)
    fitting = fitting_model(structure)
    if fitting not in (None, model_name):
        raise UserError(f"{label} does not fit {model_name}: this is {fitting}: choose --model {fitting}")
    advice = _advice(report, structure, fitting, converted)
    other = _other_origin(converted, shapes, origin)
    if other:
        advice = f"Its linear layers lie the other way round: say --from {other}"
    raise UserError(f"{label} does not fit {model_name}: {report.differences()}. {advice}")


def _advice(
    report: LoadReport, structure: Structure, fitting: str | None, converted: Mapping[str, np.ndarray]
) -> str:
    different = [*report.missing, *report.unexpected, *report.mismatched]
    if all(name.startswith(CLASSIFIER) for name in different):
        if report.missing:
            return "Only the classifier is missing: --drop-head writes the weights without one, to train it anew"
        classes = converted["head.bias"].size if "head.bias" in converted else "N"
        return (
            f"Only the classifier differs: say --class-num {classes}, or --drop-head to leave it out and train another"
        )
    if set(different) == set(BEHIND_FEATURES):
        return (
            "The file holds the features alone, as after self-supervised pretraining: --drop-head writes them without "
            "a classifier, to train it"
        )
    if fitting is None and structure.depths:
        return (
            f"It belongs to another variant: its stages have {_row(structure.depths)} blocks of "
            f"{_row(structure.widths)} channels ({', '.join(structure.classes) or 'no known kind'}), which no model of "
            "ours has; choose another --model"
        )
    if list(report.mismatched) == [STEM_WEIGHT]:
        return "Only the stem differs: it was trained with another patch size or number of image channels"
    return "The file is incomplete or altered; or it belongs to another variant: choose another --model"


def _row(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def _other_origin(converted: Mapping[str, np.ndarray], shapes: Shapes, origin: str) -> str | None:
    """Returns the layout that has the same names as ``origin`` and fits, if linear layers are all that differs."""
    theirs = LAYOUTS[origin].to_theirs(converted)
    for name, layout in LAYOUTS.items():
        same_names = name != origin and layout.classes and layout.knows(theirs)
        if same_names and compare("", shapes, layout.to_ours(theirs, "").weights).complete:
            return name
    return None


def origin_of(weights: Mapping[str, np.ndarray]) -> str | None:
    """Returns the first of ``LAYOUTS``, ours not counted, that knows all names of ``weights``."""
    return next((name for name, layout in LAYOUTS.items() if layout.classes and layout.knows(weights)), None)
