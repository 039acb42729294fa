"""Converts a weight file: from the names of another code base to ours, and between file formats."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ppcls_ext.common.errors import UserError
from ppcls_ext.weights.files import SUFFIXES, find_weights, read_weights, write_weights
from ppcls_ext.weights.load import compare
from ppcls_ext.weights.paddleclas import convert_paddleclas
from ppcls_ext.weights.reference import Conversion, convert_reference

Converter = Callable[[Mapping[str, np.ndarray], Mapping[str, tuple[int, ...]], str, str], Conversion]
# Where the classifier's bias may stand: its length is the number of classes of the source.
CLASSIFIER_BIASES = ("head.fc_cls.bias", "head.bias")
DEFAULT_CLASSES = 1000


def convert_ours(
    weights: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], label: str, model_name: str
) -> Conversion:
    """Checks weights that have our names already; only the file format changes. See ``convert_reference``."""
    report = compare(label, shapes, weights)
    if not report.complete:
        raise UserError(f"{label} does not fit {model_name}: {report.differences()}")
    return Conversion(dict(weights))


CONVERTERS: dict[str, Converter] = {
    "reference": convert_reference,
    "paddleclas": convert_paddleclas,
    "ours": convert_ours,
}


def convert_weights(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    model_name: str,
    origin: str,
    class_num: int | None = None,
) -> Conversion:
    """Converts the weights in ``source`` to ``destination``; the suffixes choose the formats.

    Args:
        source: weight file or checkpoint folder.
        destination: file to write, ``.pdparams`` or ``.safetensors``.
        model_name: a name of ``list_models()``; the converted weights must fit it exactly.
        origin: a key of ``CONVERTERS``: whose names the source uses.
        class_num: number of classes; None takes it from the source's classifier.

    Raises:
        UserError: the source cannot be read or does not fit the model.
    """
    if Path(destination).suffix not in SUFFIXES:
        raise UserError(f"{destination}: the suffix must be one of {', '.join(SUFFIXES)}")
    label = str(find_weights(source))
    weights = read_weights(source)
    if class_num is None:
        biases = [weights[name] for name in CLASSIFIER_BIASES if name in weights]
        class_num = len(biases[0]) if biases and biases[0].ndim == 1 else DEFAULT_CLASSES
    conversion = CONVERTERS[origin](weights, _shapes_of(model_name, class_num), label, model_name)
    metadata = {"format": "paddle", "model": model_name, "class_num": str(class_num), "origin": origin}
    write_weights(destination, conversion.weights, metadata)
    return conversion


def _shapes_of(model_name: str, class_num: int) -> dict[str, tuple[int, ...]]:
    from ppcls_ext.models.registry import build_model

    try:
        model = build_model(model_name, class_num=class_num)
    except ValueError as error:
        raise UserError(str(error)) from error
    return {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
