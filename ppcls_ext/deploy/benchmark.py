"""Latency of networks in every runtime and precision, beside what the machine reaches at best.

Each combination of network, runtime, precision, threads and batch size has a process of its own
(`ppcls_ext.utils.workers`); networks that are given by name have random weights.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import importlib.util
import itertools
import json
import logging
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from ppcls_ext.deploy.formats import EXACT, FORMATS, INT8, PRECISIONS, check_names, supported_pairs
from ppcls_ext.deploy.published import PUBLISHED
from ppcls_ext.runtime import BACKENDS, Description, DetectionDescription, DetectionPredictor, load, read_description
from ppcls_ext.runtime.backends import DEVICE, choose, import_openvino, openvino_settings
from ppcls_ext.runtime.description import DESCRIPTION_FILE
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import write_json, write_text
from ppcls_ext.utils.machine import package_versions
from ppcls_ext.utils.outputs import CACHE
from ppcls_ext.utils.tables import markdown_table
from ppcls_ext.utils.workers import Subject, measure_interleaved, run_in_process

if TYPE_CHECKING:
    from paddle import nn

logger = logging.getLogger(__name__)
DEFAULT_MODELS = (
    "EConvNeXt_mini", "EConvNeXt_tiny", "EConvNeXt_small", "ConvNeXt_tiny", "MobileNetV4_conv_medium",
    "EfficientNetV2_S", "PPHGNetV2_B0", "ResNet50", "SwinTransformer_tiny_patch4_window7_224",
)  # fmt: skip
DEFAULT_PRECISIONS = ("fp32", "bf16")
MEASURED, FAILED, UNSUPPORTED = "measured", "failed", "unsupported"
SETTINGS = ("backend", "precision", "threads", "batch")
DETECTOR_SIZE, CLASSES = 640, 1000
# Behind the name of a classifier: with ``x.mean([2, 3])`` in the place of global average pools, see `use_mean_pooling`.
MEAN_POOLED = "+mean_pooled"
EXPORT_SECONDS = 1800.0
# Programs that make backups know by it what they may leave out (bford.info/cachedir).
CACHE_SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n# Exports that tools/benchmark.py measured."
SOURCES = Path(__file__).resolve().parents[2]
# A change of their versions makes the exports of earlier runs worthless.
EXPORT_PACKAGES = (
    "paddlepaddle", "paddlepaddle-gpu", "paddleclas", "paddle2onnx", "onnx", "onnxruntime", "openvino", "nncf",
)  # fmt: skip
# Largest logit of one picture over that of another; a few in other networks with random weights.
LARGEST_LOGIT_RATIO = 100.0
# The matrices of the measured peak: their product takes many times what starting the threads takes.
MATRIX_SIDE = 1536
# Writes an export: of a model or configuration, with the side of its images, a format and a precision, to a folder;
# returns ``parameters`` and ``multiply_adds``.
Exporter = Callable[[str, int, str, str, Path], dict[str, int]]
Row = dict[str, Any]


# Which networks


@dataclass(frozen=True)
class BenchmarkRequest:
    """Every combination of the lists is measured.

    Attributes:
        models: names (``NAME`` or ``NAME@SIZE``), configurations of detectors (``FILE.yml[@SIZE]``), export folders.
        backends: keys of ``BACKENDS``.
        precisions: None takes float32, and bfloat16 where a backend has it; of an export all that it holds.
        threads, batches: numbers of threads and batch sizes.
        size: side in pixels of the images of classifiers that do not say it.
        cache: folder that keeps the exports for the next run.
        rounds, runs, starts: see `measure_interleaved`.
        deployed: ``models`` are exports of detectors; each is measured in the backend and the precision that it would
            be loaded in, from the prepared input and once more from the image.
    """

    models: Sequence[str] = DEFAULT_MODELS
    backends: Sequence[str] = tuple(BACKENDS)
    precisions: Sequence[str] | None = None
    threads: Sequence[int] = (2,)
    batches: Sequence[int] = (1,)
    size: int = 224
    cache: Path = Path("output/benchmark")
    rounds: int = 12
    runs: int = 10
    starts: int = 3
    deployed: bool = False


def find_network(
    name: str, size: int, detector_exporter: Exporter | None = None
) -> tuple[Row, Description | DetectionDescription | Exporter | None]:
    """Finds what a name means: an export folder, the configuration of a detector, or a model.

    Returns:
        ``model`` (its name in reports), ``architecture`` and ``size`` (side in pixels; of an export as text); and the
        description of the export, or the function that makes one.

    Raises:
        UserError: it is none of them; the nearest names are given.
    """
    model, separator, side = name.partition("@")
    if separator and not (side.isdecimal() and int(side) > 0):
        raise UserError(f"--model {name}: after @ stands the side of the images in pixels, such as {model}@224")
    if Path(model).suffix in (".yml", ".yaml"):
        if not Path(model).is_file():
            raise UserError(f"--model {name}: there is no such configuration")
        return {"model": Path(model).stem, "architecture": model, "size": int(side or DETECTOR_SIZE)}, detector_exporter
    if (Path(name) / DESCRIPTION_FILE).is_file() or os.sep in name:
        description = read_description(name)
        sides = " x ".join("any" if side < 0 else str(side) for side in description.input_shape[2:])
        return {"model": name, "architecture": description.model_name, "size": sides}, description
    from ppcls_ext.arch.registry import architecture_parameters

    exporter = functools.partial(export_model, mean_pooled=model.endswith(MEAN_POOLED))
    model = model.removesuffix(MEAN_POOLED)
    try:
        architecture_parameters(model)
    except ValueError as error:
        raise UserError(f"--model {name}: {error}; an export folder has an {DESCRIPTION_FILE}") from error
    network = {"model": name, "architecture": model, "size": int(side or size)}
    if published := PUBLISHED.get(model):
        network |= {"top1": published.top1, "top1_size": published.size, "top1_source": published.source}
    return network, exporter


def find_rows(request: BenchmarkRequest, detector_exporter: Exporter | None = None) -> list[Row]:
    """Finds and exports what is to be measured; ``detector_exporter`` is `detection`'s, which this does not import.

    Returns:
        A row for each combination. It has the ``folder`` of the export, the ``file_size_mb`` of its files, and of a
        model by name ``parameters``, ``multiply_adds`` and the published ``top1``; or a ``status`` other than
        ``measured``, with the ``reason``.

    Raises:
        UserError: a name is wrong; all of it is told before any work.
    """
    check_names("backend", request.backends, BACKENDS)
    if request.precisions is not None:
        check_names("precision", request.precisions, [*PRECISIONS, INT8])
    rows: list[Row] = []
    networks = [find_network(name, request.size, detector_exporter) for name in dict.fromkeys(request.models)]
    # Two configurations may have one name; then the page shows their paths.
    owners = collections.Counter(name for name, _ in {(row["model"], row["architecture"]) for row, _ in networks})
    for network, _ in networks:
        if owners[network["model"]] > 1:
            network["model"] = network["architecture"]
    if request.deployed:
        for network, origin in networks:
            if not isinstance(origin, DetectionDescription):
                raise UserError(f"{network['model']}: is no export of a detector, which this measures")
    for network, origin in networks:
        for backend, precision in _asked(request, origin):
            export = _find_export(network, origin, backend, precision, request.cache)
            rows += [
                {**network, "backend": backend, "precision": precision, "threads": threads, "batch": batch, **export}
                for threads, batch in itertools.product(dict.fromkeys(request.threads), dict.fromkeys(request.batches))
            ]
    return rows


def _asked(request: BenchmarkRequest, origin: Any) -> list[tuple[str, str]]:
    """Returns pairs of backend and precision in which a network is to be measured."""
    if request.deployed:
        artefact, backend = choose(origin)
        return [(backend, artefact.precision)]
    pairs = []
    for backend in dict.fromkeys(request.backends):
        form = BACKENDS[backend].format
        if callable(origin):
            usual = [precision for precision in DEFAULT_PRECISIONS if precision in FORMATS[form].precisions]
        else:
            usual = [artefact.precision for artefact in origin.artefacts if artefact.format == form]
        pairs += [(backend, precision) for precision in dict.fromkeys(request.precisions or usual)]
    # An export with nothing for these backends is told in the table, too.
    return pairs or [(backend, EXACT) for backend in request.backends]


def _find_export(network: Row, origin: Any, backend: str, precision: str, cache: Path) -> Row:
    """Returns what `find_rows` says of one export, which is written first where it is not there yet."""
    form, counts, description = BACKENDS[backend].format, {}, origin
    if precision not in FORMATS[form].precisions:
        return {"status": UNSUPPORTED, "reason": f"what works is {supported_pairs()}"}
    try:
        if callable(origin):
            # Two configurations may have one name.
            place = f"{zlib.crc32(os.fsencode(network['architecture'])):08x}"
            folder = cache / f"{Path(network['model']).name}_{network['size']}_{place}" / f"{form}_{precision}"
            counts = _cached_export(network, origin, form, precision, folder, cache)
            description = read_description(folder)
        artefact, _ = choose(description, backend, precision)
        size = sum((description.folder / name).stat().st_size for name in artefact.files)
    except (UserError, OSError) as error:
        logger.warning("%s, %s %s: %s", network["model"], backend, precision, error)
        return {"status": FAILED, "reason": " ".join(str(error).split())}
    of_detector = {} if not isinstance(description, DetectionDescription) else {
        "suppression": description.form.suppression, "ap": artefact.verification.get(precision)
    }  # fmt: skip
    return counts | of_detector | {"folder": description.folder, "file_size_mb": size / 1e6}


def _cached_export(
    network: Row, exporter: Exporter, format_name: str, precision: str, folder: Path, cache: Path
) -> dict[str, int]:
    """Writes an export that is not there or of other code; returns what the exporter counted."""
    record, digest = folder.with_suffix(".json"), export_digest(network["architecture"])
    with contextlib.suppress(OSError, ValueError):
        earlier = json.loads(record.read_text(encoding="utf-8"))
        if earlier.get("digest") == digest and (folder / DESCRIPTION_FILE).is_file():
            return earlier["counts"]
    logger.info("exporting %s at %s px: %s", network["model"], network["size"], folder.name)
    write_text(cache / CACHE, f"{CACHE_SIGNATURE}\n")
    # A converter that crashes takes only its own process along.
    counts = run_in_process(_export, exporter, network["architecture"], network["size"], format_name, precision, folder,
                            seconds=EXPORT_SECONDS)  # fmt: skip
    write_json(record, {"digest": digest, "counts": counts})
    return counts


def _export(
    exporter: Exporter, architecture: str, size: int, format_name: str, precision: str, folder: Path
) -> dict[str, int]:
    """Exports, and quantises for int8 on generated pictures, as random weights have no better ones."""
    counts = exporter(architecture, size, format_name, EXACT if precision == INT8 else precision, folder)
    if precision == INT8:
        from ppcls_ext.deploy.export import example_images
        from ppcls_ext.deploy.quantize import quantize_export

        quantize_export(folder, folder, list(example_images().items()), None, format_name=format_name)
    return counts


@functools.cache
def export_digest(architecture: str) -> str:
    """Returns a checksum of our code, of the packages that export, and of the configuration, with the files that it is
    made of (``_BASE_``), if ``architecture`` is one."""
    digest = hashlib.sha256()
    for file in [*sorted(SOURCES.glob("ppcls_ext/**/*.py")), *sorted(SOURCES.glob("detection/**/*.py"))]:
        digest.update(file.read_bytes())
    files = [Path(architecture)]
    for file in files:
        content = file.read_bytes() if file.is_file() else b""
        digest.update(content)
        # Any text that names a file: which key it stands at does not matter here.
        with contextlib.suppress(yaml.YAMLError):
            texts = [token.value for token in yaml.scan(content) if isinstance(token, yaml.ScalarToken)]
            named = [Path(os.path.normpath(file.parent / text)) for text in texts if text.endswith((".yml", ".yaml"))]
            files += [other for other in dict.fromkeys(named) if other not in files]
    digest.update(str(package_versions(EXPORT_PACKAGES)).encode())
    return digest.hexdigest()


def export_model(
    model_name: str, size: int, format_name: str, precision: str, folder: Path, mean_pooled: bool = False
) -> dict[str, int]:
    """Exports a classifier with random weights, always the same ones, and 1000 classes; an `Exporter`.

    ``mean_pooled``: with ``x.mean([2, 3])`` in the place of global average pools, see `use_mean_pooling`.
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
    if max(largest) > LARGEST_LOGIT_RATIO * min(largest):
        # Random weights blow up some pictures (EfficientNetV2: logits of 0.2 and of 18,000), and with them any
        # rounding, so that no export would agree with the model.
        settle_batch_norms(model, images)
    export_classifier(
        model, folder, model_name=model_name, class_num=CLASSES, image_shape=[3, size, size], preprocess=preprocess,
        formats=[format_name], precisions=[precision],
    )  # fmt: skip
    count = count_network(model, size)
    return {"parameters": count.parameters, "multiply_adds": count.flops}


