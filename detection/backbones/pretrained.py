"""Weights of a classifier, or of another detector, as weights of a detector's backbone: strictly, with a report."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ppcls_ext.arch.variants import VARIANTS
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import LoadReport, find_weights, load_weights, read_weights
from ppcls_ext.weights.load import compare
from ppcls_ext.weights.reference import is_reference, rename_reference

if TYPE_CHECKING:
    from detection.backbones.econvnext import EConvNeXt

logger = logging.getLogger(__name__)

PREFIX = "EConvNeXt_"
ARCHS = tuple(name.removeprefix(PREFIX) for name in VARIANTS)
# Where a detector keeps its backbone, and a classifier what a backbone has not.
BACKBONE = "backbone."
CLASSIFIER = ("norm.", "head.")
# The batch norms of the outputs: a classifier has none, and another detector may have them for other stages.
OUTPUT_NORMS = "norms."


@dataclass
class _Found:
    """What a file holds for a backbone.

    Attributes:
        body: stem and stages by our names.
        norms: norms of outputs by number, each with its arrays by name.
        left_out: names that belong to something else: a classifier, a neck, a head.
        origin: whose names they were, for the report.
    """

    body: dict[str, np.ndarray] = field(default_factory=dict)
    norms: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    origin: str = ""


def load_backbone_weights(backbone: EConvNeXt, source: str | os.PathLike[str]) -> LoadReport:
    """Loads ``source`` into ``backbone`` in place, and says so in one line of the log; nothing in it is executed.

    Args:
        backbone: receives the weights.
        source: a checkpoint folder (of its weights those that were evaluated), ``.pdparams`` or ``.safetensors``, with
            the weights of a classifier or of a detector, by our names or by those of the paper's repository.

    Returns:
        What was loaded; ``missing`` are the norms of outputs that start fresh, ``unexpected`` what was left out.

    Raises:
        UserError: the file cannot be read, or stem and stages differ in a name or a shape.
    """
    label = str(find_weights(source))
    found = _sort(read_weights(source), label)
    own = dict(backbone.state_dict())
    shapes = {name: tuple(value.shape) for name, value in own.items() if not name.startswith(OUTPUT_NORMS)}
    report = compare(label, shapes, found.body)
    if not report.complete:
        raise UserError(_refusal(backbone, report, found.body))
    norms = _matching_norms(backbone, found.norms, label)
    fresh = [name for name in own if name.startswith(OUTPUT_NORMS) and name not in norms]
    load_weights(backbone, {**found.body, **norms, **{name: own[name].numpy() for name in fresh}})
    result = LoadReport(label, [*report.loaded, *norms], missing=fresh, unexpected=found.left_out)
    logger.info(_summary(backbone, result, found))
    return result


def _sort(weights: Mapping[str, np.ndarray], label: str) -> _Found:
    """Sorts the weights of a file into those of the backbone, its output norms, and what belongs to something else."""
    found = _Found()
    of_detector = {name: value for name, value in weights.items() if name.startswith(BACKBONE)}
    if of_detector:
        found.left_out = [name for name in weights if name not in of_detector]
        weights = {name.removeprefix(BACKBONE): value for name, value in of_detector.items()}
    if is_reference(weights):
        found.origin = " (names of the paper's repository)"
        conversion = rename_reference(weights, label)
        norms = {name: weights[name] for name in conversion.dropped if name.startswith(OUTPUT_NORMS)}
        weights = {**conversion.weights, **norms}
    for name, value in weights.items():
        if name.startswith(CLASSIFIER):
            found.left_out.append(name)
        elif name.startswith(OUTPUT_NORMS):
            number, _, part = name.removeprefix(OUTPUT_NORMS).partition(".")
            found.norms.setdefault(number, {})[part] = value
        else:
            found.body[name] = value
    return found


def _matching_norms(
    backbone: EConvNeXt, norms: Mapping[str, Mapping[str, np.ndarray]], label: str
) -> dict[str, np.ndarray]:
    """Returns the file's norms by our names. Channels tell the stage: the file may number other stages than ours."""
    matched: dict[str, np.ndarray] = {}
    for number, norm in enumerate(backbone.norms):
        parts = {name: tuple(value.shape) for name, value in norm.state_dict().items()}
        alike = [
            theirs for theirs in norms.values() if tuple(theirs.get("weight", np.empty(0)).shape) == parts["weight"]
        ]
        if not alike:
            continue
        report = compare(label, parts, alike[0])
        if len(alike) > 1 or not report.complete:
            raise UserError(f"{label}: damaged norms of the outputs: {report.differences() or 'two of one stage'}")
        matched |= {f"{OUTPUT_NORMS}{number}.{name}": value for name, value in alike[0].items()}
    return matched


def _refusal(backbone: EConvNeXt, report: LoadReport, body: Mapping[str, np.ndarray]) -> str:
    """Says why stem and stages do not fit, naming the arch that they fit if there is one."""
    name = type(backbone).__name__
    if not body:
        return f"{report.source}: holds no backbone: no weight has a name such as stages.0... or backbone.stages.0..."
    for arch in ARCHS:
        if arch != backbone.arch and compare(report.source, _shapes_of(arch), body).complete:
            return f"{report.source} is of arch '{arch}', the backbone is '{backbone.arch}': set {name}.arch to {arch}"
    if not (report.missing or report.unexpected) and all(weight.startswith("stem.") for weight in report.mismatched):
        return (
            f"{report.source} fits {name} {backbone.arch} but for the stem: it was trained with another stem_stride, "
            f"for small images, and detectors need 4; {report.differences()}"
        )
    return f"{report.source} fits {name} neither with arch '{backbone.arch}' nor with another: {report.differences()}"


def _shapes_of(arch: str) -> dict[str, tuple[int, ...]]:
    import paddle

    from ppcls_ext.arch.registry import build_model

    # Names that Paddle generates for parameters go on counting only outside of the guard.
    with paddle.utils.unique_name.guard():
        model = build_model(PREFIX + arch, class_num=0)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    return {name: shape for name, shape in shapes.items() if not name.startswith(CLASSIFIER)}


def _summary(backbone: EConvNeXt, report: LoadReport, found: _Found) -> str:
    """Returns the report in one line."""
    line = f"{report.source}: {len(report.loaded)} weights loaded into {type(backbone).__name__} {backbone.arch}"
    line += found.origin
    if found.left_out:
        parts = sorted({name.partition(".")[0] for name in found.left_out})  # files differ in their order
        line += f"; left out: {', '.join(parts)} ({len(found.left_out)} weights)"
    if report.missing:
        fresh = dict.fromkeys(name.rpartition(".")[0] for name in report.missing)
        line += f"; start fresh: {', '.join(fresh)}"
    return line
