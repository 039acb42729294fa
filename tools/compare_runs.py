"""Compares training runs of detectors: python tools/compare_runs.py RUN_FOLDER RUN_FOLDER ... --output runs.png."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import run
from ppcls_ext.utils.errors import UserError

COLUMNS = ("epoch", "AP", "AP50", "loss", "minutes of training", "images/s")


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Print the figures of every evaluated epoch of some runs and draw them over epochs and minutes."
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="folder of a run (it holds log.jsonl)")
    parser.add_argument("--output", type=Path, metavar="FILE.png", help="also draw AP and AP50 of all runs")
    parser.add_argument("--title", default="", help="heading of the picture")
    return parser.parse_args()


def is_evaluated(record: dict[str, Any]) -> bool:
    """Tells whether an epoch of a detector was evaluated."""
    return "AP" in (record.get("eval") or {})


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Returns the records of the finished epochs of a run, evaluated or not, also of one that is still under way.

    Raises:
        UserError: the folder holds no run, or none with an evaluated epoch.
    """
    file = folder / "log.jsonl"
    if not file.is_file():
        raise UserError(f"{folder}: not the folder of a run (no log.jsonl)")
    records = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the last line of a run that is being written, or was killed
        if isinstance(record, dict) and record.get("kind") == "epoch":
            records.append(record)
    if not any(map(is_evaluated, records)):
        raise UserError(f"{folder}: no epoch of a detector was evaluated yet")
    return records


def rows_of(history: list[dict[str, Any]]) -> list[str]:
    """Returns one line of a Markdown table for each evaluated epoch."""
    rows, seconds = [], 0.0
    for record in history:
        seconds += record["train"]["seconds"]
        if not is_evaluated(record):
            continue
        figures = (
            str(record["epoch"]), f"{record['eval']['AP']:.3f}", f"{record['eval']['AP50']:.3f}",
            f"{record['train']['loss']:.3f}", f"{seconds / 60:.1f}", f"{record['train']['images_per_second']:.1f}",
        )  # fmt: skip
        rows.append(f"| {' | '.join(figures)} |")
    return rows


def main() -> None:
    """Prints a table for each run; draws all of them."""
    arguments = parse_arguments()
    names = [folder.name for folder in arguments.folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in arguments.folders]
    runs = {name: read_history(folder) for name, folder in zip(names, arguments.folders, strict=True)}
    for name, history in runs.items():
        lines = [name, f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|", *rows_of(history)]
        print("\n".join(lines) + "\n")
    if arguments.output:
        from ppcls_ext.utils.plots import draw_run_comparison

        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        draw_run_comparison(runs, arguments.output, arguments.title)
        print(f"drawn: {arguments.output}")


if __name__ == "__main__":
    run(main)
