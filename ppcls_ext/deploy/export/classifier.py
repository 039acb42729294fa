"""Writes an export folder: files in every format, ``inference.yml``, and the proof that they agree with the model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ppcls_ext.arch.outputs import logits_of
from ppcls_ext.deploy.export.examples import example_images
from ppcls_ext.deploy.export.formats import PrecisionRow, plan
from ppcls_ext.deploy.export.target import check_target
from ppcls_ext.deploy.export.verification import Remembered, verify
from ppcls_ext.deploy.export.writers import Network, write_export
from ppcls_ext.deploy.verify import EagerBackend
from ppcls_ext.preprocess import ImageError, build_pipeline
from ppcls_ext.runtime.description import Description
from ppcls_ext.runtime.predictor import ImageSource, prepare_input
from ppcls_ext.utils.errors import UserError

OUTPUT = "logits"


class _Deployed(nn.Layer):
    """The network that is exported: a layer of its own, because ``to_static`` replaces the ``forward`` of its layer."""

    def __init__(self, network: nn.Layer) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        """Images ``[N, 3, H, W]`` -> logits ``[N, class_num]``."""
        return logits_of(self.network(image))


def export_classifier(
    model: nn.Layer,
    folder: str | os.PathLike[str],
    *,
    model_name: str,
    class_num: int,
    image_shape: Sequence[int],
    preprocess: list[Any],
    topk: int = 5,
    classes: Sequence[str] | None = None,
    images: Mapping[str, ImageSource] | None = None,
    tolerance: float | None = None,
    formats: Sequence[str] = ("paddle",),
    precisions: Sequence[str] = ("fp32",),
) -> Description:
    """Exports ``model``, reloads every file with the engine that will run it, and compares that with the model.

    Args:
        model: images ``[N, 3, H, W]`` -> logits ``[N, class_num]``; its mode (training or not) is left as it was.
        folder: is replaced by the export, in one step and only if everything agrees.
        model_name, class_num, classes, topk: travel in ``inference.yml``.
        image_shape: ``[3, H, W]`` of the network's input; the batch is free.
        preprocess: operators as in ``Infer.transforms``; they must give ``image_shape``.
        images: pictures to compare on, by name; None takes ``example_images()``.
        tolerance: largest relative error that is accepted; None takes that of each precision.
        formats, precisions: keys of ``FORMATS`` and ``PRECISIONS``; every pair of them is written.

    Returns:
        What was written, with what was measured of each artefact.

    Raises:
        UserError: a format cannot be written in a precision or needs a missing package, the outputs disagree, the
            model is no classifier, or the operators do not fit it. No file is left.
    """
    requests = plan(formats, precisions)
    target = Path(folder)
    check_target(target, classes, class_num)
    was_training = model.training
    reference = Remembered(EagerBackend(model))

    def check(engines: Mapping[str, Any], limits: PrecisionRow) -> dict[str, Any]:
        return verify(reference, engines, inputs, limits.relative_error if tolerance is None else tolerance)

    try:
        inputs = _prepare(preprocess, image_shape, images or example_images())
        _check_outputs(reference, inputs, model_name, class_num)
        description = Description(
            folder=target,
            model_name=model_name,
            class_num=class_num,
            input_shape=[-1, *image_shape],
            preprocess=preprocess,
            topk=min(topk, class_num),
            classes=list(classes) if classes else None,
        )
        write_export(target, description, lambda scratch: _network(model, scratch, image_shape), requests, check)
    finally:
        if was_training:
            model.train()
    return description


def _prepare(
    preprocess: list[Any], image_shape: Sequence[int], images: Mapping[str, ImageSource]
) -> dict[str, np.ndarray]:
    pipeline = build_pipeline(preprocess, "Infer.transforms")
    inputs = {}
    for name, image in images.items():
        try:
            inputs[name] = prepare_input(pipeline, image, name, image_shape)
        except ImageError as error:
            raise UserError(f"cannot compare the export on {error}") from error
    return inputs


def _check_outputs(reference: Remembered, inputs: Mapping[str, np.ndarray], model_name: str, class_num: int) -> None:
    shape = list(reference.run(next(iter(inputs.values()))[np.newaxis]).shape)
    if shape != [1, class_num]:
        raise UserError(
            f"{model_name} gives outputs of shape {shape} for one image, expected [1, {class_num}]: "
            "it is no classifier of that many classes"
        )


def _network(model: nn.Layer, scratch: Path, image_shape: Sequence[int]) -> Network:
    return Network(scratch, lambda stem: _save_network(model, stem, image_shape), [OUTPUT])


def _save_network(model: nn.Layer, stem: Path, image_shape: Sequence[int]) -> None:
    deployed = _Deployed(model)
    deployed.eval()
    specification = paddle.static.InputSpec([None, *image_shape], "float32", "image")
    static = paddle.jit.to_static(deployed, input_spec=[specification], full_graph=True)
    paddle.jit.save(static, str(stem))
