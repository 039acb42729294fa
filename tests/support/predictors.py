"""Predictors around networks whose answers are known, without an export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ppcls_ext.preprocess import build_pipeline
from ppcls_ext.preprocess.detection import build_detection_pipeline
from ppcls_ext.runtime import DetectionPredictor, Predictor
from ppcls_ext.runtime.description import OutputForm

UNIT = {"NormalizeImage": {"mean": [0.0] * 3, "std": [1.0] * 3}}
# From an image of any size to values from 0 to 1.
OPERATORS = [{"Decode": {}}, UNIT, {"Permute": {}}]
CLASSES = ["cube", "ball"]


def made_detector(backend: Any, operators: Sequence[Any] = OPERATORS, **changes: Any) -> DetectionPredictor:
    """Returns a detector of cubes and balls around ``backend``."""
    settings = {"classes": CLASSES, "class_num": 2, "input_shape": [-1, 3, -1, -1], "form": OutputForm(), **changes}
    return DetectionPredictor(backend, build_detection_pipeline(list(operators)), **settings)


def made_classifier(backend: Any, operators: Sequence[Any] | None, **changes: Any) -> Predictor:
    """Returns a classifier of cubes and balls around ``backend``."""
    settings = {"classes": CLASSES, "topk": 2, "input_shape": [-1, 3, -1, -1], **changes}
    return Predictor(backend, build_pipeline(operators and list(operators), "test"), **settings)
