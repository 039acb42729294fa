"""A detector under training: ppdet's model, optimizer and losses, as the shared loop needs them.

ppdet's own ``Trainer`` also starts a ``paddle.io.DataLoader``, whose thread reads ahead and draws from the random
numbers that make a run reproducible; so its parts are put together here.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from detection.annotations import Ledger, spelled_as
from detection.coco import AnnotationFileError, read_coco
from detection.configuration import DetectionConfig, class_names_of
from detection.configuration.config import warn_of_other_contrast
from detection.ema import DetectorEMA, as_arrays
from detection.evaluator import Evaluator
from detection.loaders import BAD_IMAGES_KEY, boxes_of, training_loader
from detection.schedule import fit, late_epochs
from detection.toolkit import create_model, refusals, std_without_type_warning, workspace
from detection.weights import load_start
from ppcls_ext.arch.flops import count_parameters
from ppcls_ext.engine.bad_images import BadImages
from ppcls_ext.engine.checkpoint import (
    Checkpoint,
    checkpoints_to_continue,
    export_optimizer_state,
    import_optimizer_state,
    value_range_to_continue,
)
from ppcls_ext.engine.class_balance import settle_class_weights
from ppcls_ext.engine.environment import Environment, broadcast_buffers, derive_seed, prepare_environment
from ppcls_ext.engine.finetuning import fine_tune
from ppcls_ext.engine.loggers import require_packages
from ppcls_ext.engine.plan import scale_rate
from ppcls_ext.engine.precision import Precision
from ppcls_ext.engine.recorder import RunFolder
from ppcls_ext.engine.shared_keys import AmpSettings
from ppcls_ext.engine.task import EpochSums, RunOptions, RunProgress, StepResult, Task
from ppcls_ext.engine.trainer import Trainer
from ppcls_ext.preprocess import depth
from ppcls_ext.preprocess.decode import read_bytes
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.plots import draw_curves
from ppcls_ext.weights import load_weights

logger = logging.getLogger(__name__)

# Keys that may change without any number of the run changing.
WITHOUT_EFFECT = (
    "EvalDataset", "EvalReader", "TestDataset", "TestReader", "eval_interval", "keep_checkpoints", "log_iter",
    "loggers", "max_bad_images", "pretrain_weights", "save_dir", "save_steps", "snapshot_epoch", "use_gpu", "use_vdl",
    "weights", "worker_num",
    # Runs of earlier versions state them beside the keys that they stand for.
    "dataset_dir", "image_size",
)  # fmt: skip
# Keys of PaddleDetection's own trainer that this one does not act on: said aloud, never passed over.
IGNORED = (
    "cycle_epoch", "ema_filter_no_grad", "ema_skip_names", "ema_start_iters", "output_eval", "print_flops",
    "print_params", "profiler_options", "save_prediction_only", "save_proposals", "slim", "slim_method", "ssod_method",
    "to_static", "unstructured_prune", "use_cot", "use_fused_allreduce_gradients", "use_mlu", "use_npu",
    "use_simple_ema", "use_wandb", "use_xpu", "vdl_log_dir",
)  # fmt: skip
# Keys that decide the size of a network.
SIZE_KEYS = ("depth_mult", "width_mult", "scale")
# ppdet's running sums travel with the optimizer's state, under the names of the weights and this.
AVERAGE_SUFFIX = "/average"


def open_environment(config: DetectionConfig) -> Environment:
    """Chooses the device and joins the other processes."""
    device = "gpu" if config.run_keys.use_gpu else "cpu"
    return prepare_environment(device, config.data.get("seed", 0), key="use_gpu")


def train_config(config: DetectionConfig, resume: str | None = None) -> dict[str, Any]:
    """Trains a detector; returns the report that also stands in ``report.json``.

    ``resume`` is ``auto``, the path of a checkpoint folder, or ``None`` for a fresh run.

    Raises:
        Interrupted: the user stopped the run; it has been saved.
        UserError: something that the user can mend: missing data, a folder that is in use, weights that do not fit.
    """
    require_packages(loggers_of(config), "loggers")
    warn_of_other_contrast(config, "Eval")
    environment = open_environment(config)
    with RunFolder(config.output_dir, environment.is_main, "save_dir", resume) as folder:
        config = with_settled_depth(config, resume, environment.seed)
        with workspace(config) as settings:
            # A checkpoint holds the backbone's weights, too: the file that they once came from may be gone.
            pretrained = not checkpoints_to_continue(resume, folder.checkpoints)
            task = DetectionTask(config, settings, environment, pretrained)
            return Trainer(task, folder, resume).run()


def loggers_of(config: DetectionConfig) -> list[str]:
    """Returns who gets the curves: ``loggers``, and VisualDL with ``use_vdl``."""
    keys = config.run_keys
    return [*(["visualdl"] if keys.use_vdl else []), *keys.loggers]


def with_settled_depth(config: DetectionConfig, resume: str | None, seed: int) -> DetectionConfig:
    """Returns the configuration with the range of values of its pictures as a number.

    See ``depth.resolve_auto_range``.
    """
    config = config.with_depth(value_range_to_continue(config.data, resume, config.output_dir / "checkpoints"))
    files = _training_images(config)
    statement = depth.resolve_auto_range(config.data, lambda index: read_bytes(files[index]), len(files), seed)
    return config.with_depth(statement)


def _training_images(config: DetectionConfig) -> list[Path]:
    """Returns the files of the training set; none where its annotations cannot be read, which is told later."""
    files = config.datasets.get("Train")
    if files is None or files.annotations is None:
        return []
    try:
        return [frame.image for frame in read_coco(files.annotations, Ledger(), folder=files.image_dir).frames]
    except AnnotationFileError:
        return []


class DetectionTask(Task):
    """Trains the detector of ``architecture``.

    Args:
        config: the configuration.
        settings: the same in ppdet's workspace (``detection.toolkit.workspace``), which stays open for the whole run.
        pretrained: loads the file that the backbone's ``pretrained`` names, if any.

    Attributes:
        network: the weights of ``model`` as the training pass sees them: wrapped for several processes.
        schedule: the learning rate, a scheduler that is stepped after each batch.
        ema: the averaged weights, or ``None`` without ``use_ema``.

    Raises:
        UserError: a part refuses its arguments, or there are fewer images than one batch needs.
    """

    metric = "AP"
    advice = "lower LearningRate.base_lr or look at the data with tools/check_data.py"

    def __init__(
        self, config: DetectionConfig, settings: Any, environment: Environment, pretrained: bool = True
    ) -> None:
        import ppdet.engine  # noqa: F401  (registers what the workspace may name)
        from ppdet.core.workspace import create

        from detection.backbone import WITH_TRUNKS, trunk_of_backbone

        data, keys = config.data, config.run_keys
        self.config, self.keys, self.environment = config, keys, environment
        self.options = RunOptions(
            data, config.to_yaml(), WITHOUT_EFFECT, config.epochs, keys.log_iter,
            keys.eval_interval or keys.snapshot_epoch, keys.snapshot_epoch, keys.save_steps, keys.keep_checkpoints,
            loggers_of(config), keys.cpu_kernels, config.document.overrides, keys.early_stopping,
        )  # fmt: skip
        self.batches = training_loader(config, environment)
        self.bad_images = BadImages(self.batches.read_batch, keys.max_bad_images, BAD_IMAGES_KEY)
        with refusals(config):
            self.model = create_model(config, settings, pretrained)
            self.model.load_meanstd(settings["TestReader"]["sample_transforms"])
            plan = create("LearningRate")
            images, tuned = self.batches.sampler.global_batch_size, keys.tuned_batch_size
            factor, notes, self.scaling = scale_rate(float(plan.base_lr), tuned, images, "tuned_batch_size")
            self.notes = [*config.document.notes, *notes, *fit(plan, config.epochs, len(self.batches), factor)]
            self.notes += late_epochs(data, getattr(self.model, "yolo_head", None), config.epochs)
            self.schedule = plan(len(self.batches))
            self.optimizer = create("OptimizerBuilder")(self.schedule, self.model)
        self.class_names = class_names_of(config, ["Train"])
        self._weigh_classes()
        self.frozen = fine_tune(
            self.model, trunk_of_backbone(self.model.backbone), WITH_TRUNKS, keys, config.document.problem
        )
        amp = None
        if keys.amp:
            scale = data.get("init_loss_scaling", 1024)
            amp = AmpSettings(level=keys.amp_level, scale_loss=scale, use_promote=True)
        lists = data.get("custom_white_list"), data.get("custom_black_list")
        self.precision = Precision(amp, "float16", environment.on_gpu, *lists)
        self.model, self.optimizer = self.precision.decorate(self.model, self.optimizer)
        self.ema = self._average() if keys.use_ema else None
        self.evaluator = None
        if "EvalDataset" in data:
            self.evaluator = Evaluator(config, environment, self.class_names)
            self.class_names = self.evaluator.class_names
        self.network = self._wrap()

    def _weigh_classes(self) -> None:
        """Gives the class loss its ``class_weights``, if there are any."""
        from detection.class_weights import weigh_classes

        stated = self.keys.class_weights
        if stated is None:
            return
        names = self.class_names or list(map(str, range(self.config.num_classes)))
        dataset, factors = self.batches.read_batch.dataset, self.batches.sampler.factors
        rows, classes = boxes_of(dataset)
        counts = np.bincount(classes, None if factors is None else factors[rows], len(names))
        problem = partial(self.config.document.problem, "class_weights")
        weights = settle_class_weights(stated, names, counts, problem)
        try:
            weigh_classes(self.model.yolo_head, weights)
        except ValueError as error:
            raise UserError(problem(str(error))) from error

    def _average(self) -> DetectorEMA:
        from ppdet.optimizer import ModelEMA

        keys = self.keys
        average = ModelEMA(
            self.model,
            decay=keys.ema_decay,
            ema_decay_type=keys.ema_decay_type,
            ema_black_list=keys.ema_black_list,
        )
        return DetectorEMA(self.model, average)

    def _wrap(self) -> paddle.nn.Layer:
        keys, environment = self.keys, self.environment
        if environment.world_size == 1:
            return self.model
        if keys.norm_type == "sync_bn":
            if environment.on_gpu:
                # In place: the layers of the model are exchanged, their parameters stay the optimizer's.
                self.model = paddle.nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
            else:
                logger.info("norm_type: sync_bn needs GPUs: each process norms its own batches")
        # What is frozen for a while has no gradient to wait for.
        unused = keys.find_unused_parameters or self.frozen is not None
        return paddle.DataParallel(self.model, find_unused_parameters=unused)

    # The training step.

    def train_mode(self) -> None:
        """Puts the network into training mode."""
        self.network.train()

    def train_step(self, batch: dict[str, Any], progress: RunProgress) -> StepResult:
        """Does one optimizer step; ``UserError`` if more images than allowed cannot be read."""
        self.bad_images.note(batch.pop("bad"), batch.pop("causes"))
        rate, images = float(self.optimizer.get_lr()), len(batch["image"])
        environment = self.environment
        # All randomness of the pass, such as which paths are dropped, follows from it.
        paddle.seed(derive_seed(environment.seed, "batch", environment.rank, progress.epoch, progress.step))
        try:
            with self.precision.autocast(), std_without_type_warning():
                outputs = self.network({**batch, "epoch_id": progress.epoch})
        except ValueError:
            # Paddle's losses refuse scores that are not numbers before there is a loss to look at.
            if all(bool(paddle.isfinite(parameter).all()) for parameter in self.model.parameters()):
                raise
            return StepResult(float("nan"), {}, 0, images, {}, rate)
        losses = {name: float(value) for name, value in outputs.items() if name.startswith("loss")}
        result = StepResult(losses["loss"], losses, 1, images, losses, rate)
        if not np.isfinite(result.loss):
            return result
        self.precision.backward(outputs["loss"])
        self.precision.step(self.optimizer)
        self.optimizer.clear_grad()
        self.schedule.step()
        if self.ema is not None:
            self.ema.update()
        return result

    def rate(self, updates: int) -> float:
        """Returns the learning rate of the last of so many optimizer steps."""
        schedule = copy.deepcopy(self.schedule)
        schedule.step(max(updates - 1, 0))
        return float(schedule.last_lr)

    def logged(self, result: StepResult, sums: EpochSums) -> dict[str, float]:
        """Returns the losses of the batch, and the speed of the epoch so far."""
        return {**result.shown, "images_per_second": sums.mean()["images_per_second"]}

    # Evaluation.

    def evaluate(self) -> dict[str, dict[str, Any]] | None:
        """Returns the metrics of the averaged weights (of the trained ones where there is no average)."""
        if self.evaluator is None:
            return None
        # Each process has its own running statistics; all evaluate with those that checkpoints hold.
        broadcast_buffers(self.model, self.environment.world_size)
        with self.ema.applied() if self.ema is not None else contextlib.nullcontext():
            broadcast_buffers(self.model, self.environment.world_size)
            return {"eval": self.evaluator.evaluate(self.model)}

    def end_epoch(self) -> None:
        """Gathers the names of unreadable images from all processes."""
        self.bad_images.share(self.environment.world_size)

    # Start and checkpoints.

    def start(self) -> None:
        """Loads ``pretrain_weights``, if there are any."""
        load_start(self.config, self.model)
        backbone = self.config.data.get(str(architecture_of(self.config)["backbone"])) or {}
        if self.frozen is not None and not (self.config.data.get("pretrain_weights") or backbone.get("pretrained")):
            self.frozen.warn_of_random_weights("pretrain_weights")

    def data_order(self) -> dict[str, Any]:
        """Returns what decides which images form batch k."""
        sampler, threshold = self.batches.sampler, self.keys.repeat_threshold
        return {
            "seed": self.environment.seed,
            "images": sampler.length,
            "images_per_step": sampler.global_batch_size,
            "steps": self.steps,
            **({"repeat_threshold": threshold} if threshold is not None else {}),
        }

    def state(self) -> dict[str, Any]:
        """Returns the small part of the state, as JSON values."""
        return {
            **self._bad_images(),
            "optimizer_name": type(self.optimizer).__name__,
            "rate_step": int(self.schedule.last_epoch),
            "average": self.ema.counts() if self.ema is not None else None,
            "loss_scale": self.precision.state() or None,
            "architecture": architecture_of(self.config),
            "class_names": self.class_names,
            "evaluated_weights": "ema" if self.ema is not None else "model",
        }

    def _bad_images(self) -> dict[str, list[str]]:
        """Returns the names of the images that could not be read, by set."""
        evaluated = self.evaluator.bad_images.names if self.evaluator is not None else []
        return {"bad_images": self.bad_images.names, "bad_eval_images": evaluated}

    def arrays(self) -> dict[str, dict[str, np.ndarray] | None]:
        """Returns ``model``, ``ema`` (as evaluated) and ``optimizer`` (with ppdet's running sums)."""
        optimizer = export_optimizer_state(self.optimizer, list(self.model.named_parameters()))
        if self.ema is not None:
            optimizer.update({f"{name}{AVERAGE_SUFFIX}": value for name, value in self.ema.sums().items()})
        average = self.ema.state() if self.ema is not None else None
        return {"model": as_arrays(self.model.state_dict()), "ema": average, "optimizer": optimizer}

    def check(self, checkpoint: Checkpoint, where: str) -> None:
        """Compares a checkpoint with this run; ``UserError`` if that cannot go on from it."""
        state, path = checkpoint.state, self.config.path
        if "architecture" not in state:
            raise UserError(f"{where}: is not of a detector, but {path} is a detection configuration")
        if checkpoint.optimizer is None:
            raise UserError(f"{where}: holds no optimizer state; its weights can be used as pretrain_weights")
        classes = state.get("class_names") or []
        before = {
            **state["architecture"], "use_ema": bool(state.get("average")),
            "OptimizerBuilder.optimizer.type": state["optimizer_name"],
        }  # fmt: skip
        now = {
            **architecture_of(self.config), "use_ema": self.ema is not None,
            "OptimizerBuilder.optimizer.type": type(self.optimizer).__name__,
        }  # fmt: skip
        changes = [f"{key} {before[key]} -> {now[key]}" for key in now if key in before and before[key] != now[key]]
        # An output must mean the same class, in whatever spelling. Older checkpoints say less.
        pairs = enumerate(zip(classes, spelled_as(self.class_names or [], classes), strict=False))
        changes += [f"class {number} {theirs!r} -> {ours!r}" for number, (theirs, ours) in pairs if theirs != ours][:1]
        if changes:
            words = f"is of another run ({'; '.join(changes)}), not of {path}"
            raise UserError(f"{where}: {words}; its weights can be used as pretrain_weights")

    def restore(self, checkpoint: Checkpoint, updates: int, where: str) -> None:
        """Takes over what :meth:`state` and :meth:`arrays` returned; ``UserError`` if something does not fit."""
        state, arrays = checkpoint.state, checkpoint.optimizer or {}
        self.bad_images.names = list(state.get("bad_images", []))
        if self.evaluator is not None:
            self.evaluator.bad_images.names = list(state.get("bad_eval_images", []))
        load_weights(self.model, checkpoint.model)
        self.schedule.step(updates)
        sums = {name.removesuffix(AVERAGE_SUFFIX): value for name, value in arrays.items()
                if name.endswith(AVERAGE_SUFFIX)}  # fmt: skip
        accumulators = {name: value for name, value in arrays.items() if not name.endswith(AVERAGE_SUFFIX)}
        import_optimizer_state(self.optimizer, list(self.model.named_parameters()), accumulators, where)
        if self.ema is not None:
            self.ema.restore(sums, state["average"], where)
        self.precision.restore(state.get("loss_scale") or {})

    # What people see.

    def describe(self) -> str:
        """Returns what is trained on what; warns of keys without effect."""
        config = self.config
        if ignored := ignored_keys(config.data):
            logger.warning("without effect here, for COCO figures and this engine: %s", ", ".join(ignored))
        return (
            f"{config.architecture} with {architecture_of(config)['backbone'] or 'its own backbone'}: "
            f"{count_parameters(self.model):,} trainable parameters, {self.batches.sampler.length} training images, "
            f"{config.num_classes} classes"
        )

    def report(self) -> dict[str, Any]:
        """Returns the detector's part of ``report.json``."""
        return {
            "architecture": self.config.architecture, "config": str(self.config.path), **self._bad_images(),
            **self.scaling,
        }  # fmt: skip

    def draw_curves(self, history: Sequence[dict[str, Any]], path: Path) -> None:
        """Draws losses, AP, learning rate and speed by epoch."""
        draw_curves(history, path, self.config.path.stem, ("AP", "AP50"), averaged=self.ema is not None)

    def close(self) -> None:
        """Ends the worker processes of both loaders."""
        self.batches.close()
        if self.evaluator is not None:
            self.evaluator.close()


def ignored_keys(data: Mapping[str, Any]) -> list[str]:
    """Returns the keys of a configuration, switched on there, that change nothing here."""
    found = [name for name in IGNORED if data.get(name)]
    return [*found, "metric"] if data.get("metric", "COCO") != "COCO" else found


def architecture_of(config: DetectionConfig) -> dict[str, Any]:
    """Returns what decides which weights fit: detector, backbone, classes."""
    backbone = (config.data.get(config.architecture) or {}).get("backbone")
    return {
        "architecture": config.architecture,
        "backbone": backbone,
        "arch": (config.data.get(backbone) or {}).get("arch"),
        "num_classes": config.num_classes,
        **{key: config.data.get(key) for key in SIZE_KEYS},
    }
