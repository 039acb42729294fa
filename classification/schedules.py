"""Learning rates as pure functions of the number of optimizer steps done, so that resuming needs no state.

Names and arguments are those of PaddleClas's YAML. Every schedule warms up linearly from ``warmup_start_lr`` to
``learning_rate`` during ``warmup_epoch`` epochs and then follows its own curve over the epochs that are left. So, as in
PaddleClas, the epochs of ``step_size``, ``milestones`` and ``decay_epochs`` count from the end of the warm-up.
"""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod

from ppcls_ext.common.signature import Parameter, parameters_of

# The program knows these; YAML may not name them.
SUPPLIED = ("epochs", "steps_each_epoch")


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if value < 0:
            raise ValueError(f"{name}: must not be negative, got {value}")


class Schedule(ABC):
    """Base of all schedules.

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

    def __init__(
        self,
        epochs: int,
        steps_each_epoch: int,
        learning_rate: float,
        warmup_epoch: float = 0,
        warmup_start_lr: float = 0.0,
        by_epoch: bool = False,
    ) -> None:
        _not_negative(learning_rate=learning_rate, warmup_start_lr=warmup_start_lr)
        if not 0 <= warmup_epoch <= epochs:
            raise ValueError(f"warmup_epoch: must lie between 0 and Global.epochs ({epochs}), got {warmup_epoch}")
        self.learning_rate = learning_rate
        self.steps_each_epoch = max(steps_each_epoch, 1)
        self.warmup_steps = round(warmup_epoch * self.steps_each_epoch)
        self.warmup_start_lr = warmup_start_lr
        self.total_steps = max(epochs * self.steps_each_epoch, 1)
        self.by_epoch = by_epoch

    def rate_at(self, step: int) -> float:
        """Returns the learning rate of optimizer step ``step``, counted from 0."""
        if self.by_epoch:
            step = step // self.steps_each_epoch * self.steps_each_epoch
        if step < self.warmup_steps:
            return self.warmup_start_lr + (self.learning_rate - self.warmup_start_lr) * step / self.warmup_steps
        return self._rate_after_warmup(step)

    def _epochs_after_warmup(self, step: int) -> float:
        """Returns the epochs, with their fraction, that have passed since the warm-up ended."""
        return (step - self.warmup_steps) / self.steps_each_epoch

    def _progress(self, step: int) -> float:
        """Returns how far the part after the warm-up has come, 0 to 1."""
        length = max(self.total_steps - self.warmup_steps, 1)
        return min((step - self.warmup_steps) / length, 1.0)

    @abstractmethod
    def _rate_after_warmup(self, step: int) -> float: ...


class Cosine(Schedule):
    """Half a cosine from ``learning_rate`` to ``eta_min`` (SGDR without restarts, arXiv 1608.03983, equation 5)."""

    def __init__(
        self,
        epochs: int,
        steps_each_epoch: int,
        learning_rate: float,
        eta_min: float = 0.0,
        warmup_epoch: float = 0,
        warmup_start_lr: float = 0.0,
        by_epoch: bool = False,
    ) -> None:
        super().__init__(epochs, steps_each_epoch, learning_rate, warmup_epoch, warmup_start_lr, by_epoch)
        _not_negative(eta_min=eta_min)
        self.eta_min = eta_min

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

    def __init__(
        self,
        epochs: int,
        steps_each_epoch: int,
        learning_rate: float,
        end_lr: float = 0.0,
        power: float = 1.0,
        warmup_epoch: float = 0,
        warmup_start_lr: float = 0.0,
        by_epoch: bool = False,
    ) -> None:
        super().__init__(epochs, steps_each_epoch, learning_rate, warmup_epoch, warmup_start_lr, by_epoch)
        _not_negative(end_lr=end_lr, power=power)
        self.end_lr = end_lr
        self.power = power

    def _rate_after_warmup(self, step: int) -> float:
        return self.end_lr + (self.learning_rate - self.end_lr) * (1 - self._progress(step)) ** self.power


class Step(Schedule):
    """Times ``gamma`` every ``step_size`` epochs after the warm-up."""

    def __init__(
        self,
        epochs: int,
        steps_each_epoch: int,
        learning_rate: float,
        step_size: float,
        gamma: float = 0.1,
        warmup_epoch: float = 0,
        warmup_start_lr: float = 0.0,
        by_epoch: bool = False,
    ) -> None:
        super().__init__(epochs, steps_each_epoch, learning_rate, warmup_epoch, warmup_start_lr, by_epoch)
        if step_size <= 0:
            raise ValueError(f"step_size: must be positive, got {step_size}")
        _not_negative(gamma=gamma)
        self.step_size = step_size
        self.gamma = gamma

    def _rate_after_warmup(self, step: int) -> float:
        return self.learning_rate * self.gamma ** int(self._epochs_after_warmup(step) / self.step_size)


class MultiStepDecay(Schedule):
    """Times ``gamma`` at each of the epochs ``milestones`` after the warm-up."""

    def __init__(
        self,
        epochs: int,
        steps_each_epoch: int,
        learning_rate: float,
        milestones: list[int],
        gamma: float = 0.1,
        warmup_epoch: float = 0,
        warmup_start_lr: float = 0.0,
        by_epoch: bool = False,
    ) -> None:
        super().__init__(epochs, steps_each_epoch, learning_rate, warmup_epoch, warmup_start_lr, by_epoch)
        if milestones != sorted(milestones):
            raise ValueError(f"milestones: must rise, got {milestones}")
        _not_negative(gamma=gamma)
        self.milestones = milestones
        self.gamma = gamma

    def _rate_after_warmup(self, step: int) -> float:
        return self.learning_rate * self.gamma ** bisect.bisect_right(self.milestones, self._epochs_after_warmup(step))


class Piecewise(Schedule):
    """``values[i]`` from epoch ``decay_epochs[i - 1]`` to ``decay_epochs[i]`` after the warm-up."""

    def __init__(
        self,
        epochs: int,
        steps_each_epoch: int,
        decay_epochs: list[int],
        values: list[float],
        learning_rate: float | None = None,
        warmup_epoch: float = 0,
        warmup_start_lr: float = 0.0,
        by_epoch: bool = False,
    ) -> None:
        if len(values) != len(decay_epochs) + 1:
            raise ValueError(
                f"values: needs one entry more than decay_epochs, got {len(values)} and {len(decay_epochs)}"
            )
        if decay_epochs != sorted(decay_epochs):
            raise ValueError(f"decay_epochs: must rise, got {decay_epochs}")
        if min(values) < 0:
            raise ValueError(f"values: must not be negative, got {values}")
        rate = values[0] if learning_rate is None else learning_rate
        super().__init__(epochs, steps_each_epoch, rate, warmup_epoch, warmup_start_lr, by_epoch)
        self.decay_epochs = decay_epochs
        self.values = values

    def _rate_after_warmup(self, step: int) -> float:
        return self.values[bisect.bisect_right(self.decay_epochs, self._epochs_after_warmup(step))]


SCHEDULES: dict[str, type[Schedule]] = {
    schedule.__name__: schedule for schedule in (Cosine, ConstLR, Constant, Linear, Step, MultiStepDecay, Piecewise)
}


def schedule_parameters(name: str) -> dict[str, Parameter]:
    """Returns what YAML may say of the schedule ``name``."""
    return {key: value for key, value in parameters_of(SCHEDULES[name]).items() if key not in SUPPLIED}
