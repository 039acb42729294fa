"""Checkpoints of the paper's repository (E-ConvNeXt, arXiv 2508.20955), for those who need no particular model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ppcls_ext.weights.layout_tables import REFERENCE
from ppcls_ext.weights.layouts import Conversion


def is_reference(weights: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of the paper's repository."""
    return any(name.startswith("Down_Conv.") for name in weights)


def rename_reference(weights: Mapping[str, np.ndarray], label: str) -> Conversion:
    """Renames the weights of the paper's repository without asking which model they fit.

    Args:
        weights: arrays by the reference's names.
        label: names the source in messages.

    Raises:
        UserError: a name is unknown.
    """
    return REFERENCE.to_ours(weights, label)
