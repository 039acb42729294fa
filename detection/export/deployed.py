"""The network that is exported, made of a copy of the trained one."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import paddle
from paddle import nn

from detection.export.nms import MultiClassNMS3
from ppcls_ext.runtime.description import OutputForm
from ppcls_ext.runtime.nms import NmsSettings, TopkSettings
from ppcls_ext.utils.errors import UserError

# What ppdet's MultiClassNMS has and ours has not: switches for other engines.
FOREIGN_SWITCHES = {"trt", "cpu"}


@runtime_checkable
class EndToEnd(Protocol):
    """An architecture that gives each object one box, so that its graph ends without suppression.

    Attributes:
        keep: at most so many detections of an image are given.
    """

    keep: int

    def detect(self, image: paddle.Tensor) -> paddle.Tensor:
        """``[N, 3, H, W]`` -> ``[N, k, 6]``: class, score, corners in pixels of the input; k is ``keep`` or less."""

    def candidates(self, image: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """``[N, 3, H, W]`` -> scores ``[N, A, C]``, corners ``[N, A, 4]`` in pixels of the input, of all anchors."""


class Deployed(nn.Layer):
    """A detector as its export sees it, in evaluation mode: a copy, so that the caller's model is left as it was.

    Args:
        model: an architecture of ppdet.
        final: end with detections; if not, with the boxes and scores of all anchors.
        fused: merge branches that only training needs (``convert_to_deploy``), and pool the way oneDNN is fast at.

    Raises:
        UserError: the architecture has no such outputs, or its suppression cannot be exported.

    Attributes:
        INPUTS: names of the inputs, in the order of ``forward``: the first of ``image`` and ``scale_factor``.
    """

    INPUTS: Sequence[str]

    def __init__(self, model: nn.Layer, final: bool, fused: bool) -> None:
        super().__init__()
        self.network = _copied(model)
        self.final = final
        self.prepare()
        if fused:
            for layer in list(self.network.sublayers(include_self=True)):
                if hasattr(layer, "convert_to_deploy"):
                    layer.convert_to_deploy()
            _use_adaptive_pools(self.network)
        self.eval()

    def prepare(self) -> None:
        """Makes the copy give the wanted outputs."""


class SuppressingDetector(Deployed):
    """A detector of ppdet that divides by the scale factors and thins out its boxes itself; see :class:`Deployed`."""

    INPUTS = ("image", "scale_factor")

    def prepare(self) -> None:
        """Exchanges what cannot be exported."""
        head = head_of(self.network)
        if head is not None and hasattr(head, "nms"):
            head.nms = exportable_nms(head.nms)
        if not self.final:
            _leave_out_suppression(self.network)
        # Anchors of a fixed size would not fit an export of another one.
        if getattr(head, "eval_size", None):
            head.eval_size = None

    def forward(self, image: paddle.Tensor, scale_factor: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Images ``[N, 3, H, W]`` and scale factors ``[N, 2]`` -> see ``DetectionBackend.detect``."""
        outputs = self.network({"image": image, "scale_factor": scale_factor})
        return outputs["bbox"], outputs["bbox_num"]


class EndToEndDetector(Deployed):
    """An :class:`EndToEnd` architecture; see :class:`Deployed`."""

    INPUTS = ("image",)

    def forward(self, image: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        """Images ``[N, 3, H, W]`` -> detections ``[N, k, 6]``, or boxes ``[N, A, 4]`` and scores ``[N, C, A]``."""
        if self.final:
            return (self.network.detect(image),)
        scores, boxes = self.network.candidates(image)
        return boxes, scores.transpose([0, 2, 1])


def deploy(model: nn.Layer, final: bool, fused: bool) -> Deployed:
    """Returns the form of ``model`` that its interface asks for; see :class:`Deployed`."""
    form = EndToEndDetector if isinstance(model, EndToEnd) else SuppressingDetector
    return form(model, final, fused)


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

    computed_in = "float32"

    def __init__(self, model: nn.Layer, final: bool = True) -> None:
        self.network = deploy(model, final, fused=False)

    def detect(self, images: np.ndarray, scale_factors: np.ndarray) -> list[np.ndarray]:
        """See ``DetectionBackend.detect``."""
        inputs = {"image": images, "scale_factor": scale_factors}
        with paddle.no_grad():
            outputs = self.network(*(paddle.to_tensor(inputs[name]) for name in self.network.INPUTS))
        return [output.numpy() for output in outputs]


def form_of(model: nn.Layer, final: bool = True) -> OutputForm:
    """Returns what the outputs of :func:`deploy` mean.

    Args:
        model: an architecture of ppdet.
        final: see :class:`Deployed`; a network that has nothing else ends with detections anyway.

    Raises:
        UserError: it thins out its boxes in another way than ``MultiClassNMS``.
    """
    if isinstance(model, EndToEnd):
        return OutputForm(TopkSettings(model.keep), final, scaled=False)
    settings = nms_settings(model)
    return OutputForm(settings, final or settings is None)


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
