"""Continues a run from a checkpoint, or says why it cannot be continued."""

from __future__ import annotations

import logging
from typing import Any

from classification.config import Config
from classification.learner import Learner
from classification.progress import RunProgress, restore_random_states
from ppcls_ext.engine.checkpoint import Checkpoint, compare_order, warn_of_changes
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)

# Keys that may change without any number of the run changing.
WITHOUT_EFFECT = (
    "Global.checkpoints",
    "Global.device",
    "Global.eval_during_train",
    "Global.eval_interval",
    "Global.keep_checkpoints",
    "Global.log_ranks",
    "Global.max_bad_images",
    "Global.output_dir",
    "Global.pretrained_model",
    "Global.print_batch_step",
    "Global.save_",
    "Global.use_visualdl",
    "DataLoader.Train.loader",
    "Distillation.evaluate_teacher",
    "Distillation.teacher.pretrained",
    "DataLoader.Eval",
    "Infer",
)


def restore_run(checkpoint: Checkpoint, config: Config, learner: Learner, data_order: dict[str, int]) -> RunProgress:
    """Puts a checkpoint into ``learner`` and returns where the run stands.

    What has changed in the configuration since is listed in one warning.

    Raises:
        UserError: it belongs to another model, optimizer or teacher, holds no optimizer state, lacks the average or the
            kind of weights that this run needs, or stands inside an epoch whose batches would now be cut otherwise.
    """
    state = checkpoint.state
    where = f"checkpoint of epoch {state['epoch']}"
    _compare_arch(where, state["arch"], config)
    _compare_learner(where, checkpoint, config, learner)
    _compare_teacher(where, state.get("teacher"), learner.distillation.identity() if config.distillation else None)
    recut = compare_order(where, state, data_order)
    warn_of_changes(where, checkpoint.config, config.document.data, WITHOUT_EFFECT)
    names = ("model", "ema", "optimizer", "auxiliary")
    arrays: dict[str, Any] = {name: getattr(checkpoint, name) for name in names}
    learner.restore(state, arrays, where)
    restore_random_states(state["random"])
    progress = RunProgress.from_json(state)
    if recut:
        # An epoch has another number of steps now; the learning rate follows the epochs, not the steps done.
        progress.updates = progress.epoch * learner.updates_each_epoch
    return progress


def _compare_learner(where: str, checkpoint: Checkpoint, config: Config, learner: Learner) -> None:
    state = checkpoint.state
    if checkpoint.optimizer is None:
        raise UserError(f"{where}: holds no optimizer state; its weights can be used as Global.pretrained_model")
    if config.ema is not None and checkpoint.ema is None:
        raise UserError(f"{where}: was trained without EMA; remove the section EMA to continue it")
    if config.ema is None and checkpoint.ema is not None:
        raise UserError(f"{where}: was trained with EMA; keep the section EMA to continue it")
    # Paddle ignores moments that another optimizer left, and would begin with none.
    before = state.get("optimizer_name", learner.optimizer_name)
    if before != learner.optimizer_name:
        raise UserError(f"{where}: was trained with Optimizer.name={before}, now it is {learner.optimizer_name}")
    # The moments of O2 belong to float32 copies that another precision has not.
    kept, now = state.get("weight_precision", "float32"), learner.precision.weights
    if kept != now:
        raise UserError(f"{where}: was trained with weights in {kept}, now they are in {now}; keep the section AMP")


def _compare_teacher(where: str, before: dict[str, Any] | None, now: dict[str, Any] | None) -> None:
    if now is None:
        if before is not None:
            raise UserError(f"{where}: was trained with a teacher; keep the section Distillation to continue it")
        return
    if before is None:
        raise UserError(f"{where}: was trained without a teacher; remove the section Distillation to continue it")
    # By content: the same weights may lie elsewhere by now.
    if before["sha256"] != now["sha256"]:
        raise UserError(
            f"{where}: was trained with another teacher ({before['name']}, {before['weights']}, SHA-256 "
            f"{before['sha256'][:12]}...), now it is {now['name']}, {now['weights']} ({now['sha256'][:12]}...)"
        )
    if before["stages"] != now["stages"]:
        raise UserError(
            f"{where}: was trained with Distillation.features.stages={before['stages']}, now it is {now['stages']}"
        )


def _compare_arch(where: str, arch: dict[str, Any], config: Config) -> None:
    ours = {"name": config.arch.name, "arguments": config.arch.arguments}
    if arch["name"] != ours["name"]:
        raise UserError(f"{where}: is of model {arch['name']}, but Arch.name is {ours['name']}")
    theirs, mine = arch["arguments"], ours["arguments"]
    for key in sorted(theirs.keys() | mine.keys()):
        if theirs.get(key) != mine.get(key):
            raise UserError(f"{where}: was trained with Arch.{key}={theirs.get(key)}, now it is {mine.get(key)}")
