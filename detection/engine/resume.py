"""Continues a detector's run from a checkpoint, or says why it cannot be continued."""

from __future__ import annotations

from typing import Any

from detection.configuration import DetectionConfig
from detection.engine.learner import Learner
from detection.engine.progress import RunProgress
from ppcls_ext.engine.checkpoint import Checkpoint, compare_order, warn_of_changes
from ppcls_ext.utils.errors import UserError

# Keys that may change without any number of the run changing.
WITHOUT_EFFECT = (
    "EvalDataset", "EvalReader", "TestDataset", "TestReader", "eval_interval", "keep_checkpoints", "log_iter",
    "pretrain_weights", "save_dir", "save_steps", "snapshot_epoch", "use_gpu", "use_vdl", "weights", "worker_num",
)  # fmt: skip
# Keys that decide the size of a network.
SIZE_KEYS = ("depth_mult", "width_mult", "scale")


def restore_run(
    checkpoint: Checkpoint, config: DetectionConfig, learner: Learner, data_order: dict[str, int]
) -> RunProgress:
    """Puts a checkpoint into ``learner`` (model, average, optimizer, learning rate) and returns where the run stands.

    What has changed in the configuration since is listed in one warning.

    Raises:
        UserError: it is no detector's, belongs to another one, lacks optimizer or average, or stands inside an epoch
            whose batches would now be cut otherwise.
    """
    state = checkpoint.state
    where = f"checkpoint of epoch {state['epoch']}"
    _compare(where, checkpoint, config, learner)
    recut = compare_order(where, state, data_order)
    warn_of_changes(where, checkpoint.config, config.data, WITHOUT_EFFECT)
    arrays: dict[str, Any] = {"model": checkpoint.model, "optimizer": checkpoint.optimizer}
    if recut:
        # An epoch has another number of steps now; the learning rate follows the epochs, not the steps done.
        state = {**state, "rate_step": state["epoch"] * data_order["steps"]}
    learner.restore(state, arrays, where)
    return RunProgress.from_json(state)


def _compare(where: str, checkpoint: Checkpoint, config: DetectionConfig, learner: Learner) -> None:
    state = checkpoint.state
    if "architecture" not in state:
        raise UserError(f"{where}: is not of a detector, but {config.path} is a detection configuration")
    theirs, ours = state["architecture"], architecture_of(config)
    # Older checkpoints say less.
    if any(theirs[key] != value for key, value in ours.items() if key in theirs):
        raise UserError(f"{where}: is of {_named(theirs)}, but {config.path} is of {_named(ours)}")
    if checkpoint.optimizer is None:
        raise UserError(f"{where}: holds no optimizer state; its weights can be used as pretrain_weights")
    if learner.average is not None and not state.get("average"):
        raise UserError(f"{where}: was trained without an average; set use_ema: false to continue it")
    if learner.average is None and state.get("average"):
        raise UserError(f"{where}: was trained with an average; set use_ema: true to continue it")
    before = state["optimizer_name"]
    if before != learner.optimizer_name:
        raise UserError(
            f"{where}: was trained with OptimizerBuilder.optimizer.type={before}, now it is {learner.optimizer_name}"
        )


def architecture_of(config: DetectionConfig) -> dict[str, Any]:
    """Returns what decides which weights fit: detector, backbone, classes."""
    section = config.data.get(config.architecture) or {}
    backbone = section.get("backbone")
    arguments = config.data.get(backbone) if isinstance(backbone, str) else None
    return {
        "architecture": config.architecture,
        "backbone": backbone,
        "arch": arguments.get("arch") if isinstance(arguments, dict) else None,
        "num_classes": config.num_classes,
        **{key: config.data.get(key) for key in SIZE_KEYS},
    }


def _named(architecture: dict[str, Any]) -> str:
    backbone = " ".join(str(architecture[key]) for key in ("backbone", "arch") if architecture[key])
    size = "".join(f", {key} {architecture[key]}" for key in SIZE_KEYS if architecture.get(key) is not None)
    return f"{architecture['architecture']} with {backbone or 'its own backbone'}, " \
           f"{architecture['num_classes']} classes{size}"  # fmt: skip
