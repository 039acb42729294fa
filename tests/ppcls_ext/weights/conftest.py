"""Small models for conversions."""

from __future__ import annotations

import pytest

from ppcls_ext.arch.registry import families
from tests.support.foreign_convnext import DEPTHS, DIMS, MODELS


@pytest.fixture(autouse=True)
def small_models(monkeypatch):
    """A small model of each version: one row more in the table of its family, as for any new model."""
    for family in families():
        for name in MODELS.values():
            if name.startswith(family.network.__name__):
                monkeypatch.setitem(family.models, name, {"dims": DIMS, "depths": DEPTHS})
