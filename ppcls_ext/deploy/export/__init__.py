"""Exports a network to several file formats and proves that each file computes what the model computes.

Paddle is loaded when a model is exported: what can be told of a request without it is told at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ppcls_ext.deploy.export.examples import example_images
from ppcls_ext.deploy.export.formats import FORMATS, PRECISIONS, plan

if TYPE_CHECKING:
    from ppcls_ext.deploy.export.classifier import export_classifier

__all__ = ["FORMATS", "PRECISIONS", "example_images", "export_classifier", "plan"]


def __getattr__(name: str) -> Any:
    if name != "export_classifier":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ppcls_ext.deploy.export import classifier

    return classifier.export_classifier
