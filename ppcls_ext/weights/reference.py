"""Renames the weights of the paper's repository (E-ConvNeXt, arXiv 2508.20955) to the names of our models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ppcls_ext.common.errors import UserError
from ppcls_ext.weights.load import compare

# Of a ConvBNAct, and of the layers of a block and of a stage: their name there -> our name.
PARTS = {"conv": "conv", "bn": "norm"}
STAGE_LAYERS = {"conv1": "shortcut", "conv2": "entry", "conv3": "merge"}
BLOCK_LAYERS = {
    "dwconv": "depthwise",
    "norm": "norm",
    "pwconv1": "expand",
    "pwconv2": "project",
    "norm2": "project_norm",
    "ese.fc": "attention.conv",
}
STEM = re.compile(r"Down_Conv\.conv([1-9])\.(conv|bn)\.(\w+)")
DOWNSAMPLE = re.compile(r"stages\.(\d)\.down\.0\.(conv|bn)\.(\w+)")
STAGE = re.compile(r"stages\.(\d)\.(conv[123])\.(conv|bn)\.(\w+)")
STAGE_ATTENTION = re.compile(r"stages\.(\d)\.attn\.fc\.(\w+)")
BLOCK = re.compile(r"stages\.(\d)\.blocks\.(\d+)\.(dwconv|norm2?|pwconv[12]|ese\.fc)\.(\w+)")
# The layer scale that the attention replaced, and the batch norms of detector features: no part of the classifier.
UNUSED = re.compile(r"stages\.\d\.blocks\.\d+\.gamma|norms\.\d\..+")


@dataclass
class Conversion:
    """Converted weights by our names, and the names of the source that have no counterpart and were dropped."""

    weights: dict[str, np.ndarray] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)


def our_name(name: str) -> str | None:
    """Returns our name of the reference's ``name``; None when that weight is unused.

    Raises:
        KeyError: the reference has no such weight.
    """
    if UNUSED.fullmatch(name):
        return None
    if match := STEM.fullmatch(name):
        return f"stem.{int(match[1]) - 1}.{PARTS[match[2]]}.{match[3]}"
    if match := DOWNSAMPLE.fullmatch(name):
        return f"stages.{match[1]}.downsample.{PARTS[match[2]]}.{match[3]}"
    if match := STAGE.fullmatch(name):
        return f"stages.{match[1]}.{STAGE_LAYERS[match[2]]}.{PARTS[match[3]]}.{match[4]}"
    if match := STAGE_ATTENTION.fullmatch(name):
        return f"stages.{match[1]}.attention.conv.{match[2]}"
    if match := BLOCK.fullmatch(name):
        return f"stages.{match[1]}.blocks.{match[2]}.{BLOCK_LAYERS[match[3]]}.{match[4]}"
    if name.startswith("norm."):
        return name
    if name.startswith("head.fc_cls."):
        return "head." + name.removeprefix("head.fc_cls.")
    raise KeyError(name)


def is_reference(weights: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of the paper's repository."""
    return any(name.startswith("Down_Conv.") for name in weights)


def rename_reference(weights: Mapping[str, np.ndarray], label: str) -> Conversion:
    """Renames the weights of the paper's repository without asking which model they fit.

    Args:
        weights: arrays by the reference's names.
        label: names the source in messages.

    Raises:
        UserError: a name is unknown.
    """
    conversion, unknown = Conversion(), []
    for name, array in weights.items():
        try:
            ours = our_name(name)
        except KeyError:
            unknown.append(name)
            continue
        if ours is None:
            conversion.dropped.append(name)
        else:
            conversion.weights[ours] = array
    if unknown:
        raise UserError(
            f"{label}: not a checkpoint of the paper's repository, {len(unknown)} of {len(weights)} names are unknown: "
            f"{', '.join(unknown[:4])}"
        )
    return conversion


def convert_reference(
    weights: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], label: str, model_name: str
) -> Conversion:
    """Renames the weights of the paper's repository.

    Args:
        weights: arrays by the reference's names.
        shapes: shapes of our model's weights by name (``model.state_dict()``).
        label: names the source in messages.
        model_name: names the model in messages.

    Returns:
        Exactly the weights of ``shapes``, and the names that were dropped.

    Raises:
        UserError: a name is unknown, or names or shapes do not fit the model: another variant or number of classes.
    """
    conversion = rename_reference(weights, label)
    report = compare(label, shapes, conversion.weights)
    if not report.complete:
        classes = conversion.weights["head.bias"].shape[0] if "head.bias" in conversion.weights else None
        advice = _advice(list(report.mismatched), classes)
        raise UserError(f"{label} does not fit {model_name}: {report.differences()}. {advice}")
    return conversion


def _advice(mismatched: list[str], classes: int | None) -> str:
    if mismatched and all(name.startswith("head.") for name in mismatched):
        return f"Only the classifier differs: say --class-num {classes}"
    return "It belongs to another variant: choose another --model"
