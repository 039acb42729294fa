"""Adds a network with weights and activations of 8 bits to an export, measured against the float32 one.

NNCF quantises the OpenVINO network and ONNX Runtime its own, both after training, on images that are prepared as at
deployment. Past a limit on what may be lost nothing is written. Loads no Paddle.
"""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ppcls_ext.deploy.formats import EXACT, check_packages, check_target, plan
from ppcls_ext.preprocess import ImageError
from ppcls_ext.runtime import Description, DetectionDescription, DetectionPredictor, Predictor, load, read_description
from ppcls_ext.runtime.backends import choose, import_openvino, read_network
from ppcls_ext.runtime.description import Artefact
from ppcls_ext.runtime.predictor import ImageSource
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_folder, sha256_of

logger = logging.getLogger(__name__)
INT8 = "int8"
WARM_UP = 3
AnyPredictor = Predictor | DetectionPredictor
NamedImages = Iterable[tuple[str, ImageSource]]


class LimitExceededError(UserError):
    """Quantisation costs more than the user allows; nothing was written."""

    exit_status = 1


@dataclass(frozen=True)
class Evaluation:
    """How good a network is, measured by what it is for.

    Attributes:
        metric: ``top1`` or ``AP``.
        score: runs a predictor over a labelled data set; returns the metric, 0 to 1.
        data: what the data set is called, for the record.
        images: how many images it has.
    """

    metric: str
    score: Callable[[Any], float]
    data: str
    images: int


def check_request(max_drop: float | None, labelled: bool, format_name: str = "openvino") -> None:
    """Checks what can be checked before any work.

    Raises:
        UserError: a package is missing, the limit is none, or it cannot be judged without labelled images.
    """
    check_packages(f"int8 of format '{format_name}'", QUANTIZERS[format_name].packages)
    if max_drop is not None and not max_drop >= 0:
        raise UserError(f"--max-drop: must be at least 0, got {max_drop:g}")
    if max_drop is not None and not labelled:
        raise UserError("--max-drop: needs labelled images to evaluate on")


def format_to_quantize(folder: str | os.PathLike[str]) -> str:
    """Returns the first key of ``QUANTIZERS`` of which an export holds a float32 network; the first of all if none."""
    held = [one.format for one in read_description(folder).artefacts if one.precision == EXACT]
    return next((name for name in QUANTIZERS if name in held), next(iter(QUANTIZERS)))


def check_export(
    formats: Sequence[str], precisions: Sequence[str], max_drop: float | None, calibration_images: int
) -> None:
    """Checks what an export is asked for, before a configuration is read.

    Raises:
        UserError: a format or precision does not exist, cannot be written here, or does not go with the others.
    """
    if max_drop is not None and INT8 not in precisions:
        raise UserError("--max-drop limits what int8 may lose: add int8 to --precision")
    if calibration_images < 1:
        raise UserError(f"--calibration-images must be at least 1, got {calibration_images}")
    plan(formats, _floats(precisions))
    if INT8 in precisions:
        if others := [name for name in formats if name not in QUANTIZERS]:
            known = " and ".join(QUANTIZERS)
            raise UserError(f"int8 is written for {known}, not for {', '.join(others)}: change --format")
        for name in formats:
            check_request(max_drop, labelled=True, format_name=name)


def _floats(precisions: Sequence[str]) -> list[str]:
    """Returns the precisions of the trained network: the float32 one is what int8 is made of and compared with."""
    return list(dict.fromkeys(EXACT if name == INT8 else name for name in precisions))


def export_in_precisions(
    task_module: Any,
    config: Any,
    target: Path,
    formats: Sequence[str],
    precisions: Sequence[str],
    max_drop: float | None,
    calibration_images: int,
    **options: Any,
) -> Description | DetectionDescription:
    """Exports the trained model of a configuration, and its int8 network if that is among the ``precisions``.

    Args:
        task_module: ``classification.compression`` or ``detection.compression``: ``load_trained``, the data for int8.
        config: its checked configuration.
        target: the folder to write.
        formats, precisions, max_drop, calibration_images: see :func:`check_export`, which has accepted them.
        **options: of the trained model's ``export``.

    Raises:
        LimitExceededError: int8 loses more than ``max_drop``.
        UserError: weights or data are missing or do not fit, or an export differs from its model.
    """
    options |= {"formats": formats, "precisions": _floats(precisions)}
    if INT8 not in precisions:
        return task_module.load_trained(config).export(target, **options)
    # Data that are not there are told before the long work.
    evaluation = task_module.evaluation_of(config)
    int8_formats, first = list(dict.fromkeys(formats)), EXACT not in precisions
    with tempfile.TemporaryDirectory(prefix="int8-") as scratch:
        folder = Path(scratch) / "export"
        description = task_module.load_trained(config).export(folder, **options)
        for name in int8_formats:
            images = task_module.calibration_images(config, calibration_images)
            folder_to_write = target if name == int8_formats[-1] else folder
            description = quantize_export(
                folder, folder_to_write, images, evaluation, max_drop, first=first, format_name=name
            )
        return description


