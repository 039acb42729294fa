"""E-ConvNeXt for PaddlePaddle: backbones, weights, export, a runtime without Paddle, and a door into PaddleClas.

Importing this package loads neither Paddle nor PaddleClas; they are loaded when a model is built or registered.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppcls_ext.arch.catalog import list_models
    from ppcls_ext.arch.registry import build_model

__version__ = "0.1.0"
__all__ = ["__version__", "build_model", "list_models", "register"]
# Looked up when they are asked for: where a package is missing, the command lines must still start and say so.
_PLACES = {"build_model": "ppcls_ext.arch.registry", "list_models": "ppcls_ext.arch.catalog"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def register() -> list[str]:
    """Puts our models into PaddleClas's architecture namespace; see `ppcls_ext.plugin.register`."""
    from ppcls_ext import plugin

    return plugin.register()
