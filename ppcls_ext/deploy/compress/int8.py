"""Weights and activations of 8 bits, by NNCF's post-training quantisation of an OpenVINO network. Loads no Paddle."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.runtime.backends import import_openvino, read_network, without_telemetry
from ppcls_ext.runtime.description import Artefact
from ppcls_ext.utils.errors import UserError

PACKAGES = ("openvino", "nncf")


def check_packages() -> None:
    """Raises a UserError if a package that quantisation needs is missing."""
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(
            f"int8 needs the missing {'package' if len(missing) == 1 else 'packages'} {', '.join(missing)}: "
            "pip install --no-deps -r requirements-deploy.lock; nothing was written"
        )


def quantize_network(folder: Path, artefact: Artefact, samples: Sequence[dict[str, np.ndarray]], target: Path) -> None:
    """Writes ``artefact`` with weights and activations of 8 bits.

    Scales come from the ranges that the activations have on ``samples``; the mean errors of layers are taken off their
    biases (NNCF's fast bias correction). What makes boxes of the outputs of the last layers stays in float32.

    Args:
        folder: of the export.
        artefact: its OpenVINO network in float32.
        samples: inputs by name, each with a batch of 1.
        target: the ``.xml`` to write; the weights go into a ``.bin`` beside it.

    Raises:
        UserError: the network cannot be quantised.
    """
    openvino = import_openvino()
    network = read_network(folder, artefact)
    _fold(network)
    with without_telemetry():
        import nncf
    nncf.set_log_level(logging.ERROR)
    try:
        quantized = nncf.quantize(
            network,
            nncf.Dataset(list(samples)),
            subset_size=len(samples),
            ignored_scope=nncf.IgnoredScope(names=behind_last_layers(network), validate=False),
        )
    except (nncf.InternalError, nncf.ValidationError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{folder / artefact.model_file}: NNCF cannot quantise it ({reason})") from error
    openvino.save_model(quantized, str(target), compress_to_fp16=False)


def _fold(network: Any) -> None:
    """Folds batch norms into convolutions and joins the parts of GELU, as OpenVINO does when it compiles a network.

    In a network that is stored as it was converted NNCF would quantise between these parts.
    """
    from openvino._offline_transformations import apply_moc_transformations

    apply_moc_transformations(network, cf=False)


def behind_last_layers(network: Any) -> list[str]:
    """Returns the names of the operations between the last layers of a network and its outputs.

    A detector computes coordinates there, and 8 bits tell but 256 of them apart: PP-YOLOE-S at 256 px loses five
    points of AP. The expectation of a distribution, a convolution or product with one output, belongs to it.
    """
    waiting = [result.input_value(0).get_node() for result in network.get_results()]
    seen: dict[str, None] = {}
    while waiting:
        operation = waiting.pop()
        name = operation.get_friendly_name()
        if name in seen or operation.get_type_name() in ("Constant", "Parameter") or _is_layer(operation):
            continue
        seen[name] = None
        waiting += [operation.input_value(number).get_node() for number in range(operation.get_input_size())]
    return list(seen)


def _is_layer(operation: Any) -> bool:
    """Tells whether an operation has learnt weights and more than one output channel."""
    axis = {"Convolution": 1, "GroupConvolution": 1, "MatMul": -1}.get(operation.get_type_name())
    if axis is None:
        return False
    shape = operation.get_output_partial_shape(0)
    channels = shape[len(shape) + axis if axis < 0 else axis]
    return channels.is_dynamic or channels.get_length() > 1
