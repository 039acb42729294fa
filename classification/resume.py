"""Continues a run from a checkpoint, or says why it cannot be continued."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import yaml

from classification.config import Config
from classification.learner import Learner
from classification.progress import RunProgress, restore_random_states
from ppcls_ext.common.errors import UserError
from ppcls_ext.training.checkpoint import Checkpoint, find_newest_good, read_checkpoint
from ppcls_ext.training.environment import Environment, sum_over_ranks

logger = logging.getLogger(__name__)

AUTO = "auto"
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
    "DataLoader.Eval",
    "Infer",
)
SHOWN = 6


def find_checkpoint(resume: str | None, root: Path) -> Checkpoint | None:
    """Returns the checkpoint that ``--resume`` means.

    Args:
        resume: ``auto`` for the newest whole one below ``root`` (none at all: a fresh start), a folder, or ``None``.
        root: the folder ``checkpoints`` of the run.

    Raises:
        UserError: the folder is damaged, foreign or missing.
    """
    if resume is None:
        return None
    if resume != AUTO:
        checkpoint = read_checkpoint(Path(resume))
        logger.info("resuming from %s", resume)
        return checkpoint
    checkpoint = find_newest_good(root)
    if checkpoint is None:
        logger.info("no checkpoint in %s yet: starting afresh", root)
    return checkpoint


def restore_run(checkpoint: Checkpoint, config: Config, learner: Learner, data_order: dict[str, int]) -> RunProgress:
    """Puts a checkpoint into ``learner`` and returns where the run stands.

    What has changed in the configuration since is listed in one warning.

    Raises:
        UserError: it belongs to another model or optimizer, holds no optimizer state, lacks the average or the kind of
            weights that this run needs, or stands inside an epoch whose batches would now be cut otherwise.
    """
    state = checkpoint.state
    where = f"checkpoint of epoch {state['epoch']}"
    _compare_arch(where, state["arch"], config)
    _compare_learner(where, checkpoint, config, learner)
    recut = _compare_order(where, state, data_order)
    _warn_of_changes(where, checkpoint.config, config)
    arrays: dict[str, Any] = {"model": checkpoint.model, "ema": checkpoint.ema, "optimizer": checkpoint.optimizer}
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


def _compare_arch(where: str, arch: dict[str, Any], config: Config) -> None:
    ours = {"name": config.arch.name, "arguments": config.arch.arguments}
    if arch["name"] != ours["name"]:
        raise UserError(f"{where}: is of model {arch['name']}, but Arch.name is {ours['name']}")
    theirs, mine = arch["arguments"], ours["arguments"]
    for key in sorted(theirs.keys() | mine.keys()):
        if theirs.get(key) != mine.get(key):
            raise UserError(f"{where}: was trained with Arch.{key}={theirs.get(key)}, now it is {mine.get(key)}")


def _compare_order(where: str, state: dict[str, Any], data_order: dict[str, int]) -> bool:
    """Tells whether the batches are cut otherwise now, which is only possible between two epochs."""
    before = state["data_order"]
    changed = [f"{key} {before[key]} -> {now}" for key, now in data_order.items() if before[key] != now]
    if changed and state["step"]:
        raise UserError(
            f"{where}: stands inside an epoch whose batches are cut otherwise now ({'; '.join(changed)}); "
            "resume with the old values or from a checkpoint at the end of an epoch"
        )
    if changed:
        logger.warning("%s: %s; the run goes on, but not to the same numbers", where, "; ".join(changed))
    return bool(changed)


def _warn_of_changes(where: str, text: str, config: Config) -> None:
    """Lists the keys that have another value in the checkpoint's configuration, where numbers depend on them."""
    try:
        before = flatten(yaml.safe_load(text) or {})
    except yaml.YAMLError:
        return
    now = flatten(config.document.data)
    changed = [
        f"{key} {before.get(key)} -> {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(WITHOUT_EFFECT)
    ]
    if changed:
        shown = "; ".join(changed[:SHOWN]) + ("; ..." if len(changed) > SHOWN else "")
        logger.warning("%s: the configuration has changed since: %s", where, shown)


def flatten(value: Any, key: str = "") -> dict[str, Any]:
    """Returns the scalars of nested mappings and lists by dotted key, such as ``Optimizer.lr.name``."""
    if isinstance(value, dict):
        parts = [(f"{key}.{name}" if key else str(name), entry) for name, entry in value.items()]
    elif isinstance(value, list):
        parts = [(f"{key}[{index}]", entry) for index, entry in enumerate(value)]
    else:
        return {key: value}
    return {inner: scalar for name, entry in parts for inner, scalar in flatten(entry, name).items()}


def check_same_start(progress: RunProgress, model: paddle.nn.Layer, environment: Environment) -> None:
    """Checks that all processes begin at the same place with the same weights, as copies of one run must.

    They do not where machines share no disk and ``--resume auto`` finds checkpoints on the first one only.

    Raises:
        UserError: a process differs; all of them raise it.
    """
    if environment.world_size == 1:
        return
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.astype("float32").numpy().tobytes())
    # 48 bits are exact in the float64 that the processes add up.
    start = np.array([progress.epoch, progress.step, progress.updates, int.from_bytes(digest.digest()[:6], "little")])
    start = start.astype(np.float64)
    total = sum_over_ranks(start, environment.world_size)
    differs = float(np.any(total != start * environment.world_size))
    if sum_over_ranks(np.array([differs]), environment.world_size)[0]:
        raise UserError(
            f"process {environment.rank} stands at epoch {progress.epoch}, batch {progress.step}; others stand "
            "elsewhere or have other weights: every machine needs the same checkpoints, so share Global.output_dir"
        )
