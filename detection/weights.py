"""Weights of a whole detector: loaded strictly, and if they do not fit, with the nearest cause."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ppcls_ext.common.errors import UserError
from ppcls_ext.weights import LoadReport, find_weights, load_weights, read_weights
from ppcls_ext.weights.load import compare

if TYPE_CHECKING:
    import paddle

    from detection.configuration import DetectionConfig

logger = logging.getLogger(__name__)
KEY = "weights"
BACKBONE = "backbone."
# Where classifiers of ours and of the paper's repository begin.
CLASSIFIER_STARTS = ("stages.", "stem.", "Down_Conv.", "head.")


def weights_file(config: DetectionConfig) -> Path:
    """Returns the weight file that the key ``weights`` means.

    Raises:
        UserError: it names none, or one that is not there.
    """
    source = config.data.get(KEY)
    if not source:
        message = "no weights are named: -o weights=RUN/checkpoints/best (or a .pdparams or .safetensors)"
        raise UserError(config.document.problem(KEY, message))
    return find_weights(str(source))


def load_detector_weights(config: DetectionConfig, model: paddle.nn.Layer) -> LoadReport:
    """Loads the weights that the key ``weights`` names into ``model`` in place.

    Of a checkpoint folder the averaged weights are taken, if those were evaluated; a file is taken as it is.

    Args:
        config: the configuration of ``model``.
        model: the detector that ``config`` describes.

    Raises:
        UserError: no weights are named, they cannot be read, or they do not fit.
    """
    file = weights_file(config)
    weights = read_weights(str(config.data[KEY]))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    report = compare(str(file), shapes, weights)
    if not report.complete:
        raise UserError(f"{file} does not fit {config.path}: {cause_of(report, config)}. {report.differences()}")
    load_weights(model, weights)
    logger.info("%s: %d weights loaded", file, len(report.loaded))
    return report


def cause_of(report: LoadReport, config: DetectionConfig) -> str:
    """Returns what most probably makes weights and model differ, in one sentence without its full stop."""
    different = [*report.missing, *report.unexpected, *report.mismatched]
    theirs = [*report.loaded, *report.unexpected, *report.mismatched]
    if not any(name.startswith(BACKBONE) for name in theirs) and any(
        name.startswith(CLASSIFIER_STARTS) for name in theirs
    ):
        return "these are the weights of a classifier; name them as `pretrained` of the backbone and train the detector"
    count = _class_count(report, config.num_classes)
    if count is not None:
        return f"the file is of a detector for {count} classes, num_classes is {config.num_classes}"
    if report.loaded and all(name.startswith(BACKBONE) for name in different):
        return f"the backbone is another one than {backbone_name(config)}"
    if not report.missing and not report.unexpected:
        return "the channels differ: depth_mult, width_mult or the backbone's arch are other ones"
    if _is_fused(report.missing, report.unexpected):
        return "its branches were merged for deployment; use the weights as they were trained"
    return f"they were trained with another architecture than {config.architecture} with {backbone_name(config)}"


def _class_count(report: LoadReport, class_num: int) -> int | None:
    """Returns the classes of the file, if nothing but their number differs."""
    if report.missing or report.unexpected:
        return None
    counts = set()
    for theirs, ours in report.mismatched.values():
        if len(theirs) != len(ours) or ours[0] != class_num or theirs[1:] != ours[1:]:
            return None
        counts.add(theirs[0])
    return counts.pop() if len(counts) == 1 else None


def _is_fused(missing: Sequence[str], unexpected: Sequence[str]) -> bool:
    merged = {name.rpartition(".conv.")[0] for name in unexpected if ".conv." in name}
    return bool(merged) and all(any(name.startswith(f"{place}.conv") for place in merged) for name in missing)


def backbone_name(config: DetectionConfig) -> str:
    """Returns the backbone of a configuration with its ``arch``, such as ``EConvNeXt mini``."""
    section = config.data.get(config.architecture)
    backbone = section.get("backbone") if isinstance(section, dict) else None
    if isinstance(backbone, dict):
        name, arguments = str(backbone.get("name", "its backbone")), backbone
    else:
        name = str(backbone or "its backbone")
        arguments = config.data.get(name)
    arch = arguments.get("arch") if isinstance(arguments, dict) else None
    return f"{name} {arch}" if arch else name
