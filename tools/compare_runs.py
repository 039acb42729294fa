"""Compares training runs, records what they reached, and writes the tables of pages from such records.

python tools/compare_runs.py RUN_FOLDER RUN_FOLDER ... --output runs.png
python tools/compare_runs.py RUN_FOLDER --record docs/results/QUESTION/NAME.json --row "LABEL"
python tools/compare_runs.py docs/results/QUESTION/*.json --output runs.png --latency-chart latency.png
python tools/compare_runs.py --page docs/results.md [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import add_overwrite_argument, run
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.history import evaluation_of
from ppcls_ext.utils.tables import markdown_table

if TYPE_CHECKING:
    from ppcls_ext.utils.results import Result

# Metrics of a detector and of a classifier, the one that tells the kind first.
KINDS = (("AP", "AP50"), ("top1", "top5"))


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Print the figures of every evaluated epoch of some runs, draw them over epochs and time, record "
        "them as results files, or write the tables of a page from results files."
    )
    add = parser.add_argument
    add("runs", nargs="*", type=Path, metavar="RUN",
        help="folder of a run (it holds log.jsonl), or a results file (.json); files of one row have one colour")
    add("--output", type=Path, metavar="FILE.png", help="also draw AP and AP50, or top-1 and top-5")
    add("--latency-chart", type=Path, metavar="FILE.png", help="draw AP over the latency that results files hold")
    add("--title", default="", help="heading of the pictures")
    add("--record", nargs="+", type=Path, default=[], metavar="FILE.json",
        help="write a results file for each RUN, a finished run whose data are there; it stands beside those that may "
        "lie in its folder already")
    add("--row", metavar="LABEL", help="--record: name of the table's row; give all seeds of one setting the same "
        "(default: the name of the configuration)")
    add("--latency", type=Path, metavar="FILE.json",
        help="--record: what tools/benchmark.py detection wrote; exports inside the folder of the RUN are the run's")
    add("--page", nargs="+", type=Path, default=[], metavar="FILE.md",
        help="write what stands between <!-- results: QUESTION --> and <!-- end --> from the results files in the "
        "folder results/QUESTION beside the page")
    add("--check", action="store_true", help="--page: write nothing, exit with 1 if a table is not up to date")
    add_overwrite_argument(parser)
    arguments = parser.parse_args()
    if bool(arguments.runs) == bool(arguments.page):
        raise UserError("name runs or results files to compare, or else a page with --page")
    for option, needed in (("row", "record"), ("latency", "record"), ("check", "page")):
        if getattr(arguments, option) and not getattr(arguments, needed):
            raise UserError(f"--{option} goes with --{needed}")
    for option, chart in (("output", arguments.output), ("latency-chart", arguments.latency_chart)):
        if chart is not None and chart.suffix.lower() != ".png":
            raise UserError(f"--{option} {chart}: must end in .png")
    if arguments.record and len(arguments.record) != len(arguments.runs):
        raise UserError(f"--record: name a file for each of the {len(arguments.runs)} runs")
    return arguments  # fmt: skip


def main() -> int:
    """Writes tables; or prints, draws and records runs."""
    arguments = parse_arguments()
    return write_pages(arguments) if arguments.page else compare(arguments)


def write_pages(arguments: argparse.Namespace) -> int:
    """Writes the tables of pages, or tells which are not up to date; returns the exit status."""
    from ppcls_ext.utils.files import write_text
    from ppcls_ext.utils.outputs import Output, claim_outputs
    from ppcls_ext.utils.results import page_with_tables

    pages = {page: page_with_tables(page) for page in arguments.page}
    stale = [line for _, lines in pages.values() for line in lines]
    if arguments.check:
        for line in stale:
            print(f"{line}; write it with tools/compare_runs.py --page")
        return int(bool(stale))
    # A page is a person's own, of which only the tables are replaced.
    claim_outputs([Output("--page", page) for page in pages], overwrite=True)
    for page, (text, lines) in pages.items():
        if lines:
            write_text(page, text)
        print(f"{page}: {len(lines)} tables written anew")
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Prints a table for each run; draws and records them."""
    from ppcls_ext.utils.files import write_text
    from ppcls_ext.utils.outputs import Output, claim_outputs, record_outputs
    from ppcls_ext.utils.results import figures_of_runs, refuse_differences

    reads = [*arguments.runs, *(path / "log.jsonl" for path in arguments.runs), arguments.latency]
    outputs = [Output("--output", arguments.output), Output("--latency-chart", arguments.latency_chart),
               *(Output("--record", file) for file in arguments.record)]  # fmt: skip
    claim_outputs(outputs, [path for path in reads if path is not None], overwrite=arguments.overwrite)
    histories, results = read_runs(arguments.runs)
    refuse_differences(results)
    kinds = {path: next(kind for kind in KINDS if any(kind[0] in evaluation_of(record) for record in history))
             for path, history in histories.items()}  # fmt: skip
    if len(set(kinds.values())) > 1:
        raise UserError("these are runs of classifiers and of detectors: compare runs of one kind")
    recorded = record_runs(arguments)
    metrics = next(iter(kinds.values()))
    short = len({path.name for path in histories}) == len(histories)
    rows: dict[str, list[Any]] = {}
    for path, history in histories.items():
        name = path.name if short else str(path)
        rows.setdefault(results[path].row if path in results else name, []).append(history)
        print(f"{name}\n{epochs_table(history, metrics)}\n")
    for file, result in recorded.items():
        write_text(file, result.model_dump_json(indent=1, exclude_defaults=True) + "\n")
    if arguments.output:
        from ppcls_ext.utils.plots import draw_run_comparison

        draw_run_comparison(rows, arguments.output, arguments.title, metrics)
    if arguments.latency_chart:
        from ppcls_ext.utils.plots import draw_latency

        draw_latency(figures_of_runs(results), arguments.latency_chart, arguments.title)
    written = [output.path for output in outputs if output.path is not None]
    record_outputs(written)
    for path in written:
        print(f"written: {path}")
    return 0


