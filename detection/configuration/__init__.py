"""Detection configurations: PaddleDetection's YAML, merged with its bases and checked against the imported classes."""

from __future__ import annotations

from detection.configuration.annotations import check_annotations, class_names_of, open_part
from detection.configuration.config import DatasetFiles, DetectionConfig, load_config, operators_of

__all__ = [
    "DatasetFiles",
    "DetectionConfig",
    "check_annotations",
    "class_names_of",
    "load_config",
    "open_part",
    "operators_of",
]
