"""Checkpoint folders that are whole or absent, verified before they are read.

A folder ``checkpoints/epoch_0003`` (or ``epoch_0003_step_000120`` inside an epoch) holds ``model.pdparams``,
``ema.pdparams`` (with EMA), ``optimizer.pdopt``, ``auxiliary.pdparams`` (where training needs weights besides the
model's), ``state.json``, ``config.yaml`` and ``manifest.json`` with the checksum of each. The links ``latest`` and
``best`` beside it point to such folders.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ppcls_ext.preprocess import depth
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_folder
from ppcls_ext.utils.names import user_path
from ppcls_ext.weights import read_manifest, read_pickle, verify_file, write_manifest, write_weights

logger = logging.getLogger(__name__)

AUTO = "auto"
LATEST, BEST = "latest", "best"
ARRAY_FILES = ("model.pdparams", "ema.pdparams", "optimizer.pdopt", "auxiliary.pdparams")
# How an optimizer's float32 copy of a low-precision weight (AMP O2) is called.
MASTER = "master_weight"
_FOLDER = re.compile(r"^epoch_(\d+)(?:_step_(\d+))?$")


@dataclasses.dataclass
class Checkpoint:
    """Contents of a checkpoint, in memory; the arrays by structured name.

    Attributes:
        state: epoch, step, best metric, history, class names, arch: everything that JSON can hold.
        optimizer: ``None`` in a folder that was stripped for sharing.
        config: text of the resolved configuration.
        auxiliary: weights that only training needs, such as the projections of a distillation, or ``None``.
    """

    state: dict[str, Any]
    model: dict[str, np.ndarray]
    ema: dict[str, np.ndarray] | None
    optimizer: dict[str, np.ndarray] | None
    config: str
    auxiliary: dict[str, np.ndarray] | None = None


def folder_name(epoch: int, step: int) -> str:
    """Returns the folder's name for ``epoch`` finished epochs and ``step`` batches of the next one."""
    return f"epoch_{epoch:04d}_step_{step:06d}" if step else f"epoch_{epoch:04d}"


def position_of(folder: Path) -> tuple[int, int] | None:
    """Returns ``(epoch, step)`` of a checkpoint folder by its name, or ``None`` if it is no checkpoint's name."""
    match = _FOLDER.match(folder.name)
    return (int(match[1]), int(match[2] or 0)) if match else None


def list_checkpoints(root: Path) -> list[Path]:
    """Returns the checkpoint folders below ``root``, oldest first; links and temporary folders are left out."""
    if not root.is_dir():
        return []
    folders = [path for path in root.iterdir() if path.is_dir() and not path.is_symlink() and position_of(path)]
    return sorted(folders, key=position_of)


