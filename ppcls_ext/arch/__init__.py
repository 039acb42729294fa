"""Backbones of this project, their registry, and what their constructors take. Importing it loads no Paddle."""

from __future__ import annotations

from ppcls_ext.arch.registry import architecture_parameters, build_model, list_models

__all__ = ["architecture_parameters", "build_model", "list_models"]
