"""Compares training runs: python tools/compare_runs.py RUN_FOLDER RUN_FOLDER ... --output runs.png."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import add_overwrite_argument, run
from ppcls_ext.utils.errors import UserError

# Metrics of a detector and of a classifier, the one that tells the kind first.
KINDS = (("AP", "AP50"), ("top1", "top5"))


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Print the figures of every evaluated epoch of some runs and draw them over epochs and minutes."
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="folder of a run (it holds log.jsonl)")
    parser.add_argument("--output", type=Path, metavar="FILE.png", help="also draw AP and AP50, or top-1 and top-5")
    parser.add_argument("--title", default="", help="heading of the picture")
    add_overwrite_argument(parser)
    return parser.parse_args()


def main() -> None:
    """Prints a table for each run; draws all of them."""
    arguments = parse_arguments()
    from ppcls_ext.utils.history import read_history
    from ppcls_ext.utils.outputs import Output, claim_outputs, record_outputs
    from ppcls_ext.utils.tables import markdown_table

    reads = [*arguments.folders, *(folder / "log.jsonl" for folder in arguments.folders)]
    claim_outputs([Output("--output", arguments.output)], reads, overwrite=arguments.overwrite)
    folders = {folder.name: folder for folder in arguments.folders}
    if len(folders) < len(arguments.folders):
        folders = {str(folder): folder for folder in arguments.folders}
    runs = {}
    for name, folder in folders.items():
        if not (folder / "log.jsonl").is_file():
            raise UserError(f"{folder}: not the folder of a run (no log.jsonl)")
        runs[name] = read_history(folder)
        if not any(evaluation_of(record) for record in runs[name]):
            raise UserError(f"{folder}: no epoch was evaluated yet")
    kinds = {name: next(kind for kind in KINDS if any(kind[0] in evaluation_of(record) for record in history))
             for name, history in runs.items()}  # fmt: skip
    if len(set(kinds.values())) > 1:
        raise UserError("these are runs of classifiers and of detectors: compare runs of one kind")
    metrics = next(iter(kinds.values()))
    for name, history in runs.items():
        rows, seconds = [], 0.0
        for record in history:
            train, evaluation = record["train"], evaluation_of(record)
            seconds += train["seconds"]
            if metrics[0] in evaluation:
                values = (evaluation.get(metric) for metric in metrics)
                rows.append([record["epoch"], *("-" if value is None else f"{value:.3f}" for value in values),
                             f"{train['loss']:.3f}", f"{seconds / 60:.1f}",
                             f"{train['images_per_second']:.1f}"])  # fmt: skip
        print(f"{name}\n{markdown_table(['epoch', *metrics, 'loss', 'minutes of training', 'images/s'], rows)}\n")
    if arguments.output:
        from ppcls_ext.utils.plots import draw_run_comparison

        draw_run_comparison(runs, arguments.output, arguments.title, metrics)
        record_outputs([arguments.output])
        print(f"drawn: {arguments.output}")


def evaluation_of(record: dict[str, Any]) -> dict[str, float]:
    """Returns the figures of the plain weights after an epoch, none where it was not evaluated."""
    return record.get("eval") or {}


if __name__ == "__main__":
    run(main)
