"""The class names that travel with a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from ppcls_ext.utils.errors import UserError


def class_names_of_weights(weights: Path) -> list[str] | None:
    """Returns the class names that lie in ``state.json`` beside a weight file of a checkpoint, or ``None``.

    Raises:
        UserError: the file is damaged.
    """
    state = weights.parent / "state.json"
    if not state.is_file():
        return None
    try:
        names = json.loads(state.read_text(encoding="utf-8")).get("class_names")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{state}: damaged ({error})") from error
    return [str(name) for name in names] if names else None
