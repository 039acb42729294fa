"""Figures, charts and panels of detections, without Paddle and without the toolkit."""

from detection.evaluation.detections import read_detections
from detection.evaluation.evaluate import evaluate_detections
from detection.evaluation.figures import ClassFigures, Figures
from detection.evaluation.report import write_evaluation

__all__ = ["ClassFigures", "Figures", "evaluate_detections", "read_detections", "write_evaluation"]
