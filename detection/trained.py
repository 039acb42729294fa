"""A trained detector with its class names, ready to predict or to be exported."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from detection.annotations import Ledger
from detection.coco import read_coco
from detection.configuration import DetectionConfig, class_names_of
from detection.configuration.config import warn_of_other_contrast
from detection.exporting import EagerBackend, export_detector, form_of
from detection.toolkit import build_model
from detection.weights import backbone_name, load_detector_weights, weights_file
from ppcls_ext.deploy.export import example_images
from ppcls_ext.preprocess import ImageError, depth, read_image
from ppcls_ext.preprocess.detection import DETECTION_OPERATORS, build_detection_pipeline
from ppcls_ext.preprocess.operators import with_limit
from ppcls_ext.runtime import DetectionDescription, DetectionPredictor
from ppcls_ext.runtime.description import Thresholds
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import sha256_of
from ppcls_ext.utils.texts import read_text
from ppcls_ext.weights import class_names_of_weights

logger = logging.getLogger(__name__)
OPERATORS_KEY = "TestReader.sample_transforms"
COMPARED_IMAGES = 4


@dataclass
class TrainedDetector:
    """A detector with trained weights, and the names of its classes where they are known."""

    config: DetectionConfig
    model: paddle.nn.Layer
    class_names: list[str] | None

    @property
    def name(self) -> str:
        """Architecture and backbone, for people."""
        return f"{self.config.architecture} with {backbone_name(self.config)}"

    @property
    def transforms(self) -> list[Any]:
        """The operators of ``TestReader.sample_transforms``, as written.

        Raises:
            UserError: the configuration has none.
        """
        section = self.config.data.get("TestReader")
        operators = section.get("sample_transforms") if isinstance(section, dict) else None
        if isinstance(operators, list) and operators:
            return operators
        message = "is missing: it says how an image is prepared for prediction and export"
        raise UserError(self.config.document.problem(OPERATORS_KEY, message))

    def predictor(self, max_resized_megapixels: float | None = None) -> DetectionPredictor:
        """Returns a predictor that runs the model as it is, without an export; the limit is that of ``with_limit``."""
        operators = with_limit(self.transforms, max_resized_megapixels, DETECTION_OPERATORS)
        prepare = build_detection_pipeline(operators, OPERATORS_KEY)
        return DetectionPredictor(
            EagerBackend(self.model), prepare, self.class_names, self.config.num_classes, [-1, 3, -1, -1],
            form_of(self.model), model_name=self.name, thresholds=self.recommended_thresholds()[0],
        )  # fmt: skip

    def export(
        self, folder: Path, nms: bool = True, formats: Sequence[str] = ("paddle",),
        precisions: Sequence[str] = ("fp32",),
    ) -> DetectionDescription:  # fmt: skip
        """Exports the model, compared on images of ``EvalDataset`` where they are there; see ``export_detector``."""
        evaluated = (self.config.data.get("EvalReader") or {}).get("sample_transforms")
        if evaluated is not None and evaluated != self.transforms:
            logger.warning("TestReader, by which the export prepares images, is not EvalReader: figures may differ")
        thresholds, words = self.recommended_thresholds()
        logger.info("%s", words)
        return export_detector(
            self.model, folder, model_name=self.name, class_num=self.config.num_classes, preprocess=self.transforms,
            nms=nms, classes=self.class_names, formats=formats, precisions=precisions,
            images={**evaluation_images(self.config), **example_images()}, thresholds=thresholds,
        )  # fmt: skip

    def recommended_thresholds(self) -> tuple[Thresholds | None, str]:
        """Returns the thresholds that ``tools/eval.py`` found for these very weights, and a line that says whence."""
        file, evaluate = self.config.output_dir / "evaluation" / "figures.json", "tools/eval.py on these weights"
        if self.class_names is None or not file.is_file():
            return None, f"no recommended thresholds: {file} is not there; {evaluate} writes it"
        try:
            figures = json.loads(read_text(file))
            if (figures.get("weights") or {}).get("sha256") != sha256_of(weights_file(self.config)):
                return None, f"no recommended thresholds: {file} is of other weights; {evaluate} renews it"
            best = {row["name"]: row["best_threshold"] for row in figures["classes"]}
            overall = figures["best_threshold"]
            if overall is None:
                return None, f"no recommended thresholds: nothing was found in {file}"
            limits = [_rounded_down(best[name]) if best.get(name) else None for name in self.class_names]
            found = Thresholds(_rounded_down(overall), limits, int(figures["counts"]["images"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return None, f"no recommended thresholds: {file} is damaged ({error!r}); {evaluate} writes it anew"
        return found, f"recommended thresholds: of {file}, found on {found.images} images"


def _rounded_down(best: dict[str, float]) -> float:
    """Returns a threshold with three decimals, none of which cuts off the detection that it stands for."""
    return math.floor(1000 * best["threshold"]) / 1000


def load_trained(config: DetectionConfig) -> TrainedDetector:
    """Builds the detector of ``config`` and loads ``weights``: of a checkpoint folder the averaged ones.

    The class names come from the checkpoint, else from the annotation files.

    Raises:
        UserError: no weights are named, they cannot be read, or they do not fit.
    """
    # What is wrong with the file is said before the network is built.
    weights = weights_file(config)
    config = config.as_trained(weights)
    model = build_model(config, pretrained=False)
    load_detector_weights(config, model)
    model.eval()
    names = class_names_of_weights(weights) or class_names_of(config, ["Train"])
    if names is None and (names := class_names_of(config, ["Eval", "Test"])) is not None:
        message = "neither %s nor TrainDataset.anno_path says which classes the model has: named as the evaluation's"
        logger.warning(message, weights)
    if names is None:
        logger.info("no annotation file is there: classes are shown by their numbers")
    if names is not None and len(names) != config.num_classes:
        logger.warning("%d class names for %d classes: numbers are shown", len(names), config.num_classes)
        names = None
    warn_of_other_contrast(config, "Test")
    return TrainedDetector(config, model, names)


def evaluation_images(config: DetectionConfig) -> dict[str, np.ndarray]:
    """Returns a few frames of ``EvalDataset``, spread over it, by a name without paths.

    The data need not be there: who exports may have nothing but the weights.
    """
    files = config.datasets.get("Eval")
    if files is None or files.annotations is None or not files.annotations.is_file():
        logger.info("EvalDataset is not there: the export is compared on generated pictures only")
        return {}
    frames = read_coco(files.annotations, Ledger(), folder=files.image_dir).frames
    value_range = depth.range_of(depth.statement_in(config.data))
    images: dict[str, np.ndarray] = {}
    for index in np.linspace(0, len(frames) - 1, min(len(frames), COMPARED_IMAGES)).astype(int).tolist():
        try:
            images[f"evaluation image {index}"] = read_image(frames[index].image, value_range)
        except ImageError as error:
            logger.warning("not compared on %s", error)
    return images
