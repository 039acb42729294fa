"""How a detector's learning rate follows the length of its run: around ppdet's schedules, which do not know it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ppcls_ext.engine.plan import RateScale

EPOCHS = "epoch"
# Numbers that are shares of the run: they were written for the `epoch` of the file that states them.
LENGTHS = re.compile(
    r"LearningRate\.schedulers\[\d+\]\.epochs"
    r"|(?P<whole>LearningRate\.schedulers\[\d+\]\.(?:max_epochs|last_plateau_epochs|steps|milestones\[\d+\])"
    r"|(?:\w+\.)+static_assigner_epoch|TrainReader\.mosaic_epoch|freeze_epochs)"
)


def fit(rate: Any, epochs: int, steps: int, scale: RateScale) -> list[str]:
    """Fits a schedule to its run; returns what is said of it, a line each.

    A warm-up takes at most half of the run, and so does the plateau behind a cosine; a cosine is not shorter than the
    run, of which the rest would train at its least rate.

    Args:
        rate: ppdet's ``LearningRate``, changed in place before it is called.
        epochs: length of the run.
        steps: optimizer steps of an epoch.
        scale: what the rates are multiplied by.
    """
    rate.base_lr = float(rate.base_lr)
    lines = scale.notes(rate.base_lr)
    rate.base_lr *= scale.factor
    decay, *others = rate.schedulers
    run, warm_up = epochs * steps, 0
    if others and decay.use_warmup:
        first, half = others[0], math.ceil(run / 2)
        # Epochs of a warm-up may be a fraction here, which ppdet does not take.
        warm_up = first.steps if first.epochs is None else round(first.epochs * steps)
        if warm_up > half:
            lines.append(
                f"LearningRate.schedulers[1]: {warm_up} steps of warm-up are more than half of this run ({run} steps): "
                f"shortened to {half}"
            )
            warm_up = half
        first.steps, first.epochs = warm_up, None
    if hasattr(decay, "max_epochs"):
        lines += _fit_cosine(rate.base_lr, decay, epochs, steps, warm_up)
    if hasattr(decay, "milestones"):
        if decay.values is not None:
            decay.values = [value * scale.factor for value in decay.values]
        factors = zip(decay.milestones, decay.gamma, strict=False)
        late = [epoch for epoch, factor in factors if epoch >= epochs and factor != 1]
        if late:
            lines.append(f"LearningRate.schedulers[0].milestones: {_late(late, epochs)}: the rate stays there")
    return lines


def _fit_cosine(base: float, decay: Any, epochs: int, steps: int, warm_up: int) -> list[str]:
    key, lines = "LearningRate.schedulers[0]", []
    if decay.max_epochs < epochs:
        lines.append(
            f"{key}.max_epochs: the cosine ends after {decay.max_epochs} of {epochs} epochs, the rest would train at "
            f"its least rate: stretched to {epochs}"
        )
        decay.max_epochs = epochs
    plateau = getattr(decay, "last_plateau_epochs", 0)
    if plateau > epochs / 2:
        lines.append(
            f"{key}.last_plateau_epochs: {plateau} epochs at the least rate are more than half of this run ({epochs}): "
            f"shortened to {epochs // 2}"
        )
        decay.last_plateau_epochs = plateau = epochs // 2
    if decay.max_epochs > epochs:
        done = (epochs * steps - warm_up) / ((decay.max_epochs - plateau) * steps - warm_up)
        least = base * decay.min_lr_ratio
        last = least + (base - least) * (1 + math.cos(math.pi * min(done, 1.0))) / 2
        lines.append(
            f"{key}.max_epochs: the run ends after {epochs} of the {decay.max_epochs} epochs of its cosine, at a rate "
            f"of {last:.3g}"
        )
    return lines


def late_epochs(data: Mapping[str, Any], head: Any, epochs: int) -> list[str]:
    """Returns a line for each part of the training that would begin behind the end of the run.

    Args:
        data: of the configuration.
        head: the detector's head.
        epochs: length of the run.
    """
    lines = []
    static = getattr(head, "static_assigner_epoch", -1)
    if static >= epochs:
        key = f"{type(head).__name__}.static_assigner_epoch"
        lines.append(f"{key}: {_late([static], epochs)}: the static assigner is used throughout")
    mosaics = data["TrainReader"].get("mosaic_epoch")
    if mosaics is not None and mosaics >= epochs:
        lines.append(f"TrainReader.mosaic_epoch: {_late([mosaics], epochs)}: mosaics are made throughout")
    return lines


def _late(late: list[int], epochs: int) -> str:
    return f"{', '.join(map(str, late))} {'is' if len(late) == 1 else 'are'} not reached in a run of epoch {epochs}"
