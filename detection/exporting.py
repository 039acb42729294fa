"""The detector that is exported, made of a copy of the trained one, and its export folder.

``MultiClassNMS3`` (``detection.nms``) takes the place of ppdet's NMS, which Paddle 3 cannot save; architectures that
give each object one box (YOLOv10) end without NMS.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import paddle
from paddle import nn

from ppcls_ext.deploy.export import Network, prepared_images, write_export
from ppcls_ext.deploy.formats import check_target, plan
from ppcls_ext.deploy.onnx import check_settings
from ppcls_ext.deploy.verify import DetectorComparison
from ppcls_ext.preprocess.detection import Prepared, build_detection_pipeline
from ppcls_ext.runtime.description import DetectionDescription, OutputForm, Thresholds
from ppcls_ext.runtime.nms import NmsSettings, TopkSettings
from ppcls_ext.runtime.predictor import ImageSource
from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    from detection.nms import MultiClassNMS3

logger = logging.getLogger(__name__)
# What ppdet's MultiClassNMS has and ours has not: switches for other engines.
FOREIGN_SWITCHES = {"trt", "cpu"}
OPERATORS = "TestReader.sample_transforms"


@runtime_checkable
class EndToEnd(Protocol):
    """An architecture that gives each object one box, at most ``keep`` of an image: its graph ends without suppression.
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
        UserError: the architecture has no such outputs, or its NMS cannot be exported.

    Attributes:
        inputs: names of the inputs, in the order of ``forward``: the first of ``image`` and ``scale_factor``.
    """

    def __init__(self, model: nn.Layer, final: bool, fused: bool) -> None:
        super().__init__()
        # Without the batch that the model saw last: its tensors may belong to a graph and refuse to be copied.
        kept = (getattr(layer, "inputs", None) for layer in model.sublayers(include_self=True))
        self.network = copy.deepcopy(model, {id(batch): {} for batch in kept if isinstance(batch, dict)})
        self.final = final
        self.end_to_end = isinstance(model, EndToEnd)
        self.inputs = ["image"] if self.end_to_end else ["image", "scale_factor"]
        if not self.end_to_end:
            head = getattr(self.network, "yolo_head", None)
            if head is not None and hasattr(head, "nms"):
                head.nms = exportable_nms(head.nms)
                # Not in the graph: the runtime does it, whichever engine ran the network.
                head.nms.class_agnostic = False
            if not final:
                if not hasattr(head, "exclude_nms"):
                    raise UserError(f"{type(model).__name__}: has no raw outputs to export; leave --raw out")
                head.exclude_nms = True
            # Anchors of a fixed size would not fit an export of another one.
            if getattr(head, "eval_size", None):
                head.eval_size = None
        if fused:
            for layer in list(self.network.sublayers(include_self=True)):
                if hasattr(layer, "convert_to_deploy"):
                    layer.convert_to_deploy()
                for name, child in list(layer.named_children()):
                    if type(child).__name__ == "EffectiveSELayer":
                        setattr(layer, name, _PooledAttention(child))
        self.eval()

    def forward(self, image: paddle.Tensor, scale_factor: paddle.Tensor | None = None) -> tuple[paddle.Tensor, ...]:
        """Images ``[N, 3, H, W]`` and scale factors ``[N, 2]`` -> see ``Engine.detect``."""
        if not self.end_to_end:
            outputs = self.network({"image": image, "scale_factor": scale_factor})
            return outputs["bbox"], outputs["bbox_num"]
        if self.final:
            return (self.network.detect(image),)
        scores, boxes = self.network.candidates(image)
        return boxes, scores.transpose([0, 2, 1])


class _PooledAttention(nn.Layer):
    """ppdet's ``EffectiveSELayer`` with a pool that oneDNN has a kernel for; of ``x.mean`` it has none."""

    def __init__(self, attention: nn.Layer) -> None:
        super().__init__()
        self.fc, self.act = attention.fc, attention.act

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[N, C, H, W]`` -> the same shape."""
        return x * self.act(self.fc(nn.functional.adaptive_avg_pool2d(x, 1)))


class EagerBackend:
    """Runs a copy of a detector that was not exported, behind the interface of one that was."""

    computed_in = "float32"

    def __init__(self, model: nn.Layer, final: bool = True) -> None:
        self.network = Deployed(model, final, fused=False)

    def detect(self, images: np.ndarray, scale_factors: np.ndarray) -> list[np.ndarray]:
        """See ``Engine.detect``."""
        inputs = {"image": images, "scale_factor": scale_factors}
        with paddle.no_grad():
            outputs = self.network(*(paddle.to_tensor(inputs[name]) for name in self.network.inputs))
        return [output.numpy() for output in outputs]


def form_of(model: nn.Layer, final: bool = True) -> OutputForm:
    """Returns what the outputs of :class:`Deployed` mean; a network that has nothing else is ``final`` anyway."""
    if isinstance(model, EndToEnd):
        return OutputForm(TopkSettings(model.keep), final, scaled=False)
    settings = nms_settings(model)
    return OutputForm(settings, final or settings is None)


def nms_settings(model: nn.Layer) -> NmsSettings | None:
    """Returns how the detector thins out its boxes, or None if it does not."""
    nms = getattr(getattr(model, "yolo_head", None), "nms", None)
    if nms is None:
        return None
    values = vars(exportable_nms(nms))
    return NmsSettings(**{field.name: values[field.name] for field in dataclasses.fields(NmsSettings)})


def exportable_nms(nms: Any) -> MultiClassNMS3:
    """Returns ``nms`` in the form that can be exported: ppdet's ``MultiClassNMS`` is translated, others are refused."""
    from detection.nms import MultiClassNMS3

    if isinstance(nms, MultiClassNMS3):
        return nms
    if type(nms).__name__ != "MultiClassNMS":
        raise UserError(
            f"PPYOLOEHead.nms: {type(nms).__name__} cannot be exported; use MultiClassNMS3 (or MultiClassNMS)"
        )
    return MultiClassNMS3(**{key: value for key, value in vars(nms).items() if key not in FOREIGN_SWITCHES})


