"""How a detector's learning rate follows the length of its run: around ppdet's schedules, which do not know it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

EPOCHS = "epoch"
# Numbers that are shares of the run: they were written for the `epoch` of the file that states them.
LENGTHS = re.compile(
    r"LearningRate\.schedulers\[\d+\]\.epochs"
    r"|(?P<whole>LearningRate\.schedulers\[\d+\]\.(?:max_epochs|last_plateau_epochs|steps|milestones\[\d+\])"
    r"|(?:\w+\.)+static_assigner_epoch|TrainReader\.mosaic_epoch|freeze_epochs)"
)


def fit(rate: Any, epochs: int, steps: int, factor: float) -> list[str]:
    """Fits ppdet's ``LearningRate`` to a run, in place; returns what is said of it, a line each.

    A warm-up takes at most half of the run. A cosine is not shorter than the run, whose rest would not learn. An epoch
    has so many optimizer ``steps``; every rate is multiplied by ``factor``.
    """
    rate.base_lr = float(rate.base_lr) * factor
    lines, place = [], "LearningRate.schedulers"
    decay, *others = rate.schedulers
    if others and getattr(decay, "use_warmup", False):
        warm_up, half = others[0], math.ceil(epochs * steps / 2)
        # Epochs of a warm-up may be a fraction here, which ppdet does not take.
        in_epochs = warm_up.epochs is not None and getattr(warm_up, "epochs_first", True)
        wanted = round(warm_up.epochs * steps) if in_epochs else warm_up.steps
        warm_up.steps, warm_up.epochs = min(wanted, half), None
        if wanted > half:
            run = f"more than half of this run ({epochs * steps} steps)"
            lines.append(f"{place}[1]: {wanted} steps of warm-up are {run}: shortened to {half}")
    if hasattr(decay, "max_epochs") and decay.max_epochs != epochs:
        outcome = "the rate ends on its way down"
        if decay.max_epochs < epochs:
            outcome = f"stretched to {epochs}, for the rest would train at the least rate"
        lines.append(f"{place}[0].max_epochs: a cosine of {decay.max_epochs} epochs in a run of {epochs}: {outcome}")
        decay.max_epochs = max(decay.max_epochs, epochs)
    if hasattr(decay, "milestones"):
        decay.values = decay.values and [value * factor for value in decay.values]
        changes = zip(decay.milestones, decay.gamma, strict=False)
        late = [str(epoch) for epoch, gamma in changes if epoch >= epochs and gamma != 1]
        if late:
            lines.append(f"{place}[0].milestones: a run of {epochs} epochs ends before {', '.join(late)}")
    return lines


def late_epochs(data: Mapping[str, Any], head: Any, epochs: int) -> list[str]:
    """Returns a line for each first phase of the training that lasts as long as the run of so many ``epochs``."""
    phases = {
        f"{type(head).__name__}.static_assigner_epoch": getattr(head, "static_assigner_epoch", 0),
        "TrainReader.mosaic_epoch": data["TrainReader"].get("mosaic_epoch") or 0,
    }
    whole = f"this first phase lasts the whole run of {epochs} epochs"
    return [f"{key} is {last}: {whole}" for key, last in phases.items() if last >= epochs]
