"""Adapts a detector and its data to pruning and int8 (``ppcls_ext.deploy.prune``, ``.quantize``)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import yaml

from detection.configuration import DetectionConfig, load_config, open_part
from detection.counting import count_gflops, count_parts
from detection.evaluation import evaluate_detections
from detection.evaluator import Evaluator
from detection.loaders import training_loader
from detection.schedule import EPOCHS, LENGTHS
from detection.task import train_config
from detection.toolkit import build_model, workspace
from detection.trained import TrainedDetector, load_trained
from ppcls_ext.deploy.prune import Prunable, PruningRequest, prune_model
from ppcls_ext.deploy.quantize import Evaluation
from ppcls_ext.engine.environment import Environment
from ppcls_ext.runtime import DetectionPredictor
from ppcls_ext.runtime.coco_results import coco_results, numbering_of
from ppcls_ext.runtime.predictor import ImageSource
from ppcls_ext.utils.config import Document
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.lengths import follow_epochs
from ppcls_ext.weights import load_weights


def prune_detector(config: DetectionConfig, request: PruningRequest, environment: Environment) -> dict[str, Any]:
    """Prunes the backbone of the detector that ``weights`` names, and writes ``request.output``; see ``prune_model``.

    Raises:
        UserError: the backbone has nothing to prune, or data or weights are missing.
    """
    request.check()
    for section in ("TrainDataset", "EvalDataset"):
        if section not in config.data:
            raise UserError(f"{config.path}: pruning needs the section {section}")
    return prune_model(PrunableDetector(load_trained(config), environment), request)


class PrunableDetector(Prunable):
    """A trained detector."""

    def training_batches(self) -> Any:
        """Opens ``TrainDataset``; only in training mode do ppdet's detectors compute losses."""
        import ppdet.engine  # noqa: F401  (registers what the workspace may name)

        with workspace(self.config):
            loader = training_loader(self.config, self.environment)
        self.model.train()
        for layer in self.model.sublayers():
            if isinstance(layer, paddle.nn.layer.norm._BatchNormBase):
                layer.eval()
        return loader

    def loss(self, batch: dict[str, Any]) -> paddle.Tensor:
        """Returns the loss of a batch in the last epoch."""
        return self.model({**batch, "epoch_id": self.config.epochs - 1})["loss"]

    def description(self) -> dict[str, Any]:
        """Returns the names of classes, and of the detector."""
        return {"class_names": self.trained.class_names, "arch": {"name": self.trained.name}}

    def with_channels(self, channels: list[list[int]], weights: dict[str, np.ndarray]) -> PrunableDetector:
        """Returns the detector whose backbone has these ``expansion_channels``."""
        data = copy.deepcopy(self.config.data)
        _backbone_section(data, self.config.architecture)["expansion_channels"] = channels
        document = dataclasses.replace(self.config.document, data=data)
        config = dataclasses.replace(self.config, document=document)
        model = build_model(config, pretrained=False)
        load_weights(model, weights)
        model.eval()
        return PrunableDetector(TrainedDetector(config, model, self.trained.class_names), self.environment)

    def accuracy(self) -> dict[str, float]:
        """Returns AP and AP50 on ``EvalDataset``."""
        with workspace(self.config):
            evaluator = Evaluator(self.config, self.environment, self.trained.class_names)
        try:
            metrics = evaluator.evaluate(self.model)
        finally:
            evaluator.close()
        return {name: metrics[name] for name in ("AP", "AP50")}

    def cost(self) -> dict[str, float]:
        """Returns ``parameters`` and ``flops``, the multiply-adds of one image of 640 px."""
        flops = 1e9 * count_gflops(self.config, "training") / 2
        return {"parameters": count_parts(self.model).total, "flops": flops}

    def tuning_data(self, request: PruningRequest) -> dict[str, Any]:
        """Returns the data of the configuration that fine-tunes this detector."""
        data = copy.deepcopy(self.config.data)
        data["weights"] = data["pretrain_weights"] = str(request.weights)
        data["save_dir"] = str(request.fine_tuning)
        _backbone_section(data, self.config.architecture)["pretrained"] = None
        with workspace(self.config) as settings:  # it also knows the rate where the file leaves that to PaddleDetection
            data["LearningRate"]["base_lr"] = request.tuned_rate(settings["LearningRate"]["base_lr"])
        if request.epochs is not None:
            before, data[EPOCHS] = data[EPOCHS], request.epochs
            follow_epochs(Document(self.config.path, data, {}), EPOCHS, LENGTHS, before)
        # Plain YAML: no tags, no bases.
        return yaml.safe_load(yaml.safe_dump(data))

    def fine_tuned(self, config: Path) -> PrunableDetector:
        """Trains ``config`` and returns its best network."""
        checked = load_config(config)
        train_config(checked)
        best = checked.output_dir / "checkpoints" / "best"
        return PrunableDetector(load_trained(load_config(config, [f"weights={best}"])), self.environment)


def _backbone_section(data: dict[str, Any], architecture: str) -> dict[str, Any]:
    """Returns the section of the backbone in the data of a configuration; makes it if all of it is by default."""
    backbone = data[architecture]["backbone"]
    data[backbone] = data.get(backbone) or {}
    return data[backbone]


def calibration_images(config: DetectionConfig, count: int) -> Iterator[tuple[str, ImageSource]]:
    """Gives up to ``count`` images of ``TrainDataset`` with their names, spread over the data set.

    Raises:
        UserError: the configuration does not name that data set, or its annotations are not there.
    """
    images = [frame.image for frame in open_part(config, "Train").frames]
    chosen = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int).tolist()
    return ((str(images[index]), images[index]) for index in chosen)


def evaluation_of(config: DetectionConfig) -> Evaluation:
    """Returns COCO's AP (mean over overlaps from 0.50 to 0.95) over ``EvalDataset``.

    Raises:
        UserError: the configuration does not name that data set, or its annotations are not there.
    """
    coco = open_part(config, "Eval")
    images = [frame.image for frame in coco.frames]

    def score(predictor: DetectionPredictor) -> float:
        coco.spell_classes_as(predictor.classes or ())
        numbering = numbering_of(coco, images, predictor)
        found = evaluate_detections(coco, coco_results(predictor(images), predictor, numbering))
        if found.ap is None:
            raise UserError(f"{coco.path}: no annotated box, so AP is undefined and int8 cannot be judged by it")
        return found.ap

    return Evaluation("AP", score, "EvalDataset", len(images))