def write_checkpoint(root: Path, checkpoint: Checkpoint, keep: int, best: bool) -> Path:
    """Writes a checkpoint below ``root``, points ``latest`` (and ``best``) to it, and removes what is no longer kept.

    The ``keep`` newest stay, and the one ``best`` points to; until one was evaluated, the newest counts as the best.

    Raises:
        UserError: the disk is full or cannot be written; every older checkpoint is still there.
    """
    folder = root / folder_name(checkpoint.state["epoch"], checkpoint.state["step"])
    try:
        with atomic_folder(folder) as temporary:
            for file in ARRAY_FILES:
                arrays = getattr(checkpoint, file.partition(".")[0])
                if arrays is not None:
                    # The format is the same whatever the suffix; `write_weights` takes this one only.
                    write_weights(temporary / "arrays.pdparams", arrays)
                    os.rename(temporary / "arrays.pdparams", temporary / file)
            state = json.dumps(checkpoint.state, indent=1, ensure_ascii=False)
            (temporary / "state.json").write_text(state, encoding="utf-8")
            (temporary / "config.yaml").write_text(checkpoint.config, encoding="utf-8")
            write_manifest(temporary)
        _link(root / LATEST, folder)
        # Before the first evaluation nothing is better than the newest; nor where the best one lies in another run.
        if best or not checkpoint.state.get("best_epoch") or not (root / BEST).exists():
            _link(root / BEST, folder)
    except OSError as error:
        kept = list_checkpoints(root)
        survivor = f"the last good checkpoint is {kept[-1]}" if kept else "there is no older checkpoint"
        raise UserError(
            f"{folder}: cannot save the checkpoint ({error.strerror or error}); {survivor}; "
            "mend the disk and continue with --resume auto"
        ) from error
    # The run's lock lets no other process write here, so these are leftovers of a killed one.
    for leftover in root.glob(".epoch_*"):
        shutil.rmtree(leftover, ignore_errors=True)
    linked = {(root / name).resolve() for name in (LATEST, BEST) if (root / name).exists()}
    for old in list_checkpoints(root)[:-keep]:
        if old.resolve() not in linked:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def go_on_from(root: Path, epoch: int, step: int, best_epoch: int) -> None:
    """Makes the checkpoint of a position the newest one below ``root``, to which ``latest`` points.

    Later ones belong to a branch that the run leaves: they are moved into a folder ``abandoned_TIME`` beside ``root``.
    ``best`` points to the best epoch up to there. Where that is not kept it stays; or goes, if what it named was moved.
    """
    later = [folder for folder in list_checkpoints(root) if position_of(folder) > (epoch, step)]
    if later:
        name, number = time.strftime("abandoned_%Y%m%d_%H%M%S"), 1
        while (aside := root.with_name(name if number == 1 else f"{name}_{number}")).exists():
            number += 1
        aside.mkdir()
        for folder in later:
            folder.rename(aside / folder.name)
        names = ", ".join(folder.name for folder in later)
        logger.info("the run leaves what came after %s: %s moved to %s", folder_name(epoch, step), names, aside)
    best = (best_epoch, 0) if best_epoch else (epoch, step)
    for link, position in ((root / LATEST, (epoch, step)), (root / BEST, best)):
        folder = root / folder_name(*position)
        if folder.is_dir():
            _link(link, folder)
        elif not link.exists():  # it pointed to what was moved
            link.unlink(missing_ok=True)


