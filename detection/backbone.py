"""E-ConvNeXt as a PaddleDetection backbone: ``backbone: EConvNeXt`` in YAML, or the paper's name ``CSPConvNeXt``.

The trunk of `ppcls_ext.arch.econvnext` with a batch norm for each map that leaves it; and weights of a classifier as
weights of a backbone: strictly, with a report.
"""

from __future__ import annotations

import logging
import os
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import paddle
from paddle import nn
from ppdet.core.workspace import register, serializable
from ppdet.modeling.shape_spec import ShapeSpec

from ppcls_ext.arch import econvnext
from ppcls_ext.arch.econvnext import MODELS
from ppcls_ext.arch.layers import BATCH_NORM_EPSILON
from ppcls_ext.engine.finetuning import Trunk, trunk_of
from ppcls_ext.utils.errors import UserError, suggestion
from ppcls_ext.weights import find_weights, load_weights, read_weights
from ppcls_ext.weights.convert import LAYOUTS
from ppcls_ext.weights.load import compare, is_reference

logger = logging.getLogger(__name__)

PREFIX = "EConvNeXt_"
Arch = Literal["mini", "tiny", "small"]
ARCHS = typing.get_args(Arch)
STAGES = 4
# What a backbone has not of a classifier, and the batch norms of its outputs.
CLASSIFIER = ("norm.", "head.")
OUTPUT_NORMS = "norms."


@register
@serializable
class EConvNeXt(econvnext.EConvNeXt):
    """The backbone of E-ConvNeXt (arXiv 2508.20955) with a batch norm for each map that leaves it.

    Args:
        arch: ``mini``, ``tiny`` or ``small``.
        return_idx: stages whose outputs are returned, 0 to 3, rising; strides 4, 8, 16, 32.
        norm_output: puts each output through a batch norm of its own.
        drop_path_rate: rate of the last block; earlier ones get less, linearly down to 0.
        freeze_at: -1 trains everything; 0 freezes the stem, k the stem and the first k stages: no gradients, running
            statistics that stay, and no drop path.
        pretrained: weights of a classifier, ours or the paper's: a checkpoint folder, ``.pdparams`` or
            ``.safetensors``; see :func:`load_backbone_weights`.
        expansion_channels: a list for each stage: the channels inside each of its blocks, if not four times the
            block's as published; ``tools/prune_model.py`` finds them.
        depth_multiplier, width_multiplier: scale the blocks of each stage and the widths, as of a classifier.

    Raises:
        ValueError: an argument is out of range; the message begins with its name.
        UserError: ``pretrained`` cannot be read or does not fit.
    """

    def __init__(
        self,
        arch: Arch = "mini",
        return_idx: Sequence[int] = (1, 2, 3),
        norm_output: bool = True,
        drop_path_rate: float = 0.0,
        freeze_at: int = -1,
        pretrained: str | None = None,
        expansion_channels: list | None = None,
        depth_multiplier: float = 1.0,
        width_multiplier: float = 1.0,
    ) -> None:
        if arch not in ARCHS:
            raise ValueError(f"arch: must be one of {', '.join(ARCHS)}, got '{arch}'{suggestion(str(arch), ARCHS)}")
        try:
            rate = float(drop_path_rate)  # YAML reads 1e-1 as a text.
        except (TypeError, ValueError) as error:
            raise ValueError(f"drop_path_rate: must be a number, got {drop_path_rate!r}") from error
        if pretrained and not isinstance(pretrained, str | os.PathLike):
            raise ValueError(f"pretrained: must be the path of a weight file or checkpoint folder, got {pretrained!r}")
        if type(freeze_at) is not int or not -1 <= freeze_at <= STAGES:
            raise ValueError(f"freeze_at: must be -1 (nothing) to {STAGES} (everything), got {freeze_at!r}")
        indices = list(return_idx) if isinstance(return_idx, Sequence) else []
        if not indices or any(index not in range(STAGES) for index in indices) or sorted(set(indices)) != indices:
            raise ValueError(f"return_idx: must be rising stage numbers from 0 to {STAGES - 1}, got {return_idx!r}")
        super().__init__(
            **MODELS[PREFIX + arch],
            drop_path_rate=rate,
            expansion_channels=expansion_channels,
            depth_multiplier=depth_multiplier,
            width_multiplier=width_multiplier,
        )
        self.arch, self.return_idx, self.freeze_at = arch, indices, freeze_at
        self.norms = nn.LayerList(
            nn.BatchNorm2D(self.feature_channels[index], epsilon=BATCH_NORM_EPSILON)
            for index in (self.return_idx if norm_output else ())
        )
        if pretrained:
            try:
                load_backbone_weights(self, pretrained)
            except UserError as error:
                raise UserError(f"{type(self).__name__}.pretrained: {error}") from error
        for layer in self._frozen_layers():
            for parameter in layer.parameters():
                parameter.trainable = False

    def add_classifier(self, class_num: int) -> None:
        """A backbone has none."""

    def _frozen_layers(self) -> list[nn.Layer]:
        if self.freeze_at < 0:
            return []
        return [self.stem, *list(self.stages.children())[: self.freeze_at]]

    def _hold_frozen_layers(self) -> None:
        """Keeps what is frozen in evaluation mode.

        ``train()`` of the whole detector sets ``training`` on every sublayer without calling its methods, so it is
        undone here.
        """
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


