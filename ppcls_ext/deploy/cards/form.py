"""Whether a network has the form that was published under its name. Loads no Paddle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppcls_ext.arch.registry import architecture_parameters

# They change the last layer, or the training alone.
HARMLESS = ("class_num", "drop_path_rate")


def changed_arguments(model: str, arguments: Mapping[str, Any]) -> list[str]:
    """Returns the arguments of a classifier that make its network another one than the published one.

    Raises:
        ValueError: there is no such model.
    """
    defaults = architecture_parameters(model) if arguments else {}
    return [
        name
        for name, value in arguments.items()
        if name not in HARMLESS and (name not in defaults or defaults[name].default != value)
    ]
