"""Exports a classifier for Paddle Inference and proves that the export computes what the model computes."""

from __future__ import annotations

from ppcls_ext.export.classifier import export_classifier
from ppcls_ext.export.examples import example_images

__all__ = ["example_images", "export_classifier"]
