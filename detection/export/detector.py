"""Writes an export folder: Paddle Inference files, ``inference.yml``, and the proof that they agree with the model."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from detection.export.deployed import Deployed, EagerBackend, deploy, form_of
from detection.export.verification import Remembered, verify
from ppcls_ext.deploy.export import example_images
from ppcls_ext.deploy.export.formats import PrecisionRow, plan
from ppcls_ext.deploy.export.onnx_suppression import ANCHOR_BOXES, ANCHOR_SCORES, add_suppression, check_settings
from ppcls_ext.deploy.export.target import check_target
from ppcls_ext.deploy.export.writers import Network, write_export
from ppcls_ext.preprocess import ImageError
from ppcls_ext.preprocess.detection import Prepared, build_detection_pipeline
from ppcls_ext.runtime.description import DetectionDescription, OutputForm
from ppcls_ext.runtime.nms import NmsSettings
from ppcls_ext.runtime.predictor import ImageSource
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)
# What gives the network's input its size: operators, and what they call it.
SIZES = {"Resize": "target_size", "LetterResize": "target_size", "Pad": "size"}
OPERATORS = "TestReader.sample_transforms"


def export_detector(
    model: nn.Layer,
    folder: str | os.PathLike[str],
    *,
    model_name: str,
    class_num: int,
    preprocess: Sequence[Any],
    nms: bool = True,
    size: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    images: Mapping[str, ImageSource] | None = None,
    formats: Sequence[str] = ("paddle",),
    precisions: Sequence[str] = ("fp32",),
) -> DetectionDescription:
    """Exports a detector, reloads every file with the engine that will run it, and compares that with the model.

    Args:
        model: an architecture of ppdet. It is not touched: all work is done on copies.
        folder: is replaced by the export, in one step and only if everything agrees.
        model_name, class_num, classes: travel in ``inference.yml``.
        preprocess: operators as in ``TestReader.sample_transforms``, which give the network's input its size (see
            ``with_size``); the batch is free.
        nms: let the network give detections; if not, it gives the boxes of all anchors, before any choice.
        size: height and width that replace those of the operators, in pixels, multiples of the largest stride.
        images: pictures to compare on, by name; None takes ``example_images()``.
        formats, precisions: keys of ``FORMATS`` and ``PRECISIONS``; every pair of them is written.

    Returns:
        What was written, with what was measured of each artefact.

    Raises:
        UserError: a format cannot be written in a precision or needs a missing package, the detections disagree, or
            the operators or the architecture cannot be exported. No file is left.
    """
    requests = plan(formats, precisions)
    target = Path(folder)
    check_target(target, classes, class_num)
    operators, image_shape = with_size(preprocess, size)
    form = _form_for(model, nms, formats)
    inputs = _prepare(operators, image_shape, images or example_images())
    reference = Remembered(EagerBackend(model, form.final))
    anchors = Remembered(EagerBackend(model, final=False)) if form.selection is not None and form.final else None

    def check(engines: Mapping[str, Any], limits: PrecisionRow) -> dict[str, Any]:
        return verify(reference, anchors, engines, inputs, form, limits)

    description = DetectionDescription(
        folder=target,
        model_name=model_name,
        class_num=class_num,
        input_shape=[-1, *image_shape],
        preprocess=operators,
        classes=list(classes) if classes else None,
        form=form,
    )
    write_export(target, description, lambda scratch: _network(model, form, scratch, image_shape), requests, check)
    _tell_of_nothing_found(description)
    return description


def _tell_of_nothing_found(description: DetectionDescription) -> None:
    engines = [artefact.verification["engines"].values() for artefact in description.artefacts]
    if not any(figures["compared"] for figures in itertools.chain(*engines)):
        logger.warning("the model finds nothing in any of the pictures: the export was compared on that alone")


def with_size(preprocess: Sequence[Any], size: Sequence[int] | None) -> tuple[list[Any], list[int]]:
    """Returns the operators with ``size`` in place of their own, and the shape ``[3, H, W]`` that they then give.

    The last of ``Resize``, ``LetterResize`` and ``Pad`` decides it; a ``Resize`` that keeps the ratio needs a ``Pad``.

    Raises:
        UserError: they give no fixed size, or ``size`` is no size for a detector.
    """
    operators = [dict(entry) if isinstance(entry, Mapping) else entry for entry in preprocess]
    places = _sizing(operators)
    if not places:
        raise UserError(f"{OPERATORS}: Resize is missing (or LetterResize); it gives the size of the network's input")
    last, name, arguments = places[-1]
    keeps_ratio = [place for place in places if place[1] == "Resize" and place[2].get("keep_ratio", True)]
    if name == "Resize" and keeps_ratio:
        raise UserError(
            f"{OPERATORS}: Resize: keep_ratio must be false, or a Pad with size follow it: an export has inputs of one "
            "size (LetterResize keeps the ratio, too)"
        )
    wanted = _height_and_width(arguments.get(SIZES[name]) if size is None else size, f"{OPERATORS}: {name}")
    operators[last] = {name: {**arguments, SIZES[name]: wanted}}
    for index, other, its_arguments in keeps_ratio if size is not None and name == "Pad" else []:
        operators[index] = {other: {**its_arguments, SIZES[other]: wanted}}
    return operators, [3, *wanted]


def _sizing(operators: Sequence[Any]) -> list[tuple[int, str, dict[str, Any]]]:
    """Returns place, name and arguments of the operators that name a size."""
    found = []
    for index, entry in enumerate(operators):
        name = next(iter(entry), "") if isinstance(entry, dict) else ""
        arguments = dict(entry[name] or {}) if name in SIZES else {}
        if name in SIZES and (name != "Pad" or arguments.get("size") is not None):
            found.append((index, name, arguments))
    return found


def _height_and_width(size: Any, where: str) -> list[int]:
    pair = [size, size] if isinstance(size, int) else size
    if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(side, int) for side in pair):
        raise UserError(f"{where}: the size must be [height, width], got {size!r}")
    if any(side < 32 or side % 32 for side in pair):
        raise UserError(f"the input of a detector must be multiples of 32 pixels, got {' x '.join(map(str, pair))}")
    return list(pair)


def _prepare(
    operators: list[Any], image_shape: Sequence[int], images: Mapping[str, ImageSource]
) -> dict[str, Prepared]:
    prepare = build_detection_pipeline(operators, OPERATORS)
    inputs = {}
    for name, image in images.items():
        try:
            inputs[name] = prepare(image, name)
        except ImageError as error:
            raise UserError(f"cannot compare the export on {error}") from error
        if list(inputs[name].pixels.shape) != list(image_shape):
            raise UserError(
                f"{OPERATORS}: give shape {list(inputs[name].pixels.shape)}, need {list(image_shape)}"
            )
    return inputs


def _form_for(model: nn.Layer, nms: bool, formats: Sequence[str]) -> OutputForm:
    """Returns the form of the outputs, and refuses suppression that one of the formats has not."""
    form = form_of(model, final=nms)
    if form.final and isinstance(form.selection, NmsSettings) and set(formats) != {"paddle"}:
        check_settings(form.selection)
    return form


def _network(model: nn.Layer, form: OutputForm, scratch: Path, image_shape: Sequence[int]) -> Network:
    def save(stem: Path, final: bool = form.final) -> None:
        _save_network(deploy(model, final, fused=True), stem, image_shape)

    network = Network(scratch, save, form.outputs)
    settings = form.selection
    if form.final and isinstance(settings, NmsSettings):
        # Paddle's operator for it has no counterpart in ONNX: the graph is converted without it and completed.
        network.save_core = lambda stem: save(stem, final=False)
        network.core_outputs = [ANCHOR_BOXES, ANCHOR_SCORES]
        network.complete = lambda core: add_suppression(core, settings)
    return network


def _save_network(network: Deployed, stem: Path, image_shape: Sequence[int]) -> None:
    shapes = {"image": [None, *image_shape], "scale_factor": [None, 2]}
    specification = [paddle.static.InputSpec(shapes[name], "float32", name) for name in network.INPUTS]
    static = paddle.jit.to_static(network, input_spec=specification, full_graph=True)
    paddle.jit.save(static, str(stem))
