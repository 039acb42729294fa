"""Results files, the figures of one training run each, small enough to be committed; and tables in pages made of them.

Between ``<!-- results: QUESTION -->`` and ``<!-- end -->`` a page has the table of the files in ``results/QUESTION/``
beside it; ``<!-- results: QUESTION, by class -->`` has the AP of each class.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import read_mapping
from ppcls_ext.utils.history import read_history
from ppcls_ext.utils.schema import Count, CountOrZero, NotNegative, Positive, Section, explain
from ppcls_ext.utils.tables import markdown_table

if TYPE_CHECKING:
    import pandas

Metrics = dict[str, float | None]
# Of each kind of network the metrics of its table, the one that it is judged by first.
METRICS = {
    "detector": {"AP": "AP", "AP50": "AP50", "AP_small": "AP, small", "AP_medium": "AP, medium",
                 "AP_large": "AP, large"},
    "classifier": {"top1": "top-1, %", "top5": "top-5, %"},
}  # fmt: skip
KEPT = re.compile(r"AP.*|top\d+|loss")
# What results beside each other share, and also seeds of one row.
TOGETHER = ("kind", "evaluation", "evaluation_version")
SHARED = ("configuration", "epochs", "batch_size", "input_size", "parameters", "weights")
# Columns whose variation over the seeds says nothing, with their decimals.
COSTS = {"epochs": 0, "minutes of training": 1, "parameters, M": 2, "multiply-adds, M": 1}
START, END = "<!-- results:", "<!-- end -->"


class DataPart(Section):
    """The images that a run learnt from or was evaluated on; ``sha256`` covers their names, labels and boxes."""

    name: str
    images: Count
    boxes: CountOrZero | None = None
    sha256: str

    def __str__(self) -> str:
        boxes = "" if self.boxes is None else f" and {self.boxes:,} boxes"
        return f"{self.images:,} images{boxes} of {self.name}, SHA-256 {self.sha256[:12]}"


class Training(Section):
    """The training of an epoch."""

    loss: float
    seconds: NotNegative
    images_per_second: NotNegative


class Epoch(Section):
    """An epoch as in ``log.jsonl``: of classifiers with the metrics of the plain (``eval``) and of the averaged weights
    (``ema``); a detector that averages evaluates its averaged weights alone (``eval``)."""

    epoch: Count
    train: Training
    eval: Metrics = {}
    ema: Metrics = {}


class Latency(Section):
    """Median time of one image in an exported detector; ``ap`` is that of the export where it was measured (int8)."""

    median_ms: Positive
    machine: str
    threads: Count
    ap: float | None


class Result(Section):
    """A results file.

    Attributes:
        row: label of the table's row; runs of one row differ in nothing but their seed.
        evaluation_version: ``EVALUATION_VERSION`` of ``detection.evaluation.metrics`` or ``classification.metrics``.
        machine, commit: ``None`` where the run's report does not say it.
        multiply_adds: of one image, as ``paddle.flops`` counts them.
        weights: whose figures ``final`` and ``per_class`` (AP) are; of the last evaluated epoch.
        latency: by precision.
    """

    row: str
    kind: Literal["detector", "classifier"]
    configuration: str
    seed: int
    epochs: Count
    batch_size: Count
    input_size: list[Count]
    evaluation: DataPart
    training: DataPart
    evaluation_version: Count
    machine: str | None
    paddle: str
    commit: str | None
    parameters: Count
    multiply_adds: Count
    weights: Literal["EMA", "plain"]
    final: Metrics
    per_class: Metrics
    latency: dict[str, Latency]
    history: list[Epoch] = Field(min_length=1)


Results = Mapping[Path, Result]


def checksum(lines: Iterable[str]) -> str:
    """Returns the SHA-256 of lines, in whichever order they come."""
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()


def result_of_run(folder: Path, row: str | None, facts: Mapping[str, Any], latency: Mapping[str, Any]) -> Result:
    """Gathers the figures of a finished run.

    Args:
        folder: of the run, of which at least one epoch was evaluated.
        row: label of its row; the name of its configuration unless given.
        facts: what ``facts_of_run`` of ``detection.results`` or ``classification.results`` returned; its batch is that
            of one process.
        latency: of its exports, see :func:`read_latency`.

    Raises:
        UserError: its report is damaged.
    """
    report = read_mapping(folder / "report.json")
    source, configuration = report.get("source") or {}, Path(str(report.get("config"))).stem
    changed, processes = " and changes" if source.get("changed") else "", report.get("processes") or 1
    history = read_history(folder)
    last = [record for record in history if record.get("eval")][-1]
    epochs = [
        {"epoch": record["epoch"], "train": {name: record["train"].get(name) for name in Training.model_fields},
         **{part: _kept(record[part]) for part in ("eval", "ema") if record.get(part)}}
        for record in history
    ]  # fmt: skip
    return _checked(folder / "report.json", {
        "row": row or configuration, "configuration": configuration,
        **{name: report.get(name) for name in ("seed", "epochs", "machine", "paddle")},
        "commit": f"{source['commit']}{changed}" if source.get("commit") else None,
        **facts, "batch_size": facts["batch_size"] * processes,
        "final": _kept(last.get("ema") or last["eval"]), "per_class": last["eval"].get("per_class") or {},
        "latency": latency, "history": epochs,
    })  # fmt: skip


def _kept(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if KEPT.fullmatch(name)}


def read_latency(file: Path, folder: Path) -> dict[str, Any]:
    """Returns the latency of the exports inside the ``folder`` of a run, by precision.

    Raises:
        UserError: ``file`` is not what ``tools/benchmark.py detection`` writes, none of its exports lies in the folder,
            or two have one precision.
    """
    content, found = read_mapping(file), {}
    try:
        rows = [row for row in content["detection"]["rows"] if row["status"] == "measured"]
        for row in rows:
            if Path(row["model"]).resolve().is_relative_to(folder.resolve()):
                if row["precision"] in found:
                    raise UserError(f"{file}: has two exports in {row['precision']} of {folder}; measure one of them")
                found[row["precision"]] = {"machine": content["machine"],
                                           **{key: row[key] for key in ("median_ms", "threads", "ap")}}  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        told = f"not what tools/benchmark.py detection writes ({error!r}); an older version may have: measure again"
        raise UserError(f"{file}: {told}") from error
    if not found:
        held = ", ".join(row["model"] for row in rows)
        raise UserError(f"{file}: none of its exports lies in {folder}; it has {held}")
    return found


def _checked(file: Path, values: dict[str, Any]) -> Result:
    try:
        result = Result.model_validate(values)
    except ValidationError as error:
        key, message = explain(error, values, Result.model_fields)[0]
        raise UserError(f"{file}: no results file, or damaged: {f'{key} ' if key else ''}{message}") from error
    headline = next(iter(METRICS[result.kind]))
    if headline not in result.final:
        raise UserError(f"{file}: damaged: final lacks {headline}")
    return result


def read_result(file: Path) -> Result:
    """Reads a results file; a UserError of one line if it is damaged or something else."""
    return _checked(file, read_mapping(file))


def read_question(folder: Path) -> dict[Path, Result]:
    """Reads all results files in a folder, in the natural order of their names: ``2.json`` before ``10.json``."""
    parts = {file: re.split("([0-9]+)", file.name) for file in folder.glob("*.json")}
    order = {file: [int(part) if part.isdecimal() else part for part in each] for file, each in parts.items()}
    return {file: read_result(file) for file in sorted(order, key=order.__getitem__)}


def refuse_differences(results: Results) -> None:
    """Makes sure that results may stand beside each other, and that those of one row differ in their seed alone.

    Raises:
        UserError: two do not go together; the line names both files and what differs.
    """
    for number, (file, ours) in enumerate(results.items()):
        for other, theirs in list(results.items())[:number]:
            same_row = ours.row == theirs.row
            for name in (*TOGETHER, *(SHARED if same_row else ())):
                before, now = getattr(theirs, name), getattr(ours, name)
                # The same data may lie in a folder of another name.
                if getattr(before, "sha256", before) != getattr(now, "sha256", now):
                    words = "stand beside each other" if name in TOGETHER else f"be two seeds of the row '{ours.row}'"
                    message = f"another {name.replace('_', ' ')} ({before}; {now})"
                    raise UserError(f"{other} and {file} cannot {words}: {message}")
            if same_row and theirs.seed == ours.seed:
                raise UserError(f"{other} and {file} are both seed {ours.seed} of the row '{ours.row}'")


def figures_of_runs(results: Results, by_class: bool = False) -> pandas.DataFrame:
    """Returns the figures of each run under the label of its row, by the head of the table's column; NaN is unknown.

    With ``by_class`` they are the AP of each class of detectors.
    """
    import pandas

    lines = [run.per_class if by_class else {
        **{head: run.final.get(name) for name, head in METRICS[run.kind].items()},
        "epochs": run.epochs, "minutes of training": sum(epoch.train.seconds for epoch in run.history) / 60,
        "parameters, M": run.parameters / 1e6, "multiply-adds, M": run.multiply_adds / 1e6,
        **{f"{precision}, ms": latency.median_ms for precision, latency in run.latency.items()},
        **{f"AP, {precision}": latency.ap for precision, latency in run.latency.items() if latency.ap is not None},
    } for run in results.values()]  # fmt: skip
    return pandas.DataFrame(lines, index=[run.row for run in results.values()], dtype=float)


def results_table(results: Results, by_class: bool = False) -> str:
    """Returns a table with a row for each label, means ± standard deviations over its seeds, and what was measured.

    ``results`` may stand beside each other; for ``by_class`` see :func:`figures_of_runs`.
    """
    costs = {} if by_class else COSTS
    rows, every = figures_of_runs(results, by_class).groupby(level=0, sort=False), list(results.values())
    means, deviations = rows.mean(), rows.std()

    def cell(row: str, head: str) -> str:
        is_share, is_time = (not by_class and head.endswith(unit) for unit in ("%", ", ms"))
        factor, decimals = (100, 2) if is_share else (1, costs.get(head, 1 if is_time else 3))
        numbers = [means.at[row, head]] + ([] if head in costs else [deviations.at[row, head]])
        return " ± ".join(f"{factor * number:.{decimals}f}" for number in numbers if number == number) or "-"

    lines = [["AP by class" if by_class else "", "seeds", *means]]
    lines += [[row, str(seeds), *(cell(row, head) for head in means)] for row, seeds in rows.size().items()]
    lines = [[text.replace("|", r"\|") for text in line] for line in lines]
    told = (
        [str(every[0].evaluation)], [f"{' x '.join(map(str, run.input_size))} px" for run in every],
        [f"{run.weights} weights" for run in every], [f"paddlepaddle {run.paddle}" for run in every],
        [run.machine for run in every if run.machine],
    )  # fmt: skip
    words = "; ".join(" and ".join(dict.fromkeys(texts)) for texts in told if texts)
    return f"{markdown_table(lines[0], lines[1:], 'l' + 'r' * (len(lines[0]) - 1))}\n\nEvaluated on {words}."


def page_with_tables(page: Path) -> tuple[str, list[str]]:
    """Returns a page with its tables written anew, and a line for each that the page has otherwise.

    Raises:
        UserError: the page has no marker, one is not understood or has no end, or results are missing, damaged or do
            not go together.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{page}: is not UTF-8, as pages with tables are") from error
    pieces, stale, place = [], [], 0
    for start in re.finditer(rf"^{START}.*", text, re.MULTILINE):
        where = f"{page}, line {text.count(chr(10), 0, start.start()) + 1}"
        marker = re.fullmatch(rf"{START} ([\w-][\w.-]*)(, by class)? -->", start[0].rstrip())
        end, following = (text.find(f"\n{mark}", start.end()) for mark in (END, START))
        if marker is None or end < 0 or 0 <= following < end:
            wanted = f"'{START} QUESTION -->' or '{START} QUESTION, by class -->', and '{END}' on a line below"
            raise UserError(f"{where}: '{start[0]}': write {wanted}")
        folder = page.parent / "results" / marker[1]
        results = read_question(folder)
        refuse_differences(results)
        if not results or (marker[2] and not any(result.per_class for result in results.values())):
            raise UserError(f"{where}: {folder} holds no results files{' with figures by class' if marker[2] else ''}")
        table = f"\n{results_table(results, bool(marker[2]))}"
        if text[start.end() : end] != table:
            stale.append(f"{where}: the table '{marker[1]}{marker[2] or ''}' is not what {folder} holds")
        pieces += [text[place : start.end()], table]
        place = end
    if not pieces:
        raise UserError(f"{page}: has no table to write: '{START} QUESTION -->' on one line, '{END}' on another")
    newline = "\r\n" if b"\r\n" in page.read_bytes() else "\n"
    return "".join([*pieces, text[place:]]).replace("\n", newline), stale
