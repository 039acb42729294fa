"""A classifier under training: data, model, optimizer, training step and evaluation, as the shared loop needs them."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from classification import build
from classification.config import Config
from classification.distillation import Distillation, find_teacher
from classification.evaluation import BAD_IMAGES_KEY, evaluate
from classification.metrics import TopkAcc
from ppcls_ext.arch.flops import count_parameters
from ppcls_ext.arch.outputs import logits_of
from ppcls_ext.arch.registry import list_models
from ppcls_ext.engine.bad_images import BadImages
from ppcls_ext.engine.checkpoint import (
    Checkpoint,
    export_optimizer_state,
    import_optimizer_state,
    value_range_to_continue,
)
from ppcls_ext.engine.class_balance import settle_class_weights
from ppcls_ext.engine.ema import ExponentialMovingAverage
from ppcls_ext.engine.environment import (
    Environment,
    broadcast_buffers,
    derive_seed,
    prepare_environment,
    seed_everything,
)
from ppcls_ext.engine.finetuning import fine_tune, trunk_of
from ppcls_ext.engine.loggers import require_packages
from ppcls_ext.engine.plan import scale_rate
from ppcls_ext.engine.precision import Precision
from ppcls_ext.engine.recorder import RunFolder
from ppcls_ext.engine.task import RunOptions, RunProgress, StepResult, Task
from ppcls_ext.engine.trainer import Trainer
from ppcls_ext.preprocess import depth
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.plots import draw_curves
from ppcls_ext.weights import find_weights, load_weights

logger = logging.getLogger(__name__)

# Keys that may change without any number of the run changing.
WITHOUT_EFFECT = (
    "Global.checkpoints", "Global.device", "Global.eval_during_train", "Global.eval_interval",
    "Global.keep_checkpoints", "Global.log_ranks", "Global.loggers", "Global.max_bad_images", "Global.output_dir",
    "Global.pretrained_model", "Global.print_batch_step", "Global.save_", "Global.use_visualdl",
    "Pretraining.picture_interval",
    "DataLoader.Train.loader", "Distillation.evaluate_teacher", "Distillation.teacher.onnx",
    "Distillation.teacher.pretrained", "DataLoader.Eval", "Infer",
)  # fmt: skip


def train_config(
    config: Config, environment: Environment | None = None, resume: str | None = None,
    task: type[ClassificationTask] | None = None,
) -> dict[str, Any]:
    """Trains a classifier, or what ``task`` says; returns the report that also stands in ``report.json``. See
    :func:`classification.train`.

    ``environment`` is that of the configuration unless given; without ``resume`` ``Global.checkpoints`` counts.
    """
    require_sections(config)
    require_packages(config.run.all_loggers, "Global.loggers")
    environment = environment or prepare_environment(config.run.device, config.run.seed)
    resume = resume or config.run.checkpoints
    with RunFolder(config.output_dir, environment.is_main, resume=resume) as folder:
        if resume is None and config.run.pretrained_model:
            find_weights(config.run.pretrained_model)  # what is missing is told before the data are read
        config = config.with_depth(value_range_to_continue(config.document.data, resume, folder.checkpoints))
        return Trainer((task or ClassificationTask)(config, environment), folder, resume).run()


def require_sections(config: Config) -> None:
    """Raises a UserError if a section that training needs is missing, or the teacher's weights are."""
    needed = {"DataLoader.Train": config.train, "Optimizer": config.optimizer}
    if config.pretraining is None:
        needed["Loss.Train"] = config.train_loss
    missing = [key for key, value in needed.items() if value is None]
    if missing:
        raise UserError(f"{config.document.path}: training needs {', '.join(missing)}")
    find_teacher(config)


@dataclasses.dataclass
class TrainOutput:
    """Logits ``[N, class_num]`` of a training pass, the loss, and the losses that it is made of if they are several."""

    logits: paddle.Tensor
    loss: paddle.Tensor
    parts: dict[str, paddle.Tensor] = dataclasses.field(default_factory=dict)


