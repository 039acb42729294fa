"""E-ConvNeXt as a PaddleDetection backbone: ``backbone: EConvNeXt`` in YAML, or the paper's name ``CSPConvNeXt``.

The trunk of `ppcls_ext.arch.econvnext` with a batch norm for each map that leaves it; and weights of a classifier, or
of another detector, as weights of a backbone: strictly, with a report.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle
from paddle import nn
from ppdet.core.workspace import register, serializable
from ppdet.modeling.shape_spec import ShapeSpec

from ppcls_ext.arch.econvnext import MODELS, EConvNeXtTrunk
from ppcls_ext.arch.layers import BATCH_NORM_EPSILON
from ppcls_ext.utils.errors import UserError, suggestion
from ppcls_ext.weights import LoadReport, find_weights, load_weights, read_weights
from ppcls_ext.weights.convert import LAYOUTS, is_reference
from ppcls_ext.weights.load import compare

logger = logging.getLogger(__name__)

PREFIX = "EConvNeXt_"
ARCHS = tuple(name.removeprefix(PREFIX) for name in MODELS)
# Where a detector keeps its backbone, and a classifier what a backbone has not.
BACKBONE = "backbone."
CLASSIFIER = ("norm.", "head.")
# The batch norms of the outputs: a classifier has none, and another detector may have them for other stages.
OUTPUT_NORMS = "norms."


@register
@serializable
class EConvNeXt(EConvNeXtTrunk):
    """The backbone of E-ConvNeXt (arXiv 2508.20955) with a batch norm for each map that leaves it.

    Args:
        arch: ``mini``, ``tiny`` or ``small``.
        return_idx: stages whose outputs are returned, 0 to 3, rising; strides 4, 8, 16, 32.
        norm_output: puts each output through a batch norm of its own.
        drop_path_rate: rate of the last block; earlier ones get less, linearly down to 0.
        freeze_at: -1 trains everything; 0 freezes the stem, k the stem and the first k stages: no gradients, running
            statistics that stay, and no drop path.
        pretrained: weights of a classifier or of a detector, ours or the paper's: a checkpoint folder, ``.pdparams``
            or ``.safetensors``. Stem and stages must fit; norms of outputs that the file lacks start fresh.
        expansion_channels: a list for each stage: the channels inside each of its blocks, if not four times the
            block's as published; ``tools/prune_model.py`` finds them.

    Raises:
        ValueError: an argument is out of range; the message begins with its name.
        UserError: ``pretrained`` cannot be read or does not fit.
    """

    def __init__(
        self,
        arch: str = "mini",
        return_idx: Sequence[int] = (1, 2, 3),
        norm_output: bool = True,
        drop_path_rate: float = 0.0,
        freeze_at: int = -1,
        pretrained: str | None = None,
        expansion_channels: list | None = None,
    ) -> None:
        if arch not in ARCHS:
            raise ValueError(f"arch: must be one of {', '.join(ARCHS)}, got '{arch}'{suggestion(str(arch), ARCHS)}")
        super().__init__(
            **MODELS[PREFIX + arch], drop_path_rate=_checked_rate(drop_path_rate), expansion_channels=expansion_channels
        )
        self.arch = arch
        self.return_idx = _checked_stages(return_idx, len(self.feature_channels))
        self.freeze_at = _checked_freeze(freeze_at, len(self.feature_channels))
        self.norms = nn.LayerList(
            nn.BatchNorm2D(self.feature_channels[index], epsilon=BATCH_NORM_EPSILON)
            for index in (self.return_idx if norm_output else ())
        )
        if pretrained:
            load_backbone_weights(self, _checked_path(pretrained))
        for layer in self._frozen_layers():
            for parameter in layer.parameters():
                parameter.trainable = False

    def _frozen_layers(self) -> list[nn.Layer]:
        if self.freeze_at < 0:
            return []
        return [self.stem, *list(self.stages.children())[: self.freeze_at]]

    def _hold_frozen_layers(self) -> None:
        """Keeps what is frozen in evaluation mode. A detector's ``train`` sets each layer's flag past any method."""
        for layer in self._frozen_layers():
            for part in layer.sublayers(include_self=True):
                part.training = False

    def forward(self, inputs: Mapping[str, Any] | paddle.Tensor) -> list[paddle.Tensor]:
        """``inputs['image']`` or a tensor, ``[N, 3, H, W]`` -> for each stage asked for ``[N, C, H / s, W / s]``."""
        if self.training:
            self._hold_frozen_layers()
        image = inputs if isinstance(inputs, paddle.Tensor) else inputs["image"]
        features = self.forward_features(image)
        outputs = [features[index] for index in self.return_idx]
        if len(self.norms) == 0:
            return outputs
        # By index, because Paddle's conversion into a graph knows no strict zip.
        return [norm(outputs[index]) for index, norm in enumerate(self.norms)]

    @property
    def out_shape(self) -> list[ShapeSpec]:
        """Channels and strides of the outputs, as ppdet's necks want them."""
        return [
            ShapeSpec(channels=self.feature_channels[index], stride=self.feature_strides[index])
            for index in self.return_idx
        ]


@register
@serializable
class CSPConvNeXt(EConvNeXt):
    """:class:`EConvNeXt` under the name that the paper's configurations use."""


def _checked_stages(return_idx: Sequence[int], stages: int) -> list[int]:
    indices = list(return_idx) if isinstance(return_idx, Sequence) else [return_idx]
    whole = all(isinstance(index, int) and not isinstance(index, bool) for index in indices)
    if not whole or not indices or sorted(set(indices)) != indices or indices[0] < 0 or indices[-1] >= stages:
        raise ValueError(f"return_idx: must be rising stage numbers from 0 to {stages - 1}, got {return_idx!r}")
    return indices


def _checked_freeze(freeze_at: int, stages: int) -> int:
    if not isinstance(freeze_at, int) or isinstance(freeze_at, bool) or not -1 <= freeze_at <= stages:
        raise ValueError(f"freeze_at: must be -1 (nothing) to {stages} (everything), got {freeze_at!r}")
    return freeze_at


def _checked_rate(rate: float) -> float:
    try:
        # YAML reads 1e-1 as a text.
        return float(rate)
    except (TypeError, ValueError) as error:
        raise ValueError(f"drop_path_rate: must be a number, got {rate!r}") from error


def _checked_path(pretrained: str) -> str:
    if not isinstance(pretrained, str | os.PathLike):
        raise ValueError(f"pretrained: must be the path of a weight file or checkpoint folder, got {pretrained!r}")
    return os.fspath(pretrained)


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
        conversion = LAYOUTS["reference"].to_ours(weights, label)
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
    # Names that Paddle generates for parameters go on counting only outside of the guard.
    with paddle.utils.unique_name.guard(), paddle.LazyGuard():
        trunk = EConvNeXtTrunk(**MODELS[PREFIX + arch])
    return {name: tuple(value.shape) for name, value in trunk.state_dict().items()}


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