def settle_batch_norms(model: nn.Layer, images: np.ndarray) -> None:
    """Gives the batch norms of a network in evaluation mode the statistics of ``images`` ``[N, 3, H, W]``, float32."""
    import paddle
    from paddle.nn.layer.norm import _BatchNormBase

    for layer in model.sublayers():
        if isinstance(layer, _BatchNormBase):
            # The momentum is the share of the old statistics.
            layer._momentum, layer.training = 0.0, True
    with paddle.no_grad():
        model(paddle.to_tensor(images))
    model.eval()


def use_mean_pooling(model: nn.Layer) -> None:
    """Puts ``x.mean([2, 3])``, as the paper's code has it, in the place of every global average pool of ``model``.

    Raises:
        UserError: it has none that is a layer.
    """
    import paddle

    from ppcls_ext.arch.layers import GlobalAveragePool

    class MeanPool(paddle.nn.Layer):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            """``[N, C, H, W]`` -> ``[N, C, 1, 1]``."""
            return x.mean([2, 3], keepdim=True)

    pools = [
        (layer, name) for layer in model.sublayers(include_self=True) for name, child in layer.named_children()
        if isinstance(child, GlobalAveragePool)
        or (isinstance(child, paddle.nn.AdaptiveAvgPool2D) and child._output_size in (1, (1, 1), [1, 1]))
    ]  # fmt: skip
    if not pools:
        raise UserError(f"{type(model).__name__}{MEAN_POOLED}: has no global average pool to exchange")
    for layer, name in pools:
        setattr(layer, name, MeanPool())


