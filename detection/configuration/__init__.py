"""Detection configurations: PaddleDetection's YAML, read and checked without importing PaddleDetection or Paddle."""

from __future__ import annotations

from detection.configuration.annotations import check_annotations
from detection.configuration.load import load_config
from detection.configuration.settings import DatasetFiles, DetectionConfig

__all__ = ["DatasetFiles", "DetectionConfig", "check_annotations", "load_config"]
