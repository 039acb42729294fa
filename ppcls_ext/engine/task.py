"""The interface between the training loop and what it trains, and the progress of a run.

A new kind of model is trained by a class derived from :class:`Task`; ``classification/task.py`` and
``detection/task.py`` are the two there are.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import yaml

from ppcls_ext.engine.checkpoint import Checkpoint
from ppcls_ext.engine.environment import Environment, sum_over_ranks
from ppcls_ext.engine.finetuning import FrozenStages
from ppcls_ext.engine.loader import Loader
from ppcls_ext.engine.plan import EarlyStopping, evaluated
from ppcls_ext.utils.config import changed_keys
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)

# Stands for a metric that nothing was measured by, such as AP where no box is annotated; metrics are 0 or more.
UNDEFINED = -1.0
# Changes of the configuration that a resumed run lists.
SHOWN_CHANGES = 20


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Settings of a run, alike for classifiers and detectors.

    Attributes:
        config: its data, by which a resumed run is compared with its checkpoint.
        config_text: the same as YAML, for the run's folder and its checkpoints.
        without_effect: beginnings of dotted keys that may change without any number of the run changing.
        epochs: how many to train.
        log_interval: batches between two lines of the log.
        eval_interval: epochs between two evaluations; the last epoch is always evaluated.
        save_interval: epochs between two checkpoints; the last and each best epoch are always saved.
        save_steps: batches between two checkpoints inside an epoch; 0 for none.
        keep_checkpoints: how many of the newest checkpoints stay, besides the best.
        loggers: who gets the curves, keys of `ppcls_ext.engine.loggers.LOGGERS`.
        cpu_kernels: ``auto`` or ``paddle``, see `ppcls_ext.engine.cpu.use_fast_kernels`.
        overrides: changes of the configuration that the command line made, for the report.
        early_stopping: when a run ends before its last epoch, or ``None``.
    """

    config: dict[str, Any]
    config_text: str
    without_effect: tuple[str, ...]
    epochs: int
    log_interval: int
    eval_interval: int
    save_interval: int
    save_steps: int
    keep_checkpoints: int
    loggers: Sequence[str]
    cpu_kernels: str = "auto"
    overrides: Sequence[str] = ()
    early_stopping: EarlyStopping | None = None


@dataclasses.dataclass
class StepResult:
    """Result of one batch.

    Attributes:
        loss: what is trained on. Where it is not finite, nothing was changed.
        sums: what adds up to the means of the epoch: losses and metrics by name, each times ``weight``.
        weight: what the sums count: images, or batches.
        shown: losses of this batch by name, for messages.
        rate: learning rate of the last optimizer step.
    """

    loss: float
    sums: dict[str, float]
    weight: float
    images: int
    shown: dict[str, float]
    rate: float


@dataclasses.dataclass
class EpochSums:
    """Sums over the batches of the present epoch on this process: losses and metrics by name, to be divided by
    ``weight`` (images, or batches), images, and the seconds over all sessions of an interrupted epoch.
    """

    values: dict[str, float] = dataclasses.field(default_factory=dict)
    weight: float = 0
    images: int = 0
    seconds: float = 0.0

    def add(self, result: StepResult) -> None:
        """Adds one batch."""
        for name, value in result.sums.items():
            self.values[name] = self.values.get(name, 0.0) + value
        self.weight += result.weight
        self.images += result.images

    def mean(self) -> dict[str, float]:
        """Returns mean losses and metrics, images per second, and the seconds they took."""
        means = {name: value / max(self.weight, 1) for name, value in self.values.items()}
        return {**means, "images_per_second": self.images / max(self.seconds, 1e-9), "seconds": self.seconds}

    def over_ranks(self, world_size: int) -> EpochSums:
        """Returns the sums over all processes; the seconds are this process's, for all work at the same time."""
        own = np.array([*self.values.values(), float(self.weight), float(self.images)])
        *values, weight, images = sum_over_ranks(own, world_size).tolist()
        return EpochSums(dict(zip(self.values, values, strict=True)), weight, int(images), self.seconds)