def export_detector(
    model: nn.Layer,
    folder: str | os.PathLike[str],
    *,
    model_name: str,
    class_num: int,
    preprocess: Sequence[Any],
    nms: bool = True,
    classes: Sequence[str] | None = None,
    images: Mapping[str, ImageSource] | None = None,
    formats: Sequence[str] = ("paddle",),
    precisions: Sequence[str] = ("fp32",),
    thresholds: Thresholds | None = None,
) -> DetectionDescription:
    """Exports a detector, reloads every file with the engine that will run it, and compares that with the model.

    Args:
        model: an architecture of ppdet. It is not touched: all work is done on copies.
        folder: is replaced by the export, in one step and only if everything agrees.
        model_name, class_num, classes: travel in ``inference.yml``.
        preprocess: operators as in ``TestReader.sample_transforms``; what they make of ``images`` gives the network's
            input its size. The batch is free.
        nms: let the network give detections; if not, it gives the boxes of all anchors, before any choice.
        images: pictures to compare on, by name; None takes ``example_images()``.
        formats, precisions: keys of ``FORMATS`` and ``PRECISIONS``; every pair of them is written.
        thresholds: recommended ones, which travel in ``inference.yml``.

    Returns:
        What was written, with what was measured of each artefact.

    Raises:
        UserError: a format cannot be written in a precision or needs a missing package, the detections disagree, or
            the operators or the architecture cannot be exported. No file is left.
    """
    requests = plan(formats, precisions)
    target = Path(folder)
    check_target(target, classes, class_num)
    form = form_of(model, final=nms)
    suppression = form.selection if form.final and isinstance(form.selection, NmsSettings) else None
    if suppression is not None and set(formats) != {"paddle"}:
        check_settings(suppression)
    inputs = prepared_images(images, build_detection_pipeline(preprocess, OPERATORS))
    image_shape = input_shape_of(inputs)
    anchors = EagerBackend(model, final=False) if form.selection is not None and form.final else None
    comparison = DetectorComparison(EagerBackend(model, form.final), anchors, inputs, form)
    description = DetectionDescription(
        folder=target,
        model_name=model_name,
        class_num=class_num,
        input_shape=[-1, *image_shape],
        preprocess=list(preprocess),
        classes=list(classes) if classes else None,
        form=form,
        thresholds=thresholds,
    )
    shapes: dict[str, list[int | None]] = {"image": [None, *image_shape]}
    if form.scaled:
        shapes["scale_factor"] = [None, 2]
    network = Network(
        lambda: Deployed(model, form.final, fused=True),
        shapes,
        form.outputs,
        suppression,
        lambda: Deployed(model, final=False, fused=True),
    )
    write_export(description, network, requests, comparison)
    engines = [artefact.verification["engines"].values() for artefact in description.artefacts]
    if not any(figures["compared"] for figures in itertools.chain(*engines)):
        logger.warning("the model finds nothing in any of the pictures: the export was compared on that alone")
    return description


def input_shape_of(inputs: Mapping[str, Prepared]) -> list[int]:
    """Returns the shape ``[3, H, W]`` that pictures of all sizes have when they are prepared.

    Raises:
        UserError: they have several, or one that is no size for a detector.
    """
    shapes = {one.pixels.shape for one in inputs.values()}
    if len(shapes) > 1:
        raise UserError(
            f"{OPERATORS}: give inputs of several sizes, and an export has one: it needs LetterResize, Resize with "
            "keep_ratio: false, or a Pad with size"
        )
    (shape,) = shapes
    if any(side < 32 or side % 32 for side in shape[1:]):
        raise UserError(f"the input of a detector must be multiples of 32 pixels, got {shape[1]} x {shape[2]}")
    return list(shape)
