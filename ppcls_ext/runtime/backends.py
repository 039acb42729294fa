"""The engines that can run an exported network: Paddle Inference, ONNX Runtime and OpenVINO, all on the CPU.

A new engine is a row of ``BACKENDS`` and a class. Each class imports its package when the first one is made.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ppcls_ext.preprocess import OPERATORS, build_pipeline
from ppcls_ext.preprocess.depth import range_of, with_stated_range
from ppcls_ext.preprocess.detection import DETECTION_OPERATORS, build_detection_pipeline
from ppcls_ext.preprocess.operators import with_limit
from ppcls_ext.runtime.description import (
    DESCRIPTION_FILE,
    Artefact,
    Description,
    DetectionDescription,
    read_description,
)
from ppcls_ext.runtime.predictor import DetectionPredictor, Engine, Predictor
from ppcls_ext.utils.errors import UserError, suggestion
from ppcls_ext.utils.machine import available_cores

# Paddle wakes a thread after every operator to free its inputs, which costs a tenth of the latency of a small network.
# Letting so much garbage (in GB) pile up first makes that rare.
GARBAGE_FLAG, GARBAGE_LIMIT = "FLAGS_eager_delete_tensor_gb", 0.03
BFLOAT16 = "bfloat16"
# ONNX Runtime also warns of optimisations that do not matter to anyone.
ERRORS_ONLY = 3
DEVICE = "CPU"
# What OpenVINO is asked to compute in, by the precision of the export; float32 for all others. It is always said:
# OpenVINO takes bfloat16 by itself on processors that have it.
HINTS = {"bf16": "bf16", "fp16": "f16"}
FLOAT32_HINT = "f32"
# OpenVINO's names of types.
OPENVINO_TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


AnyDescription = Description | DetectionDescription


class PaddleBackend(Engine):
    """Paddle Inference; bfloat16 where it is asked for, with oneDNN, on a processor that has it."""

    def __init__(self, description: AnyDescription, artefact: Artefact, threads: int, onednn: bool = True) -> None:
        import paddle
        from paddle import inference
        from paddle.base import core

        wanted = artefact.precision == "bf16" and onednn
        self.computed_in = BFLOAT16 if wanted and core.supports_bfloat16() else "float32"
        program = description.folder / artefact.model_file
        # A network without weights has no second file, and Paddle wants its name nevertheless.
        weights = description.folder / (artefact.weights_file or f"{program.stem}.pdiparams")
        config = inference.Config(str(program), str(weights))
        config.disable_glog_info()
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(threads)
        # Paddle 3 switches oneDNN on by itself where it can: say both ways.
        if onednn:
            config.enable_mkldnn()
        else:
            config.disable_mkldnn()
        if self.computed_in == BFLOAT16:
            config.enable_mkldnn_bfloat16()
        # Files of Paddle 3 (.json) are run by its new intermediate representation and executor only; without saying so
        # memory optimisation looks for the result of an old pass and fails.
        config.enable_new_ir(True)
        config.enable_new_executor(True)
        config.enable_memory_optim()
        # The flag belongs to the process and is read by the executor in its first run: it is set meanwhile.
        before = paddle.get_flags(GARBAGE_FLAG)
        paddle.set_flags({GARBAGE_FLAG: GARBAGE_LIMIT})
        try:
            self._predictor = inference.create_predictor(config)
            names = self._predictor.get_input_names()
            self._inputs = {name: self._predictor.get_input_handle(name) for name in names}
            self.input_names = list(self._inputs)
            self._outputs = [self._predictor.get_output_handle(name) for name in self._predictor.get_output_names()]
            # 32 is the total stride: the smallest input that fits all.
            image = np.zeros([1, *(size if size > 0 else 32 for size in description.input_shape[1:])], np.float32)
            if isinstance(description, DetectionDescription):
                self.detect(image, np.ones([1, 2], np.float32))
            else:
                self.run(image)
        finally:
            paddle.set_flags(before)

    def compute(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """See ``Engine``."""
        for name, values in inputs.items():
            self._inputs[name].reshape(values.shape)
            self._inputs[name].copy_from_cpu(np.ascontiguousarray(values, dtype=np.float32))
        self._predictor.run()
        return [output.copy_to_cpu() for output in self._outputs]


class OnnxRuntimeBackend(Engine):
    """ONNX Runtime; computes in float32, also where weights are stored in float16."""

    def __init__(self, description: AnyDescription, artefact: Artefact, threads: int, onednn: bool = True) -> None:
        self._session = onnxruntime_session(description.folder / artefact.model_file, threads)
        self.input_names = [node.name for node in self._session.get_inputs()]
        self.computed_in = "float32"

    def compute(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """See ``Engine``."""
        return self._session.run(None, {n: np.ascontiguousarray(one, dtype=np.float32) for n, one in inputs.items()})


def onnxruntime_session(file: Path, threads: int, profile: Path | None = None) -> Any:
    """Opens an ONNX file; its ``end_profiling`` gives a file that begins with ``profile``, if that is given."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # These networks are chains: operators side by side would only take each other's cores.
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


