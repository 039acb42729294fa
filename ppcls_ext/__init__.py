"""E-ConvNeXt for PaddlePaddle: backbones, weights, export, a runtime without Paddle, and a plug-in for PaddleClas.

Importing this package loads neither Paddle nor PaddleClas; they are loaded when a model is built or registered.
"""

from __future__ import annotations

from ppcls_ext.arch.registry import build_model, list_models, register

__version__ = "0.1.0"
__all__ = ["__version__", "build_model", "list_models", "register"]
