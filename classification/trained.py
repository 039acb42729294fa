"""A trained model with its class names, ready to predict or to be exported."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from classification.build import (
    build_network,
    evaluation_label_order,
    load_pretrained,
    open_if_present,
    read_class_names,
)
from classification.config import Config
from ppcls_ext.deploy.export import example_images, export_classifier
from ppcls_ext.deploy.verify import EagerBackend
from ppcls_ext.preprocess import OPERATORS, ImageError, build_pipeline
from ppcls_ext.preprocess.operators import with_limit
from ppcls_ext.runtime import Description, Predictor
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import class_names_of_weights, find_weights

logger = logging.getLogger(__name__)
COMPARED_IMAGES = 4


@dataclass
class Trained:
    """A model with trained weights, and the names of its classes where they are known."""

    config: Config
    model: paddle.nn.Layer
    class_names: list[str] | None

    @property
    def transforms(self) -> list[Any]:
        """The operators of ``Infer.transforms``, as written.

        Raises:
            UserError: the configuration has none.
        """
        if self.config.infer is None or not self.config.infer.transforms:
            message = "is missing: it says how an image is prepared for prediction and export"
            raise UserError(self.config.document.problem("Infer.transforms", message))
        return self.config.infer.transforms

    def predictor(self, max_resized_megapixels: float | None = None) -> Predictor:
        """Returns a predictor that runs the model as it is, without an export; the size of images is free, but for the
        limit of ``with_limit``."""
        operators = with_limit(self.transforms, max_resized_megapixels, OPERATORS)
        pipeline = build_pipeline(operators, "Infer.transforms")
        shape = [-1, self.config.run.image_shape[0], -1, -1]
        name = self.config.arch.name
        return Predictor(EagerBackend(self.model), pipeline, self.class_names, self.config.topk, shape, name)

    def export(
        self, folder: Path, formats: Sequence[str] = ("paddle",), precisions: Sequence[str] = ("fp32",)
    ) -> Description:
        """Exports the model, compared on images of ``DataLoader.Eval`` where they are there; see
        ``export_classifier``."""
        return export_classifier(
            self.model, folder, model_name=self.config.arch.name, class_num=self.config.arch.class_num,
            image_shape=self.config.run.image_shape, preprocess=self.transforms, topk=self.config.topk,
            classes=self.class_names, formats=formats, precisions=precisions,
            images={**_evaluation_images(self.config), **example_images()},
        )  # fmt: skip


def load_trained(config: Config) -> Trained:
    """Builds the model of ``config`` and loads ``Global.pretrained_model``.

    The class names come from the checkpoint, else from the data set, else from ``Infer.PostProcess.class_id_map_file``.

    Raises:
        UserError: no weights are named, or they do not fit.
    """
    if config.run.pretrained_model is None:
        message = "no weights are named: -o Global.pretrained_model=RUN/checkpoints/best"
        raise UserError(config.document.problem("Global.pretrained_model", message))
    weights = find_weights(config.run.pretrained_model)
    config = config.as_trained(weights)
    model = build_network(config)
    load_pretrained(config, model, fine_tune=False)
    model.eval()
    names = class_names_of_weights(weights)
    names = names or read_class_names(config, open_if_present(config, config.eval, evaluation_label_order(config)))
    if names is not None and len(names) != config.arch.class_num:
        logger.warning("%d class names for %d classes: numbers are shown", len(names), config.arch.class_num)
        names = None
    return Trained(config, model, names)


def _evaluation_images(config: Config) -> dict[str, bytes | np.ndarray]:
    weights = find_weights(config.run.pretrained_model)
    dataset = open_if_present(config, config.eval, evaluation_label_order(config, weights=weights))
    images: dict[str, bytes | np.ndarray] = {}
    for index in [] if dataset is None else dataset.spread(COMPARED_IMAGES):
        try:
            # The name goes into inference.yml, which travels: no paths of this machine.
            images[f"evaluation image {index}"] = dataset.load(index)[0]
        except ImageError as error:
            logger.warning("not compared on %s", error)
    return images
