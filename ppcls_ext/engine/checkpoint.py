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

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_folder
from ppcls_ext.weights import read_manifest, read_pickle, verify_file, write_manifest, write_weights

logger = logging.getLogger(__name__)

LATEST, BEST = "latest", "best"
ARRAY_FILES = ("model.pdparams", "ema.pdparams", "optimizer.pdopt", "auxiliary.pdparams")
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