def quantize_export(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    calibration: NamedImages,
    evaluation: Evaluation | None,
    max_drop: float | None = None,
    threads: int = 2,
    first: bool = False,
    format_name: str = "openvino",
) -> Description | DetectionDescription:
    """Quantises the float32 network of an export and adds the result to it.

    Args:
        source: export folder with a float32 network in ``format_name``.
        target: folder to write in one step: the networks of ``source`` and the int8 one; may be ``source``, in which
            all other files stay.
        calibration: images that show which values occur; they are prepared as at deployment, one at a time.
        evaluation: measures both networks; None leaves that out.
        max_drop: the largest loss that is accepted, in points (hundredths of the metric).
        threads: of the measurements.
        first: of its format, the int8 network is opened before the float32 one unless a precision is asked for.
        format_name: a key of ``QUANTIZERS``.

    Returns:
        The description of the export with the int8 network in it, and what was measured under its ``verification``.

    Raises:
        LimitExceededError: the loss is larger; no file is left.
        UserError: a package is missing, the export has no such network or was changed, it is a classifier's and the
            evaluation a detector's (or the other way round), ``target`` holds something else than an export, or no
            image can be read.
    """
    check_request(max_drop, evaluation is not None, format_name)
    row = QUANTIZERS[format_name]
    folder, wanted = Path(source), Path(target)
    description = read_description(folder)
    extends = wanted.is_dir() and wanted.samefile(folder)
    check_target(wanted, description.classes, description.class_num, "extended export" if extends else "export")
    detects = isinstance(description, DetectionDescription)
    if evaluation is not None and (evaluation.metric == "AP") != detects:
        kind = "a detector" if detects else "a classifier"
        raise UserError(f"{folder}: is the export of {kind}, which has no {evaluation.metric}: name its own CONFIG")
    original, _ = choose(description, row.backend, EXACT)
    # It also checks the checksums of what will be quantised.
    predictor = load(folder, row.backend, threads, precision=EXACT)
    samples = Samples(predictor, calibration)
    # Now: data of other classes are told before the long work.
    exact_score = None if evaluation is None else float(evaluation.score(predictor))
    with atomic_folder(wanted) as temporary:
        earlier = (format_name, INT8)
        description.artefacts = [one for one in description.artefacts if (one.format, one.precision) != earlier]
        if extends:
            shutil.copytree(folder, temporary, symlinks=True, dirs_exist_ok=True)
        else:
            for name in {name for artefact in description.artefacts for name in artefact.files}:
                shutil.copyfile(folder / name, temporary / name)
        row.quantize(folder, original, samples, temporary / row.files[0])
        artefact = Artefact(
            format=format_name,
            precision=INT8,
            model_file=row.files[0],
            weights_file=row.files[1] if len(row.files) > 1 else None,
            checksums={name: sha256_of(temporary / name) for name in row.files},
            computed_in=INT8,
        )
        place = description.artefacts.index(original) if first else len(description.artefacts)
        description.artefacts.insert(place, artefact)
        description.folder = temporary
        # Written twice: the networks are opened from the folder as a user will open them.
        description.write()
        measured = artefact.verification = _measure(description, original, artefact, samples, threads)
        if evaluation is not None:
            score = float(evaluation.score(load(temporary, row.backend, threads, precision=INT8)))
            measured |= {
                "metric": evaluation.metric, "data": evaluation.data, "images": evaluation.images, EXACT: exact_score,
                INT8: score, "drop_points": 100 * (exact_score - score),
            }  # fmt: skip
        if max_drop is not None:
            measured["max_drop_points"] = max_drop
            # The share of one image is not representable: what is equal to the limit may exceed it in the last digit.
            if not measured["drop_points"] <= max_drop + 1e-9:
                raise LimitExceededError(
                    f"int8 of {format_name} loses {measured['drop_points']:.2f} points of {measured['metric']} "
                    f"({100 * measured[EXACT]:.2f} to {100 * measured[INT8]:.2f} on {measured['images']} images), "
                    f"allowed are {max_drop:g}; nothing was written"
                )
        description.write()
    description.folder = wanted
    return description