def read_runs(paths: Sequence[Path]) -> tuple[dict[Path, list[dict[str, Any]]], dict[Path, Result]]:
    """Returns the epochs of folders of runs and of results files, and what the latter hold."""
    from ppcls_ext.utils.history import read_history
    from ppcls_ext.utils.results import read_result

    histories, results = {}, {}
    for path in paths:
        if path.is_file():
            results[path] = read_result(path)
            histories[path] = results[path].model_dump()["history"]
        elif (path / "log.jsonl").is_file():
            histories[path] = read_history(path)
        else:
            raise UserError(f"{path}: not the folder of a run (no log.jsonl), and no results file")
        if not any(kind[0] in evaluation_of(record) for kind in KINDS for record in histories[path]):
            raise UserError(f"{path}: no epoch was evaluated yet, or none by AP or top-1 (topk of Metric.Eval)")
    return histories, results


def record_runs(arguments: argparse.Namespace) -> dict[Path, Result]:
    """Returns what is to be recorded, by its file, when it goes with the results files that lie beside it."""
    from ppcls_ext.utils.config import is_detection_config
    from ppcls_ext.utils.results import read_latency, read_question, refuse_differences, result_of_run

    recorded: dict[Path, Result] = {}
    for folder, file in zip(arguments.runs, arguments.record, strict=bool(arguments.record)):
        if not (folder / "report.json").is_file():
            raise UserError(f"{folder}: --record takes the folder of a finished run (no report.json)")
        latency = read_latency(arguments.latency, folder) if arguments.latency else {}
        if is_detection_config(folder / "config.yaml"):
            from detection.results import facts_of_run
        else:
            from classification.results import facts_of_run
        recorded[file] = result_of_run(folder, arguments.row, facts_of_run(folder / "config.yaml"), latency)
    for folder in dict.fromkeys(file.parent for file in recorded):
        others = {file: result for file, result in read_question(folder).items() if file not in recorded}
        refuse_differences(others | {file: result for file, result in recorded.items() if file.parent == folder})
    return recorded


def epochs_table(history: Sequence[dict[str, Any]], metrics: Sequence[str]) -> str:
    """Returns the figures of every evaluated epoch as Markdown."""
    lines, seconds = [], 0.0
    for record in history:
        train, evaluation = record["train"], evaluation_of(record)
        seconds += train["seconds"]
        if metrics[0] in evaluation:
            values = (evaluation.get(metric) for metric in metrics)
            lines.append([record["epoch"], *("-" if value is None else f"{value:.3f}" for value in values),
                          f"{train['loss']:.3f}", f"{seconds / 60:.1f}",
                          f"{train['images_per_second']:.1f}"])  # fmt: skip
    return markdown_table(["epoch", *metrics, "loss", "minutes of training", "images/s"], lines)


if __name__ == "__main__":
    run(main)
