"""Adds an int8 network to an export, measured against the float32 one; past a limit nothing is written."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ppcls_ext.deploy.compress.int8 import check_packages, quantize_network
from ppcls_ext.deploy.compress.timing import latency_by_turns
from ppcls_ext.deploy.formats import check_target
from ppcls_ext.preprocess import ImageError
from ppcls_ext.runtime import Description, DetectionDescription, DetectionPredictor, Predictor, load, read_description
from ppcls_ext.runtime.backends import choose
from ppcls_ext.runtime.description import DESCRIPTION_FILE, Artefact
from ppcls_ext.runtime.predictor import ImageSource
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_folder, sha256_of

logger = logging.getLogger(__name__)
INT8, FP32 = "int8", "fp32"
BACKEND = "openvino"
STEM = "inference_int8"
AnyPredictor = Predictor | DetectionPredictor
NamedImages = Iterable[tuple[str, ImageSource]]


class LimitExceededError(UserError):
    """Quantisation costs more than the user allows; nothing was written. Tools leave with exit status 1."""


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


@dataclass(frozen=True)
class Quantized:
    """What came of a quantisation.

    Attributes:
        description: of the export with the int8 network in it.
        measured: as it stands in ``inference.yml`` under ``verification``.
    """

    description: Description | DetectionDescription
    measured: dict[str, Any]


def quantize_export(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    calibration: NamedImages,
    evaluation: Evaluation | None,
    max_drop: float | None = None,
    threads: int = 2,
    first: bool = False,
) -> Quantized:
    """Quantises the float32 OpenVINO network of an export and adds the result to it.

    Args:
        source: export folder with an OpenVINO network in float32.
        target: folder to write in one step: all that ``source`` holds, and the int8 network; may be ``source``.
        calibration: images that show which values occur; they are prepared as at deployment, and none is kept.
        evaluation: measures both networks; None leaves that out.
        max_drop: the largest loss that is accepted, in points (hundredths of the metric).
        threads: of the measurements.
        first: the int8 network becomes the one that is opened unless another is asked for.

    Raises:
        LimitExceededError: the loss is larger; no file is left.
        UserError: a package is missing, the export has no such network or was changed, ``target`` holds something
            else than an export, or no image can be read.
    """
    check_packages()
    check_limit(max_drop, evaluation is not None)
    folder, wanted = Path(source), Path(target)
    description = read_description(folder)
    check_target(wanted, description.classes, description.class_num)
    original, _ = choose(description, BACKEND, FP32)
    # It also checks the checksums of what will be quantised.
    samples = prepare_samples(load(folder, BACKEND, threads, precision=FP32), description, calibration)
    with atomic_folder(wanted) as temporary:
        description.artefacts = [one for one in description.artefacts if one.precision != INT8]
        for name in {name for artefact in description.artefacts for name in artefact.files}:
            shutil.copyfile(folder / name, temporary / name)
        quantize_network(folder, original, samples, temporary / f"{STEM}.xml")
        artefact = _artefact(temporary)
        description.artefacts.insert(0 if first else len(description.artefacts), artefact)
        description.folder = temporary
        _write(description)
        artefact.verification = _measure(temporary, description, original, samples, evaluation, threads)
        _check_drop(artefact.verification, max_drop)
        _write(description)
    description.folder = wanted
    return Quantized(description, artefact.verification)


def check_limit(max_drop: float | None, labelled: bool) -> None:
    """Raises a UserError for a limit that is none, or that cannot be judged without labelled images."""
    if max_drop is None:
        return
    if not max_drop >= 0:
        raise UserError(f"--max-drop: must be at least 0, got {max_drop:g}")
    if not labelled:
        raise UserError("--max-drop: needs labelled images to evaluate on")


def prepare_samples(
    predictor: AnyPredictor, description: Description | DetectionDescription, images: NamedImages
) -> list[dict[str, np.ndarray]]:
    """Prepares images as at deployment; what cannot be read is named and left out.

    Returns:
        For each image the inputs of the network by name, with a batch of 1.

    Raises:
        UserError: none can be read.
    """
    samples = []
    for name, image in images:
        try:
            prepared = predictor.prepare(image, name)
        except ImageError as error:
            logger.warning("not calibrated on %s", error)
            continue
        if isinstance(prepared, np.ndarray):
            samples.append({"image": prepared[np.newaxis]})
            continue
        sample = {"image": prepared.pixels[np.newaxis]}
        if isinstance(description, DetectionDescription) and description.form.scaled:
            sample["scale_factor"] = prepared.scale_factor[np.newaxis]
        samples.append(sample)
    if not samples:
        raise UserError("there is no image to calibrate on")
    return samples


def _artefact(folder: Path) -> Artefact:
    files = [f"{STEM}.xml", f"{STEM}.bin"]
    return Artefact(
        format="openvino",
        precision=INT8,
        model_file=files[0],
        weights_file=files[1],
        checksums={name: sha256_of(folder / name) for name in files},
        computed_in=INT8,
    )


def _write(description: Description | DetectionDescription) -> None:
    text = yaml.safe_dump(description.to_document(), sort_keys=False, allow_unicode=True)
    (description.folder / DESCRIPTION_FILE).write_text(text, encoding="utf-8")


def _measure(
    folder: Path,
    description: Description | DetectionDescription,
    original: Artefact,
    samples: Sequence[dict[str, np.ndarray]],
    evaluation: Evaluation | None,
    threads: int,
) -> dict[str, Any]:
    """Compares both networks, opened as a user will open them."""
    predictors = {name: load(folder, BACKEND, threads, precision=name) for name in (FP32, INT8)}
    sizes = {
        FP32: sum((folder / name).stat().st_size for name in original.files),
        INT8: sum((folder / name).stat().st_size for name in (f"{STEM}.xml", f"{STEM}.bin")),
    }
    measured: dict[str, Any] = {
        "compared_with": original.title,
        "calibration_images": len(samples),
        "bytes": sizes,
        "latency_ms": latencies(predictors, samples[0]),
        "threads": threads,
    }
    if isinstance(description, Description):
        measured["logits"] = _logit_errors(predictors, samples)
    if evaluation is not None:
        scores = {name: float(evaluation.score(predictor)) for name, predictor in predictors.items()}
        measured |= {
            "metric": evaluation.metric,
            "data": evaluation.data,
            "images": evaluation.images,
            **scores,
            "drop_points": 100 * (scores[FP32] - scores[INT8]),
        }
    return measured


def latencies(predictors: dict[str, AnyPredictor], sample: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns the median milliseconds of each network for one image, measured by turns; images are prepared before."""

    def runner(predictor: AnyPredictor) -> Callable[[], object]:
        if isinstance(predictor, Predictor):
            return lambda: predictor.backend.run(sample["image"])
        factors = sample.get("scale_factor", np.ones([1, 2], np.float32))
        return lambda: predictor.backend.detect(sample["image"], factors)

    times = latency_by_turns({name: runner(predictor) for name, predictor in predictors.items()})
    return {name: round(row["median_ms"], 3) for name, row in times.items()}


def _logit_errors(predictors: dict[str, Predictor], samples: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
    """Compares the logits of both networks on the calibration images."""
    exact, rounded = (
        np.concatenate([predictors[name].backend.run(sample["image"]) for sample in samples]) for name in (FP32, INT8)
    )
    differences = np.abs(rounded - exact).max(axis=1) / np.abs(exact).max(axis=1)
    return {
        "median_relative_error": float(np.median(differences)),
        "largest_relative_error": float(differences.max()),
        "same_best_class": float((rounded.argmax(axis=1) == exact.argmax(axis=1)).mean()),
    }


def _check_drop(measured: dict[str, Any], max_drop: float | None) -> None:
    if max_drop is None:
        return
    measured["max_drop_points"] = max_drop
    drop = measured["drop_points"]
    # The share of one image is not representable: what is equal to the limit may exceed it in the last digit.
    if not drop <= max_drop + 1e-9:
        raise LimitExceededError(
            f"int8 loses {drop:.2f} points of {measured['metric']} ({100 * measured[FP32]:.2f} to "
            f"{100 * measured[INT8]:.2f} on {measured['images']} images), allowed are {max_drop:g}; nothing was written"
        )
