"""Weights of a whole detector: loaded strictly, and if they do not fit, with the nearest cause."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from detection.annotations import spelled_as
from detection.configuration.annotations import class_names_of
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import LoadReport, class_names_of_weights, find_weights, load_weights, read_weights
from ppcls_ext.weights.pickles import first_of

if TYPE_CHECKING:
    import numpy as np
    import paddle

    from detection.configuration import DetectionConfig

logger = logging.getLogger(__name__)
KEY = "weights"
BACKBONE = "backbone."
# Where classifiers of ours and of the paper's repository begin.
CLASSIFIER_STARTS = ("stages.", "stem.", "Down_Conv.", "head.")
HEAD = "yolo_head."
# Layers of ppdet's heads whose shape follows the number of classes; a head of ours names its own as `class_layers`.
CLASS_LAYERS = ("pred_cls.",)
# What only a detector of this architecture has.
MARKS = {"PPYOLOE": "yolo_head.pred_cls.", "YOLOv10": "yolo_head.one_to_one."}


def weights_file(config: DetectionConfig) -> Path:
    """Returns the weight file that the key ``weights`` means; ``UserError`` if it names none, or one that is not there.
    """
    source = config.data.get(KEY)
    if not source:
        message = "no weights are named: -o weights=RUN/checkpoints/best (or a .pdparams or .safetensors)"
        raise UserError(config.document.problem(KEY, message))
    return find_weights(str(source))


def load_detector_weights(config: DetectionConfig, model: paddle.nn.Layer) -> LoadReport:
    """Loads the weights that the key ``weights`` names into ``model`` in place.

    Of a checkpoint folder the averaged weights are taken, if those were evaluated; a file is taken as it is.
    """
    report = load_weights(model, str(config.data[KEY]), refusal=functools.partial(refusal, config))
    logger.info("%s: %d weights loaded", report.source, len(report.loaded))
    return report


def refusal(config: DetectionConfig, report: LoadReport, weights: Mapping[str, np.ndarray]) -> str:
    """Returns what is said of weights that do not fit the detector of ``config``."""
    cause = cause_of(report, config, weights)
    return f"{report.source} does not fit {config.path}: {cause}. {report.differences()}"


def cause_of(report: LoadReport, config: DetectionConfig, weights: Mapping[str, np.ndarray]) -> str:
    """Returns what most probably makes weights and model differ, in one sentence without its full stop."""

    def holds(beginnings: str | tuple[str, ...]) -> bool:
        return any(name.startswith(beginnings) for name in weights)

    if holds(CLASSIFIER_STARTS) and not holds(BACKBONE):
        return "these are the weights of a classifier; name them as `pretrained` of the backbone and train the detector"
    theirs = [architecture for architecture, mark in MARKS.items() if holds(mark)]
    if config.architecture in MARKS and theirs and config.architecture not in theirs:
        return f"the file is of a {theirs[0]}, the configuration of a {config.architecture}"
    count = _class_count(report, config.num_classes)
    if count is not None:
        return f"the file is of a detector for {count} classes, num_classes is {config.num_classes}"
    if report.loaded and all(name.startswith(BACKBONE) for name in report.different):
        return f"the backbone is another one than {backbone_name(config)}"
    if not report.missing and not report.unexpected:
        return "the channels differ: depth_mult, width_mult or the backbone's arch are other ones"
    return f"they were trained with another architecture than {config.architecture} with {backbone_name(config)}"


def _class_count(report: LoadReport, class_num: int) -> int | None:
    """Returns the classes of the file, if nothing but their number differs, and what a head derives from it."""
    if report.missing or report.unexpected or not all(name.startswith(HEAD) for name in report.mismatched):
        return None
    counts = set()
    for name, (theirs, ours) in report.mismatched.items():
        # The last layers have a bias; layers before them, which may be as wide, have a norm instead.
        weight = report.mismatched.get(f"{name.removesuffix('bias')}weight", ((), ()))
        if name.endswith(".bias") and ours == (class_num,) and len(weight[1]) > 1:
            counts.add(theirs[0])
    return counts.pop() if len(counts) == 1 else None


def backbone_name(config: DetectionConfig) -> str:
    """Returns the backbone of a configuration with its ``arch``, such as ``EConvNeXt mini``, or else its ``scale``."""
    name = str((config.data.get(config.architecture) or {}).get("backbone") or "its backbone")
    size = (config.data.get(name) or {}).get("arch") or config.data.get("scale")
    return f"{name} {size}" if size else name


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
        _load_backbone(str(find_weights(source)), model, weights)
        return
    head = getattr(model, HEAD.removesuffix("."), None)
    classifiers = [f"{HEAD}{name}" for name in getattr(head, "class_layers", CLASS_LAYERS)]
    report = load_weights(
        model, source, classifiers, lambda *found: f"pretrain_weights: {refusal(config, *found)}"
    )
    logger.info("%s: %d weights loaded", source, len(report.loaded))
    theirs, ours = class_names_of_weights(find_weights(str(source))), class_names_of(config, ["Train"])
    if theirs and ours and len(theirs) == len(ours) and (others := spelled_as(ours, theirs)) != theirs:
        pairs = [f"{own} from {other}" for own, other in zip(others, theirs, strict=True) if own != other]
        logger.warning("pretrain_weights: as many classes, but other ones: the class outputs start from another's (%s)",
                       first_of(pairs))  # fmt: skip


def _load_backbone(label: str, model: paddle.nn.Layer, weights: Mapping[str, np.ndarray]) -> None:
    """Loads a file that holds nothing of a detector but its backbone; what else is in it is left out."""
    names = model.backbone.state_dict().keys()
    load_weights(
        model.backbone, {name: value for name, value in weights.items() if name in names},
        refusal=lambda report, _: f"{label} does not fit the model, nor its backbone alone (a classifier of ours goes "
        f"into EConvNeXt.pretrained): {report.differences()}",
    )  # fmt: skip
    left_out = weights.keys() - names
    logger.info(
        "%s: %d weights of a backbone loaded; neck and head start fresh%s", label, len(names),
        f"; left out: {', '.join(sorted(left_out))}" if left_out else "",
    )  # fmt: skip
