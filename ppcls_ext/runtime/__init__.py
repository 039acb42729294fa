"""Predicts with an exported model. Needs NumPy, Pillow, OpenCV and the backend's own library; imports no Paddle itself.

predictor = load("output/quickstart/export")
for prediction in predictor(["a.jpg", "b.jpg"]):
    print(prediction.name, prediction.labels[0], prediction.scores[0])
"""

from __future__ import annotations

from ppcls_ext.runtime.backends import BACKENDS, load
from ppcls_ext.runtime.contract import Backend
from ppcls_ext.runtime.description import Description, read_description
from ppcls_ext.runtime.predictor import Prediction, Predictor

__all__ = ["BACKENDS", "Backend", "Description", "Prediction", "Predictor", "load", "read_description"]
