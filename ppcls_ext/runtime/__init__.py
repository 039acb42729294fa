"""Predicts with an exported model. Needs NumPy, Pillow, OpenCV and the backend's own library; imports no Paddle itself.

predictor = load("output/quickstart/export")
for prediction in predictor(["a.jpg", "b.jpg"]):
    print(prediction.name, prediction.labels[0], prediction.scores[0])

detector = load("output/detection/export")
for prediction in detector(["a.jpg", "b.jpg"], threshold=0.3):
    print(prediction.name, prediction.boxes, prediction.scores, prediction.labels)
"""

from __future__ import annotations

from ppcls_ext.runtime.backends import BACKENDS, load
from ppcls_ext.runtime.description import Description, DetectionDescription, read_description
from ppcls_ext.runtime.predictor import DetectionPrediction, DetectionPredictor, Engine, Prediction, Predictor

__all__ = [
    "BACKENDS",
    "Description",
    "DetectionDescription",
    "DetectionPrediction",
    "DetectionPredictor",
    "Engine",
    "Prediction",
    "Predictor",
    "load",
    "read_description",
]
