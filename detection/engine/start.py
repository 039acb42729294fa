"""The weights that a fresh run begins with."""

from __future__ import annotations

import logging

import paddle

from detection.configuration import DetectionConfig
from ppcls_ext.weights import find_weights, load_weights, read_weights
from ppcls_ext.weights.load import compare

logger = logging.getLogger(__name__)

# The head's last layers, whose shape follows the number of classes.
CLASSIFIERS = ("yolo_head.pred_cls.",)


def load_start(config: DetectionConfig, model: paddle.nn.Layer) -> None:
    """Loads ``pretrain_weights``, a whole detector, into ``model``; a backbone loads its own ``pretrained``.

    With another number of classes the classifying layers start fresh, and one line of the log says so.

    Raises:
        UserError: the weights cannot be read, or do not fit otherwise.
    """
    source = config.data.get("pretrain_weights")
    if not source:
        return
    weights = read_weights(source)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    report = compare(str(find_weights(source)), shapes, weights)
    kept = {
        name: value
        for name, value in weights.items()
        if not (name in report.mismatched and name.startswith(CLASSIFIERS))
    }
    load_weights(model, kept, may_differ=CLASSIFIERS)
    logger.info("%s: %d weights loaded", source, len(report.loaded))
