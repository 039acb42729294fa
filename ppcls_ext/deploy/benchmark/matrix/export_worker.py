"""Exports one model with random weights to one format, in a process of its own: converters may crash.

Run by ``ppcls_ext.deploy.benchmark.matrix.exports``.
It answers with one line of JSON after ``ANSWER``.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.utils.errors import UserError

CLASSES = 1000
INT8 = "int8"
LONGEST_REASON = 300
# Largest logit of one picture over that of another; a few in other networks with random weights.
WILD = 100.0
# What exporters, converters and engines raise at networks that they cannot take.
EXPORT_ERRORS = (UserError, ValueError, AssertionError, RuntimeError)


def main(export: Callable[..., dict[str, Any]] | None = None) -> None:
    """Reads the request from the command line and answers what became of it.

    Args:
        export: called as `export_model` is, which is the default.
    """
    request = json.loads(sys.argv[1])
    answer = (export or export_model)(
        request["model"], request["size"], request["format"], request["precisions"], Path(request["folder"])
    )
    sys.stdout.write(f"\nANSWER {json.dumps(answer)}\n")


def export_model(model_name: str, size: int, format_name: str, precisions: Sequence[str], folder: Path) -> dict:
    """Exports a model.

    Returns:
        ``flops`` as ``paddle.flops`` counts them, ``parameters`` (trainable), and ``reasons``: by precision None, or
        why there is no such file.
    """
    import paddle

    from ppcls_ext.arch.registry import build_model
    from ppcls_ext.deploy.export import export_classifier

    def build() -> Subject:
        model = build_model(model_name, class_num=CLASSES)
        model.eval()
        images = pictures(size)
        if _is_wild(model, images):
            settle_batch_norms(model, images)

        def export(wanted: Sequence[str]) -> None:
            export_classifier(
                model,
                folder,
                model_name=model_name,
                class_num=CLASSES,
                image_shape=[3, size, size],
                preprocess=_preprocess(size),
                formats=[format_name],
                precisions=wanted,
            )

        def flops() -> int:
            with contextlib.redirect_stdout(io.StringIO()):  # paddle.flops prints a report.
                return int(paddle.flops(model, [1, 3, size, size]))

        return Subject(model, export, flops)

    return export_subject(build, precisions, folder)


@dataclass(frozen=True)
class Subject:
    """A network to export.

    Attributes:
        model: the network.
        export: writes it in some precisions.
        flops: counts multiply-adds of one image.
    """

    model: Any
    export: Callable[[Sequence[str]], None]
    flops: Callable[[], int]


def export_subject(build: Callable[[], Subject], precisions: Sequence[str], folder: Path) -> dict[str, Any]:
    """Builds a network with random weights, always the same ones, and exports it.

    Returns:
        See `export_model`.
    """
    import paddle

    paddle.seed(0)
    try:
        subject = build()
        reasons = _export(subject.export, precisions, folder)
    except EXPORT_ERRORS as error:
        return {"reasons": dict.fromkeys(precisions, _one_line(error)), "flops": None, "parameters": None}
    parameters = sum(int(parameter.size) for parameter in subject.model.parameters() if not parameter.stop_gradient)
    return {"reasons": reasons, "flops": subject.flops(), "parameters": parameters}


def pictures(size: int) -> np.ndarray:
    """Returns the pictures that exports are compared on, prepared as for ImageNet: float32 ``[N, 3, size, size]``."""
    from ppcls_ext.deploy.export import example_images
    from ppcls_ext.preprocess import build_pipeline
    from ppcls_ext.runtime.predictor import prepare_input

    pipeline = build_pipeline(_preprocess(size), "Infer.transforms")
    prepared = [prepare_input(pipeline, image, name, [3, size, size]) for name, image in example_images().items()]
    return np.stack(prepared)


def _is_wild(model: Any, images: np.ndarray) -> bool:
    """Whether random weights blow up some pictures: EfficientNetV2's logits are 0.2 for one and 18,000 for another.

    Any rounding is blown up on the way as well, so that no export would agree with the model.
    """
    import paddle

    from ppcls_ext.arch.outputs import logits_of

    with paddle.no_grad():
        largest = [float(logits_of(model(paddle.to_tensor(image[np.newaxis]))).abs().max()) for image in images]
    return max(largest) > WILD * min(largest)


def settle_batch_norms(model: Any, images: np.ndarray) -> None:
    """Gives batch norms the statistics of pictures, as training would.

    Args:
        model: the network, in evaluation mode.
        images: ``[N, 3, H, W]``, float32.
    """
    import paddle
    from paddle.nn.layer.norm import _BatchNormBase

    norms = [layer for layer in model.sublayers() if isinstance(layer, _BatchNormBase)]
    momenta = [norm._momentum for norm in norms]
    for norm in norms:
        # The share of the old statistics.
        norm._momentum = 0.0
        norm.training = True
    with paddle.no_grad():
        model(paddle.to_tensor(images))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm._momentum = momentum
        norm.training = False


def _export(
    export: Callable[[Sequence[str]], None], precisions: Sequence[str], folder: Path
) -> dict[str, str | None]:
    """Exports what works: after a failure each precision is tried alone, and those that succeeded are written again."""
    written = [precision for precision in precisions if precision != INT8]
    if INT8 in precisions and "fp32" not in written:
        written.insert(0, "fp32")
    reasons: dict[str, str | None] = {}
    try:
        export(written)
        reasons = dict.fromkeys(written)
    except EXPORT_ERRORS as error:
        if len(written) == 1:
            return dict.fromkeys(precisions, _one_line(error))
        for precision in written:
            reasons[precision] = _reason_of_failure(export, precision)
        working = [precision for precision, reason in reasons.items() if reason is None]
        if working:
            export(working)
    if INT8 in precisions:
        reasons[INT8] = reasons["fp32"] or _reason_of_failure(lambda _: _quantize(folder), [INT8])
    return {precision: reasons[precision] for precision in precisions}


def _reason_of_failure(export: Any, precision: Any) -> str | None:
    try:
        export([precision])
    except EXPORT_ERRORS as error:
        return _one_line(error)
    return None


def _quantize(folder: Path) -> None:
    from ppcls_ext.deploy.compress.quantization import quantize_export
    from ppcls_ext.deploy.export import example_images

    quantize_export(folder, folder, list(example_images().items()), None)


def _preprocess(size: int) -> list[dict[str, Any]]:
    """Returns the usual preparation of ImageNet's validation images: the middle 7/8 of the short side."""
    return [
        {"ResizeImage": {"resize_short": round(size * 8 / 7)}},
        {"CropImage": {"size": size}},
        {"NormalizeImage": {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
                            "order": ""}},
    ]  # fmt: skip


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__


if __name__ == "__main__":
    main()
