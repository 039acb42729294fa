"""Weights of a classifier as weights of a detector's backbone, strictly, with a report."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from ppcls_ext.weights import find_weights, read_weights
from ppcls_ext.weights.load import LoadReport, load_weights

if TYPE_CHECKING:
    import paddle

logger = logging.getLogger(__name__)


def load_backbone_weights(backbone: paddle.nn.Layer, source: str) -> LoadReport:
    """Loads ``source`` into ``backbone`` in place.

    Raises:
        UserError: the file cannot be read, or anything but the classifier and the output norms differs.
    """
    file = find_weights(source)
    weights: dict[str, np.ndarray] = read_weights(file)
    kept = {name: value for name, value in weights.items() if not name.startswith(("norm.", "head."))}
    report = load_weights(backbone, kept, may_differ=("norms.",))
    logger.info("%s: %d weights of the backbone loaded", file, len(report.loaded))
    return report