# What runs in the measured processes


def open_export(
    folder: str, backend: str | None, precision: str | None, threads: int, batch: int, image: np.ndarray,
    whole: bool = False,
) -> tuple[Callable[[], object], dict[str, Any]]:  # fmt: skip
    """Opens an export and predicts one image, ``uint8`` RGB ``[H, W, 3]``, as a program would that needs one answer.

    Returns:
        What runs ``batch`` images: the network for prepared ones (of a detector with the choice of boxes), or with
        ``whole`` the preparation as well; and ``computed_in``, of a detector also the number of ``boxes``.
    """
    predictor = load(folder, backend, threads, precision=precision)
    predictor(image)
    inputs = [predictor.prepare(image, "image")] * batch
    facts: dict[str, Any] = {"computed_in": predictor.backend.computed_in}
    if not isinstance(predictor, DetectionPredictor):
        stacked = np.stack(inputs)
        return lambda: predictor.backend.run(stacked), facts
    facts["boxes"] = len(predictor.detect(inputs)[0])
    if whole:
        return lambda: predictor.detect([predictor.prepare(image, "image")] * batch), facts
    return lambda: predictor.detect(inputs), facts


def export_subject(
    folder: Path | str, image: np.ndarray, backend: str | None = None, precision: str | None = None, threads: int = 2,
    batch: int = 1, whole: bool = False,
) -> Subject:  # fmt: skip
    """Returns what `measure_interleaved` takes to measure an export; for the arguments see `open_export`."""
    arguments = {"folder": str(folder), "backend": backend, "precision": precision, "threads": threads, "batch": batch,
                 "image": image, "whole": whole}  # fmt: skip
    title = f"{folder}, {backend} {precision}, threads: {threads}, batch: {batch}"
    return Subject(title, open_export, arguments, threads)


