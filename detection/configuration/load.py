"""Reads a detection configuration and reports everything that is wrong with it before anything is built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detection.configuration.bases import load_with_bases
from detection.configuration.settings import DetectionConfig
from detection.configuration.validation import check_document
from ppcls_ext.utils.config import apply_override


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> DetectionConfig:
    """Reads ``path`` with its ``_BASE_`` files and applies ``KEY.SUB=VALUE`` changes. Loads no toolkit and no Paddle.

    Raises:
        UserError: a file is missing, is no YAML or includes itself; a change has no ``=`` or no place.
        ConfigError: all that is wrong with the values, one line each.
    """
    document = load_with_bases(path)
    document.data = _plain(document.data)
    for change in overrides:
        apply_override(document, change)
    check_document(document)
    return DetectionConfig(document)


def _plain(value: Any) -> Any:
    """Returns ``value`` with plain dictionaries in place of those that remember a tag."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value
