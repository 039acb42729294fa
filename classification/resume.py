"""Continues a run from a checkpoint, or says why it cannot be continued."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from classification.checkpoint import Checkpoint, find_newest_good, read_checkpoint
from classification.config import Config
from classification.learner import Learner
from classification.progress import RunProgress, restore_random_states
from ppcls_ext.common.errors import UserError

logger = logging.getLogger(__name__)

AUTO = "auto"


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

    Raises:
        UserError: it belongs to another model or optimizer, holds no optimizer state, lacks the average that this run
            needs, or stands inside an epoch whose batches would now be cut otherwise.
    """
    state = checkpoint.state
    where = f"checkpoint of epoch {state['epoch']}"
    _compare_arch(where, state["arch"], config)
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
    _compare_order(where, state, data_order)
    arrays: dict[str, Any] = {"model": checkpoint.model, "ema": checkpoint.ema, "optimizer": checkpoint.optimizer}
    learner.restore(state, arrays, where)
    restore_random_states(state["random"])
    return RunProgress.from_json(state)


def _compare_arch(where: str, arch: dict[str, Any], config: Config) -> None:
    ours = {"name": config.arch.name, "arguments": config.arch.arguments}
    if arch["name"] != ours["name"]:
        raise UserError(f"{where}: is of model {arch['name']}, but Arch.name is {ours['name']}")
    theirs, mine = arch["arguments"], ours["arguments"]
    for key in sorted(theirs.keys() | mine.keys()):
        if theirs.get(key) != mine.get(key):
            raise UserError(f"{where}: was trained with Arch.{key}={theirs.get(key)}, now it is {mine.get(key)}")


def _compare_order(where: str, state: dict[str, Any], data_order: dict[str, int]) -> None:
    before = state["data_order"]
    changed = [f"{key} {before[key]} -> {now}" for key, now in data_order.items() if before[key] != now]
    if not changed:
        return
    if state["step"]:
        raise UserError(
            f"{where}: stands inside an epoch whose batches are cut otherwise now ({'; '.join(changed)}); "
            "resume with the old values or from a checkpoint at the end of an epoch"
        )
    logger.warning("%s: %s; the run goes on, but not to the same numbers", where, "; ".join(changed))