def open_matrix_product(library: str, precision: str, threads: int) -> tuple[Callable[[], object], dict[str, Any]]:
    """Returns the product of two square matrices by NumPy, or by oneDNN's kernels inside OpenVINO."""
    left, right = np.random.default_rng(0).normal(size=(2, MATRIX_SIDE, MATRIX_SIDE)).astype(np.float32)
    if library == "numpy":
        result = np.empty_like(left)
        return lambda: np.matmul(left, right, out=result), {}
    openvino = import_openvino()
    from openvino import opset13

    parameter = opset13.parameter(list(left.shape), np.float32)
    network = openvino.Model([opset13.matmul(parameter, opset13.constant(right), False, False)], [parameter])
    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    compiled = openvino.Core().compile_model(network, DEVICE, openvino_settings(hint, threads))
    chosen = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if chosen != hint:
        raise UserError(f"this processor computes in {chosen} instead")
    inference, tensor = compiled.create_infer_request(), openvino.Tensor(left)
    return lambda: inference.infer({0: tensor}), {}


# Measurements


def peak_subjects(threads: Sequence[int], bfloat16: bool) -> list[Subject]:
    """Returns the matrix products that show what the machine reaches at best."""
    kinds = [("numpy", "float32")]
    if importlib.util.find_spec("openvino") is not None:
        kinds += [("openvino", "float32"), ("openvino", "bfloat16")][: 1 + bfloat16]
    return [
        Subject(f"matrix product, {library} {precision}, threads: {count}", open_matrix_product,
                {"library": library, "precision": precision, "threads": count}, count)
        for count in dict.fromkeys(threads)
        for library, precision in kinds
    ]  # fmt: skip


