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
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import yaml

from ppcls_ext.utils.config import changed_keys
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_folder
from ppcls_ext.weights import read_manifest, read_pickle, verify_file, write_manifest, write_weights

logger = logging.getLogger(__name__)

AUTO = "auto"
LATEST, BEST = "latest", "best"
ARRAY_FILES = ("model.pdparams", "ema.pdparams", "optimizer.pdopt", "auxiliary.pdparams")
# How an optimizer's float32 copy of a low-precision weight (AMP O2) is called.
MASTER = "master_weight"
SHOWN_CHANGES = 6
_FOLDER = re.compile(r"^epoch_(\d+)(?:_step_(\d+))?$")


@dataclasses.dataclass
class Checkpoint:
    """What a checkpoint holds, in memory.

    Attributes:
        state: epoch, step, best metric, history, class names, arch, random states: everything that JSON can hold.
        model: state of the model by structured name.
        ema: averaged state, or ``None``.
        optimizer: optimizer state by structured name, or ``None`` in a folder that was stripped for sharing.
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
    return sorted(folders, key=lambda path: position_of(path) or (0, 0))


def write_checkpoint(root: Path, checkpoint: Checkpoint, keep: int, best: bool) -> Path:
    """Writes a checkpoint, points ``latest`` (and ``best``) to it, and removes what is no longer kept.

    Args:
        root: the folder ``checkpoints`` of a run.
        checkpoint: what to write.
        keep: how many of the newest stay; the one ``best`` points to stays too.
        best: whether this is the best one so far; until one was evaluated, the newest counts as the best.

    Raises:
        UserError: the disk is full or cannot be written; every older checkpoint is still there.
    """
    folder = root / folder_name(checkpoint.state["epoch"], checkpoint.state["step"])
    try:
        with atomic_folder(folder) as temporary:
            _write_files(temporary, checkpoint)
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
    _remove_old(root, keep)
    return folder


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    write_weights(folder / "model.pdparams", checkpoint.model)
    if checkpoint.ema is not None:
        write_weights(folder / "ema.pdparams", checkpoint.ema)
    if checkpoint.optimizer is not None:
        # The same format; the suffix is the one that Paddle's users expect.
        write_weights(folder / "optimizer.pdparams", checkpoint.optimizer)
        os.rename(folder / "optimizer.pdparams", folder / "optimizer.pdopt")
    if checkpoint.auxiliary is not None:
        write_weights(folder / "auxiliary.pdparams", checkpoint.auxiliary)
    (folder / "state.json").write_text(json.dumps(checkpoint.state, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / "config.yaml").write_text(checkpoint.config, encoding="utf-8")
    write_manifest(folder)


def _link(link: Path, target: Path) -> None:
    """Points ``link`` to ``target`` (same folder) in one step."""
    temporary = link.with_name(f".{link.name}-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.name)
    os.replace(temporary, link)


def _remove_old(root: Path, keep: int) -> None:
    # The run's lock lets no other process write here, so these are leftovers of a killed one.
    for leftover in root.glob(".epoch_*"):
        shutil.rmtree(leftover, ignore_errors=True)
    protected = {(root / name).resolve() for name in (LATEST, BEST) if (root / name).exists()}
    for folder in list_checkpoints(root)[:-keep]:
        if folder.resolve() not in protected:
            shutil.rmtree(folder, ignore_errors=True)


def verify_checkpoint(folder: Path) -> set[str]:
    """Compares every file of a checkpoint with its manifest; returns the names that the manifest lists.

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
    files = read_manifest(folder)
    for name, expected in files.items():
        verify_file(folder, name, expected)
    return set(files)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Verifies and reads a checkpoint; nothing in it is executed.

    Raises:
        UserError: it is damaged or foreign (see :func:`verify_checkpoint`).
    """
    # A file that the manifest does not list was put there by somebody else, and is not read.
    listed = verify_checkpoint(folder)
    arrays = {file: _read_arrays(folder / file) for file in ARRAY_FILES if file in listed}
    return Checkpoint(
        state=json.loads((folder / "state.json").read_text(encoding="utf-8")),
        model=arrays["model.pdparams"],
        ema=arrays.get("ema.pdparams"),
        optimizer=arrays.get("optimizer.pdopt"),
        config=(folder / "config.yaml").read_text(encoding="utf-8") if "config.yaml" in listed else "",
        auxiliary=arrays.get("auxiliary.pdparams"),
    )


def _read_arrays(file: Path) -> dict[str, np.ndarray]:
    content = read_pickle(file)
    return {name: value for name, value in content.items() if isinstance(value, np.ndarray)}


def find_newest_good(root: Path) -> Checkpoint | None:
    """Returns the newest checkpoint below ``root`` that is whole; each damaged one is named in the log.

    The newest is the one that ``latest`` points to, then those before it: what lies beyond was left by a run that has
    since been taken up again from an earlier checkpoint. Returns ``None`` where there is no checkpoint at all.

    Raises:
        UserError: there are checkpoints, but none is whole.
    """
    folders = list_checkpoints(root)
    latest = (root / LATEST).resolve()
    if latest in [folder.resolve() for folder in folders]:
        position = position_of(latest) or (0, 0)
        folders.sort(key=lambda folder: ((position_of(folder) or (0, 0)) <= position, position_of(folder) or (0, 0)))
    for folder in reversed(folders):
        try:
            checkpoint = read_checkpoint(folder)
        except UserError as error:
            logger.warning("%s; trying the one before", error)
            continue
        logger.info("resuming from %s", folder)
        return checkpoint
    if folders:
        raise UserError(f"{root}: none of the {len(folders)} checkpoints is whole; remove them to start afresh")
    return None


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
        shown = "; ".join(changed[:SHOWN_CHANGES]) + ("; ..." if len(changed) > SHOWN_CHANGES else "")
        logger.warning("%s: the configuration has changed since: %s", where, shown)


def export_optimizer_state(
    optimizer: paddle.optimizer.Optimizer, named_parameters: list[tuple[str, paddle.Tensor]]
) -> dict[str, np.ndarray]:
    """Returns the optimizer's state as ``{"head.weight/moment1_0": array}``, under the model's own parameter names.

    Paddle names accumulators after generated parameter names (``linear_1.w_0_moment1_0``), and these depend on what
    else the process has built.
    """
    structured = {parameter.name: name for name, parameter in named_parameters}
    # Longest first: `linear_1.w_0` is a prefix of nothing else, but `linear_1.w_0` and `linear_1.w_01` would clash.
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
            result[f"{structured[owner]}/{_suffix_of(key, owner)}"] = value.numpy()
    return result


def _suffix_of(key: str, owner: str) -> str:
    """Returns ``moment1_0`` of ``linear_1.w_0_moment1_0``, also where AMP O2 puts ``fp32_master_0`` between."""
    return key[len(owner) + 1 :].split("fp32_master_0_")[-1]


def import_optimizer_state(
    optimizer: paddle.optimizer.Optimizer,
    named_parameters: list[tuple[str, paddle.Tensor]],
    state: dict[str, np.ndarray],
    where: str,
) -> None:
    """Puts a state that :func:`export_optimizer_state` returned into ``optimizer``.

    Raises:
        UserError: an entry belongs to no parameter of the model; continuing would silently change the run.
    """
    by_name = dict(named_parameters)
    restored: dict[str, Any] = {}
    masters: dict[str, Any] = {}
    for key, value in state.items():
        name, _, accumulator = key.rpartition("/")
        if name not in by_name:
            raise UserError(f"{where}: holds optimizer state for '{name}', which the model lacks")
        generated = by_name[name].name
        tensor = paddle.to_tensor(value)
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
