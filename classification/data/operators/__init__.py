"""Training operators by the names that configurations use; those with ``random = True`` take a generator."""

from __future__ import annotations

from typing import Any

from ppcls_ext.preprocess.operators import OPERATORS

TRAIN_OPERATORS: dict[str, type[Any]] = {**OPERATORS}