def peak_row(subject: Subject) -> Row:
    """Returns what a matrix product reached: a product of two n x n matrices takes 2 n^3 operations."""
    asked = subject.arguments
    row = {"library": asked["library"], "computed_in": asked["precision"], "threads": asked["threads"]}
    if subject.failure is not None:
        return row | {"status": FAILED, "reason": subject.failure}
    statistics, gflop = subject.statistics(), 2 * MATRIX_SIDE**3 / 1e9
    return row | {"status": MEASURED, "gflops_per_second": 1000 * gflop / statistics["median_ms"],
                  "fastest_gflops_per_second": 1000 * gflop / statistics["fastest_ms"]}  # fmt: skip


def fastest_product(peaks: Sequence[Row], computed_in: str, threads: int) -> float | None:
    """Returns what the fastest library reaches with a product of large matrices, in GFLOP/s; None if not measured."""
    known = [peak["gflops_per_second"] for peak in peaks if peak["status"] == MEASURED
             and (peak["computed_in"], peak["threads"]) == (computed_in, threads)]  # fmt: skip
    return max(known, default=None)


def measure_models(
    request: BenchmarkRequest, image: np.ndarray | None = None, detector_exporter: Exporter | None = None
) -> dict[str, Any]:
    """Measures every combination in interleaved rounds on ``image``, ``uint8`` RGB ``[H, W, 3]``; None draws one.

    Returns:
        ``settings``; ``peaks``: matrix products by library, type and threads; ``rows``: one for each combination, with
        ``status`` ``measured``, ``failed`` or ``unsupported``, the last two with ``reason``.

    Raises:
        UserError: see `find_rows`.
    """
    rows = find_rows(request, detector_exporter)
    image = generated_image() if image is None else image
    peaks = peak_subjects(request.threads, any(row["precision"] == "bf16" for row in rows))
    measured = [row for row in rows if "folder" in row]
    # Of each row the network and, where it is asked for, the preparation with it.
    subjects = [
        [export_subject(row["folder"], image, **{key: row[key] for key in SETTINGS}, whole=whole)
         for whole in (False, True)[: 1 + request.deployed]]
        for row in measured
    ]  # fmt: skip
    logger.info("measuring %d combinations in interleaved rounds", len(subjects))
    measure_interleaved([*peaks, *itertools.chain(*subjects)], request.rounds, request.runs, request.starts)
    peak_rows = [peak_row(subject) for subject in peaks]
    for row, (subject, *whole) in zip(measured, subjects, strict=True):
        del row["folder"]
        failures = [each.failure for each in (subject, *whole) if each.failure is not None]
        if failures:
            row |= {"status": FAILED, "reason": failures[0]}
            continue
        statistics = subject.statistics()
        row |= {
            "status": MEASURED,
            **subject.facts,
            # Layers that quantisation left out, and what lies between layers, are in float32.
            "computed_in": INT8 if row["precision"] == INT8 else subject.facts["computed_in"],
            **statistics,
            **{f"whole_{key}": value for each in whole for key, value in each.statistics().items()},
            "samples": len(subject.seconds),
            "images_per_second": 1000 * row["batch"] / statistics["mean_ms"],
            "peak_memory_mb": None if subject.peak_bytes is None else subject.peak_bytes / 1e6,
            "cold_start_s": float(np.median(subject.starts)),
            "slowest_cold_start_s": max(subject.starts),
            "cold_starts": len(subject.starts),
            "cores_while_waiting": max(subject.cores_while_waiting),
        }
        if "multiply_adds" in row:
            # A multiply-add is two operations.
            row["gflops_per_second"] = 2 * row["multiply_adds"] * row["batch"] / row["median_ms"] / 1e6
            peak = fastest_product(peak_rows, row["computed_in"], row["threads"])
            row["share_of_peak"] = None if peak is None else row["gflops_per_second"] / peak
    return {"settings": asdict(request) | {"cache": str(request.cache)}, "peaks": peak_rows, "rows": rows}


