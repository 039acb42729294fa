"""The rows of ``tools/benchmark.py models`` that belong to a card."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppcls_ext.deploy.cards.form import changed_arguments
from ppcls_ext.deploy.cards.sources import read_json
from ppcls_ext.utils.errors import UserError

MEASURED = "measured"
COLUMNS = ("model", "size", "backend", "precision", "threads", "batch")
NUMBERS = ("median_ms", "p90_ms", "images_per_second")


@dataclass(frozen=True)
class Latency:
    """What a benchmark measured of one model.

    Attributes:
        rows: as they stand in the file.
        machine: what was measured on, in the benchmark's words; ``None`` where the file does not say.
        by_name: the model was measured by its name, that is with random weights and 1000 classes.
    """

    rows: list[dict[str, Any]]
    machine: str | None
    by_name: bool


def read_latency(
    file: str | os.PathLike[str], model: str, arguments: Mapping[str, Any], export: Path | None = None
) -> Latency:
    """Reads the measurements of one model: those of its export, else those of its name.

    Args:
        file: the JSON file of ``tools/benchmark.py models``.
        model: name of the classifier, or what an export calls its detector.
        arguments: of the classifier; a network of another form was not measured by its name.
        export: its export folder.

    Raises:
        UserError: the file is no such file, or has no measurement of the model.
    """
    document = read_json(Path(file))
    part = document.get("models")
    rows = part.get("rows") if isinstance(part, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "model" in row for row in rows):
        raise UserError(f"{file}: no benchmark of models; python tools/benchmark.py models --output bench.md makes one")
    measured = [row for row in rows if row.get("status") == MEASURED]
    if not all(row.get(key) for row in measured for key in COLUMNS) or not all(
        isinstance(row.get(key), int | float) for row in measured for key in NUMBERS
    ):
        raise UserError(f"{file}: damaged, a measured row lacks one of {', '.join([*COLUMNS, *NUMBERS])}")
    own = [] if export is None else [row for row in measured if Path(str(row["model"])).resolve() == export.resolve()]
    named = [row for row in measured if str(row["model"]).partition("@")[0] == model]
    changed = changed_arguments(model, arguments) if named else []
    found = own or ([] if changed else named)
    if not found:
        other = f" with {', '.join(changed)} as in this model" if named and changed else ""
        held = ", ".join(dict.fromkeys(str(row.get("architecture") or row["model"]) for row in measured)) or "nothing"
        raise UserError(f"{file}: has no measurement of {model}{other}; it holds {held}")
    machine = document.get("machine")
    return Latency(found, None if machine is None else str(machine), not own)
