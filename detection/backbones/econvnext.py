"""E-ConvNeXt as a PaddleDetection backbone: ``backbone: EConvNeXt`` in YAML, or the paper's name ``CSPConvNeXt``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import paddle
from paddle import nn
from ppdet.core.workspace import register, serializable
from ppdet.modeling.shape_spec import ShapeSpec

from detection.backbones.pretrained import ARCHS, PREFIX, load_backbone_weights
from ppcls_ext.arch.econvnext import EConvNeXt as Classifier
from ppcls_ext.arch.layers import BATCH_NORM_EPSILON
from ppcls_ext.arch.variants import VARIANTS
from ppcls_ext.utils.errors import suggestion

# What a classifier has behind its last stage. A detector's gradients would never reach it.
CLASSIFIER_PARTS = ("pool", "flatten", "norm", "head")


@register
@serializable
class EConvNeXt(Classifier):
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
        variant = VARIANTS[PREFIX + arch]
        super().__init__(
            variant.stem,
            variant.dims,
            variant.depths,
            variant.strides,
            class_num=0,
            drop_path_rate=_checked_rate(drop_path_rate),
            expansion_channels=expansion_channels,
        )
        self.arch = arch
        self.return_idx = _checked_stages(return_idx, len(variant.depths))
        self.freeze_at = _checked_freeze(freeze_at, len(variant.depths))
        for part in CLASSIFIER_PARTS:
            delattr(self, part)
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
