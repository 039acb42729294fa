"""Adapts a classifier and its data to pruning and int8 (``ppcls_ext.deploy.prune``, ``.quantize``)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle

from classification.build import (
    build_batches,
    build_dataset,
    build_evaluation_dataset,
    build_network,
    check_same_classes,
    open_dataset,
)
from classification.config import EPOCHS, LENGTHS, Config, check_config, load_config
from classification.data.datasets import ImageDataset
from classification.evaluation import evaluate_model
from classification.task import require_sections, train_config
from classification.trained import Trained, load_trained
from ppcls_ext.arch.flops import count_flops, count_parameters
from ppcls_ext.arch.outputs import logits_of
from ppcls_ext.deploy.prune import Prunable, PruningRequest, prune_model
from ppcls_ext.deploy.quantize import Evaluation
from ppcls_ext.engine.environment import Environment
from ppcls_ext.preprocess import ImageError
from ppcls_ext.runtime import Predictor
from ppcls_ext.runtime.predictor import ImageSource
from ppcls_ext.utils.config import Document
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.lengths import follow_epochs
from ppcls_ext.weights import find_weights, load_weights

BATCH = 32
Part = Literal["train", "eval"]


def prune_classifier(config: Config, request: PruningRequest, environment: Environment) -> dict[str, Any]:
    """Prunes ``Global.pretrained_model`` and writes ``request.output``; see ``prune_model``.

    Raises:
        UserError: the model has nothing to prune, or data or weights are missing.
    """
    request.check()
    require_sections(config)
    if config.eval is None:
        raise UserError(f"{config.document.path}: pruning needs the section DataLoader.Eval: it reports the accuracy")
    return prune_model(PrunableClassifier(load_trained(config), environment), request)


class PrunableClassifier(Prunable):
    """A trained classifier."""

    def training_batches(self) -> Any:
        """Opens ``DataLoader.Train``; in evaluation mode no paths are dropped."""
        self.model.eval()
        dataset = build_dataset(self.config, self.config.train)
        return build_batches(self.config, self.config.train, dataset, self.environment, training=True)

    def loss(self, batch: dict[str, Any]) -> paddle.Tensor:
        """Returns ``Loss.Train`` of a batch."""
        logits = logits_of(self.model(batch["image"]))
        return self.config.train_loss(logits, batch["label"], batch["label_mixed"], float(batch["lam"]))

    def description(self) -> dict[str, Any]:
        """Returns the names of classes, and name and arguments of the model."""
        arch = {"name": self.config.arch.name, "arguments": self.config.arch.arguments}
        return {"class_names": self.trained.class_names, "arch": arch}

    def with_channels(self, channels: list[list[int]], weights: dict[str, np.ndarray]) -> PrunableClassifier:
        """Returns the classifier with ``Arch.expansion_channels``."""
        data = copy.deepcopy(self.config.document.data)
        data["Arch"]["expansion_channels"] = channels
        config = check_config(dataclasses.replace(self.config.document, data=data))
        model = build_network(config)
        load_weights(model, weights)
        model.eval()
        return PrunableClassifier(Trained(config, model, self.trained.class_names), self.environment)

    def accuracy(self) -> dict[str, float]:
        """Returns loss and accuracies on ``DataLoader.Eval``."""
        metrics = evaluate_model(self.config, self.model, self.environment, "pruning")
        return {key: value for key, value in metrics.items() if key != "images"}

    def cost(self) -> dict[str, float]:
        """Returns ``parameters`` and ``flops``, the multiply-adds of one image of ``Global.image_shape``."""
        # In a network of its own, because the counting leaves marks in the layers.
        with paddle.utils.unique_name.guard():
            flops = count_flops(build_network(self.config), [1, *self.config.run.image_shape])
        return {"parameters": count_parameters(self.model), "flops": flops}

    def tuning_data(self, request: PruningRequest) -> dict[str, Any]:
        """Returns the data of the configuration that fine-tunes this classifier."""
        data = copy.deepcopy(self.config.document.data)
        data["Global"] |= {
            "pretrained_model": str(request.weights), "output_dir": str(request.fine_tuning),
            "save_inference_dir": str(request.output / "export"), "checkpoints": None,
        }  # fmt: skip
        data["Arch"].pop("pretrained", None)
        if not isinstance(data["Optimizer"]["lr"], dict):
            data["Optimizer"]["lr"] = {"name": "ConstLR", "learning_rate": data["Optimizer"]["lr"]}
        schedule = data["Optimizer"]["lr"]
        if request.learning_rate is not None or schedule.get("learning_rate") is not None:
            schedule["learning_rate"] = request.tuned_rate(schedule.get("learning_rate"))
        if request.epochs is not None:
            data["Global"]["epochs"] = request.epochs
            follow_epochs(Document(self.config.document.path, data, {}), EPOCHS, LENGTHS, self.config.run.epochs)
        return data

    def fine_tuned(self, config: Path) -> PrunableClassifier:
        """Trains ``config`` and returns its best network."""
        checked = load_config(config)
        train_config(checked, self.environment)
        best = f"Global.pretrained_model={checked.output_dir / 'checkpoints' / 'best'}"
        return PrunableClassifier(load_trained(load_config(config, [best])), self.environment)


def calibration_images(config: Config, count: int) -> Iterator[tuple[str, ImageSource]]:
    """Gives up to ``count`` images of ``DataLoader.Train`` with their names, spread over the data set.

    Files that cannot be read are left out.

    Raises:
        UserError: the configuration does not name that data set, or it cannot be opened.
    """
    dataset = _opened(config, "train")
    chosen = dataset.spread(count)
    # Images are read one by one; what is wrong with the data set itself was told above, before any work.
    return ((dataset.name_of(index), sample[0]) for index in chosen if (sample := _loaded(dataset, index)) is not None)


def evaluation_of(config: Config) -> Evaluation:
    """Returns the top-1 accuracy over ``DataLoader.Eval``; it refuses a predictor of other classes.

    Raises:
        UserError: the configuration does not name that data set, or it cannot be opened.
    """
    dataset = _opened(config, "eval")

    def score(predictor: Predictor) -> float:
        check_same_classes(predictor.classes, "the export", dataset.class_names, "DataLoader.Eval.dataset")
        hits = []
        for start in range(0, len(dataset), BATCH):
            samples = [_loaded(dataset, index) for index in range(start, min(start + BATCH, len(dataset)))]
            batch = [sample for sample in samples if sample is not None]
            predictions = predictor([image for image, _ in batch], batch_size=BATCH, topk=1)
            hits += [one.class_ids[0] == label for one, (_, label) in zip(predictions, batch, strict=True)
                     if one.error is None]  # fmt: skip
        if not hits:
            raise UserError(f"{config.document.path}: not a single image of DataLoader.Eval could be read")
        return sum(hits) / len(hits)

    return Evaluation("top1", score, "DataLoader.Eval", len(dataset))


def _loaded(dataset: ImageDataset, index: int) -> tuple[ImageSource, int] | None:
    """Returns an image and its label, None where the file cannot be read: evaluation and data checks name it."""
    try:
        return dataset.load(index)
    except ImageError:
        return None


def _opened(config: Config, part: Part) -> ImageDataset:
    settings = config.train if part == "train" else config.eval
    if settings is None:
        raise UserError(f"{config.document.path}: int8 needs the section DataLoader.{part.capitalize()}")
    if part == "train":
        return open_dataset(config, settings)
    weights = find_weights(config.run.pretrained_model) if config.run.pretrained_model else None
    return build_evaluation_dataset(config, weights=weights)
