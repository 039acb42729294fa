"""OpenVINO on the CPU."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ppcls_ext.runtime.artefacts import Artefact
from ppcls_ext.runtime.contract import NamedInputs
from ppcls_ext.runtime.description import DESCRIPTION_FILE, Description, DetectionDescription
from ppcls_ext.utils.errors import UserError

TELEMETRY = "openvino_telemetry"
# What an engine is asked to compute in, by the precision of the export; float32 for all others. It is always said:
# OpenVINO takes bfloat16 by itself on processors that have it.
HINTS = {"bf16": "bf16", "fp16": "f16"}
FLOAT32_HINT = "f32"
TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
FLOAT16 = "FP16"
DEVICE = "CPU"


class OpenVinoBackend(NamedInputs):
    """Runs an exported network with OpenVINO, which is imported when the first one is made.

    It is a ``Backend`` for a classifier and a ``DetectionBackend`` for a detector.

    Args:
        description: names the folder.
        artefact: names the file, and the precision to compute in.
        threads: threads of the network.
        onednn: has no meaning here.

    Attributes:
        computed_in: what OpenVINO chose: bfloat16 and float16 only on processors that have them.
    """

    def __init__(
        self, description: Description | DetectionDescription, artefact: Artefact, threads: int, onednn: bool = True
    ) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        hint = HINTS.get(artefact.precision, FLOAT32_HINT)
        if hint == HINTS["fp16"] and FLOAT16 not in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"):
            # Asked for float16, it computes in bfloat16 where it has no float16: ten times the error.
            hint = FLOAT32_HINT
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        network = read_network(description.folder, artefact)
        compiled = core.compile_model(network, DEVICE, settings)
        self.computed_in = TYPES[compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()]
        self._request = compiled.create_infer_request()
        self.input_names = [port.get_any_name() for port in compiled.inputs]
        self._outputs = list(range(len(compiled.outputs)))

    def compute(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """See ``NamedInputs``."""
        arrays = {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in inputs.items()}
        self._request.infer(arrays)
        # The next run overwrites the tensors of the request.
        return [self._request.get_output_tensor(number).data.copy() for number in self._outputs]


def read_network(folder: Path, artefact: Artefact) -> Any:
    """Reads an OpenVINO network with the weights that its description names.

    Args:
        folder: of the export.
        artefact: names both files, whose checksums ``Artefact.check_files`` compares.

    Returns:
        The ``openvino.Model``.

    Raises:
        UserError: the description names no weights, or they do not belong to the network.
    """
    model = folder / artefact.model_file
    if artefact.weights_file is None:
        # OpenVINO would look for a file beside the network by itself, one whose checksum nobody knows.
        raise UserError(f"{folder / DESCRIPTION_FILE}: damaged, {artefact.title} names no file of weights")
    try:
        return import_openvino().Core().read_model(str(model), str(folder / artefact.weights_file))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{model}: cannot be read with the weights {artefact.weights_file} ({reason})") from error


def import_openvino() -> ModuleType:
    """Imports OpenVINO without the package through which it would report each import to its makers."""
    with without_telemetry():
        import openvino
    return openvino


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """Makes importing the telemetry package fail meanwhile: OpenVINO then takes a stub of its own that does nothing."""
    before = sys.modules.get(TELEMETRY)
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is None:
            del sys.modules[TELEMETRY]
        else:
            sys.modules[TELEMETRY] = before
