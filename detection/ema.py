"""ppdet's exponential moving average, with the interface of ``ppcls_ext.engine.ema`` and resumable to the same bits.

Classifiers average otherwise: ppdet begins with zeros and corrects for them, and knows entries that are never averaged,
so the detectors' figures need its own class.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import paddle

from ppcls_ext.engine.cpu_update import move_averages
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import load_weights


class DetectorEMA:
    """The averaged weights of a detector.

    Args:
        model: the detector that is trained.
        average: its ``ppdet.optimizer.ModelEMA``.
    """

    def __init__(self, model: paddle.nn.Layer, average: Any) -> None:
        self.model, self.average = model, average
        self._held: list[str] = []

    def update(self) -> None:
        """Moves the average towards the model's present state."""
        average, values = self.average, self.model.state_dict()
        decay = self._decay_of(average.step + 1)
        names = [name for name in average.state_dict if name not in average.ema_black_list]
        if move_averages([average.state_dict[name] for name in names], [values[name] for name in names], decay):
            average._decay = decay
            average.step += 1
        else:
            average.update()

    def hold(self, names: Collection[str]) -> None:
        """Evaluates and saves entries that do not change now as they are: ppdet's sums are not exact.

        The sums themselves go on, as those of all other entries do.
        """
        self._held = list(names)

    def _decay_of(self, step: int) -> float:
        """Returns the factor of ppdet's update number ``step``, from 1."""
        average = self.average
        return {
            "threshold": min(average.decay, step / (9 + step)),
            "exponential": average.decay * (1 - float(np.exp(-step / 2000))),
        }.get(average.ema_decay_type, average.decay)

    def state(self) -> dict[str, np.ndarray]:
        """Returns the averaged weights as they are evaluated."""
        average = self.average
        if average.step == 0:
            # Nothing was averaged yet, and ppdet's average begins with zeros.
            return as_arrays(self.model.state_dict())
        # ppdet also freezes what is never averaged, and these are the model's own parameters.
        never_averaged = [average.state_dict[name] for name in average.ema_black_list]
        frozen = [parameter.stop_gradient for parameter in never_averaged]
        values = self.model.state_dict()
        applied = as_arrays(average.apply() | {name: values[name] for name in self._held})
        for parameter, was_frozen in zip(never_averaged, frozen, strict=True):
            parameter.stop_gradient = was_frozen
        return applied

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Puts the average into the model, and the trained weights back afterwards, bit for bit."""
        average = self.state()
        trained = as_arrays(self.model.state_dict())
        load_weights(self.model, average)
        try:
            yield
        finally:
            load_weights(self.model, trained)

    def sums(self) -> dict[str, np.ndarray]:
        """Returns ppdet's running sums, which are not what is evaluated."""
        return as_arrays(self.average.state_dict)

    def counts(self) -> dict[str, int]:
        """Returns ``step``, the number of updates."""
        return {"step": self.average.step}

    def restore(self, sums: dict[str, np.ndarray], counts: dict[str, int], where: str) -> None:
        """Takes over what :meth:`sums` and :meth:`counts` returned.

        Raises:
            UserError: something is missing in the checkpoint, which is called ``where``.
        """
        average, step = self.average, counts["step"]
        missing = sorted(average.state_dict.keys() - sums.keys())
        if missing:
            raise UserError(f"{where}: its average lacks {missing[0]} and {len(missing) - 1} more; it cannot go on")
        # What is never averaged is the model's own tensor there, and has to stay it.
        averaged = {name: value for name, value in sums.items() if name not in average.ema_black_list}
        average.resume({name: paddle.to_tensor(value) for name, value in averaged.items()}, step)
        if step:
            # The factor of the last update, which ppdet remembers between two calls only.
            average._decay = self._decay_of(step)


def as_arrays(state: dict[str, Any]) -> dict[str, np.ndarray]:
    """Copies tensors by name into arrays."""
    return {name: np.array(value.numpy(), copy=True) for name, value in state.items()}