class Samples(Sequence[dict[str, np.ndarray]]):
    """The images that can be read, each as the inputs of the network by name, with a batch of 1.

    They are prepared as at deployment, whenever one is asked for: 300 prepared ones of 640 px would take 1.5 GB.

    Raises:
        UserError: no image can be read.
    """

    def __init__(self, predictor: AnyPredictor, images: NamedImages) -> None:
        self.predictor, self.images = predictor, []
        for name, image in images:
            try:
                predictor.prepare(image, name)
            except ImageError as error:
                logger.warning("not calibrated on %s", error)
            else:
                self.images.append((name, image))
        if not self.images:
            raise UserError("there is no image to calibrate on")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        name, image = self.images[index]
        prepared = self.predictor.prepare(image, name)
        if isinstance(self.predictor, Predictor):
            return {"image": prepared[np.newaxis]}
        inputs = {"image": prepared.pixels[np.newaxis]}
        if self.predictor.form.scaled:
            inputs["scale_factor"] = prepared.scale_factor[np.newaxis]
        return inputs


def quantize_openvino(folder: Path, artefact: Artefact, samples: Sequence[dict[str, np.ndarray]], target: Path) -> None:
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
    from openvino._offline_transformations import apply_moc_transformations

    # Folds batch norms into convolutions and joins the parts of GELU, as OpenVINO does when it compiles a network: in
    # one that is stored as it was converted NNCF would quantise between these parts.
    apply_moc_transformations(network, cf=False)
    import nncf

    nncf.set_log_level(logging.ERROR)
    try:
        quantized = nncf.quantize(
            network,
            nncf.Dataset(samples),
            subset_size=len(samples),
            ignored_scope=nncf.IgnoredScope(names=behind_last_layers(network), validate=False),
        )
    except (nncf.InternalError, nncf.ValidationError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{folder / artefact.model_file}: NNCF cannot quantise it ({reason})") from error
    openvino.save_model(quantized, str(target), compress_to_fp16=False)


def behind_last_layers(network: Any) -> list[str]:
    """Returns the names of the operations between the last layers of a network and its outputs.

    A detector computes coordinates there, and 8 bits tell but 256 of them apart: PP-YOLOE-S at 256 px loses five
    points of AP. The expectation of a distribution, a convolution or product with one output, belongs to it.
    """
    waiting = [result.input_value(0).get_node() for result in network.get_results()]
    seen: dict[str, None] = {}
    while waiting:
        operation = waiting.pop()
        name, kind = operation.get_friendly_name(), operation.get_type_name()
        if name in seen or kind in ("Constant", "Parameter"):
            continue
        axis = {"Convolution": 1, "GroupConvolution": 1, "MatMul": -1}.get(kind)
        if axis is not None:
            shape = operation.get_output_partial_shape(0)
            channels = shape[len(shape) + axis if axis < 0 else axis]
            if channels.is_dynamic or channels.get_length() > 1:
                continue
        seen[name] = None
        waiting += [operation.input_value(number).get_node() for number in range(operation.get_input_size())]
    return list(seen)


def quantize_onnx(folder: Path, artefact: Artefact, samples: Sequence[dict[str, np.ndarray]], target: Path) -> None:
    """Writes ``artefact`` with weights and activations of 8 bits for ONNX Runtime (static, QDQ).

    Convolutions and matrix products are quantised, their weights for each output channel, their inputs between the
    smallest and the largest value of ``samples``; all else stays in float32. So do products with a single output, the
    expectations of a detector's distributions (see :func:`behind_last_layers`).

    Args:
        folder: of the export.
        artefact: its ONNX network in float32.
        samples: inputs by name, each with a batch of 1.
        target: the ``.onnx`` to write.

    Raises:
        UserError: the network cannot be quantised.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        """Gives the samples one by one, as the quantiser asks for them."""

        def __init__(self) -> None:
            self.waiting = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            """Returns the inputs of one image, ``None`` after the last."""
            return next(self.waiting, None)

    # Folds batch norms into convolutions.
    prepared = target.with_suffix(".prepared.onnx")
    try:
        quant_pre_process(str(folder / artefact.model_file), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(str(prepared))
        # A network that was joined to its NMS imports one set of operators twice, which the quantiser refuses.
        opsets = list({opset.domain: opset for opset in model.opset_import}.values())
        del model.opset_import[:]
        model.opset_import.extend(opsets)
        shapes = {weight.name: list(weight.dims) for weight in model.graph.initializer}
        single = [node.name for node in model.graph.node if node.op_type in LAYERS and len(node.input) > 1
                  and shapes.get(node.input[1], [0])[LAYERS[node.op_type]] == 1]  # fmt: skip
        quantization.quantize_static(
            model,
            str(target),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(LAYERS),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=single,
        )
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{folder / artefact.model_file}: ONNX Runtime cannot quantise it ({reason})") from error
    finally:
        prepared.unlink(missing_ok=True)


# ONNX operators that are quantised, and the axis of their weights that counts the outputs.
LAYERS = {"Conv": 0, "MatMul": -1, "Gemm": -1}


class Quantizer(NamedTuple):
    """How a format is quantised: the engine that opens it, packages, files, and what writes the first of these."""

    backend: str
    packages: tuple[str, ...]
    files: tuple[str, ...]
    quantize: Callable[[Path, Artefact, Sequence[dict[str, np.ndarray]], Path], None]


QUANTIZERS = {
    "openvino": Quantizer(
        "openvino", ("openvino", "nncf"), ("inference_int8.xml", "inference_int8.bin"), quantize_openvino
    ),
    "onnx": Quantizer("onnxruntime", ("onnx", "onnxruntime", "sympy"), ("inference_int8.onnx",), quantize_onnx),
}


def _measure(
    description: Description | DetectionDescription,
    original: Artefact,
    quantized: Artefact,
    samples: Sequence[dict[str, np.ndarray]],
    threads: int,
) -> dict[str, Any]:
    """Compares both networks, opened as a user will open them, in speed, size and logits."""
    folder, backend = description.folder, QUANTIZERS[original.format].backend
    predictors = {name: load(folder, backend, threads, precision=name) for name in (EXACT, INT8)}
    latencies = interleaved_latency({name: runner(one, samples[0]["image"]) for name, one in predictors.items()})
    measured: dict[str, Any] = {
        "compared_with": original.title,
        "calibration_images": len(samples),
        "bytes": {
            name: sum((folder / file).stat().st_size for file in files)
            for name, files in ((EXACT, original.files), (INT8, quantized.files))
        },
        "latency_ms": {name: round(row["median_ms"], 3) for name, row in latencies.items()},
        "threads": threads,
    }
    if isinstance(description, Description):
        exact, rounded = (
            np.concatenate([predictors[name].backend.run(sample["image"]) for sample in samples])
            for name in (EXACT, INT8)
        )
        differences = np.abs(rounded - exact).max(axis=1) / np.abs(exact).max(axis=1)
        measured["logits"] = {
            "median_relative_error": float(np.median(differences)),
            "largest_relative_error": float(differences.max()),
            "same_best_class": float((rounded.argmax(axis=1) == exact.argmax(axis=1)).mean()),
        }
    return measured


def runner(predictor: AnyPredictor, image: np.ndarray) -> Callable[[], object]:
    """Returns what runs the network of ``predictor`` on a prepared image ``[1, 3, H, W]``, without its preparation."""
    if isinstance(predictor, Predictor):
        return lambda: predictor.backend.run(image)
    return lambda: predictor.backend.detect(image, np.ones([1, 2], np.float32))


def interleaved_latency(
    networks: Mapping[str, Callable[[], object]], rounds: int = 15, runs: int = 4
) -> dict[str, dict[str, float]]:
    """Times networks in interleaved rounds, so that what else a machine does slows all of them alike.

    Returns:
        By name ``median_ms`` and ``p90_ms`` of ``rounds`` times ``runs`` runs.
    """
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for number in range(rounds + 1):
        for name, run in networks.items():
            # The first round warms up; in the others the first run refills the caches that the one before took.
            for again in range(WARM_UP if number == 0 else runs + 1):
                start = time.perf_counter()
                run()
                if number and again:
                    seconds[name].append(time.perf_counter() - start)
    return {
        name: {
            "median_ms": 1000 * statistics.median(values),
            "p90_ms": 1000 * statistics.quantiles(values, n=10)[-1],
        }
        for name, values in seconds.items()
    }
