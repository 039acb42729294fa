"""E-ConvNeXt for PaddlePaddle: backbones, weights, export, a runtime without Paddle, and a door into PaddleClas.

Importing this package loads neither Paddle nor PaddleClas; they are loaded when a model is built or registered.
"""

from __future__ import annotations

from ppcls_ext.models.catalog import list_models
from ppcls_ext.models.registry import build_model

__version__ = "0.1.0"
__all__ = ["__version__", "build_model", "list_models", "register"]


def register() -> list[str]:
    """Puts our models into PaddleClas's architecture namespace; see `ppcls_ext.door.register`."""
    from ppcls_ext import door

    return door.register()
