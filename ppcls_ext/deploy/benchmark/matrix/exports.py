"""Exports the models of a benchmark to a folder that later runs use again. Loads no Paddle itself."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppcls_ext.deploy.benchmark.matrix.plan import DETECTOR_WORKER, Source, format_of
from ppcls_ext.deploy.benchmark.matrix.processes import run_once
from ppcls_ext.runtime.backends import choose
from ppcls_ext.runtime.description import DESCRIPTION_FILE, Export
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import write_json

logger = logging.getLogger(__name__)
PACKAGE = Path(__file__).resolve().parents[3]
# What decides how an export looks: a change there makes the exports of earlier runs worthless.
CODE = ("arch", "deploy/export", "deploy/compress", "preprocess", "runtime", "plugin.py", "deploy/benchmark/matrix")
PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "paddleclas", "paddle2onnx", "onnx", "onnxruntime", "openvino", "nncf")
EXPORT_SECONDS = 1800


@dataclass(frozen=True)
class Ready:
    """An export that can be opened.

    Attributes:
        folder: where it is.
        size_bytes: of the files of this format and precision.
        flops: multiply-adds of one image as ``paddle.flops`` counts them, None where unknown.
        parameters: trainable ones, None where unknown.
    """

    folder: Path
    size_bytes: int
    flops: int | None
    parameters: int | None


def prepare(source: Source, pairs: Sequence[tuple[str, str]], cache: Path) -> dict[tuple[str, str], Ready | str]:
    """Returns for each pair of backend and precision the export to measure, or why there is none.

    Args:
        source: an export, which is taken as it is, or a model, which is exported with random weights.
        pairs: backends and precisions.
        cache: folder that keeps the exports of models.
    """
    if source.description is not None:
        return {pair: _open(source.description, *pair, None, None) for pair in pairs}
    found: dict[tuple[str, str], Ready | str] = {}
    for backend in dict.fromkeys(backend for backend, _ in pairs):
        precisions = [precision for name, precision in pairs if name == backend]
        folder = cache / f"{source.label}_{source.size}" / format_of(backend)
        answer = _export(source, format_of(backend), precisions, folder)
        for precision in precisions:
            reason = answer["reasons"].get(precision)
            found[backend, precision] = reason or _open(
                folder, backend, precision, answer["flops"], answer["parameters"]
            )
    return found


def _open(where: Path | Export, backend: str, precision: str, flops: int | None, parameters: int | None) -> Ready | str:
    """Looks up the files of one artefact."""
    from ppcls_ext.runtime import read_description

    try:
        description = read_description(where) if isinstance(where, Path) else where
        artefact, _ = choose(description, backend, precision)
        size = sum((description.folder / name).stat().st_size for name in artefact.files)
    except (UserError, OSError) as error:
        return str(error)
    return Ready(description.folder, size, flops, parameters)


def _export(source: Source, format_name: str, precisions: Sequence[str], folder: Path) -> dict[str, Any]:
    """Returns the answer of the export worker: a new one, or that of an earlier run with the same code and packages."""
    record = folder.parent / f"{format_name}.json"
    digest = _digest(source)
    earlier = _read(record)
    if (
        earlier.get("digest") == digest
        and (folder / DESCRIPTION_FILE).is_file()
        and all(earlier["reasons"].get(precision, "not tried") is None for precision in precisions)
    ):
        return earlier
    if earlier.get("digest") == digest:
        # An export is replaced as a whole: what it holds already is written again.
        held = [precision for precision, reason in earlier["reasons"].items() if reason is None]
        precisions = list(dict.fromkeys([*held, *precisions]))
    logger.info("exporting %s at %s px: %s %s", source.label, source.size, format_name, ", ".join(precisions))
    request = {
        "model": source.model,
        "size": source.size,
        "format": format_name,
        "precisions": list(precisions),
        "folder": str(folder),
    }
    try:
        answer = run_once(source.worker, [json.dumps(request)], EXPORT_SECONDS)
    except UserError as error:
        answer = {"reasons": dict.fromkeys(precisions, str(error)), "flops": None, "parameters": None}
    for precision, reason in answer["reasons"].items():
        if reason is not None:
            logger.warning("%s, %s %s: %s", source.label, format_name, precision, reason)
    write_json(record, {"digest": digest, **answer})
    return answer


def _read(record: Path) -> dict[str, Any]:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("reasons"), dict) else {}


def _digest(source: Source) -> str:
    """Returns a checksum of the code, the versions and the configuration that make an export."""
    digest = hashlib.sha256()
    paths = [PACKAGE / part for part in CODE]
    if source.worker == DETECTOR_WORKER:
        paths += [PACKAGE.parent / DETECTOR_WORKER.partition(".")[0], Path(source.model)]
    for path in paths:
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(file.read_bytes())
    for package in PACKAGES:
        try:
            digest.update(f"{package}={importlib.metadata.version(package)};".encode())
        except importlib.metadata.PackageNotFoundError:
            continue
    return digest.hexdigest()
