"""Builds models by name. Importing it loads neither Paddle nor PaddleClas; building does."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ppcls_ext.arch.catalog import checked_arguments
from ppcls_ext.arch.variants import Family, family_of

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
    family = family_of(name)
    if family is not None:
        return class_of(family)(**dataclasses.asdict(family.rows[name]), **checked)
    from ppcls_ext import plugin

    with _parameter_names_of_its_own():
        return plugin.toolkit_architecture(name)(**checked)


@contextlib.contextmanager
def _parameter_names_of_its_own() -> Iterator[None]:
    """Lets parameters be called as those of another network are.

    Many of PaddleClas's networks (MobileNetV2, EfficientNet, DenseNet, ...) name their parameters themselves, and
    Paddle refuses a name that it has seen before in the process: there could be no teacher of the student's family, and
    no second row of it in a study. Names count within one network and its optimizer only.
    """
    from paddle.utils import unique_name

    generator, checker = unique_name.switch()
    unique_name.switch(generator)
    try:
        yield
    finally:
        unique_name.switch(generator, checker)


def class_of(family: Family) -> type[nn.Layer]:
    """Returns the class of a family of our models; loads Paddle."""
    return getattr(importlib.import_module(f"ppcls_ext.arch.{family.module}"), family.class_name)
