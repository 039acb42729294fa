"""The epochs of a training run, as its folder tells them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Returns the records of the finished epochs in ``log.jsonl``, also of a run that is still under way or was killed.

    A folder without that file has none.
    """
    try:
        text = (folder / "log.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    records = []
    for line in text.split("\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue  # The last line of a run that is writing, or was killed.
        if isinstance(record, dict) and record.get("kind") == "epoch":
            records.append(record)
    return records
