"""Finds the networks to measure; those given by name it exports with random weights to a cache folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppcls_ext.deploy.formats import FORMATS, PRECISIONS
from ppcls_ext.deploy.published import PUBLISHED
from ppcls_ext.runtime import BACKENDS, Description, DetectionDescription, read_description
from ppcls_ext.runtime.backends import choose
from ppcls_ext.runtime.description import DESCRIPTION_FILE
from ppcls_ext.utils.errors import UserError, suggestion
from ppcls_ext.utils.files import write_json
from ppcls_ext.utils.workers import run_in_process

if TYPE_CHECKING:
    from paddle import nn

logger = logging.getLogger(__name__)
DEFAULT_MODELS = (
    "EConvNeXt_mini", "EConvNeXt_tiny", "EConvNeXt_small", "ConvNeXt_tiny", "MobileNetV4_conv_medium",
    "EfficientNetV2_S", "PPHGNetV2_B0", "ResNet50", "SwinTransformer_tiny_patch4_window7_224",
)  # fmt: skip
DEFAULT_PRECISIONS = ("fp32", "bf16")
# Made of the float32 network by quantisation, as OpenVINO files only.
INT8, INT8_BACKEND = "int8", "openvino"
MEASURED, FAILED, UNSUPPORTED = "measured", "failed", "unsupported"
DETECTOR_SIZE, CLASSES = 640, 1000
EXPORT_SECONDS = 1800.0
# A change in these packages, or of their versions, makes the exports of earlier runs worthless.
PACKAGE = Path(__file__).resolve().parents[1]
EXPORT_CODE = ("arch", "deploy", "preprocess", "runtime", "plugin.py")
EXPORT_PACKAGES = (
    "paddlepaddle", "paddlepaddle-gpu", "paddleclas", "paddle2onnx", "onnx", "onnxruntime", "openvino", "nncf",
)  # fmt: skip
# Largest logit of one picture over that of another; a few in other networks with random weights.
WILD = 100.0
# Writes an export: of a model or configuration, with the side of its images, a format and a precision, to a folder;
# returns ``parameters`` and ``multiply_adds``.
Exporter = Callable[[str, int, str, str, Path], dict[str, int]]
Row = dict[str, Any]


@dataclass(frozen=True)
class BenchmarkRequest:
    """What to measure: every combination of the lists.

    Attributes:
        models: names (``NAME`` or ``NAME@SIZE``), configurations of detectors (``FILE.yml[@SIZE]``), export folders;
            None measures ``defaults``.
        defaults: as ``models``, but what this installation does not have is a row with the reason, not an error.
        backends: keys of ``BACKENDS``; None takes all.
        precisions: None takes float32, and bfloat16 where a backend has it; of an export all that it holds.
        threads, batches: numbers of threads and batch sizes.
        size: side in pixels of the images of classifiers that do not say it.
        cache: folder that keeps the exports for the next run.
        rounds, runs, starts: see `measure_interleaved`.
    """

    models: Sequence[str] | None = None
    defaults: Sequence[str] = DEFAULT_MODELS
    backends: Sequence[str] | None = None
    precisions: Sequence[str] | None = None
    threads: Sequence[int] = (2,)
    batches: Sequence[int] = (1,)
    size: int = 224
    cache: Path = Path("output/benchmark")
    rounds: int = 12
    runs: int = 10
    starts: int = 3


@dataclass(frozen=True, eq=False)
class Source:
    """A network to measure.

    Attributes:
        label: its name in reports.
        model: its architecture; of a detector the configuration file.
        size: side of its images in pixels; of an export height and width as text.
        description: of an export, None for a model that is still to be exported.
        exporter: exports the model.
    """

    label: str
    model: str
    size: int | str
    description: Description | DetectionDescription | None = None
    exporter: Exporter | None = None


def find_source(name: str, size: int, detector_exporter: Exporter | None = None) -> Source:
    """Finds what a name means: an export folder, the configuration of a detector, or a model.

    Raises:
        UserError: it is none of them; the nearest names are given.
    """
    from ppcls_ext.arch.registry import architecture_parameters

    model, separator, side = name.partition("@")
    if separator and not (side.isdecimal() and int(side) > 0):
        raise UserError(f"--model {name}: after @ stands the side of the images in pixels, such as {model}@224")
    if Path(model).suffix in (".yml", ".yaml"):
        if not Path(model).is_file():
            raise UserError(f"--model {name}: there is no such configuration")
        side_of_images = int(side) if separator else DETECTOR_SIZE
        return Source(Path(model).stem, model, side_of_images, exporter=detector_exporter)
    if (Path(name) / DESCRIPTION_FILE).is_file() or os.sep in name:
        description = read_description(name)
        sides = " x ".join("any" if side < 0 else str(side) for side in description.input_shape[2:])
        return Source(name, description.model_name, sides, description)
    try:
        architecture_parameters(model)
    except ValueError as error:
        raise UserError(f"--model {name}: {error}; an export folder has an {DESCRIPTION_FILE}") from error
    return Source(name, model, int(side) if separator else size, exporter=export_model)


def precisions_of(backend: str) -> tuple[str, ...]:
    """Returns the precisions that exports for ``backend`` can have."""
    written = next(row.precisions for row in FORMATS.values() if row.backend == backend)
    return (*written, INT8) if backend == INT8_BACKEND else tuple(written)


def choose_pairs(
    backends: Sequence[str] | None, precisions: Sequence[str] | None
) -> tuple[list[tuple[str, str]], dict[tuple[str, str], str]]:
    """Pairs backends with precisions.

    Returns:
        The pairs that can be measured, and of each asked pair that cannot, why: it says what works.

    Raises:
        UserError: a name is unknown, or no pair is left.
    """
    known = list(dict.fromkeys([*PRECISIONS, INT8]))
    for kind, names, allowed in (("backend", backends, list(BACKENDS)), ("precision", precisions, known)):
        for name in names or ():
            if name not in allowed:
                raise UserError(f"unknown {kind} '{name}'{suggestion(name, allowed)}; allowed: {', '.join(allowed)}")
    works = "; ".join(f"{backend}: {', '.join(precisions_of(backend))}" for backend in BACKENDS)
    asked = itertools.product(dict.fromkeys(backends or BACKENDS), dict.fromkeys(precisions or DEFAULT_PRECISIONS))
    pairs, refused = [], {}
    for backend, precision in asked:
        if precision in precisions_of(backend):
            pairs.append((backend, precision))
        elif precisions:
            refused[backend, precision] = f"what works is {works}"
    if not pairs:
        raise UserError(f"no backend of {', '.join(backends or BACKENDS)} takes {', '.join(precisions or ())}; {works}")
    return pairs, refused


def find_rows(request: BenchmarkRequest, detector_exporter: Exporter | None = None) -> list[Row]:
    """Finds and exports what is to be measured.

    Args:
        request: what to measure.
        detector_exporter: exports a detector from its configuration (`detection` has one, which this package does not
            import).

    Returns:
        A row for each combination. It has the ``folder`` of the export, the ``file_size_mb`` of its files, and of a
        model by name ``parameters``, ``multiply_adds`` and the published ``top1``; or a ``status`` other than
        ``measured``, with the ``reason``.

    Raises:
        UserError: a name or a number is wrong; all of it is told before any work.
    """
    for option, values in (("threads", request.threads), ("batch", request.batches)):
        if not values or min(values) < 1:
            raise UserError(f"--{option} must be at least 1, got {' '.join(map(str, values)) or 'nothing'}")
    pairs, refused = choose_pairs(request.backends, request.precisions)
    sources, missing = [], {}
    for name in dict.fromkeys(request.models or request.defaults):
        try:
            sources.append(find_source(name, request.size, detector_exporter))
        except UserError as error:
            if request.models:
                raise
            missing[name] = str(error)
    rows: list[Row] = []
    for source in sources:
        wanted = pairs
        if source.description is not None and request.precisions is None:
            held = [(artefact.format, artefact.precision) for artefact in source.description.artefacts]
            backends = dict.fromkeys(backend for backend, _ in pairs)
            # An export with nothing for these backends is told in the table, too.
            wanted = [(name, precision) for name in backends for form, precision in held
                      if form == BACKENDS[name].format] or pairs  # fmt: skip
        for backend, precision in wanted:
            export = _find_export(source, backend, precision, request.cache)
            for threads, batch in itertools.product(dict.fromkeys(request.threads), dict.fromkeys(request.batches)):
                rows.append({
                    "model": source.label, "architecture": source.model, "size": source.size, "backend": backend,
                    "precision": precision, "threads": threads, "batch": batch, **export,
                })  # fmt: skip
    for (backend, precision), reason in refused.items():
        rows.append({"model": "every model", "backend": backend, "precision": precision, "status": UNSUPPORTED,
                     "reason": reason})  # fmt: skip
    for name, reason in missing.items():
        rows.append({"model": name, "backend": "", "precision": "", "status": FAILED, "reason": reason})
    return rows


def _find_export(source: Source, backend: str, precision: str, cache: Path) -> Row:
    """Returns what `find_rows` says of one export, which is written first where it is not there yet."""
    description, row = source.description, {}
    try:
        if description is None:
            folder = cache / f"{source.label}_{source.size}" / f"{BACKENDS[backend].format}_{precision}"
            row = _export_once(source, BACKENDS[backend].format, precision, folder)
            published = PUBLISHED.get(source.model)
            if published is not None:
                row |= {"top1": published.top1, "top1_size": published.size, "top1_source": published.source}
            description = read_description(folder)
        artefact, _ = choose(description, backend, precision)
        size = sum((description.folder / name).stat().st_size for name in artefact.files)
    except (UserError, OSError) as error:
        logger.warning("%s, %s %s: %s", source.label, backend, precision, error)
        return {"status": FAILED, "reason": " ".join(str(error).split())}
    return row | {"folder": description.folder, "file_size_mb": size / 1e6}


def _export_once(source: Source, format_name: str, precision: str, folder: Path) -> Row:
    """Exports a model in a process of its own, unless an earlier run did with the same code and packages.

    Returns:
        What the exporter counted, as ``parameters`` and ``multiply_adds``.

    Raises:
        UserError: the export failed, now or in that earlier run.
    """
    digest = hashlib.sha256()
    paths = [PACKAGE / part for part in EXPORT_CODE]
    if source.exporter is not export_model:
        paths += [PACKAGE.parent / "detection", Path(source.model)]
    for path in paths:
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(file.read_bytes())
    for distribution in importlib.metadata.distributions():
        if distribution.name in EXPORT_PACKAGES:
            digest.update(f"{distribution.name}={distribution.version};".encode())
    record = folder.with_suffix(".json")
    try:
        earlier = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        earlier = {}
    if earlier.get("digest") == digest.hexdigest() and (folder / DESCRIPTION_FILE).is_file():
        return earlier["counts"]
    logger.info("exporting %s at %s px: %s %s", source.label, source.size, format_name, precision)
    counts = run_in_process(
        source.exporter, source.model, source.size, format_name, precision, folder, seconds=EXPORT_SECONDS
    )
    write_json(record, {"digest": digest.hexdigest(), "counts": counts})
    return counts


def export_model(
    model_name: str, size: int, format_name: str, precision: str, folder: Path, mean_pooled: bool = False
) -> dict[str, int]:
    """Exports a classifier with random weights, always the same ones, and 1000 classes.

    Args:
        model_name: a name of ``list_models()`` or of PaddleClas.
        size: side of the images in pixels.
        format_name: a key of ``FORMATS``.
        precision: a key of ``PRECISIONS``, or int8.
        folder: is replaced by the export.
        mean_pooled: with ``x.mean([2, 3])`` in the place of global average pools, see `use_mean_pooling`.

    Returns:
        ``parameters`` (trainable) and ``multiply_adds`` as ``paddle.flops`` counts them.
    """
    import paddle

    from ppcls_ext.arch.flops import count_network
    from ppcls_ext.arch.outputs import logits_of
    from ppcls_ext.arch.registry import build_model
    from ppcls_ext.deploy.export import example_images, export_classifier
    from ppcls_ext.preprocess import build_pipeline
    from ppcls_ext.runtime.predictor import prepare_input

    # The usual preparation of ImageNet's validation images: the middle 7/8 of the short side.
    preprocess: list[dict[str, Any]] = [
        {"ResizeImage": {"resize_short": round(size * 8 / 7)}},
        {"CropImage": {"size": size}},
        {"NormalizeImage": {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
                            "order": ""}},
    ]  # fmt: skip
    paddle.seed(0)
    model = build_model(model_name, class_num=CLASSES)
    model.eval()
    if mean_pooled:
        use_mean_pooling(model)
    pipeline = build_pipeline(preprocess, "Infer.transforms")
    images = np.stack([prepare_input(pipeline, image, name, [3, size, size])
                       for name, image in example_images().items()])  # fmt: skip
    with paddle.no_grad():
        largest = [float(logits_of(model(paddle.to_tensor(image[np.newaxis]))).abs().max()) for image in images]
    if max(largest) > WILD * min(largest):
        # Random weights blow up some pictures (EfficientNetV2: logits of 0.2 and of 18,000), and with them any
        # rounding, so that no export would agree with the model.
        settle_batch_norms(model, images)
    export_classifier(
        model, folder, model_name=model_name, class_num=CLASSES, image_shape=[3, size, size], preprocess=preprocess,
        formats=[format_name], precisions=["fp32" if precision == INT8 else precision],
    )  # fmt: skip
    if precision == INT8:
        from ppcls_ext.deploy.quantize import quantize_export

        quantize_export(folder, folder, list(example_images().items()), None)
    count = count_network(model, size)
    return {"parameters": count.parameters, "multiply_adds": count.flops}


def settle_batch_norms(model: nn.Layer, images: np.ndarray) -> None:
    """Gives the batch norms of a network in evaluation mode the statistics of ``images`` ``[N, 3, H, W]``, float32."""
    import paddle
    from paddle.nn.layer.norm import _BatchNormBase

    norms = [layer for layer in model.sublayers() if isinstance(layer, _BatchNormBase)]
    momenta = [norm._momentum for norm in norms]
    for norm in norms:
        norm._momentum = 0.0  # The share of the old statistics.
        norm.training = True
    with paddle.no_grad():
        model(paddle.to_tensor(images))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm._momentum = momentum
        norm.training = False


def use_mean_pooling(model: nn.Layer) -> None:
    """Puts ``x.mean([2, 3])``, as the paper's code has it, in the place of every global average pool of ``model``."""
    import paddle

    from ppcls_ext.arch.layers import GlobalAveragePool

    class MeanPool(paddle.nn.Layer):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            """``[N, C, H, W]`` -> ``[N, C, 1, 1]``."""
            return x.mean([2, 3], keepdim=True)

    for layer in model.sublayers(include_self=True):
        for name, child in list(layer.named_children()):
            if isinstance(child, GlobalAveragePool):
                setattr(layer, name, MeanPool())
