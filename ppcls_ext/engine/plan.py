"""How long a run lasts and how fast it learns: early stopping, and a rate that follows the images of a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ppcls_ext.utils.schema import Count, Section, Share


def metric_values(record: dict[str, Any], metric: str) -> list[float | None]:
    """Returns the metric of an epoch's trained and, with EMA, averaged weights; empty where it was not evaluated."""
    return [record[part][metric] for part in ("eval", "ema") if part in record]


class EarlyStopping(Section):
    """``early_stopping``: ends a run whose metric, the one that the best epoch is chosen by, no longer rises.

    It is a function of the run's history alone, so a resumed run and every process decide alike.

    Attributes:
        patience: evaluations without a rise after which the run ends.
        min_delta: what counts as a rise is larger than this, in the metric's unit: 0.001 is 0.1 % of top-1 or AP.
    """

    patience: Count
    min_delta: Share = 0.0

    def reason(self, history: Sequence[dict[str, Any]], metric: str, counted_from: int = 0) -> str | None:
        """Returns why the run ends, or ``None`` while it goes on.

        Evaluations that leave the metric undefined do not count, nor those of the first ``counted_from`` epochs as
        waited for.
        """
        best, best_epoch, waited = -math.inf, 0, 0
        for record in history:
            known = [value for value in metric_values(record, metric) if value is not None]
            if known and max(known) > best + self.min_delta:
                best, best_epoch, waited = max(known), record["epoch"], 0
            elif known and record["epoch"] > counted_from:
                waited += 1
        if waited < self.patience:
            return None
        delta = f" by more than {self.min_delta:g}" if self.min_delta else ""
        evaluations = "evaluations" if waited > 1 else "evaluation"
        return f"{metric} has not risen{delta} above {best:.4f} (epoch {best_epoch}) in {waited} {evaluations}"


def scale_rate(rate: float, tuned: int | None, images: int, key: str) -> tuple[float, list[str], dict[str, Any]]:
    """Scales a learning rate with the images of a step (linear scaling rule, arXiv 1706.02677, section 2.1).

    It was tuned for ``tuned`` images a step, by the configuration's ``key`` (``None`` leaves it as it is); now they are
    ``images``: batch size x processes x accumulated batches. Returns what every rate of the schedule is multiplied by,
    what is said of it, and what ``report.json`` holds of it.
    """
    if tuned is None:
        return 1.0, [], {}
    used = rate * images / tuned
    note = f"learning rate {rate:g} -> {used:g}: it was tuned for {tuned} images a step ({key}), this run has {images}"
    report = {"stated": rate, "used": used, "tuned_batch_size": tuned, "images_per_step": images}
    return images / tuned, [note] if images != tuned else [], {"learning_rate": report}
