"""Predictors around networks whose answers are known, without an export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ppcls_ext.preprocess import build_pipeline
from ppcls_ext.preprocess.detection import build_detection_pipeline
from ppcls_ext.runtime import DetectionPredictor, Engine, Predictor
from ppcls_ext.runtime.description import OutputForm

UNIT = {"NormalizeImage": {"mean": [0.0] * 3, "std": [1.0] * 3}}
# From an image of any size to values from 0 to 1.
OPERATORS = [{"Decode": {}}, UNIT, {"Permute": {}}]
CLASSES = ["cube", "ball"]


class Known(Engine):
    """A network whose answers are known.

    Attributes:
        answer: of an image ``[3, H, W]`` a classifier's logits, or a row for each object that a detector finds: class,
            score, x1, y1, x2, y2 in pixels of the input.
        final: a detector gives detections; if not, it gives the boxes of all anchors, of two classes.
        batches: how many images each run had.
    """

    def __init__(self, answer: Callable[[np.ndarray], Any], final: bool = True) -> None:
        self.answer, self.final = answer, final
        self.batches: list[int] = []

    def compute(self, inputs):
        raise NotImplementedError

    def run(self, images):
        self.batches.append(len(images))
        return np.array([self.answer(image) for image in images], np.float32)

    def detect(self, images, scale_factors):
        self.batches.append(len(images))
        found = [np.array(self.answer(image), np.float32).reshape(-1, 6) for image in images]
        if self.final:
            return np.concatenate(found), np.array([len(rows) for rows in found], np.int32)
        boxes, scores = np.zeros([len(images), 20, 4], np.float32), np.zeros([len(images), 2, 20], np.float32)
        for number, rows in enumerate(found):
            boxes[number, : len(rows)] = rows[:, 2:]
            scores[number, rows[:, 0].astype(int), np.arange(len(rows))] = rows[:, 1]
        return boxes, scores


def made_detector(backend: Any, operators: Sequence[Any] = OPERATORS, **changes: Any) -> DetectionPredictor:
    """Returns a detector of cubes and balls around ``backend``."""
    settings = {"classes": CLASSES, "class_num": 2, "input_shape": [-1, 3, -1, -1], "form": OutputForm(), **changes}
    return DetectionPredictor(backend, build_detection_pipeline(list(operators)), **settings)


def made_classifier(backend: Any, operators: Sequence[Any] | None, **changes: Any) -> Predictor:
    """Returns a classifier of cubes and balls around ``backend``."""
    settings = {"classes": CLASSES, "topk": 2, "input_shape": [-1, 3, -1, -1], **changes}
    return Predictor(backend, build_pipeline(operators and list(operators), "test"), **settings)
