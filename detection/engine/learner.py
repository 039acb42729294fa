"""What learns: ppdet's model, optimizer, learning rate and average, with everything of them that a checkpoint holds."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import paddle

from detection.engine.parts import Parts
from ppcls_ext.engine.checkpoint import export_optimizer_state, import_optimizer_state
from ppcls_ext.engine.environment import Environment
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import load_weights

logger = logging.getLogger(__name__)


class Learner:
    """One detector under training.

    Args:
        parts: model, optimizer, learning rate and average.
        settings: the configuration's data (``amp``, ``find_unused_parameters``, ``norm_type``).
        environment: device and ranks.
    """

    def __init__(self, parts: Parts, settings: dict[str, Any], environment: Environment) -> None:
        self.model, self.optimizer = parts.model, parts.optimizer
        self.rate, self.average = parts.rate, parts.average
        self.settings = settings
        # The average of a cycle (`cycle_epoch`) that has just ended, until the next one has its first step.
        self._finished_cycle: dict[str, np.ndarray] | None = None
        self._parallel = self._wrap(environment)
        self.uses_amp = bool(settings.get("amp", False)) and environment.on_gpu
        if settings.get("amp", False) and not environment.on_gpu:
            logger.info("amp needs a GPU: computing in float32 on the CPU")
        self.scaler = paddle.amp.GradScaler(
            enable=self.uses_amp, init_loss_scaling=float(settings.get("init_loss_scaling", 1024))
        )

    def _wrap(self, environment: Environment) -> paddle.nn.Layer:
        if environment.world_size == 1:
            return self.model
        if self.settings.get("norm_type") == "sync_bn":
            if environment.on_gpu:
                # In place: the layers of the model are exchanged, their parameters stay the optimizer's.
                self.model = paddle.nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
            else:
                logger.info("norm_type: sync_bn needs GPUs: each process norms its own batches")
        return paddle.DataParallel(
            self.model, find_unused_parameters=bool(self.settings.get("find_unused_parameters", False))
        )

    @property
    def optimizer_name(self) -> str:
        """Class of the optimizer, such as ``AdamW``."""
        return type(self.optimizer).__name__

    def train_mode(self) -> None:
        """Sets the training mode."""
        self._parallel.train()

    def train_batch(self, batch: dict[str, Any], epoch: int, seed: int) -> dict[str, float]:
        """Does one optimizer step.

        Args:
            batch: what the loader yields; ``image`` is ``[N, 3, H, W]``.
            epoch: the epoch under way from 0, by which ppdet's heads choose their assigner.
            seed: of the randomness inside the model, such as which paths are dropped.

        Returns:
            The losses by name, ``loss`` among them. Where that is not finite, no step was done.
        """
        paddle.seed(seed)
        try:
            with self._autocast():
                outputs = self._parallel({**batch, "epoch_id": epoch})
                loss = outputs["loss"]
        except ValueError:
            # Paddle's losses refuse scores that are not numbers before there is a loss to look at.
            if self._weights_are_finite():
                raise
            return {"loss": float("nan")}
        values = {name: float(value) for name, value in outputs.items() if name.startswith("loss")}
        if not np.isfinite(values["loss"]):
            return values
        self.scaler.scale(loss).backward()
        if self.uses_amp:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self.optimizer.clear_grad()
        self.rate.step()
        if self.average is not None:
            self.average.update()
            self._finished_cycle = None
        return values

    def _weights_are_finite(self) -> bool:
        return all(bool(paddle.isfinite(parameter).all()) for parameter in self.model.parameters())

    def _autocast(self) -> AbstractContextManager[Any]:
        if not self.uses_amp:
            return contextlib.nullcontext()
        settings = self.settings
        return paddle.amp.auto_cast(
            level=settings.get("amp_level", "O1"),
            custom_white_list=settings.get("custom_white_list"),
            custom_black_list=settings.get("custom_black_list"),
        )

    def current_rate(self) -> float:
        """Returns the learning rate of the next step."""
        return float(self.optimizer.get_lr())

    def averaged_state(self) -> dict[str, np.ndarray] | None:
        """Returns the averaged weights as they are evaluated, or ``None`` without an average."""
        if self.average is None:
            return None
        if self._finished_cycle is not None:
            return self._finished_cycle
        if self.average.step == 0:
            # Nothing was averaged yet, and ppdet's average begins with zeros.
            return as_arrays(self.model.state_dict())
        epoch, cycle_epoch = self.average.epoch, self.average.cycle_epoch
        # ppdet counts the calls of apply() and may start its average anew; looking must not change it.
        self.average.cycle_epoch = -1
        # It also freezes what is never averaged, and these are the model's own parameters.
        never_averaged = [self.average.state_dict[name] for name in self.average.ema_black_list]
        frozen = [parameter.stop_gradient for parameter in never_averaged]
        applied = as_arrays(self.average.apply())
        for parameter, was_frozen in zip(never_averaged, frozen, strict=True):
            parameter.stop_gradient = was_frozen
        self.average.epoch, self.average.cycle_epoch = epoch, cycle_epoch
        return applied

    def end_epoch(self) -> None:
        """Tells the average that an epoch ended; with ``cycle_epoch`` it begins anew now and then."""
        average = self.average
        if average is None or average.cycle_epoch <= 0:
            return
        average.epoch += 1
        if average.epoch == average.cycle_epoch:
            # What was evaluated is also what the checkpoint of this epoch has to hold.
            self._finished_cycle = self.averaged_state()
            average.reset()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Puts the average into the model, and the trained weights back afterwards, bit for bit."""
        average = self.averaged_state()
        if average is None:
            yield
            return
        trained = as_arrays(self.model.state_dict())
        load_weights(self.model, average)
        try:
            yield
        finally:
            load_weights(self.model, trained)

    def arrays(self) -> dict[str, dict[str, np.ndarray] | None]:
        """Returns the arrays of a checkpoint: ``model``, ``ema`` (as evaluated) and ``optimizer``.

        The running sums of ppdet's average are not what is evaluated, so they travel with the optimizer's state.
        """
        optimizer = export_optimizer_state(self.optimizer, list(self.model.named_parameters()))
        if self.average is not None:
            sums = as_arrays(self.average.state_dict)
            optimizer.update({f"{name}{AVERAGE_SUFFIX}": value for name, value in sums.items()})
        return {"model": as_arrays(self.model.state_dict()), "ema": self.averaged_state(), "optimizer": optimizer}

    def state(self) -> dict[str, Any]:
        """Returns the plain numbers of a checkpoint."""
        average = self.average
        return {
            "optimizer_name": self.optimizer_name,
            "rate_step": int(self.rate.last_epoch),
            "average": {"step": average.step, "epoch": average.epoch} if average is not None else None,
            "loss_scale": self._scaler_state() if self.uses_amp else None,
        }

    def _scaler_state(self) -> dict[str, float]:
        """Returns the loss scale, and the steps since it last changed."""
        state = self.scaler.state_dict()
        return {"scale": float(state["scale"][0]), **{name: int(state[name]) for name in SCALER_COUNTS}}

    def restore(self, state: dict[str, Any], arrays: dict[str, Any], where: str) -> None:
        """Takes over what :meth:`state` and :meth:`arrays` returned.

        Raises:
            UserError: something is missing or does not fit; the run would go on as another one.
        """
        load_weights(self.model, arrays["model"])
        self.rate.step(state["rate_step"])
        sums = {name.removesuffix(AVERAGE_SUFFIX): value for name, value in arrays["optimizer"].items()
                if name.endswith(AVERAGE_SUFFIX)}  # fmt: skip
        accumulators = {name: value for name, value in arrays["optimizer"].items() if not name.endswith(AVERAGE_SUFFIX)}
        import_optimizer_state(self.optimizer, list(self.model.named_parameters()), accumulators, where)
        if self.average is not None:
            self._restore_average(state["average"], sums, where)
        if self.uses_amp and state.get("loss_scale"):
            saved = state["loss_scale"]
            scale = np.array([saved["scale"]], dtype="float32")
            counts = {name: saved[name] for name in SCALER_COUNTS}
            self.scaler.load_state_dict({**self.scaler.state_dict(), "scale": scale, **counts})

    def _restore_average(self, state: dict[str, Any], sums: dict[str, np.ndarray], where: str) -> None:
        average = self.average
        missing = sorted(average.state_dict.keys() - sums.keys())
        if missing:
            raise UserError(f"{where}: its average lacks {missing[0]} and {len(missing) - 1} more; it cannot go on")
        # What is never averaged is the model's own tensor there, and has to stay it.
        averaged = {name: value for name, value in sums.items() if name not in average.ema_black_list}
        average.resume({name: paddle.to_tensor(value) for name, value in averaged.items()}, state["step"])
        average.epoch = state["epoch"]
        if state["step"]:
            average._decay = _decay_of_step(average, state["step"] - 1)


AVERAGE_SUFFIX = "/average"
SCALER_COUNTS = ("incr_count", "decr_count")


def _decay_of_step(average: Any, step: int) -> float:
    """Returns the factor of ppdet's average at update ``step`` from 0, which it remembers between two calls only."""
    if average.ema_decay_type == "threshold":
        return min(average.decay, (1 + step) / (10 + step))
    if average.ema_decay_type == "exponential":
        return average.decay * (1 - float(np.exp(-(step + 1) / 2000)))
    return average.decay


def as_arrays(state: dict[str, Any]) -> dict[str, np.ndarray]:
    """Copies tensors by name into arrays."""
    return {name: np.array(value.numpy(), copy=True) for name, value in state.items()}