def _link(link: Path, target: Path) -> None:
    """Points ``link`` to ``target`` (same folder) in one step."""
    temporary = link.with_name(f".{link.name}-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.name)
    os.replace(temporary, link)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Compares every file of a checkpoint with its manifest and reads it; nothing in it is executed.

    Raises:
        UserError: it is no checkpoint of ours, or a file is missing, cut short or changed; the message names it.
    """
    if folder.is_file() or folder.suffix in (".pdparams", ".pdopt", ".safetensors"):
        raise UserError(
            f"{folder}: --resume wants a checkpoint folder such as RUN/checkpoints/latest; "
            "weights alone go into Global.pretrained_model, or into pretrain_weights for a detector"
        )
    if not folder.is_dir():
        raise UserError(f"{folder}: no such checkpoint folder")
    # A file that the manifest does not list was put there by somebody else, and is not read.
    listed = read_manifest(folder)
    for name, expected in listed.items():
        verify_file(folder, name, expected)
    arrays: dict[str, dict[str, np.ndarray] | None] = {}
    for file in ARRAY_FILES:
        content = read_pickle(folder / file) if file in listed else None
        arrays[file.partition(".")[0]] = content and {
            name: value for name, value in content.items() if isinstance(value, np.ndarray)
        }
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    config = (folder / "config.yaml").read_text(encoding="utf-8") if "config.yaml" in listed else ""
    return Checkpoint(state, config=config, **arrays)


def checkpoints_to_continue(resume: str | None, root: Path) -> list[Path]:
    """Returns the folders that ``--resume`` may mean, see :func:`find_checkpoint`; oldest first, none for a new run."""
    if resume is None:
        return []
    if resume != AUTO:
        return [user_path(resume)]
    folders, latest = list_checkpoints(root), position_of((root / LATEST).resolve())
    if latest is not None:
        # Earlier versions left the checkpoints of an abandoned branch where they were, beyond `latest`.
        folders.sort(key=lambda folder: position_of(folder) <= latest)
    return folders


def find_checkpoint(resume: str | None, root: Path) -> Checkpoint | None:
    """Returns the checkpoint that ``--resume`` means: ``auto``, a checkpoint's folder, or ``None``.

    ``auto`` means the newest one below ``root`` that is whole; each damaged one is named in the log. Without any the
    run starts afresh.

    Raises:
        UserError: the folder is damaged, foreign or missing; or there are checkpoints, but none is whole.
    """
    if resume is None:
        return None
    folders = checkpoints_to_continue(resume, root)
    for folder in reversed(folders):
        try:
            checkpoint = read_checkpoint(folder)
        except UserError as error:
            if resume != AUTO:
                raise
            logger.warning("%s; trying the one before", error)
            continue
        logger.info("resuming from %s", folder)
        return checkpoint
    if folders:
        raise UserError(f"{root}: none of the {len(folders)} checkpoints is whole; remove them to start afresh")
    logger.info("no checkpoint in %s yet: starting afresh", root)
    return None


def value_range_to_continue(data: dict[str, Any], resume: str | None, root: Path) -> depth.Statement:
    """Returns what a configuration states about the values of its pictures; of ``bits: auto`` the number of its run."""
    statement = depth.statement_in(data)
    if not depth.is_auto(statement):
        return statement
    for folder in reversed(checkpoints_to_continue(resume, root)):
        if earlier := depth.statement_of_weights(folder / ARRAY_FILES[0]):
            logger.info("bits: auto is %s, as %s says", depth.as_yaml(earlier), folder)
            return earlier
    return statement


def export_optimizer_state(
    optimizer: paddle.optimizer.Optimizer, named_parameters: list[tuple[str, paddle.Tensor]]
) -> dict[str, np.ndarray]:
    """Returns the optimizer's state as ``{"head.weight/moment1_0": array}``, under the model's own parameter names.

    Paddle names accumulators after generated parameter names (``linear_1.w_0_moment1_0``), and these depend on what
    else the process has built.
    """
    structured = {parameter.name: name for name, parameter in named_parameters}
    # Longest first: where a network names its parameters `a` and `a_b` itself, the key `a_b_moment1_0` is the latter's.
    generated_names = sorted(structured, key=len, reverse=True)
    result: dict[str, np.ndarray] = {}
    for key, value in optimizer.state_dict().items():
        if key == "LR_Scheduler":
            continue
        if key == "master_weights":
            for generated, weight in value.items():
                result[f"{structured[generated]}/{MASTER}"] = weight.numpy()
            continue
        owner = next((name for name in generated_names if key.startswith(f"{name}_")), None)
        if owner is not None:
            # `moment1_0` of `linear_1.w_0_moment1_0`, also where AMP O2 puts `fp32_master_0` between.
            accumulator = key.removeprefix(f"{owner}_").removeprefix("fp32_master_0_")
            result[f"{structured[owner]}/{accumulator}"] = value.numpy()
    return result


def import_optimizer_state(
    optimizer: paddle.optimizer.Optimizer, named_parameters: list[tuple[str, paddle.Tensor]],
    state: dict[str, np.ndarray], where: str,
) -> None:  # fmt: skip
    """Puts a state of :func:`export_optimizer_state` into ``optimizer``; a UserError if it is of another model."""
    by_name = dict(named_parameters)
    restored: dict[str, Any] = {}
    masters: dict[str, Any] = {}
    for key, value in state.items():
        name, _, accumulator = key.rpartition("/")
        if name not in by_name:
            raise UserError(f"{where}: holds optimizer state for '{name}', which the model lacks")
        generated, tensor = by_name[name].name, paddle.to_tensor(value)
        if accumulator == MASTER:
            tensor.name = f"{generated}_fp32_master_0"
            masters[generated] = tensor
        else:
            restored[f"{generated}_{accumulator}"] = tensor
    if masters:
        restored["master_weights"] = masters
        for generated in masters:
            for key in [key for key in restored if key.startswith(f"{generated}_")]:
                restored[f"{generated}_fp32_master_0_{key[len(generated) + 1 :]}"] = restored.pop(key)
    schedule = optimizer.state_dict().get("LR_Scheduler")
    if schedule is not None:
        # Paddle insists on it; where the learning rate stands is the caller's business.
        restored["LR_Scheduler"] = schedule
    optimizer.set_state_dict(restored)
    stated = {key.rpartition("/")[0] for key in state}
    learning = [(name, parameter) for name, parameter in named_parameters if not parameter.stop_gradient]
    if state and not stated.issuperset(name for name, _ in learning):
        # Frozen so far, some have no state yet. Paddle would insist on it once it wants to make theirs.
        block = paddle.static.default_main_program().global_block()
        optimizer._create_accumulators(block, [parameter for name, parameter in learning if name in stated])
        optimizer._accumulators_holder = {}
