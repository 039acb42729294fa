"""Which file formats an export can have, in which precisions, and how near each precision must stay to the model.

A new format or precision is a row of these tables and a function of ``ppcls_ext.deploy.export``. Loads no Paddle.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ppcls_ext.utils.errors import UserError, suggestion
from ppcls_ext.utils.outputs import Output, claim_outputs


class PrecisionRow(NamedTuple):
    """How far the outputs of an export may be from those of the model that was trained.

    The limits of the 16-bit rows are about ten times what was measured for E-ConvNeXt-mini (relative errors 5e-4 for
    fp16, 6e-3 for bf16): room for deeper networks, and far below what a wrong weight does.

    Attributes:
        relative_error: classifiers: largest difference of an image's logits, relative to its largest logit.
        box_px: detectors: largest difference of a coordinate, in pixels of an image with the size of the network's
            input; it grows with the image.
        score: detectors: largest difference of a score.
        overlap: detectors: how far rounding may move the overlap of two boxes.
    """

    relative_error: float
    box_px: float
    score: float
    overlap: float

    def of_image(self, scale_factor: Sequence[float]) -> PrecisionRow:
        """Returns the limits in pixels of an image whose height and width times ``scale_factor`` are the input's."""
        return self._replace(box_px=self.box_px * max(1.0, 1.0 / float(min(scale_factor))))


PRECISIONS: dict[str, PrecisionRow] = {
    "fp32": PrecisionRow(1e-4, box_px=0.1, score=1e-3, overlap=0.02),
    # Weights are stored in float16, and computed in float32 where the processor has no float16.
    "fp16": PrecisionRow(5e-3, box_px=1.0, score=0.01, overlap=0.05),
    # Computed in bfloat16 where the processor has it, in float32 elsewhere.
    "bf16": PrecisionRow(5e-2, box_px=8.0, score=0.05, overlap=0.2),
}
# Every model can be exported in it.
EXACT = "fp32"
# It is made of a finished export, because it needs data.
INT8 = "int8"


class FormatRow(NamedTuple):
    """One file format.

    Attributes:
        engine: name of the engine in reports.
        backend: key of ``ppcls_ext.runtime.BACKENDS`` that opens it, and that it is checked with.
        packages: what writing and checking it needs beside Paddle.
        precisions: keys of ``PRECISIONS`` in which it can be written, and ``INT8`` where it can be quantised.
    """

    engine: str
    backend: str
    packages: tuple[str, ...]
    precisions: tuple[str, ...]


FORMATS: dict[str, FormatRow] = {
    "paddle": FormatRow("Paddle Inference", "paddle", (), ("fp32", "bf16")),
    "onnx": FormatRow("ONNX Runtime", "onnxruntime", ("paddle2onnx", "onnx", "onnxruntime"), ("fp32", "fp16", INT8)),
    "openvino": FormatRow(
        "OpenVINO", "openvino", ("paddle2onnx", "onnx", "openvino"), ("fp32", "fp16", "bf16", INT8)
    ),
}


class Request(NamedTuple):
    """One artefact to write: keys of ``FORMATS`` and ``PRECISIONS``."""

    format: str
    precision: str


def supported_pairs(without: Request | None = None) -> str:
    """Returns which format takes which precisions, as one line; ``without`` is left out of it."""
    return "; ".join(
        f"{name}: {', '.join(precision for precision in row.precisions if without != (name, precision))}"
        for name, row in FORMATS.items()
    )


def plan(formats: Sequence[str], precisions: Sequence[str]) -> list[Request]:
    """Returns every pair of ``formats`` and ``precisions``, in their order, each once.

    Raises:
        UserError: a name is unknown, a pair cannot be written, or a package is missing. All of it is told before work.
    """
    check_names("format", formats, FORMATS)
    check_names("precision", precisions, [*PRECISIONS, INT8])
    if INT8 in precisions:
        raise UserError(
            f"precision '{INT8}' needs images to calibrate on: tools/export_model.py (or tools/quantize_model.py) "
            "makes it of an export; nothing was written"
        )
    requests = [Request(name, precision) for name in dict.fromkeys(formats) for precision in dict.fromkeys(precisions)]
    for request in requests:
        if request.precision not in FORMATS[request.format].precisions:
            raise UserError(
                f"format '{request.format}' cannot be written in {request.precision}; what works is "
                f"{supported_pairs()}; nothing was written"
            )
        check_packages(f"format '{request.format}'", FORMATS[request.format].packages)
    return requests


def check_names(kind: str, names: Sequence[str], allowed: Iterable[str]) -> None:
    """Raises a UserError if there is no name, or an unknown one; the nearest is given."""
    if not names:
        raise UserError(f"no {kind} is named; allowed: {', '.join(allowed)}")
    for name in names:
        if name not in allowed:
            raise UserError(f"unknown {kind} '{name}'{suggestion(name, allowed)}; allowed: {', '.join(allowed)}")


def check_packages(user: str, packages: Sequence[str]) -> None:
    """Raises a UserError if one of ``packages``, which ``user`` needs, is not installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(
            f"{user} needs the missing {'package' if len(missing) == 1 else 'packages'} {', '.join(missing)}: "
            "pip install --no-deps -r requirements-deploy.lock; nothing was written"
        )


def check_target(target: Path, classes: Sequence[str] | None, class_num: int, kind: str = "export") -> None:
    """Checks an export before any work; ``kind`` is a key of ``outputs.KINDS``.

    Raises:
        UserError: the folder ``target`` holds something else than an export (which a tool's ``--overwrite`` has moved
            away before this), or the names of classes are not as many as the classes.
    """
    if classes is not None and len(classes) != class_num:
        raise UserError(f"there are {len(classes)} class names for {class_num} classes")
    claim_outputs([Output("export to", target, kind)])
