"""Weights: files in and out that execute nothing, strict loading, conversion of foreign checkpoints."""

from __future__ import annotations

from ppcls_ext.weights.files import (
    class_names_of_weights,
    find_weights,
    label_order_of_weights,
    read_manifest,
    read_weights,
    state_of_weights,
    training_set_of_weights,
    verify_file,
    write_manifest,
    write_weights,
)  # fmt: skip
from ppcls_ext.weights.load import CLASSIFIER, LoadReport, load_weights
from ppcls_ext.weights.pickles import read_pickle, read_torch_weights

__all__ = [
    "CLASSIFIER", "LoadReport", "class_names_of_weights", "find_weights", "label_order_of_weights", "load_weights",
    "read_manifest", "read_pickle", "read_torch_weights", "read_weights", "state_of_weights",
    "training_set_of_weights", "verify_file", "write_manifest", "write_weights",
]  # fmt: skip
