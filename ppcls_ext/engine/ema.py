"""Exponential moving average of weights and running statistics."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

import numpy as np
import paddle

from ppcls_ext.engine.cpu_update import move_averages


class ExponentialMovingAverage:
    """Keeps ``average = d * average + (1 - d) * value`` for every floating-point entry of a model's state.

    ``d`` rises with the number ``n`` of updates as ``min(decay, (1 + n) / (10 + n))``, so that the average of a short
    run does not remember its random start (the rule of TensorFlow's ``ExponentialMovingAverage``).

    The state of ``model`` is read at every update.
    """

    def __init__(self, model: paddle.nn.Layer, decay: float) -> None:
        self._model, self.decay, self.updates = model, decay, 0
        self._held: frozenset[str] = frozenset()
        values = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
        self.average = {name: value.detach().clone().astype("float32") for name, value in values.items()}

    @paddle.no_grad()
    def update(self) -> None:
        """Moves the average towards the model's present state."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        values = self._model.state_dict()
        names = [name for name in self.average if name not in self._held]
        if move_averages([self.average[name] for name in names], [values[name] for name in names], decay):
            return
        for name in names:
            self.average[name].scale_(decay)
            self.average[name].add_(values[name].detach().astype("float32") * (1 - decay))

    @paddle.no_grad()
    def hold(self, names: Collection[str]) -> None:
        """Keeps entries that do not change in training (frozen ones) as the model has them: averaging would round."""
        values = self._model.state_dict()
        self._held = frozenset(names)
        for name in self._held & self.average.keys():
            self.average[name].set_value(values[name].astype("float32"))

    def state(self) -> dict[str, np.ndarray]:
        """Returns the averaged state as arrays, complete: entries that are not averaged are the model's."""
        return {name: value.numpy() for name, value in {**self._model.state_dict(), **self.average}.items()}

    def restore(self, state: dict[str, np.ndarray], updates: int) -> None:
        """Takes over a state that :meth:`state` returned."""
        for name, value in self.average.items():
            value.set_value(state[name].astype("float32"))
        self.updates = updates

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Puts the average into the model for evaluation, and the trained state back afterwards, bit for bit."""
        current = self._model.state_dict()
        trained = {name: current[name].detach().clone() for name in self.average}
        try:
            for name, value in self.average.items():
                current[name].set_value(value.astype(current[name].dtype))
            yield
        finally:
            for name, value in trained.items():
                current[name].set_value(value)
