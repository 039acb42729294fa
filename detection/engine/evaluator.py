"""Evaluation of a detector on ``EvalDataset``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paddle

from detection.configuration import DetectionConfig
from detection.engine.parts import category_ids_of, evaluation_loader
from detection.engine.predictions import collect_detections
from ppcls_ext.engine.environment import Environment

if TYPE_CHECKING:
    from detection.evaluation import DetectionMetrics

EXCHANGE = ".exchange"


class Evaluator:
    """Evaluates as often as wanted; ppdet's workspace must be open when it is made.

    Args:
        config: the configuration.
        environment: device and ranks.
    """

    def __init__(self, config: DetectionConfig, environment: Environment) -> None:
        self.environment = environment
        self.loader = evaluation_loader(config, environment)
        self.category_ids = category_ids_of(self.loader)
        self.files = config.datasets["Eval"]
        categories = json.loads(self.files.annotations.read_text(encoding="utf-8"))["categories"]
        self.names = {category["id"]: category["name"] for category in categories}

    @property
    def class_names(self) -> list[str]:
        """Names of the model's classes, in their order."""
        return [self.names[self.category_ids[label]] for label in sorted(self.category_ids)]

    def detect(self, model: paddle.nn.Layer, exchange: Path) -> list[dict[str, Any]]:
        """Returns the detections of ``model`` on all images as COCO results, the same on every process."""
        return collect_detections(model, self.loader, self.category_ids, self.environment, exchange / EXCHANGE)

    def evaluate(self, model: paddle.nn.Layer, exchange: Path) -> dict[str, Any]:
        """Returns COCO's figures of ``model`` by name, ``per_class`` AP, and the seconds that they took."""
        from detection.evaluation import evaluate_detections

        start = time.monotonic()
        figures = evaluate_detections(self.files.annotations, self.detect(model, exchange))
        return {**record_of(figures), "seconds": time.monotonic() - start}

    def close(self) -> None:
        """Ends the worker processes."""
        self.loader.close()


def record_of(figures: DetectionMetrics) -> dict[str, Any]:
    """Returns what a log keeps of an evaluation: COCO's twelve figures, and the AP of each class by its name."""
    return {
        **figures.summary,
        "AP": figures.ap,
        "AP50": figures.ap50,
        "per_class": {row.name: row.metrics["AP"] for row in figures.classes},
        "detections": figures.detections,
    }
