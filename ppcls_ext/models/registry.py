"""Builds models by name. Importing it loads neither Paddle nor PaddleClas; building does."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ppcls_ext.models.catalog import checked_arguments, is_ours
from ppcls_ext.models.variants import VARIANTS

if TYPE_CHECKING:
    from paddle import nn


def build_model(name: str, **arguments: Any) -> nn.Layer:
    """Builds a model by its name: images ``[N, 3, H, W]`` -> logits ``[N, class_num]``.

    Args:
        name: one of `list_models`, or any architecture of PaddleClas ("ConvNeXt_tiny", "ResNet101", ...).
        **arguments: its constructor's, such as ``class_num`` and ``drop_path_rate``.

    Raises:
        ValueError: the name or an argument is unknown (nearest names in the message) or has a wrong value.
    """
    checked = checked_arguments(name, arguments)
    if is_ours(name):
        from ppcls_ext.models.econvnext import EConvNeXt

        return EConvNeXt(**dataclasses.asdict(VARIANTS[name]), **checked)
    from ppcls_ext import door

    return door.toolkit_architecture(name)(**checked)
