"""The network that is exported, made of a copy of the trained one."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle
from paddle import nn

from detection.export.nms import MultiClassNMS3
from ppcls_ext.common.errors import UserError
from ppcls_ext.runtime.nms import NmsSettings

# What ppdet's MultiClassNMS has and ours has not: switches for other engines.
FOREIGN_SWITCHES = {"trt", "cpu"}


class Deployed(nn.Layer):
    """A detector as its export sees it, in evaluation mode: a copy, so that the caller's model is left as it was.

    Args:
        model: an architecture of ppdet.
        final: end with detections; if not, with the boxes and scores of all anchors.
        fused: merge branches that only training needs (``convert_to_deploy``), and pool the way oneDNN is fast at.

    Raises:
        UserError: the architecture has no such outputs, or its suppression cannot be exported.
    """

    def __init__(self, model: nn.Layer, final: bool, fused: bool) -> None:
        super().__init__()
        self.network = _copied(model)
        head = head_of(self.network)
        if head is not None and hasattr(head, "nms"):
            head.nms = exportable_nms(head.nms)
        if not final:
            _leave_out_suppression(self.network)
        # Anchors of a fixed size would not fit an export of another one.
        if getattr(head, "eval_size", None):
            head.eval_size = None
        if fused:
            for layer in list(self.network.sublayers(include_self=True)):
                if hasattr(layer, "convert_to_deploy"):
                    layer.convert_to_deploy()
            _use_adaptive_pools(self.network)
        self.eval()

    def forward(self, image: paddle.Tensor, scale_factor: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Images ``[N, 3, H, W]`` and scale factors ``[N, 2]`` -> see ``DetectionBackend.detect``."""
        outputs = self.network({"image": image, "scale_factor": scale_factor})
        return outputs["bbox"], outputs["bbox_num"]


class _PooledAttention(nn.Layer):
    """ppdet's ``EffectiveSELayer`` with a pool that oneDNN has a kernel for; of ``x.mean`` it has none.

    Args:
        attention: the layer whose weights are used.
    """

    def __init__(self, attention: nn.Layer) -> None:
        super().__init__()
        self.fc, self.act = attention.fc, attention.act

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> the same shape."""
        return x * self.act(self.fc(nn.functional.adaptive_avg_pool2d(x, 1)))


def _use_adaptive_pools(network: nn.Layer) -> None:
    for layer in list(network.sublayers(include_self=True)):
        for name, child in list(layer.named_children()):
            if type(child).__name__ == "EffectiveSELayer":
                setattr(layer, name, _PooledAttention(child))


class EagerBackend:
    """Runs a detector that was not exported, behind the interface of one that was.

    Args:
        model: an architecture of ppdet; a copy of it is used.
        final: give detections; if not, the boxes and scores of all anchors.
    """

    def __init__(self, model: nn.Layer, final: bool = True) -> None:
        self.network = Deployed(model, final, fused=False)

    def detect(self, images: np.ndarray, scale_factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See ``DetectionBackend.detect``."""
        with paddle.no_grad():
            first, second = self.network(paddle.to_tensor(images), paddle.to_tensor(scale_factors))
        return first.numpy(), second.numpy()


def head_of(network: nn.Layer) -> nn.Layer | None:
    """Returns the layer that makes boxes, which ppdet calls ``yolo_head``, or None."""
    return getattr(network, "yolo_head", None)


def nms_settings(model: nn.Layer) -> NmsSettings | None:
    """Returns how the detector thins out its boxes, or None if it does not.

    Raises:
        UserError: it does so in another way than ``MultiClassNMS``.
    """
    nms = getattr(head_of(model), "nms", None)
    if nms is None:
        return None
    values = vars(exportable_nms(nms))
    return NmsSettings(**{field.name: values[field.name] for field in dataclasses.fields(NmsSettings)})


def exportable_nms(nms: Any) -> MultiClassNMS3:
    """Returns ``nms`` in the form that can be exported; ppdet's own ``MultiClassNMS`` is translated.

    Raises:
        UserError: it is something else.
    """
    if isinstance(nms, MultiClassNMS3):
        return nms
    if type(nms).__name__ != "MultiClassNMS":
        raise UserError(
            f"PPYOLOEHead.nms: {type(nms).__name__} cannot be exported; use MultiClassNMS3 (or MultiClassNMS)"
        )
    return MultiClassNMS3(**{key: value for key, value in vars(nms).items() if key not in FOREIGN_SWITCHES})


def _leave_out_suppression(network: nn.Layer) -> None:
    head = head_of(network)
    if not hasattr(head, "exclude_nms"):
        raise UserError(f"{type(network).__name__}: has no raw outputs to export; leave --raw out")
    head.exclude_nms = True


def _copied(model: nn.Layer) -> nn.Layer:
    """Copies a model without the batch that it saw last: its tensors may belong to a graph and refuse to be copied."""
    memory = {id(batch): {} for batch in _batches_kept(model)}
    return copy.deepcopy(model, memory)


def _batches_kept(model: nn.Layer) -> Iterator[dict[str, Any]]:
    for layer in model.sublayers(include_self=True):
        inputs = getattr(layer, "inputs", None)
        if isinstance(inputs, dict):
            yield inputs