@dataclasses.dataclass
class RunProgress:
    """Where a run stands.

    Attributes:
        epoch: finished epochs.
        step: batches done in the epoch after these.
        updates: optimizer steps done.
        best_metric: best value so far of the task's metric, ``UNDEFINED`` while there is none.
        best_epoch: the epoch (from 1) it belongs to; where the metric is undefined the last one evaluated.
        evaluated_weights: ``ema`` or ``model``: which weights did better at the last evaluation; where there is
            none, a task's ``state`` may say it.
        history: one record for each finished epoch.
        patience_from: finished epochs whose evaluations early stopping does not wait for: those of another plan.
        sums: sums over the epoch under way.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    best_metric: float = UNDEFINED
    best_epoch: int = 0
    evaluated_weights: str = "model"
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    patience_from: int = 0
    sums: EpochSums = dataclasses.field(default_factory=EpochSums)

    def note_best(self, record: dict[str, Any], metric: str) -> bool:
        """Notes which weights of an epoch did better by ``metric``; tells whether it is the best epoch so far.

        Of epochs whose metric is undefined (``None``), or 0, the last one is the best; one with a metric is better.
        """
        plain, *averaged = [UNDEFINED if value is None else value for value in evaluated(record, metric)]
        self.evaluated_weights = "ema" if averaged and averaged[0] >= plain else "model"
        value = max([plain, *averaged])
        # Where nothing was measured or nothing was right so far, the last epoch has learnt most.
        if value <= self.best_metric and not value == self.best_metric <= 0:
            return False
        self.best_metric, self.best_epoch = value, record["epoch"]
        return True

    def to_json(self) -> dict[str, Any]:
        """Returns all as plain values; JSON keeps every bit of a Python float."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> RunProgress:
        """Takes over what :meth:`to_json` returned, also in an earlier version; other keys are left alone."""
        values = {field.name: state[field.name] for field in dataclasses.fields(cls) if field.name in state}
        # Detectors' checkpoints of earlier versions name the steps of the learning rate only, which are as many.
        values.setdefault("updates", state.get("rate_step", 0))
        return cls(**{**values, "sums": _sums_of(state)})


def _sums_of(state: dict[str, Any]) -> EpochSums:
    """Returns the sums in a checkpoint; in earlier versions classifiers and detectors had names of their own."""
    sums = state.get("sums", {})
    if "losses" in sums:
        return EpochSums(sums["losses"], sums["batches"], sums["images"], sums["seconds"])
    if "hits" in sums:
        right = {} if state.get("pretraining") else {"top1": sums["hits"]}
        values = {"loss": sums["loss"], **sums.get("parts", {}), **right} if sums["images"] else {}
        return EpochSums(values, sums["images"], sums["images"], sums["seconds"])
    return EpochSums(**sums)


