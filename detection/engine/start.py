"""The weights that a fresh run begins with."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import paddle

from detection.configuration import DetectionConfig
from detection.weights import cause_of
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import find_weights, load_weights, read_weights
from ppcls_ext.weights.load import LoadReport, compare, unpermitted

logger = logging.getLogger(__name__)

HEAD = "yolo_head."
# Layers of ppdet's heads whose shape follows the number of classes; a head of ours names its own as `class_layers`.
CLASS_LAYERS = ("pred_cls.",)
BACKBONE = "backbone."


def _with_backbone(label: str, model: paddle.nn.Layer, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the model's own weights with those of its backbone from a file that holds nothing else of a detector.

    Raises:
        UserError: the backbone is another one; the message names what differs.
    """
    own = {name: value.numpy() for name, value in model.state_dict().items()}
    theirs = {f"{BACKBONE}{name}": value for name, value in weights.items()}
    shapes = {name: tuple(value.shape) for name, value in own.items() if name.startswith(BACKBONE)}
    report = compare(label, shapes, theirs)
    if report.missing or report.mismatched:
        found = LoadReport(label, report.loaded, report.missing, mismatched=report.mismatched)
        raise UserError(
            f"{label} does not fit the model, nor its backbone alone (a classifier of ours goes into "
            f"EConvNeXt.pretrained): {found.differences()}"
        )
    left_out = [name.removeprefix(BACKBONE) for name in report.unexpected]
    logger.info(
        "%s: weights of a backbone; neck and head start fresh%s", label,
        f"; left out: {', '.join(left_out)}" if left_out else "",
    )  # fmt: skip
    return {**own, **{name: theirs[name] for name in report.loaded}}


def load_start(config: DetectionConfig, model: paddle.nn.Layer) -> None:
    """Loads ``pretrain_weights`` into ``model``: a whole detector, or the backbone's weights under its own names.

    With another number of classes the classifying layers start fresh, and one line of the log says so. E-ConvNeXt
    loads its own ``pretrained``; weights of a backbone are for ppdet's, such as CSPResNet.

    Raises:
        UserError: the weights cannot be read, or do not fit otherwise.
    """
    source = config.data.get("pretrain_weights")
    if not source:
        return
    weights = read_weights(source)
    if not any(name.startswith(BACKBONE) for name in weights):
        weights = _with_backbone(str(find_weights(source)), model, weights)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    report = compare(str(find_weights(source)), shapes, weights)
    head = getattr(model, HEAD.removesuffix("."), None)
    classifiers = tuple(f"{HEAD}{name}" for name in getattr(head, "class_layers", CLASS_LAYERS))
    kept = {
        name: value
        for name, value in weights.items()
        if not (name in report.mismatched and name.startswith(classifiers))
    }
    differing = unpermitted(report, classifiers)
    if not differing.complete:
        raise UserError(
            f"pretrain_weights: {report.source} does not fit {config.path}: {cause_of(differing, config, weights)}. "
            f"{differing.differences()}"
        )
    load_weights(model, kept, may_differ=classifiers)
    logger.info("%s: %d weights loaded", source, len(report.loaded))
