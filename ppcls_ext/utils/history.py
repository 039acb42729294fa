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


def evaluation_of(record: dict[str, Any]) -> dict[str, float]:
    """Returns the metrics of an epoch: of the averaged weights where a run has them, else of the plain ones.

    Which of both is decided by the configuration, not by which did better on the test images.
    """
    return record.get("ema") or record.get("eval") or {}