class Task(abc.ABC):
    """Data, model, optimizer and metrics, as the training loop needs them.

    Attributes:
        options: what the configuration says of the run.
        environment: device, rank and seed.
        model: the layer that is evaluated and saved.
        optimizer: what updates it; ``None`` if the task does that itself.
        batches: the training data.
        update_freq: batches whose gradients make one optimizer step.
        frozen: stages that do not learn for a while, or ``None``.
        ema: the averaged weights, or ``None``.
        metric: name of the metric, of those that :meth:`evaluate` returns, by which the best epoch is chosen.
        advice: what helps when the loss is not finite, for the message.
        notes: what is said of the plan of the run before it begins, a line each.
    """

    options: RunOptions
    environment: Environment
    model: paddle.nn.Layer
    optimizer: paddle.optimizer.Optimizer | None = None
    batches: Loader
    update_freq: int = 1
    frozen: FrozenStages | None = None
    ema: Any = None
    metric: str
    advice: str
    notes: Sequence[str] = ()

    def networks(self) -> list[paddle.nn.Layer]:
        """Returns the networks that run in eager mode, for which fast CPU kernels are worth while."""
        return [self.model]

    @property
    def steps(self) -> int:
        """Batches of an epoch: whole updates only, as in PaddleClas."""
        return len(self.batches) // self.update_freq * self.update_freq

    def resume(self, checkpoint: Checkpoint) -> RunProgress:
        """Takes over a checkpoint and returns where the run stands; warns of what has changed in the configuration.

        Raises:
            UserError: it belongs to another run, lacks something that this one needs, or stands inside an epoch whose
                batches would now be cut otherwise.
        """
        state, where = checkpoint.state, f"checkpoint of epoch {checkpoint.state['epoch']}"
        self.check(checkpoint, where)
        now = self.data_order()
        # Earlier versions did not note whether they shuffle.
        before = {"shuffle": now.get("shuffle"), **state["data_order"]}
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        cut = "; ".join(f"{key} {before.get(key)} -> {now.get(key)}" for key in keys)
        if cut and state["step"]:
            raise UserError(
                f"{where}: stands inside an epoch whose batches are cut otherwise now ({cut}); "
                "resume with the old values or from a checkpoint at the end of an epoch"
            )
        if cut:
            logger.warning("%s: %s; the run goes on, but not to the same numbers", where, cut)
        old_config = self.options.config
        with contextlib.suppress(yaml.YAMLError):
            old_config = yaml.safe_load(checkpoint.config) or {}
        changed = changed_keys(old_config, self.options.config, self.options.without_effect)
        if changed:
            shown = "; ".join([*changed[:SHOWN_CHANGES], *(["..."] if len(changed) > SHOWN_CHANGES else [])])
            logger.warning("%s: the configuration has changed since: %s", where, shown)
        progress = RunProgress.from_json(state)
        if cut:
            # An epoch has another number of steps now; the learning rate follows the epochs, not the steps done.
            progress.updates = progress.epoch * (self.steps // self.update_freq)
        self.restore(checkpoint, progress.updates, where)
        return progress

    @abc.abstractmethod
    def describe(self) -> str:
        """Returns what is trained on what, for the first line of the log."""

    @abc.abstractmethod
    def start(self) -> None:
        """Loads the weights that a fresh run begins with, if the configuration names any."""

    @abc.abstractmethod
    def train_mode(self) -> None:
        """Puts the network into training mode."""

    @abc.abstractmethod
    def train_step(self, batch: dict[str, Any], progress: RunProgress) -> StepResult:
        """Does forward and backward pass of one batch, and the optimizer step if it is the last one of an update."""

    @abc.abstractmethod
    def evaluate(self) -> dict[str, dict[str, Any]] | None:
        """Returns metrics by name under ``eval`` and perhaps, for averaged weights, ``ema``; ``None`` without data.

        A metric may be ``None``: undefined, because nothing was there to measure it by.
        """

    @abc.abstractmethod
    def rate(self, updates: int) -> float:
        """Returns the learning rate that the record of an epoch shows, after so many optimizer steps."""

    @abc.abstractmethod
    def data_order(self) -> dict[str, Any]:
        """Returns what decides which images form batch k; a run inside an epoch resumes only where it agrees."""

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint holds of the task beside arrays, as JSON values."""

    @abc.abstractmethod
    def arrays(self) -> dict[str, dict[str, np.ndarray] | None]:
        """Returns the arrays of a checkpoint: ``model``, ``ema``, ``optimizer`` and perhaps ``auxiliary``."""

    @abc.abstractmethod
    def check(self, checkpoint: Checkpoint, where: str) -> None:
        """Raises a UserError if the checkpoint, called ``where``, belongs to another task than this one."""

    @abc.abstractmethod
    def restore(self, checkpoint: Checkpoint, updates: int, where: str) -> None:
        """Takes over what :meth:`state` and :meth:`arrays` returned, at optimizer step ``updates``."""

    @abc.abstractmethod
    def report(self) -> dict[str, Any]:
        """Returns the task's own part of ``report.json``."""

    @abc.abstractmethod
    def draw_curves(self, history: Sequence[dict[str, Any]], path: Path) -> None:
        """Draws the run's history into the PNG ``path``."""

    def begin(self, log: Callable[..., None]) -> None:  # noqa: B027 (not every task has something to do then)
        """Is called before the first batch of a run that is not over yet; ``log(kind, **values)`` writes a record."""

    def begin_epoch(self, epoch: int) -> None:
        """Is called in training mode before the first batch of an epoch, or where it is taken up; holds what is frozen.

        So the gradients, the batch norms and the average depend on the number of the epoch alone.
        """
        if self.frozen is not None:
            names = self.frozen.hold(epoch)
            if self.ema is not None:
                self.ema.hold(names)

    def logged(self, result: StepResult, sums: EpochSums) -> dict[str, float]:
        """Returns the figures that a line of the log shows: the means of the epoch so far."""
        return sums.mean()

    def image_names(self, batch: dict[str, Any]) -> list[str]:
        """Returns the names of the images in a batch, where they are known."""
        return []

    def end_epoch(self) -> None:  # noqa: B027
        """Is called after the last batch and the evaluation of an epoch, before its checkpoint."""

    def close(self) -> None:
        """Ends the loaders' worker processes."""
        self.batches.close()