class OpenVinoBackend(Engine):
    """OpenVINO."""

    def __init__(self, description: AnyDescription, artefact: Artefact, threads: int, onednn: bool = True) -> None:
        compiled = compile_openvino(description.folder, artefact, threads)
        self.computed_in = OPENVINO_TYPES[compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()]
        self._request = compiled.create_infer_request()
        self.input_names = [port.get_any_name() for port in compiled.inputs]
        self._outputs = list(range(len(compiled.outputs)))

    def compute(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """See ``Engine``."""
        self._request.infer({name: np.ascontiguousarray(one, dtype=np.float32) for name, one in inputs.items()})
        # The next run overwrites the tensors of the request.
        return [self._request.get_output_tensor(number).data.copy() for number in self._outputs]


def openvino_settings(precision_hint: str, threads: int) -> dict[str, Any]:
    """Returns the settings of a network that OpenVINO runs for one asker at a time."""
    return {"INFERENCE_PRECISION_HINT": precision_hint, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY"}  # fmt: skip


def compile_openvino(folder: Path, artefact: Artefact, threads: int, **settings: Any) -> Any:
    """Compiles the OpenVINO network of an export, to compute in its precision where the processor has that."""
    core = import_openvino().Core()
    hint = HINTS.get(artefact.precision, FLOAT32_HINT)
    if hint == HINTS["fp16"] and "FP16" not in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"):
        # Asked for float16, it computes in bfloat16 where it has no float16: ten times the error.
        hint = FLOAT32_HINT
    return core.compile_model(read_network(folder, artefact), DEVICE, {**openvino_settings(hint, threads), **settings})


def read_network(folder: Path, artefact: Artefact) -> Any:
    """Reads an OpenVINO network with the weights that its description names, whose checksums ``Artefact.check_files``
    compares; a ``UserError`` if it names none, or they do not belong to the network."""
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
    block_telemetry()
    import openvino

    return openvino


def block_telemetry() -> None:
    """Makes importing the telemetry package fail: OpenVINO then takes a stub of its own that does nothing."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class BackendRow:
    """The class of a backend, the package it needs, how that is installed, and the format it opens."""

    engine: type[Engine]
    package: str
    installation: str
    format: str

    @property
    def is_installed(self) -> bool:
        """Whether the package is there."""
        return importlib.util.find_spec(self.package) is not None


BACKENDS: dict[str, BackendRow] = {
    "paddle": BackendRow(PaddleBackend, "paddle", "pip install paddlepaddle==3.2.2", "paddle"),
    "onnxruntime": BackendRow(OnnxRuntimeBackend, "onnxruntime", "pip install onnxruntime==1.23.2", "onnx"),
    "openvino": BackendRow(OpenVinoBackend, "openvino", "pip install openvino==2026.4.1", "openvino"),
}


def open_backend(
    description: AnyDescription, artefact: Artefact, name: str, threads: int, onednn: bool = True
) -> Engine:
    """Loads ``artefact`` into the backend of this name; a ``UserError`` if the name is unknown, or its package is not
    installed."""
    row = _row_of(name)
    if not row.is_installed:
        raise UserError(f"backend '{name}' needs the missing package '{row.package}': {row.installation}")
    return row.engine(description, artefact, threads, onednn)


def choose(
    description: AnyDescription, backend: str | None = None, precision: str | None = None
) -> tuple[Artefact, str]:
    """Chooses what to open of an export, and the name of the backend for it.

    Without a backend (a key of ``BACKENDS``), that of the first artefact for which one is installed; without a
    precision, the first artefact. A ``UserError`` if the export has no such artefact, or no backend is installed.
    """
    wanted = None if backend is None else _row_of(backend).format
    held = ", ".join(artefact.title for artefact in description.artefacts)
    found = [
        artefact
        for artefact in description.artefacts
        if wanted in (None, artefact.format) and precision in (None, artefact.precision)
    ]
    if not found:
        asked = " ".join(filter(None, [wanted, precision]))
        made = wanted or ("openvino" if precision == "int8" else None)
        flags = "".join(f" --{key} {value}" for key, value in (("format", made), ("precision", precision)) if value)
        raise UserError(
            f"{description.folder}: has nothing for {asked}, it holds {held}; tools/export_model.py{flags} makes it"
        )
    if backend is not None:
        return found[0], backend
    names = {row.format: name for name, row in BACKENDS.items()}
    for artefact in found:
        name = names.get(artefact.format)
        if name is not None and BACKENDS[name].is_installed:
            return artefact, name
    remedies = [BACKENDS[names[artefact.format]].installation for artefact in found if artefact.format in names]
    raise UserError(f"{description.folder}: holds {held}, and no engine for it is installed: {' or '.join(remedies)}")


def _row_of(name: str) -> BackendRow:
    if name not in BACKENDS:
        hint = suggestion(name, BACKENDS)
        raise UserError(f"unknown backend '{name}'{hint}; allowed: {', '.join(sorted(BACKENDS))}")
    return BACKENDS[name]


def load(
    folder: str | os.PathLike[str],
    backend: str | None = None,
    threads: int | None = None,
    onednn: bool = True,
    precision: str | None = None,
    max_resized_megapixels: float | None = None,
    bits: int | None = None,
) -> Predictor | DetectionPredictor:
    """Opens an export folder for prediction.

    Args:
        folder: what ``tools/export_model.py`` wrote.
        backend: a key of ``BACKENDS``; None takes the first of the export for which one is installed.
        threads: threads of the network; None takes every core of this process.
        onednn: backend ``paddle``: use oneDNN (faster); the outputs agree to 1e-4.
        precision: of an export that holds several; None takes the first.
        max_resized_megapixels: images that would be resized to more are refused; None takes what the export says.
        bits: how many are in use where samples have more than 8; None takes what the export says.

    Returns:
        A ``DetectionPredictor`` for the export of a detector, else a ``Predictor``.

    Raises:
        UserError: an argument is out of range, the folder is damaged or was changed since the export, or the backend is
            missing.
    """
    if threads is not None and threads < 1:
        raise UserError(f"threads must be at least 1, got {threads}")
    if bits is not None:
        try:
            range_of({"bits": bits})
        except ValueError as error:
            raise UserError(str(error)) from None
    description = read_description(folder)
    artefact, name = choose(description, backend, precision)
    where = f"{description.folder / DESCRIPTION_FILE}: preprocess"
    detects = isinstance(description, DetectionDescription)
    operators = with_limit(
        description.preprocess, max_resized_megapixels, DETECTION_OPERATORS if detects else OPERATORS
    )
    if bits is not None:
        operators = with_stated_range(operators, "Decode" if detects else "DecodeImage", {"bits": bits})
    prepare = (build_detection_pipeline if detects else build_pipeline)(operators, where)
    artefact.check_files(description.folder)
    engine = open_backend(description, artefact, name, threads or available_cores(), onednn)
    if isinstance(description, DetectionDescription):
        return DetectionPredictor(
            engine, prepare, description.classes, description.class_num, description.input_shape, description.form,
            description.model_name, description.thresholds,
        )  # fmt: skip
    return Predictor(
        engine, prepare, description.classes, description.topk, description.input_shape, description.model_name
    )
