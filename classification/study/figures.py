"""What the runs of a study left, gathered by row. Loads no Paddle."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from classification.study.config import Row
from classification.study.runs import Run

History = list[dict[str, Any]]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (None of a single value) of ``count`` values."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Returns the spread of some values, None of none."""
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, len(values))


@dataclass(frozen=True)
class Result:
    """One run as far as it has come.

    Attributes:
        seed: its seed.
        epoch: finished epochs.
        epochs: epochs that it is to have.
        finished: its own report says that it came to its end.
        last: figures of the last evaluated epoch: ``top1``, ``top5``, ``loss``, ``images``, shares between 0 and 1.
        best_top1: the highest of all epochs.
        seconds: of training, without evaluation.
        history: the records of its epochs.
    """

    seed: int
    epoch: int
    epochs: int
    finished: bool
    last: dict[str, float]
    best_top1: float | None
    seconds: float
    history: History

    @property
    def is_begun(self) -> bool:
        """Whether an epoch is finished."""
        return self.epoch > 0


@dataclass(frozen=True)
class RowFigures:
    """A row and the results of its runs."""

    row: Row
    results: tuple[Result, ...]

    @property
    def finished(self) -> list[Result]:
        """Runs that came to their end."""
        return [result for result in self.results if result.finished]

    def spread(self, name: str) -> Spread | None:
        """Returns mean and deviation of a figure of the last epoch over the finished runs, None if there is none."""
        return Spread.of([result.last[name] for result in self.finished if name in result.last])

    def best_top1(self) -> Spread | None:
        """Returns mean and deviation of the best epoch's top-1 over the finished runs."""
        return Spread.of([result.best_top1 for result in self.finished if result.best_top1 is not None])

    def seconds(self) -> Spread | None:
        """Returns mean and deviation of the training time over the finished runs."""
        return Spread.of([result.seconds for result in self.finished])

    def drawn(self) -> list[Result]:
        """Returns the runs whose curves are averaged: the finished ones, else the one that has come furthest."""
        if self.finished:
            return self.finished
        begun = [result for result in self.results if result.is_begun]
        return [max(begun, key=lambda result: result.epoch)] if begun else []


def evaluation_of(record: dict[str, Any]) -> dict[str, float]:
    """Returns the figures of an epoch: of the averaged weights where a run has them, else of the plain ones.

    Which of both is decided by the configuration, not by which did better on the test images.
    """
    return record.get("ema") or record.get("eval") or {}


def read_result(run: Run) -> Result:
    """Returns what a run has left, from its report or, while it is under way, from its log."""
    report = run.report
    history: History = report["history"] if report else run.history()
    evaluated = [evaluation_of(record) for record in history if evaluation_of(record)]
    return Result(
        seed=run.seed,
        epoch=history[-1]["epoch"] if history else 0,
        epochs=run.epochs,
        finished=report is not None,
        last=evaluated[-1] if evaluated else {},
        best_top1=max((figures["top1"] for figures in evaluated if "top1" in figures), default=None),
        seconds=sum(record["train"]["seconds"] for record in history),
        history=history,
    )


def gather(rows: Sequence[Row], runs: Iterable[Run]) -> list[RowFigures]:
    """Returns the results of all runs by row, in the order of the rows."""
    by_row: dict[str, list[Result]] = {row.name: [] for row in rows}
    for run in runs:
        by_row[run.row.name].append(read_result(run))
    return [RowFigures(row, tuple(by_row[row.name])) for row in rows]


def curve(figures: RowFigures, part: str, name: str) -> list[tuple[float, float, float]]:
    """Returns epoch, mean and deviation (0 of a single run) of a figure at each epoch that all drawn runs have.

    Args:
        figures: the row.
        part: ``train``, or ``evaluation`` for what :func:`evaluation_of` returns.
        name: of the figure, such as ``loss``.
    """
    by_epoch: dict[int, list[float]] = {}
    for result in figures.drawn():
        for record in result.history:
            values = record["train"] if part == "train" else evaluation_of(record)
            if name in values:
                by_epoch.setdefault(record["epoch"], []).append(values[name])
    whole = {epoch: values for epoch, values in by_epoch.items() if len(values) == len(figures.drawn())}
    spreads = {epoch: Spread.of(values) for epoch, values in sorted(whole.items())}
    return [(float(epoch), spread.mean, spread.deviation or 0.0) for epoch, spread in spreads.items() if spread]
