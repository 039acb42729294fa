"""Metrics, charts and panels of detections, without Paddle and without the toolkit."""

from detection.evaluation.metrics import SUMMARY, DetectionMetrics, evaluate_detections
from detection.evaluation.report import write_evaluation

__all__ = ["SUMMARY", "DetectionMetrics", "evaluate_detections", "write_evaluation"]