def training_step(
    model: nn.Layer, loss_of: Callable[[], Any], kernels: str, rate: float, decay: float
) -> tuple[Callable[[], float], str]:
    """Returns one step of training (forward, loss, backward, AdamW), and whose kernels it has: ``fast``, ``paddle``.

    Args:
        model: to train.
        loss_of: runs it on a batch.
        kernels: ``auto`` for the fast CPU kernels, ``paddle`` for Paddle's.
        rate, decay: learning rate and weight decay.
    """
    import paddle

    from ppcls_ext.engine.cpu import use_fast_kernels
    from ppcls_ext.engine.cpu_update import fuse_update

    model.train()
    used = use_fast_kernels([model], kernels)
    trained = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    optimizer = paddle.optimizer.AdamW(rate, parameters=trained, weight_decay=decay)
    if used == "fast":
        fuse_update(optimizer)

    def step() -> float:
        loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        return float(loss)

    return step, used


def generated_image() -> np.ndarray:
    """Draws an image ``uint8`` RGB ``[480, 640, 3]``: noise of a sonar's background with a few bright spots."""
    width, height = 640, 480
    generator = np.random.default_rng(7)
    rows, columns = np.mgrid[0:height, 0:width]
    picture = generator.gamma(2.0, 12.0, size=(height, width))
    for y, x, radius in generator.uniform([0, 0, 6], [height, width, 30], size=(8, 3)):
        picture += 180 * (np.hypot(rows - y, columns - x) < radius)
    return np.repeat(np.clip(picture, 0, 255).astype(np.uint8)[:, :, np.newaxis], 3, axis=2)


# The page and the chart

# Heading -> key, factor and format of a column; rows that were not measured have their reason in the first of them.
FIGURES = {
    "median, ms": ("median_ms", 1, ".1f"), "90th percentile, ms": ("p90_ms", 1, ".1f"),
    "images/s": ("images_per_second", 1, ".1f"), "peak memory, MB": ("peak_memory_mb", 1, ".0f"),
    "on disk, MB": ("file_size_mb", 1, ".1f"), "cold start, s": ("cold_start_s", 1, ".2f"),
    "G multiply-adds": ("multiply_adds", 1e-9, ".3f"), "GFLOP/s": ("gflops_per_second", 1, ".0f"),
    "of the peak": ("share_of_peak", 1, ".0%"), "top-1, published": ("top1", 1, "g"),
}  # fmt: skip
DETECTOR_FIGURES = {
    "median, ms": ("median_ms", 1, ".1f"), "90th percentile, ms": ("p90_ms", 1, ".1f"),
    "with preprocessing: median, ms": ("whole_median_ms", 1, ".1f"),
    "90th percentile with it, ms": ("whole_p90_ms", 1, ".1f"),
    "boxes": ("boxes", 1, "d"), "NMS": ("suppression", 1, "s"), "AP": ("ap", 1, ".3f"),
}  # fmt: skip


