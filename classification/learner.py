"""Model, optimizer, precision and average together: what learns from a batch, and what a checkpoint must hold of it."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import numpy as np
import paddle

from classification.build import build_network
from classification.config import Config
from classification.distillation import Distillation
from classification.ema import ExponentialMovingAverage
from classification.precision import Precision
from ppcls_ext.arch.outputs import logits_of
from ppcls_ext.engine.checkpoint import export_optimizer_state, import_optimizer_state
from ppcls_ext.engine.environment import Environment, derive_seed, seed_everything
from ppcls_ext.weights import load_weights


@dataclasses.dataclass
class Answer:
    """What a training pass gives.

    Attributes:
        logits: ``[N, class_num]``.
        loss: what is trained on, a scalar.
        parts: the losses that it is made of, scalars by name; empty where there is but one.
    """

    logits: paddle.Tensor
    loss: paddle.Tensor
    parts: dict[str, paddle.Tensor] = dataclasses.field(default_factory=dict)


class Learner:
    """Learns from batches.

    Args:
        config: the configuration; needs ``Arch``, ``Optimizer`` and ``Loss.Train``.
        environment: device, rank and seed.
        updates_each_epoch: optimizer steps in an epoch.
        update_freq: batches whose gradients make one optimizer step.

    Attributes:
        model: the plain layer that is evaluated and saved.
        network: the same weights as the training pass sees them: compiled, or wrapped for several processes.
        distillation: the teacher and its losses, or ``None``.
    """

    def __init__(self, config: Config, environment: Environment, updates_each_epoch: int, update_freq: int) -> None:
        assert config.optimizer is not None and config.train_loss is not None
        self.environment = environment
        self.update_freq = update_freq
        self.updates_each_epoch = updates_each_epoch
        self.loss = config.train_loss
        self.freeze_norm = config.run.freeze_norm
        self.optimizer_name = type(config.optimizer.settings).__name__
        # The same seed on every rank, so that all start from the same weights.
        seed_everything(derive_seed(environment.seed, "model"))
        self.model = build_network(config, environment.on_gpu)
        self.distillation = Distillation(config, self.model, environment) if config.distillation else None
        self.named_parameters = list(self.model.named_parameters())
        if self.distillation is not None:
            self.named_parameters += self.distillation.named_parameters()
        self.schedule = config.optimizer.build_schedule(config.run.epochs, updates_each_epoch)
        optimizer = config.optimizer.settings.build(self.named_parameters)
        self.precision = Precision(config.amp, config.run.amp_dtype, environment.on_gpu)
        self.model, self.optimizer = self.precision.decorate(self.model, optimizer)
        self.ema: ExponentialMovingAverage | None = None
        self._ema_decay = config.ema.decay if config.ema else None
        self.network = self._wrap(config)

    def _wrap(self, config: Config) -> paddle.nn.Layer:
        network = self.model if self.distillation is None else self.distillation.network
        if config.run.to_static:
            specification = paddle.static.InputSpec([None, *config.run.image_shape], "float32", name="image")
            # Without full_graph Paddle compiles piece by piece and ignores the specification.
            network = paddle.jit.to_static(network, input_spec=[specification], full_graph=True)
        return paddle.DataParallel(network) if self.environment.world_size > 1 else network

    def start(self) -> None:
        """Begins the average; call it once the model has its first weights."""
        if self._ema_decay is not None:
            self.ema = ExponentialMovingAverage(self.model, self._ema_decay)

    def train_mode(self) -> None:
        """Puts the network into training mode; ``Global.freeze_norm`` keeps the running statistics of batch norms."""
        self.network.train()
        if self.freeze_norm:
            for layer in self.network.sublayers():
                if isinstance(layer, paddle.nn.layer.norm._BatchNormBase):
                    layer.eval()

    def forward(self, batch: dict[str, Any], seed: int) -> Answer:
        """Returns logits ``[N, class_num]`` and the loss.

        Args:
            batch: ``image`` ``[N, 3, H, W]``, ``label`` and ``label_mixed`` ``[N]``, ``lam`` a scalar.
            seed: all randomness of the pass (dropped paths) follows from it.
        """
        with self.precision.autocast():
            lesson = self.distillation.teach(batch["image"]) if self.distillation else None
            seed_everything(seed)
            output = self.network(batch["image"])
        logits = logits_of(output)
        loss = self.loss(logits, batch["label"], batch["label_mixed"], float(batch["lam"]))
        if self.distillation is None or lesson is None:
            return Answer(logits, loss)
        features = output[1] if lesson.features else []
        return Answer(logits, *self.distillation.losses(loss, logits, features, lesson))

    def exchange(self, closes_update: bool) -> contextlib.AbstractContextManager[Any]:
        """Returns the context of a forward and backward pass: only an update's last batch exchanges gradients."""
        if self.environment.world_size > 1 and not closes_update:
            return self.network.no_sync()
        return contextlib.nullcontext()

    def backward(self, loss: paddle.Tensor) -> None:
        """Adds the gradient of one batch, its share of an update."""
        self.precision.backward(loss / self.update_freq)

    def update(self, number: int) -> None:
        """Does optimizer step ``number`` (from 0) with the gradients gathered since the last one."""
        self.optimizer.set_lr(self.schedule.rate_at(number))
        self.precision.step(self.optimizer)
        self.optimizer.clear_grad()
        if self.ema is not None:
            self.ema.update()

    def state(self) -> dict[str, Any]:
        """Returns the small part of the state, as JSON values."""
        return {
            "optimizer_name": self.optimizer_name,
            "weight_precision": self.precision.weights,
            "loss_scaler": self.precision.state(),
            "ema_updates": self.ema.updates if self.ema else 0,
        }

    def arrays(self) -> dict[str, dict[str, np.ndarray] | None]:
        """Returns ``model``, ``ema``, ``optimizer`` and ``auxiliary`` (projections) as arrays by structured name."""
        return {
            "model": {name: _as_array(value) for name, value in self.model.state_dict().items()},
            "ema": self.ema.state() if self.ema else None,
            "optimizer": export_optimizer_state(self.optimizer, self.named_parameters),
            "auxiliary": self.distillation.arrays() if self.distillation else None,
        }

    def restore(self, state: dict[str, Any], arrays: dict[str, dict[str, np.ndarray] | None], where: str) -> None:
        """Takes over what :meth:`state` and :meth:`arrays` returned.

        Raises:
            UserError: names or shapes do not fit this model.
        """
        load_weights(self.model, arrays["model"] or {})
        if self.distillation is not None:
            self.distillation.restore(arrays.get("auxiliary"))
        self.start()
        import_optimizer_state(self.optimizer, self.named_parameters, arrays["optimizer"] or {}, where)
        self.precision.restore(state.get("loss_scaler", {}))
        if self.ema is not None and arrays["ema"] is not None:
            self.ema.restore(arrays["ema"], state["ema_updates"])


def _as_array(value: paddle.Tensor) -> np.ndarray:
    # Low-precision weights (AMP O2) are widened, since NumPy knows no bfloat16.
    if value.dtype in (paddle.float16, paddle.bfloat16):
        value = value.astype("float32")
    return value.numpy()
