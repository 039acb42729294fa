"""Models by name: ours, and every architecture of PaddleClas. Importing it loads neither Paddle nor PaddleClas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ppcls_ext.models.variants import VARIANTS

if TYPE_CHECKING:
    from paddle import nn


def list_models() -> list[str]:
    """Returns the sorted names of our models (not PaddleClas's)."""
    return sorted(VARIANTS)


def is_ours(name: str) -> bool:
    """Whether ``name`` is one of our models."""
    return name in VARIANTS


def build_model(name: str, **arguments: Any) -> nn.Layer:
    """Builds one of our models."""
    from dataclasses import asdict

    from ppcls_ext.models.econvnext import EConvNeXt

    return EConvNeXt(**asdict(VARIANTS[name]), **arguments)
