"""Writes an export folder: Paddle Inference files, ``inference.yml``, and the proof that they agree with the model."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import paddle
import yaml
from paddle import nn

from detection.export.deployed import Deployed, EagerBackend, nms_settings
from detection.export.verification import verify
from ppcls_ext.common.errors import UserError
from ppcls_ext.common.files import atomic_folder, sha256_of
from ppcls_ext.common.machine import available_cores
from ppcls_ext.export import example_images
from ppcls_ext.export.target import check_target
from ppcls_ext.preprocess import ImageError
from ppcls_ext.preprocess.detection import Prepared, build_detection_pipeline
from ppcls_ext.runtime.batching import ImageSource
from ppcls_ext.runtime.description import DESCRIPTION_FILE, DetectionDescription
from ppcls_ext.runtime.paddle_backend import PaddleBackend

logger = logging.getLogger(__name__)
FILE_STEM = "inference"
RESIZE = "Resize"


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
) -> DetectionDescription:
    """Exports a detector, reloads it with Paddle Inference (oneDNN on and off) and compares both with the model.

    Args:
        model: an architecture of ppdet. It is not touched: all work is done on copies.
        folder: is replaced by the export, in one step and only if everything agrees.
        model_name, class_num, classes: travel in ``inference.yml``.
        preprocess: operators as in ``TestReader.sample_transforms``. Their ``Resize`` gives the size of the network's
            input; the batch is free.
        nms: let the network thin out overlapping boxes itself; if not, it gives the boxes of all anchors.
        size: height and width that replace those of ``Resize``, in pixels, multiples of the largest stride.
        images: pictures to compare on, by name; None takes ``example_images()``.

    Returns:
        What was written, ``verification`` included.

    Raises:
        UserError: the detections disagree, or the operators or the architecture cannot be exported. No file is left.
    """
    target = Path(folder)
    check_target(target, classes, class_num)
    operators, image_shape = with_size(preprocess, size)
    settings = nms_settings(model)
    final = nms or settings is None
    inputs = _prepare(operators, image_shape, images or example_images())
    reference = EagerBackend(model, final)
    anchors = EagerBackend(model, final=False) if settings is not None and final else None
    with atomic_folder(target) as temporary:
        _save_network(Deployed(model, final, fused=True), temporary, image_shape)
        description = DetectionDescription(
            folder=temporary,
            model_name=model_name,
            class_num=class_num,
            input_shape=[-1, *image_shape],
            preprocess=operators,
            classes=list(classes) if classes else None,
            model_file=f"{FILE_STEM}.json",
            params_file=f"{FILE_STEM}.pdiparams",
            checksums={file.name: sha256_of(file) for file in sorted(temporary.iterdir())},
            nms=settings,
            final=final,
        )
        description.verification = verify(reference, anchors, _reload(description), inputs, settings, final)
        if not any(figures["compared"] for figures in description.verification["engines"].values()):
            logger.warning("the model finds nothing in any of the pictures: the export was compared on that alone")
        text = yaml.safe_dump(description.to_document(), sort_keys=False, allow_unicode=True)
        (temporary / DESCRIPTION_FILE).write_text(text, encoding="utf-8")
    description.folder = target
    return description


def with_size(preprocess: Sequence[Any], size: Sequence[int] | None) -> tuple[list[Any], list[int]]:
    """Returns the operators with ``size`` in their ``Resize``, and the shape ``[3, H, W]`` that they then give.

    Raises:
        UserError: they have no ``Resize`` of a fixed size, or ``size`` is no size for a detector.
    """
    where = f"TestReader.sample_transforms: {RESIZE}"
    found = [index for index, entry in enumerate(preprocess) if isinstance(entry, Mapping) and RESIZE in entry]
    if not found:
        raise UserError(f"{where}: is missing; it gives the size of the network's input")
    arguments = dict(preprocess[found[-1]][RESIZE] or {})
    wanted = size if size is not None else arguments.get("target_size")
    if isinstance(wanted, int):
        wanted = [wanted, wanted]
    if not isinstance(wanted, Sequence) or len(wanted) != 2 or not all(isinstance(side, int) for side in wanted):
        raise UserError(f"{where}: target_size must be [height, width], got {wanted!r}")
    if any(side < 32 or side % 32 for side in wanted):
        raise UserError(f"the input of a detector must be multiples of 32 pixels, got {' x '.join(map(str, wanted))}")
    if arguments.get("keep_ratio", True):
        raise UserError(f"{where}: keep_ratio must be false, an export has inputs of one size")
    operators = [dict(entry) if isinstance(entry, Mapping) else entry for entry in preprocess]
    operators[found[-1]] = {RESIZE: {**arguments, "target_size": list(wanted)}}
    return operators, [3, *wanted]


def _prepare(
    operators: list[Any], image_shape: Sequence[int], images: Mapping[str, ImageSource]
) -> dict[str, Prepared]:
    prepare = build_detection_pipeline(operators, "TestReader.sample_transforms")
    inputs = {}
    for name, image in images.items():
        try:
            inputs[name] = prepare(image, name)
        except ImageError as error:
            raise UserError(f"cannot compare the export on {error}") from error
        if list(inputs[name].pixels.shape) != list(image_shape):
            raise UserError(
                f"TestReader.sample_transforms: give shape {list(inputs[name].pixels.shape)}, need {list(image_shape)}"
            )
    return inputs


def _save_network(network: Deployed, folder: Path, image_shape: Sequence[int]) -> None:
    specification = [
        paddle.static.InputSpec([None, *image_shape], "float32", "image"),
        paddle.static.InputSpec([None, 2], "float32", "scale_factor"),
    ]
    static = paddle.jit.to_static(network, input_spec=specification, full_graph=True)
    paddle.jit.save(static, str(folder / FILE_STEM))


def _reload(description: DetectionDescription) -> dict[str, PaddleBackend]:
    threads = available_cores()
    return {
        "Paddle Inference, oneDNN on": PaddleBackend(description, threads, onednn=True),
        "Paddle Inference, oneDNN off": PaddleBackend(description, threads, onednn=False),
    }
