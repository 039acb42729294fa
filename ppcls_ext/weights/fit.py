"""Whether converted weights fit a model, and if not, which model or command they would fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppcls_ext.arch.registry import families
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights.layout_tables import LAYOUTS
from ppcls_ext.weights.load import CLASSIFIER, LoadReport, compare

Shapes = Mapping[str, tuple[int, ...]]
# What only the blocks or stages of one class have.
MARKS = {"ConvNeXtV1": ".layer_scale.", "ConvNeXtV2": ".response_norm.", "EConvNeXt": ".shortcut."}
DEPTHWISE = ".depthwise.weight"
STEM_WEIGHT = "stem.0.weight"
# What a network that was pretrained without labels lacks.
BEHIND_FEATURES = ("norm.weight", "norm.bias", "head.weight", "head.bias")


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