# How deep the parts of backbones lie that have no stem, or no stages with blocks, by class. PaddleDetection's ConvNeXt
# keeps its stem before its downsampling; the first of the stages of `YOLOv10Backbone` has stride 4.
TRUNKS: dict[str, Callable[[Any], Trunk]] = {
    "ConvNeXt": lambda backbone: Trunk(
        backbone.downsample_layers[0],
        [([before] if number else [], list(blocks), [])
         for number, (before, blocks) in enumerate(zip(backbone.downsample_layers, backbone.stages, strict=True))],
    ),
    "YOLOv10Backbone": lambda backbone: Trunk(
        backbone.to_p3[0],
        [([down], [blocks], behind) for down, blocks, *behind in (
            list(backbone.to_p3)[1:3], list(backbone.to_p3)[3:], list(backbone.to_p4), list(backbone.to_p5))],
    ),
}  # fmt: skip
WITH_TRUNKS = "EConvNeXt, CSPConvNeXt, CSPResNet, ConvNeXt, YOLOv10Backbone"


def trunk_of_backbone(backbone: nn.Layer) -> Trunk | None:
    """Returns the stem and stages of a backbone, ``None`` where they are not known."""
    return TRUNKS.get(type(backbone).__name__, trunk_of)(backbone)


def load_backbone_weights(backbone: EConvNeXt, source: str | os.PathLike[str]) -> None:
    """Loads ``source`` into ``backbone`` in place, and says so in one line of the log; nothing in it is executed.

    Stem and stages must fit; the norms of the outputs, which a classifier does not train, start fresh.

    Args:
        backbone: receives the weights.
        source: a checkpoint folder (of its weights those that were evaluated), ``.pdparams`` or ``.safetensors``, with
            the weights of a classifier, by our names or by those of the paper's repository.

    Raises:
        UserError: it cannot be read, or its weights do not fit.
    """
    label, weights = str(find_weights(source)), read_weights(source)
    title = f"{type(backbone).__name__} {backbone.arch}"
    if is_reference(weights):
        title += " (names of the paper's repository)"
        weights = LAYOUTS["reference"].to_ours(weights, label).weights
    body = {name: each for name, each in weights.items() if not name.startswith((*CLASSIFIER, OUTPUT_NORMS))}
    if any(weight.startswith("backbone.") for weight in body):
        raise UserError(f"{label}: these are the weights of a detector; name them as pretrain_weights")
    own = dict(backbone.state_dict())
    fresh = {name: value.numpy() for name, value in own.items() if name.startswith(OUTPUT_NORMS)}
    shapes = {name: tuple(value.shape) for name, value in own.items() if name not in fresh}
    report = compare(label, shapes, body)
    if not report.complete:
        advice = "arch and what cuts the network must be those of its training, whose stem_stride was 4"
        wanted = f"{type(backbone).__name__} with arch '{backbone.arch}'"
        raise UserError(f"{label}: does not fit {wanted}: {report.differences()}; {advice}")
    load_weights(backbone, {**body, **fresh})

    line = f"{label}: {len(body)} weights loaded into {title}"
    if left_out := [name for name in weights if name not in body]:
        parts = sorted({name.partition(".")[0] for name in left_out})  # files differ in their order
        line += f"; left out: {', '.join(parts)} ({len(left_out)} weights)"
    if fresh:
        line += f"; start fresh: {', '.join(dict.fromkeys(name.rpartition('.')[0] for name in fresh))}"
    logger.info(line)
