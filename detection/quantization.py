"""Images to calibrate an int8 detector with, and its AP, as a configuration names the data. Loads no Paddle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from detection.configuration import DatasetFiles, DetectionConfig
from ppcls_ext.deploy.compress.quantization import Evaluation
from ppcls_ext.runtime import DetectionPredictor
from ppcls_ext.runtime.coco_results import coco_results, numbering_of
from ppcls_ext.runtime.predictor import ImageSource
from ppcls_ext.utils.errors import UserError

Part = Literal["train", "eval"]


def calibration_images(config: DetectionConfig, part: Part, count: int) -> Iterator[tuple[str, ImageSource]]:
    """Gives up to ``count`` images of ``TrainDataset`` or ``EvalDataset`` with their names, spread over the data set.

    Raises:
        UserError: the configuration does not name that data set, or its annotations are not there.
    """
    images = image_files(*_files(config, part))
    chosen = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int).tolist()
    return ((str(images[index]), images[index]) for index in chosen)


def evaluation_of(config: DetectionConfig) -> Evaluation:
    """Returns COCO's AP (mean over overlaps from 0.50 to 0.95) over ``EvalDataset``.

    Raises:
        UserError: the configuration does not name that data set, or its annotations are not there.
    """
    files, annotations = _files(config, "eval")
    images = image_files(files, annotations)

    def score(predictor: DetectionPredictor) -> float:
        from detection.evaluation import evaluate_detections

        numbering = numbering_of(annotations, images, predictor)
        return float(evaluate_detections(annotations, coco_results(predictor(images), predictor, numbering)).ap)

    return Evaluation("AP", score, "EvalDataset", len(images))


def image_files(files: DatasetFiles, annotations: Path) -> list[Path]:
    """Returns the files of all images that an annotation file lists."""
    try:
        records = json.loads(annotations.read_text(encoding="utf-8"))["images"]
        images = [files.image_dir / str(record["file_name"]) for record in records]
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{annotations}: cannot be read as COCO annotations ({error})") from error
    if not images:
        raise UserError(f"{annotations}: lists no image")
    return images


def _files(config: DetectionConfig, part: Part) -> tuple[DatasetFiles, Path]:
    section = f"{part.capitalize()}Dataset"
    files = config.datasets.get(part.capitalize())
    if files is None or files.annotations is None:
        raise UserError(f"{config.path}: int8 needs {section} with an annotation file")
    if not files.annotations.is_file():
        raise UserError(f"{config.path}: int8 needs {section}: {files.annotations} does not exist")
    return files, files.annotations