class ClassificationTask(Task):
    """Trains the network of ``Arch``; the configuration has passed :func:`require_sections`.

    Attributes:
        network: the weights of ``model`` as the training pass sees them: compiled, or wrapped for several processes.
        auxiliary: what is trained beside the network; it stands in checkpoints, for resuming only.
        distillation: the teacher and its losses, or ``None``.
        ema: the averaged weights, or ``None``; set by :meth:`start` and :meth:`restore`.

    Raises:
        UserError: data are missing, their labels do not fit, or the network refuses its arguments.
    """

    # Tells the parameters and the optimizer's state of what is thrown away from the network's.
    auxiliary_prefix = "distillation."
    kernels_key = "Global.cpu_kernels"
    advice = "try a lower Optimizer.lr.learning_rate, a longer warmup_epoch or Optimizer.clip_norm"

    def __init__(self, config: Config, environment: Environment) -> None:
        assert config.train is not None
        self.dataset = build.build_dataset(config, config.train)
        # From here on the range of the samples is a number, in all that is written too.
        images, seed = len(self.dataset), environment.seed
        statement = depth.resolve_auto_range(
            config.document.data, lambda index: self.dataset.load(index)[0], images, seed
        )
        config = config.with_depth(statement)
        assert config.train is not None and config.optimizer is not None
        run = config.run
        self.config, self.environment = config, environment
        self.options = RunOptions(
            config.document.data, config.to_yaml(), WITHOUT_EFFECT, run.epochs, run.print_batch_step,
            run.eval_interval, run.save_interval, run.save_steps, run.keep_checkpoints, run.all_loggers,
            run.cpu_kernels, config.document.overrides, run.early_stopping,
        )  # fmt: skip
        self.metric = config.metrics[0].names[0]
        self._open_data()
        if run.early_stopping is not None and self.eval_batches is None:
            needed = "nothing is evaluated that it could follow: it needs DataLoader.Eval and Global.eval_during_train"
            raise UserError(config.document.problem("Global.early_stopping", needed))
        # The same seed on every rank, so that all start from the same weights.
        seed_everything(derive_seed(environment.seed, "model"))
        self.model = build.build_network(config, environment.on_gpu)
        self.distillation: Distillation | None = None
        self.teacher: dict[str, Any] | None = None
        self.auxiliary = self.build_auxiliary()
        others = ((self.auxiliary_prefix + name, value) for name, value in self.auxiliary.named_parameters())
        self.named_parameters = [*self.model.named_parameters(), *others]
        images = self.batches.sampler.global_batch_size * self.update_freq
        rate, steps = config.optimizer.schedule.learning_rate, self.steps // self.update_freq
        factor, notes, self.scaling = scale_rate(rate, run.tuned_batch_size, images, "Global.tuned_batch_size")
        self.schedule = config.optimizer.schedule.over(run.epochs, steps, factor)
        self.notes = [*config.document.notes, *notes, *self.schedule.notes()]
        optimizer = config.optimizer.settings.build(self.named_parameters)
        self.optimizer_name = type(config.optimizer.settings).__name__
        self.precision = Precision(config.amp, run.amp_dtype, environment.on_gpu)
        self.model, self.optimizer = self.precision.decorate(self.model, optimizer)
        known = ", ".join(list_models())
        self.frozen = fine_tune(self.model, trunk_of(self.model), known, run, config.document.problem, "Global.")
        self.ema: ExponentialMovingAverage | None = None
        self.network = self._wrap()

    def build_auxiliary(self) -> paddle.nn.Layer:
        """Builds what is trained beside the network and thrown away: projections to the teacher's widths, if any."""
        config = self.config
        if config.distillation is None:
            return paddle.nn.LayerDict()
        self.distillation = Distillation(config, self.model, self.environment)
        self.teacher = dict(self.distillation.identity)
        names, place = self.distillation.class_names, self.teacher["weights"]
        build.check_same_classes(names, place, self.dataset.class_names, f"{config.train.key}.dataset")
        self.distillation.use_cache(config, self.dataset, self.environment)
        return self.distillation.projections

    def _open_data(self) -> None:
        """Opens the batches and, if the run evaluates, the evaluation data, whose labels must mean the same."""
        config, run, environment = self.config, self.config.run, self.environment
        self.class_names = build.read_class_names(config, self.dataset)
        names = build.names_of_all_classes(config, self.class_names)
        factors, self.class_weights = build.sampling_factors(config, self.dataset, names), None
        if run.class_weights is not None:
            counts = np.bincount(self.dataset.labels, factors, len(names))
            problem = partial(config.document.problem, "Global.class_weights")
            self.class_weights = paddle.to_tensor(settle_class_weights(run.class_weights, names, counts, problem))
        self.batches = build.build_batches(config, config.train, self.dataset, environment, True, factors)
        self.bad_images = BadImages(self.dataset, run.max_bad_images, BAD_IMAGES_KEY)
        self.eval_batches, self.bad_eval_images = None, None
        if run.eval_during_train and config.eval is not None:
            dataset = build.build_evaluation_dataset(config, self.dataset)
            place, eval_place = f"{config.train.key}.dataset", f"{config.eval.key}.dataset"
            build.check_same_classes(self.dataset.class_names, place, dataset.class_names, eval_place)
            self.eval_batches = build.build_batches(config, config.eval, dataset, environment, training=False)
            self.bad_eval_images = BadImages(dataset, run.max_bad_images, BAD_IMAGES_KEY)
        self.update_freq = run.update_freq
        if len(self.batches) < self.update_freq:
            logger.warning(
                "Global.update_freq is %d, but an epoch has only %d batches: using 1",
                self.update_freq, len(self.batches),
            )  # fmt: skip
            self.update_freq = 1

    def _wrap(self) -> paddle.nn.Layer:
        network = self.trained_network()
        if self.config.run.to_static:
            specification = paddle.static.InputSpec([None, *self.config.run.image_shape], "float32", name="image")
            # Without full_graph Paddle compiles piece by piece and ignores the specification.
            network = paddle.jit.to_static(network, input_spec=[specification], full_graph=True)
        if self.environment.world_size == 1:
            return network
        # What is frozen for a while, and the classifier in pretraining, has no gradient to wait for.
        has_unused = self.frozen is not None or self.config.pretraining is not None
        return paddle.DataParallel(network, find_unused_parameters=has_unused)

    def trained_network(self) -> paddle.nn.Layer:
        """Returns the network with what is trained beside it."""
        return self.model if self.distillation is None else self.distillation.network

    def networks(self) -> list[paddle.nn.Layer]:
        """Returns the network and its teacher; none where a compiled graph is trained."""
        if self.config.run.to_static:
            return []
        return [self.model] if self.distillation is None else [self.model, self.distillation.teacher]

    # The training step.

    def train_mode(self) -> None:
        """Puts the network into training mode; ``Global.freeze_norm`` keeps the running statistics of batch norms."""
        self.network.train()
        if self.config.run.freeze_norm:
            for layer in self.network.sublayers():
                if isinstance(layer, paddle.nn.layer.norm._BatchNormBase):
                    layer.eval()

    def train_step(self, batch: dict[str, Any], progress: RunProgress) -> StepResult:
        """Does forward and backward pass of one batch, and the optimizer step after every ``update_freq`` batches.

        The batch is that of ``classification.data.loader``.

        Raises:
            UserError: more images than allowed cannot be read.
        """
        self.bad_images.note(batch["bad"].numpy(), batch.pop("causes", []))
        closes_update = (progress.step + 1) % self.update_freq == 0
        seed = derive_seed(self.environment.seed, "batch", self.environment.rank, progress.epoch, progress.step)
        with self.no_sync_until_update(closes_update):
            output = self.forward(batch, seed)
            loss = float(output.loss)
            if math.isfinite(loss):
                self.backward(output.loss)
        if math.isfinite(loss) and closes_update:
            self.update(progress.updates)
        images = len(batch["label"])
        losses = {"loss": loss, **{name: float(part) for name, part in output.parts.items()}}
        sums = {**{name: value * images for name, value in losses.items()}, **self.scores(output, batch)}
        return StepResult(loss, sums, images, images, losses, self.rate(progress.updates + closes_update))

    def forward(self, batch: dict[str, Any], seed: int) -> TrainOutput:
        """Returns logits and loss of a batch; all randomness of the pass (dropped paths) follows from ``seed``."""
        with self.precision.autocast():
            teacher_outputs = None
            if self.distillation is not None:
                teacher_outputs = self.distillation.compute_teacher_outputs(batch["image"], batch.get("index"))
            seed_everything(seed)
            output = self.network(batch["image"])
        logits = logits_of(output)
        label, label_mixed, share = batch["label"], batch["label_mixed"], float(batch["lam"])
        loss = self.config.train_loss(logits, label, label_mixed, share, self.class_weights)
        if self.distillation is None or teacher_outputs is None:
            return TrainOutput(logits, loss)
        return TrainOutput(logits, *self.distillation.losses(loss, output, teacher_outputs))

    def no_sync_until_update(self, closes_update: bool) -> contextlib.AbstractContextManager[Any]:
        """Returns the context of a forward and backward pass: only an update's last batch all-reduces gradients."""
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

    def scores(self, output: TrainOutput, batch: dict[str, Any]) -> dict[str, float]:
        """Returns under ``top1`` how many images are right; of mixed labels each counts by its share."""
        accuracy, share = TopkAcc([1]), float(batch["lam"])
        hits = share * accuracy.hits(output.logits, batch["label"])[0]
        if share < 1:
            hits += (1 - share) * accuracy.hits(output.logits, batch["label_mixed"])[0]
        return {"top1": float(hits)}

    def rate(self, updates: int) -> float:
        """Returns the learning rate of the last of so many optimizer steps."""
        return self.schedule.rate_at(max(updates - 1, 0))

    # Evaluation.

    def evaluate(self) -> dict[str, dict[str, Any]] | None:
        """Returns the metrics of the trained weights (``eval``) and, with EMA, of the averaged ones (``ema``)."""
        if self.eval_batches is None:
            return None
        # Each process has its own running statistics; all evaluate with those that checkpoints hold.
        broadcast_buffers(self.model, self.environment.world_size)
        result = {"eval": self._evaluate(self.model, "evaluation")}
        if self.ema is not None:
            with self.ema.applied():
                broadcast_buffers(self.model, self.environment.world_size)
                result["ema"] = self._evaluate(self.model, "evaluation (EMA)")
        return result

    def _evaluate(self, model: paddle.nn.Layer, title: str) -> dict[str, float]:
        config = self.config
        return evaluate(
            model, self.eval_batches, config.metrics, config.eval_loss, self.precision, self.environment, title,
            self.bad_eval_images,
        )  # fmt: skip

    def begin(self, log: Callable[..., None]) -> None:
        """Measures the teacher once: where distillation does not help, a bad teacher is the usual fault."""
        teacher = self.teacher
        if self.distillation is None or teacher is None or self.eval_batches is None or "eval" in teacher:
            return
        if not self.distillation.settings.evaluate_teacher or not self.distillation.has_logits:
            return
        metrics = teacher["eval"] = self._evaluate(self.distillation.teacher, f"teacher {teacher['name']}")
        log("teacher", **teacher)
        if metrics.get("top1", 1.0) < 2 / self.config.arch.class_num:
            logger.warning("the teacher is hardly better than guessing; are these its weights? %s", teacher["weights"])

    def end_epoch(self) -> None:
        """Gathers the names of unreadable images from all processes."""
        self.bad_images.share(self.environment.world_size)

    # Start and checkpoints.

    def start(self) -> None:
        """Loads ``Global.pretrained_model``, if there is one, and begins the average."""
        build.load_pretrained(self.config, self.model, fine_tune=True)
        if self.frozen is not None and not (self.config.run.pretrained_model or self.config.arch.pretrained):
            self.frozen.warn_of_random_weights("Global.pretrained_model")
        self._begin_average()

    def _begin_average(self) -> None:
        if self.config.ema is not None:
            self.ema = ExponentialMovingAverage(self.model, self.config.ema.decay)

    def data_order(self) -> dict[str, Any]:
        """Returns what decides which images form batch k."""
        sampling = self.config.run.class_sampling
        return {
            "seed": self.environment.seed, "images": len(self.dataset), "update_freq": self.update_freq,
            "images_per_step": self.batches.sampler.global_batch_size, "shuffle": self.batches.sampler.shuffle,
            **({"class_sampling": sampling} if sampling is not None else {}),
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Returns the small part of the state, as JSON values."""
        return {
            "bad_images": self.bad_images.names,
            "bad_eval_images": self.bad_eval_images.names if self.bad_eval_images else [],
            "teacher": self.teacher,
            "optimizer_name": self.optimizer_name,
            "weight_precision": self.precision.weights,
            "loss_scaler": self.precision.state(),
            "ema_updates": self.ema.updates if self.ema else 0,
            "class_names": self.class_names,
            # Class folders are told by their names.
            "label_numbering": None if self.dataset.class_names else self.dataset.label_order,
            "arch": {"name": self.config.arch.name, "arguments": self.config.arch.arguments},
            "pretraining": self.config.pretraining.name if self.config.pretraining else None,
            # Where nothing is evaluated that could choose between both.
            **({"evaluated_weights": "ema"} if self.ema is not None and self.eval_batches is None else {}),
        }

    def arrays(self) -> dict[str, dict[str, np.ndarray] | None]:
        """Returns ``model``, ``ema``, ``optimizer`` and ``auxiliary`` as arrays by structured name."""
        return {
            "model": {name: _as_array(value) for name, value in self.model.state_dict().items()},
            "ema": self.ema.state() if self.ema else None,
            "optimizer": export_optimizer_state(self.optimizer, self.named_parameters),
            "auxiliary": {name: value.numpy() for name, value in self.auxiliary.state_dict().items()} or None,
        }

    def check(self, checkpoint: Checkpoint, where: str) -> None:
        """Raises a UserError for a checkpoint of another model, optimizer or teacher, or one that lacks something."""
        if "arch" not in checkpoint.state:
            raise UserError(f"{where}: is not of a classifier, but {self.config.document.path} is of one")
        before = self._identity(checkpoint.state, checkpoint.ema is not None)
        now = self._identity(self.state(), self.config.ema is not None)
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        usable = "its weights can be used as Global.pretrained_model"
        if keys:
            changes = "; ".join(f"{key} {before.get(key)} -> {now.get(key)}" for key in keys)
            raise UserError(f"{where}: is of another run ({changes}); {usable}")
        if checkpoint.optimizer is None:
            raise UserError(f"{where}: holds no optimizer state; {usable}")
        # Checkpoints of earlier versions do not say whether their names number the labels.
        if self.config.pretraining is None and "label_numbering" in checkpoint.state:
            theirs = checkpoint.state["label_numbering"] or checkpoint.state["class_names"]
            ours = self.dataset.class_names or self.dataset.label_order
            build.check_same_classes(theirs, where, ours, f"{self.config.train.key}.dataset")

    def _identity(self, state: dict[str, Any], has_average: bool) -> dict[str, Any]:
        """Returns by key what a checkpoint with this :meth:`state` and a run that continues it must agree on."""
        teacher = state.get("teacher") or {}
        return {
            "Pretraining.name": state.get("pretraining"),
            "Arch.name": state["arch"]["name"],
            **{f"Arch.{name}": value for name, value in state["arch"]["arguments"].items()},
            # Paddle ignores moments that another optimizer left, and would begin with none.
            "Optimizer.name": state.get("optimizer_name", self.optimizer_name),
            "EMA": has_average,
            # By content: the same weights may lie elsewhere by now.
            "Distillation.teacher (SHA-256)": teacher.get("sha256"),
            "Distillation.features.stages": teacher.get("stages"),
            # The moments of O2 belong to float32 copies that another precision has not.
            "AMP (weights)": state.get("weight_precision", "float32"),
        }

    def restore(self, checkpoint: Checkpoint, updates: int, where: str) -> None:
        """Takes over what :meth:`state` and :meth:`arrays` returned, if names and shapes fit this model."""
        state = checkpoint.state
        self.bad_images.names = list(state.get("bad_images", []))
        if self.bad_eval_images is not None:
            self.bad_eval_images.names = list(state.get("bad_eval_images", []))
        load_weights(self.model, checkpoint.model)
        if self.auxiliary.state_dict():
            load_weights(self.auxiliary, checkpoint.auxiliary or {})
        if self.distillation is not None:
            self.teacher = {**(state.get("teacher") or {}), **self.distillation.identity}
        self._begin_average()
        import_optimizer_state(self.optimizer, self.named_parameters, checkpoint.optimizer or {}, where)
        self.precision.restore(state.get("loss_scaler", {}))
        if self.ema is not None and checkpoint.ema is not None:
            self.ema.restore(checkpoint.ema, state["ema_updates"])

    # What people see.

    def describe(self) -> str:
        """Returns what is trained on what."""
        arch, parameters, images = self.config.arch, count_parameters(self.model), len(self.dataset)
        return f"{arch.name}: {parameters:,} trainable parameters, {images} training images, {arch.class_num} classes"

    def report(self) -> dict[str, Any]:
        """Returns the classifier's part of ``report.json``."""
        return {
            "model": self.config.arch.name,
            "arguments": self.config.arch.arguments,
            "config": str(self.config.document.path),
            "teacher": self.teacher,
            "bad_images": self.bad_images.names,
            "bad_eval_images": self.bad_eval_images.names if self.bad_eval_images else [],
            "class_names": self.class_names,
            **self.scaling,
        }

    def draw_curves(self, history: Sequence[dict[str, Any]], path: Path) -> None:
        """Draws losses, accuracies, learning rate and speed by epoch."""
        # Among the five best of five classes is every image.
        classes = self.config.arch.class_num
        metrics = [name for name in self.config.metrics[0].names if name == "top1" or int(name[3:]) < classes]
        draw_curves(history, path, self.config.arch.name, metrics)

    def image_names(self, batch: dict[str, Any]) -> list[str]:
        """Returns the names of the images in a batch."""
        return [self.dataset.name_of(index) for index in batch["index"].numpy().tolist()]

    def close(self) -> None:
        """Ends the worker processes of both loaders."""
        self.batches.close()
        if self.eval_batches is not None:
            self.eval_batches.close()


def _as_array(value: paddle.Tensor) -> np.ndarray:
    # Low-precision weights (AMP O2) are widened, since NumPy knows no bfloat16.
    if value.dtype in (paddle.float16, paddle.bfloat16):
        value = value.astype("float32")
    return value.numpy()
