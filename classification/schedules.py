"""Learning rates as pure functions of the number of optimizer steps done, so that resuming needs no state.

Names and arguments are those of PaddleClas's YAML. Every schedule warms up linearly from ``warmup_start_lr`` to
``learning_rate`` during ``warmup_epoch`` epochs and then follows its own curve over the epochs that are left. So, as in
PaddleClas, the epochs of ``step_size``, ``milestones`` and ``decay_epochs`` count from the end of the warm-up.
"""

from __future__ import annotations

import bisect
import math
from abc import abstractmethod
from typing import Annotated

from pydantic import AfterValidator, PrivateAttr, model_validator

from ppcls_ext.utils.schema import NotNegative, Positive, Section


def _rising(values: list[int]) -> list[int]:
    if values != sorted(values):
        raise ValueError(f"must rise, got {values}")
    return values


Epochs = Annotated[list[int], AfterValidator(_rising)]
RATES = {"learning_rate", "warmup_start_lr", "eta_min", "end_lr", "values"}
# Lengths, from the end of the warm-up, after which the rate changes.
CHANGES = ("step_size", "milestones", "decay_epochs")


class Schedule(Section):
    """Base of all schedules; :meth:`over` fits one to a run.

    Args:
        learning_rate: the rate after the warm-up.
        warmup_epoch: length of the linear warm-up, in epochs; it takes at most half of the run.
        warmup_start_lr: the rate at step 0 of the warm-up.
        by_epoch: change the rate only at the beginning of an epoch.

    Raises:
        ValueError: a value is out of range.
    """

    learning_rate: NotNegative
    warmup_epoch: NotNegative = 0
    warmup_start_lr: NotNegative = 0.0
    by_epoch: bool = False
    # Of the run: its epochs, the optimizer steps in each, and those of the warm-up.
    _epochs: int = PrivateAttr(1)
    _steps: int = PrivateAttr(1)
    _warmup_steps: int = PrivateAttr(0)

    def over(self, epochs: int, steps_each_epoch: int, factor: float = 1.0) -> Schedule:
        """Returns this schedule for a run of so many epochs and optimizer steps in each, with every rate times
        ``factor``."""
        rates = {name: getattr(self, name) for name in RATES & type(self).model_fields.keys()}
        scaled = {name: [each * factor for each in rate] if isinstance(rate, list) else rate * factor
                  for name, rate in rates.items()}  # fmt: skip
        fitted = self.model_copy(update=scaled)
        fitted._epochs, fitted._steps = epochs, max(steps_each_epoch, 1)
        half = math.ceil(epochs * fitted._steps / 2)
        fitted._warmup_steps = min(round(self.warmup_epoch * fitted._steps), half)
        return fitted

    def notes(self) -> list[str]:
        """Returns a line for each length that does not fit the run, with what happens."""
        lines, steps, wanted = [], self._steps, round(self.warmup_epoch * self._steps)
        if wanted > self._warmup_steps:
            run = f"more than half of this run ({self._epochs * steps} steps): shortened to {self._warmup_steps}"
            lines.append(f"Optimizer.lr.warmup_epoch: {wanted} steps of warm-up are {run}")
        rest = self._epochs - self._warmup_steps / steps
        for name in CHANGES:
            values = getattr(self, name, [])
            late = [f"{each:g}" for each in (values if isinstance(values, list) else [values]) if each >= rest]
            if late:
                lines.append(f"Optimizer.lr.{name}: {rest:g} epochs after the warm-up end before {', '.join(late)}")
        return lines

    def rate_at(self, step: int) -> float:
        """Returns the learning rate of optimizer step ``step``, counted from 0."""
        if self.by_epoch:
            step = step // self._steps * self._steps
        if step < self._warmup_steps:
            return self.warmup_start_lr + (self.learning_rate - self.warmup_start_lr) * step / self._warmup_steps
        return self._rate_after_warmup(step)

    def _epochs_after_warmup(self, step: int) -> float:
        return (step - self._warmup_steps) / self._steps

    def _progress(self, step: int) -> float:
        """Returns how far the part after the warm-up has come, 0 to 1."""
        length = max(self._epochs * self._steps - self._warmup_steps, 1)
        return min((step - self._warmup_steps) / length, 1.0)

    @abstractmethod
    def _rate_after_warmup(self, step: int) -> float: ...


class Cosine(Schedule):
    """Half a cosine from ``learning_rate`` to ``eta_min`` (SGDR without restarts, arXiv 1608.03983, equation 5)."""

    eta_min: NotNegative = 0.0

    def _rate_after_warmup(self, step: int) -> float:
        return self.eta_min + (self.learning_rate - self.eta_min) * (1 + math.cos(math.pi * self._progress(step))) / 2


class ConstLR(Schedule):
    """``learning_rate`` throughout."""

    def _rate_after_warmup(self, step: int) -> float:
        return self.learning_rate


class Constant(ConstLR):
    """PaddleClas's second name for :class:`ConstLR`."""


class Linear(Schedule):
    """From ``learning_rate`` to ``end_lr`` along ``(1 - progress) ** power``."""

    end_lr: NotNegative = 0.0
    power: NotNegative = 1.0

    def _rate_after_warmup(self, step: int) -> float:
        return self.end_lr + (self.learning_rate - self.end_lr) * (1 - self._progress(step)) ** self.power


class Step(Schedule):
    """Times ``gamma`` every ``step_size`` epochs after the warm-up."""

    step_size: Positive
    gamma: NotNegative = 0.1

    def _rate_after_warmup(self, step: int) -> float:
        return self.learning_rate * self.gamma ** int(self._epochs_after_warmup(step) / self.step_size)


class MultiStepDecay(Schedule):
    """Times ``gamma`` at each of the epochs ``milestones`` after the warm-up."""

    milestones: Epochs
    gamma: NotNegative = 0.1

    def _rate_after_warmup(self, step: int) -> float:
        return self.learning_rate * self.gamma ** bisect.bisect_right(self.milestones, self._epochs_after_warmup(step))


class Piecewise(Schedule):
    """``values[i]`` from epoch ``decay_epochs[i - 1]`` to ``decay_epochs[i]`` after the warm-up.

    The warm-up rises to ``learning_rate``, or to the first of ``values`` where that is not given.
    """

    decay_epochs: Epochs
    values: list[NotNegative]
    learning_rate: NotNegative | None = None

    @model_validator(mode="after")
    def _match_lengths(self) -> Piecewise:
        values, epochs = len(self.values), len(self.decay_epochs)
        if values != epochs + 1:
            raise ValueError(f"values: needs one entry more than decay_epochs, got {values} and {epochs}")
        if self.learning_rate is None:
            self.learning_rate = self.values[0]
        return self

    def _rate_after_warmup(self, step: int) -> float:
        return self.values[bisect.bisect_right(self.decay_epochs, self._epochs_after_warmup(step))]


SCHEDULES: dict[str, type[Schedule]] = {
    schedule.__name__: schedule for schedule in (Cosine, ConstLR, Constant, Linear, Step, MultiStepDecay, Piecewise)
}
