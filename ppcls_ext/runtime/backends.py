"""The engines that can run an exported network. A new engine is a row of the table and a file of its own."""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import dataclass
from typing import Any

from ppcls_ext.preprocess import build_pipeline
from ppcls_ext.preprocess.detection import build_detection_pipeline
from ppcls_ext.runtime.artefacts import Artefact
from ppcls_ext.runtime.description import (
    DESCRIPTION_FILE,
    Description,
    DetectionDescription,
    read_description,
)
from ppcls_ext.runtime.detector import DetectionPredictor
from ppcls_ext.runtime.predictor import Predictor
from ppcls_ext.utils.errors import UserError, suggestion
from ppcls_ext.utils.machine import available_cores


@dataclass(frozen=True)
class BackendRow:
    """Where a backend is implemented, what it opens, and the package it needs."""

    module: str
    class_name: str
    package: str
    installation: str
    format: str


BACKENDS: dict[str, BackendRow] = {
    "paddle": BackendRow(
        "ppcls_ext.runtime.paddle_backend", "PaddleBackend", "paddle", "pip install paddlepaddle==3.2.2", "paddle"
    ),
    "onnxruntime": BackendRow(
        "ppcls_ext.runtime.onnx_backend", "OnnxRuntimeBackend", "onnxruntime", "pip install onnxruntime==1.23.2", "onnx"
    ),
    "openvino": BackendRow(
        "ppcls_ext.runtime.openvino_backend", "OpenVinoBackend", "openvino", "pip install openvino==2026.4.1",
        "openvino",
    ),
}  # fmt: skip


def open_backend(
    description: Description | DetectionDescription, artefact: Artefact, name: str, threads: int, onednn: bool = True
) -> Any:
    """Loads ``artefact`` of ``description`` into the backend of this name.

    Returns:
        A ``Backend`` for a classifier, a ``DetectionBackend`` for a detector.

    Raises:
        UserError: the name is unknown, or its package is not installed.
    """
    row = _row_of(name)
    if not _is_installed(row):
        raise UserError(f"backend '{name}' needs the missing package '{row.package}': {row.installation}")
    return getattr(importlib.import_module(row.module), row.class_name)(description, artefact, threads, onednn)


def choose(
    description: Description | DetectionDescription, backend: str | None = None, precision: str | None = None
) -> tuple[Artefact, str]:
    """Chooses what to open of an export.

    Args:
        description: of the export.
        backend: a key of ``BACKENDS``; None takes that of the first artefact for which one is installed.
        precision: the one to take where an export has several; None takes the first.

    Returns:
        The artefact, and the name of the backend for it.

    Raises:
        UserError: the export has no such artefact, or no backend for it is installed.
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
        # int8 exists as OpenVINO files only.
        made = "openvino" if precision == "int8" else wanted
        flags = "".join(f" --{key} {value}" for key, value in (("format", made), ("precision", precision)) if value)
        raise UserError(
            f"{description.folder}: has nothing for {asked}, it holds {held}; tools/export_model.py{flags} makes it"
        )
    if backend is not None:
        return found[0], backend
    names = {row.format: name for name, row in BACKENDS.items()}
    for artefact in found:
        name = names.get(artefact.format)
        if name is not None and _is_installed(BACKENDS[name]):
            return artefact, name
    remedies = [BACKENDS[names[artefact.format]].installation for artefact in found if artefact.format in names]
    raise UserError(f"{description.folder}: holds {held}, and no engine for it is installed: {' or '.join(remedies)}")


def _row_of(name: str) -> BackendRow:
    if name not in BACKENDS:
        hint = suggestion(name, BACKENDS)
        raise UserError(f"unknown backend '{name}'{hint}; allowed: {', '.join(sorted(BACKENDS))}")
    return BACKENDS[name]


def _is_installed(row: BackendRow) -> bool:
    return importlib.util.find_spec(row.package) is not None


def load(
    folder: str | os.PathLike[str],
    backend: str | None = None,
    threads: int | None = None,
    onednn: bool = True,
    precision: str | None = None,
) -> Predictor | DetectionPredictor:
    """Opens an export folder for prediction.

    Args:
        folder: what ``tools/export_model.py`` wrote.
        backend: a key of ``BACKENDS``; None takes the first of the export for which one is installed.
        threads: threads of the network; None takes every core of this process.
        onednn: backend ``paddle``: use oneDNN (faster); the outputs agree to 1e-4.
        precision: of an export that holds several; None takes the first.

    Returns:
        A ``DetectionPredictor`` for the export of a detector, else a ``Predictor``.

    Raises:
        UserError: the folder is damaged or was changed since the export, or the backend is missing.
    """
    if threads is not None and threads < 1:
        raise UserError(f"threads must be at least 1, got {threads}")
    description = read_description(folder)
    artefact, name = choose(description, backend, precision)
    where = f"{description.folder / DESCRIPTION_FILE}: preprocess"
    detects = isinstance(description, DetectionDescription)
    prepare = (build_detection_pipeline if detects else build_pipeline)(description.preprocess, where)
    artefact.check_files(description.folder)
    engine = open_backend(description, artefact, name, threads or available_cores(), onednn)
    if isinstance(description, DetectionDescription):
        return DetectionPredictor(
            engine,
            prepare,
            description.classes,
            description.class_num,
            description.input_shape,
            description.form,
            description.model_name,
            prepare.enhancement,
        )
    return Predictor(
        engine, prepare, description.classes, description.topk, description.input_shape, description.model_name
    )
