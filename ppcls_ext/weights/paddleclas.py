"""Renames the weights of PaddleClas's ``ConvNeXt_*`` to the names of our ``ConvNeXtV1_*``; no value changes."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from ppcls_ext.common.errors import UserError
from ppcls_ext.weights.load import compare
from ppcls_ext.weights.reference import Conversion

BLOCK_LAYERS = {"dwconv": "depthwise", "norm": "norm", "pwconv1": "expand", "pwconv2": "project"}
STEM = re.compile(r"downsample_layers\.0\.([01])\.(\w+)")
DOWNSAMPLE = re.compile(r"downsample_layers\.([1-3])\.([01])\.(\w+)")
BLOCK = re.compile(r"stages\.(\d)\.(\d+)\.(dwconv|norm|pwconv[12])\.(\w+)")
LAYER_SCALE = re.compile(r"stages\.(\d)\.(\d+)\.gamma")


def our_name(name: str) -> str:
    """Returns our name of PaddleClas's ``name``.

    Raises:
        KeyError: its ConvNeXt has no such weight.
    """
    if match := STEM.fullmatch(name):
        return f"stem.{match[1]}.{match[2]}"
    if match := DOWNSAMPLE.fullmatch(name):
        return f"stages.{match[1]}.downsample.{match[2]}.{match[3]}"
    if match := BLOCK.fullmatch(name):
        return f"stages.{match[1]}.blocks.{match[2]}.{BLOCK_LAYERS[match[3]]}.{match[4]}"
    if match := LAYER_SCALE.fullmatch(name):
        return f"stages.{match[1]}.blocks.{match[2]}.layer_scale.weight"
    if name.startswith(("norm.", "head.")):
        return name
    raise KeyError(name)


def convert_paddleclas(
    weights: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], label: str, model_name: str
) -> Conversion:
    """Renames weights of PaddleClas's ConvNeXt. See ``convert_reference``.

    Raises:
        UserError: a name is unknown, or names or shapes do not fit the model: another variant or number of classes.
    """
    conversion, unknown = Conversion(), []
    for name, array in weights.items():
        try:
            conversion.weights[our_name(name)] = array
        except KeyError:
            unknown.append(name)
    if unknown:
        raise UserError(
            f"{label}: not a checkpoint of PaddleClas's ConvNeXt, {len(unknown)} of {len(weights)} names are unknown: "
            f"{', '.join(unknown[:4])}"
        )
    report = compare(label, shapes, conversion.weights)
    if not report.complete:
        raise UserError(f"{label} does not fit {model_name}: {report.differences()}. Choose another --model")
    return conversion
