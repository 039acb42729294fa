"""Learning rates as pure functions of the number of optimizer steps done, so that resuming needs no state.

Names and arguments are those of PaddleClas's YAML. Every schedule warms up linearly from ``warmup_start_lr`` to
``learning_rate`` during ``warmup_epoch`` epochs and then follows its own curve over the epochs that are left. So, as in
PaddleClas, the epochs of ``step_size``, ``milestones`` and ``decay_epochs`` count from the end of the warm-up.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from abc import ABC, abstractmethod

from ppcls_ext.utils.signature import Parameter, parameters_of

# The program knows these; YAML may not name them.
SUPPLIED = ("epochs", "steps_each_epoch")


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if value < 0:
            raise ValueError(f"{name}: must not be negative, got {value}")


def _rising(**values: list[int]) -> None:
    for name, value in values.items():
        if value != sorted(value):
            raise ValueError(f"{name}: must rise, got {value}")


@dataclasses.dataclass
class Schedule(ABC):
    """Base of all schedules; the fields are the keys of YAML.

    Args:
        epochs: epochs of the whole run.
        steps_each_epoch: optimizer steps in an epoch (batches divided by ``Global.update_freq``).
        learning_rate: the rate after the warm-up.
        warmup_epoch: length of the linear warm-up, in epochs.
        warmup_start_lr: the rate at step 0 of the warm-up.
        by_epoch: change the rate only at the beginning of an epoch.

    Raises:
        ValueError: a value is out of range; the message begins with the argument's name.
    """

    epochs: int
    steps_each_epoch: int
    _: dataclasses.KW_ONLY
    learning_rate: float
    warmup_epoch: float = 0
    warmup_start_lr: float = 0.0
    by_epoch: bool = False

    def __post_init__(self) -> None:
        _not_negative(learning_rate=self.learning_rate, warmup_start_lr=self.warmup_start_lr)
        if not 0 <= self.warmup_epoch <= self.epochs:
            raise ValueError(
                f"warmup_epoch: must lie between 0 and Global.epochs ({self.epochs}), got {self.warmup_epoch}"
            )
        self.steps_each_epoch = max(self.steps_each_epoch, 1)
        self._warmup_steps = round(self.warmup_epoch * self.steps_each_epoch)

    def rate_at(self, step: int) -> float:
        """Returns the learning rate of optimizer step ``step``, counted from 0."""
        if self.by_epoch:
            step = step // self.steps_each_epoch * self.steps_each_epoch
        if step < self._warmup_steps:
            return self.warmup_start_lr + (self.learning_rate - self.warmup_start_lr) * step / self._warmup_steps
        return self._rate_after_warmup(step)

    def _epochs_after_warmup(self, step: int) -> float:
        """Returns the epochs, with their fraction, that have passed since the warm-up ended."""
        return (step - self._warmup_steps) / self.steps_each_epoch

    def _progress(self, step: int) -> float:
        """Returns how far the part after the warm-up has come, 0 to 1."""
        length = max(self.epochs * self.steps_each_epoch - self._warmup_steps, 1)
        return min((step - self._warmup_steps) / length, 1.0)

    @abstractmethod
    def _rate_after_warmup(self, step: int) -> float: ...


@dataclasses.dataclass(kw_only=True)
class Cosine(Schedule):
    """Half a cosine from ``learning_rate`` to ``eta_min`` (SGDR without restarts, arXiv 1608.03983, equation 5)."""

    eta_min: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _not_negative(eta_min=self.eta_min)

    def _rate_after_warmup(self, step: int) -> float:
        return self.eta_min + (self.learning_rate - self.eta_min) * (1 + math.cos(math.pi * self._progress(step))) / 2


class ConstLR(Schedule):
    """``learning_rate`` throughout."""

    def _rate_after_warmup(self, step: int) -> float:
        return self.learning_rate


class Constant(ConstLR):
    """PaddleClas's second name for :class:`ConstLR`."""


@dataclasses.dataclass(kw_only=True)
class Linear(Schedule):
    """From ``learning_rate`` to ``end_lr`` along ``(1 - progress) ** power``."""

    end_lr: float = 0.0
    power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _not_negative(end_lr=self.end_lr, power=self.power)

    def _rate_after_warmup(self, step: int) -> float:
        return self.end_lr + (self.learning_rate - self.end_lr) * (1 - self._progress(step)) ** self.power


@dataclasses.dataclass(kw_only=True)
class Step(Schedule):
    """Times ``gamma`` every ``step_size`` epochs after the warm-up."""

    step_size: float
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size <= 0:
            raise ValueError(f"step_size: must be positive, got {self.step_size}")
        _not_negative(gamma=self.gamma)

    def _rate_after_warmup(self, step: int) -> float:
        return self.learning_rate * self.gamma ** int(self._epochs_after_warmup(step) / self.step_size)


@dataclasses.dataclass(kw_only=True)
class MultiStepDecay(Schedule):
    """Times ``gamma`` at each of the epochs ``milestones`` after the warm-up."""

    milestones: list[int]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        _rising(milestones=self.milestones)
        _not_negative(gamma=self.gamma)

    def _rate_after_warmup(self, step: int) -> float:
        return self.learning_rate * self.gamma ** bisect.bisect_right(self.milestones, self._epochs_after_warmup(step))


@dataclasses.dataclass(kw_only=True)
class Piecewise(Schedule):
    """``values[i]`` from epoch ``decay_epochs[i - 1]`` to ``decay_epochs[i]`` after the warm-up.

    The warm-up rises to ``learning_rate``, or to the first of ``values`` where that is not given.
    """

    decay_epochs: list[int]
    values: list[float]
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if len(self.values) != len(self.decay_epochs) + 1:
            raise ValueError(
                f"values: needs one entry more than decay_epochs, got {len(self.values)} and {len(self.decay_epochs)}"
            )
        _rising(decay_epochs=self.decay_epochs)
        if min(self.values) < 0:
            raise ValueError(f"values: must not be negative, got {self.values}")
        if self.learning_rate is None:
            self.learning_rate = self.values[0]
        super().__post_init__()

    def _rate_after_warmup(self, step: int) -> float:
        return self.values[bisect.bisect_right(self.decay_epochs, self._epochs_after_warmup(step))]


SCHEDULES: dict[str, type[Schedule]] = {
    schedule.__name__: schedule for schedule in (Cosine, ConstLR, Constant, Linear, Step, MultiStepDecay, Piecewise)
}


def schedule_parameters(name: str) -> dict[str, Parameter]:
    """Returns what YAML may say of the schedule ``name``."""
    return {key: value for key, value in parameters_of(SCHEDULES[name]).items() if key not in SUPPLIED}
