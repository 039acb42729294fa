"""Where a run is taken up again, and what has changed since."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ppcls_ext.engine.checkpoint import Checkpoint, find_newest_good, read_checkpoint
from ppcls_ext.engine.environment import Environment, sum_over_ranks
from ppcls_ext.utils.config import changed_keys
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)

AUTO = "auto"
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


def compare_order(where: str, state: dict[str, Any], data_order: dict[str, int]) -> bool:
    """Tells whether the batches are cut otherwise now, which is only possible between two epochs.

    Args:
        where: names the checkpoint.
        state: its state, with ``data_order`` and ``step``.
        data_order: what decides now which images form batch k.

    Raises:
        UserError: the checkpoint stands inside an epoch that cannot be cut as it was.
    """
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


def warn_of_changes(where: str, text: str, data: dict[str, Any], without_effect: tuple[str, ...]) -> None:
    """Lists the keys that have another value in the checkpoint's configuration, where numbers depend on them.

    Args:
        where: names the checkpoint.
        text: its configuration.
        data: the present configuration.
        without_effect: beginnings of dotted keys that may change without any number of the run changing.
    """
    try:
        before = yaml.safe_load(text) or {}
    except yaml.YAMLError:
        return
    changed = changed_keys(before, data, without_effect)
    if changed:
        shown = "; ".join(changed[:SHOWN]) + ("; ..." if len(changed) > SHOWN else "")
        logger.warning("%s: the configuration has changed since: %s", where, shown)


def check_same_start(position: tuple[int, int, int], model: Any, environment: Environment, folder_key: str) -> None:
    """Checks that all processes begin at the same place with the same weights, as copies of one run must.

    They do not where machines share no disk and ``--resume auto`` finds checkpoints on the first one only.

    Args:
        position: finished epochs, batches of the next one, optimizer steps.
        model: the network, a ``paddle.nn.Layer``.
        environment: rank and number of processes.
        folder_key: the configuration's key of the folder that the processes must share.

    Raises:
        UserError: a process differs; all of them raise it.
    """
    if environment.world_size == 1:
        return
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.astype("float32").numpy().tobytes())
    # 48 bits are exact in the float64 that the processes add up.
    start = np.array([*position, int.from_bytes(digest.digest()[:6], "little")]).astype(np.float64)
    total = sum_over_ranks(start, environment.world_size)
    differs = float(np.any(total != start * environment.world_size))
    if sum_over_ranks(np.array([differs]), environment.world_size)[0]:
        raise UserError(
            f"process {environment.rank} stands at epoch {position[0]}, batch {position[1]}; others stand "
            f"elsewhere or have other weights: every machine needs the same checkpoints, so share {folder_key}"
        )
