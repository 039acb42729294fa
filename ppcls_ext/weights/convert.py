"""Converts a weight file: from the names of another code base to ours or back, and between file formats."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
from ppcls_ext.weights.fit import Shapes, check_fit, origin_of
from ppcls_ext.weights.layout_tables import LAYOUTS, TARGETS, layout_to_write
from ppcls_ext.weights.layouts import Conversion, Layout
from ppcls_ext.weights.load import CLASSIFIER
from ppcls_ext.weights.torch_files import read_torch_weights

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