def models_page(result: Mapping[str, Any]) -> str:
    """Returns the result of `measure_models` as Markdown: how it was measured, the machine's peak, the table."""
    settings = result["settings"]
    figures = DETECTOR_FIGURES if settings["deployed"] else FIGURES
    parts = [
        "Each combination has a process of its own; they are measured in "
        f"{settings['rounds']} interleaved rounds of up to {settings['runs']} runs, in another order each round. "
        "Latency is that of the network for a prepared batch (of a detector with the choice of boxes), preprocessing "
        "begins with the decoded image. Cold start is "
        "the time from the start of the process to the first prediction from a decoded image, median of "
        f"{settings['starts']} or more starts, with the files in the system's cache. Memory is the peak of the whole "
        "process. Models given by name have random weights and 1000 classes, detectors given by configuration random "
        "weights, and PP-YOLOE its NMS inside; multiply-adds are those of `paddle.flops`.",
        "The peak of this machine is measured in the same rounds, by the product of two matrices of "
        f"{MATRIX_SIDE} x {MATRIX_SIDE}; 'of the peak' is twice the multiply-adds over the median time, relative to "
        "the fastest library's product of the same type:",
        peak_table(result["peaks"]),
    ]
    accuracies = {
        row["architecture"]: f"- {row['architecture']}: {row['top1']:g} at {row['top1_size']} px ({row['top1_source']})"
        for row in result["rows"]
        if row["status"] == MEASURED and "top1" in row
    }
    if accuracies:
        parts.append("\n".join(["Accuracies are published ones, not measured here:\n", *accuracies.values()]))
    types = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", INT8: INT8}
    table = []
    for row in result["rows"]:
        cells = [row.get(key) for key in ("model", "size", *SETTINGS)]
        if row["status"] != MEASURED:
            table.append([*cells, reason_cell(row), *[""] * (len(figures) - 1)])
            continue
        if row["computed_in"] != types.get(row["precision"]):
            cells[3] = f"{row['precision']} (computes {row['computed_in']})"
        for key, factor, form in figures.values():
            cells.append("" if row.get(key) is None else format(row[key] * factor, form))
        if "top1" in row and row["top1_size"] != row["size"]:
            cells[-1] += f" (at {row['top1_size']} px)"
        table.append(cells)
    columns = ["model", "input, px", *SETTINGS, *figures]
    return "\n\n".join([*parts, markdown_table(columns, table)])


def reason_cell(row: Row) -> str:
    """Returns why a row was not measured, fit for a cell of a table."""
    return f"{row['status']}: {row['reason']}".replace("|", "/")


def peak_table(peaks: Sequence[Row]) -> str:
    """Returns what matrix products reached as a Markdown table, one row for each library, type and thread number."""
    table = [
        [peak["library"], peak["computed_in"], peak["threads"],
         *([f"{peak['gflops_per_second']:.0f}", f"{peak['fastest_gflops_per_second']:.0f}"]
           if peak["status"] == MEASURED else [reason_cell(peak), ""])]
        for peak in peaks
    ]  # fmt: skip
    return markdown_table(["matrix product", "type", "threads", "GFLOP/s, median", "fastest"], table)


def draw_models(result: Mapping[str, Any], path: Path) -> bool:
    """Draws published accuracy over latency and over multiply-adds (most threads, smallest batch) into a PNG.

    A hollow mark says that the accuracy was published for images of another size than the measured ones. If no measured
    row has a published accuracy, nothing is written, and it returns False.
    """
    from ppcls_ext.utils.plots import Point, draw_tradeoff

    rows = [row for row in result["rows"] if row["status"] == MEASURED and "top1" in row]
    threads, batch = max((row["threads"] for row in rows), default=0), min((row["batch"] for row in rows), default=0)
    colours = {"paddle": "tab:blue", "onnxruntime": "tab:orange", "openvino": "tab:green"}
    markers = {"fp32": "o", "fp16": "s", "bf16": "^", "int8": "D"}
    latency, operations = [], {}
    for row in (row for row in rows if (row["threads"], row["batch"]) == (threads, batch)):
        is_hollow = row["top1_size"] != row["size"]
        label = row["model"].replace("_patch4_window7_224", "")
        label += f" (accuracy at {row['top1_size']} px)" if is_hollow else ""
        latency.append(
            Point(label, row["median_ms"], row["top1"], series=f"{row['backend']} {row['precision']}",
                  colour=colours[row["backend"]], marker=markers[row["precision"]], is_hollow=is_hollow)
        )  # fmt: skip
        operations[label] = Point(label, row["multiply_adds"] / 1e9, row["top1"], colour="0.3", is_hollow=is_hollow)
    if not latency:
        return False
    panels = {"median latency, ms (further left is faster)": latency,
              "multiply-adds of one image, G": list(operations.values())}  # fmt: skip
    title = f"Published top-1 accuracy against what was measured here: {threads} threads, batch {batch}"
    draw_tradeoff(panels, path, title, "top-1 on ImageNet-1k, % (published)")
    return True
