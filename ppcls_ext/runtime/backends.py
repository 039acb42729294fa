"""The engines that can run an exported network. A new engine is a row of the table and a file of its own."""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import dataclass
from typing import Any

from ppcls_ext.common.errors import UserError, suggestion
from ppcls_ext.common.machine import available_cores
from ppcls_ext.preprocess import build_pipeline
from ppcls_ext.preprocess.detection import build_detection_pipeline
from ppcls_ext.runtime.contract import Backend, DetectionBackend
from ppcls_ext.runtime.description import (
    DESCRIPTION_FILE,
    Description,
    DetectionDescription,
    read_description,
)
from ppcls_ext.runtime.detector import DetectionPredictor
from ppcls_ext.runtime.predictor import Predictor


@dataclass(frozen=True)
class BackendRow:
    """Where a backend is implemented, and the package it needs."""

    module: str
    class_name: str
    package: str
    installation: str


BACKENDS: dict[str, BackendRow] = {
    "paddle": BackendRow(
        "ppcls_ext.runtime.paddle_backend", "PaddleBackend", "paddle", "pip install paddlepaddle==3.2.2"
    ),
}


def open_backend(description: Description | DetectionDescription, name: str, threads: int, onednn: bool) -> Any:
    """Loads the network of ``description`` into the backend of this name.

    Returns:
        A ``Backend`` for a classifier, a ``DetectionBackend`` for a detector.

    Raises:
        UserError: the name is unknown, or its package is not installed.
    """
    row = BACKENDS.get(name)
    if row is None:
        hint = suggestion(name, BACKENDS)
        raise UserError(f"unknown backend '{name}'{hint}; allowed: {', '.join(sorted(BACKENDS))}")
    if importlib.util.find_spec(row.package) is None:
        raise UserError(f"backend '{name}' needs the missing package '{row.package}': {row.installation}")
    return getattr(importlib.import_module(row.module), row.class_name)(description, threads, onednn)


def load(
    folder: str | os.PathLike[str], backend: str = "paddle", threads: int | None = None, onednn: bool = True
) -> Predictor | DetectionPredictor:
    """Opens an export folder for prediction.

    Args:
        folder: what ``tools/export_model.py`` wrote.
        backend: a key of ``BACKENDS``.
        threads: threads of the network; None takes every core of this process.
        onednn: use oneDNN on the CPU (faster); the outputs agree to 1e-4.

    Returns:
        A ``DetectionPredictor`` for the export of a detector, else a ``Predictor``.

    Raises:
        UserError: the folder is damaged or was changed since the export, or the backend is missing.
    """
    if threads is not None and threads < 1:
        raise UserError(f"threads must be at least 1, got {threads}")
    description = read_description(folder)
    where = f"{description.folder / DESCRIPTION_FILE}: preprocess"
    threads = threads or available_cores()
    if isinstance(description, DetectionDescription):
        prepare = build_detection_pipeline(description.preprocess, where)
        finder: DetectionBackend = open_backend(description, backend, threads, onednn)
        return DetectionPredictor(
            finder,
            prepare,
            description.classes,
            description.class_num,
            description.input_shape,
            description.form,
            description.model_name,
            prepare.enhancement,
        )
    pipeline = build_pipeline(description.preprocess, where)
    engine: Backend = open_backend(description, backend, threads, onednn)
    return Predictor(
        engine, pipeline, description.classes, description.topk, description.input_shape, description.model_name
    )
