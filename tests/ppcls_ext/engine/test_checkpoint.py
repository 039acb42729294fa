"""Checkpoints never lie: whole or absent, verified, and each kind of damage named."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from ppcls_ext.engine.checkpoint import (
    Checkpoint,
    find_checkpoint,
    go_on_from,
    list_checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import sha256_of
from tests.support.runs import same_arrays

FILES = ("model.pdparams", "ema.pdparams", "optimizer.pdopt", "state.json", "config.yaml")


def sample(epoch: int, step: int = 0, ema: bool = True) -> Checkpoint:
    generator = np.random.default_rng(epoch * 1000 + step)
    weights = {"head.weight": generator.normal(size=(3, 2)).astype("float32"), "steps": np.array([epoch])}
    return Checkpoint(
        state={"epoch": epoch, "step": step, "best_metric": 0.1 + 0.2, "class_names": ["ä", "b"]},
        model=weights,
        ema={name: value + 1 for name, value in weights.items()} if ema else None,
        optimizer={"head.weight/moment1_0": weights["head.weight"] * 2, "head.weight/beta1_pow_acc_0": np.array(0.9)},
        config="Global: {epochs: 3}\n",
    )


def write(root: Path, epoch: int, step: int = 0, keep: int = 10, best: bool = False, best_epoch: int = 0) -> Path:
    checkpoint = sample(epoch, step)
    checkpoint.state["best_epoch"] = best_epoch
    return write_checkpoint(root, checkpoint, keep, best)


def names(root: Path) -> list[str]:
    return [folder.name for folder in list_checkpoints(root)]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("ema", [True, False])
def test_what_is_written_is_read_back_bit_for_bit(root, ema):
    written = sample(3, 120, ema)
    folder = write_checkpoint(root, written, keep=3, best=False)
    assert folder.name == "epoch_0003_step_000120"
    read = read_checkpoint(folder)
    assert (read.state, read.config) == (written.state, written.config)
    for part in ("model", "ema", "optimizer"):
        assert same_arrays(getattr(read, part) or {}, getattr(written, part) or {})
    assert {file.name for file in folder.iterdir()} == {*FILES, "manifest.json"} - (set() if ema else {"ema.pdparams"})


def test_links_point_to_the_latest_and_the_best_and_stay_valid_when_the_run_is_moved(root, tmp_path):
    for epoch in (1, 2):
        # Until something was evaluated, the newest is the best.
        write(root, epoch)
        assert (os.readlink(root / "latest"), os.readlink(root / "best")) == (f"epoch_{epoch:04d}",) * 2
    write(root, 2, best=True)
    write(root, 3, best_epoch=2)
    assert (os.readlink(root / "latest"), os.readlink(root / "best")) == ("epoch_0003", "epoch_0002")
    moved = root.rename(tmp_path / "elsewhere")
    assert read_checkpoint(moved / "best").state["epoch"] == 2


def test_the_newest_by_their_position_stay_and_the_best(root):
    for epoch, step in [(10, 0), (2, 0), (2, 500), (2, 1000), (10000, 0)]:
        write(root, epoch, step)
    assert names(root) == ["epoch_0002", "epoch_0002_step_000500", "epoch_0002_step_001000", "epoch_0010",
                           "epoch_10000"]  # fmt: skip
    write(root, 10001, keep=2, best=True)
    write(root, 10002, keep=2, best_epoch=10001)
    write(root, 10003, keep=2, best_epoch=10001)
    assert names(root) == ["epoch_10001", "epoch_10002", "epoch_10003"]


def test_a_position_is_written_anew_and_leftovers_of_a_killed_run_are_cleared_away(root):
    write(root, 1)
    leftover = root / ".epoch_0002-abc123"
    shutil.copytree(root / "epoch_0001", leftover)
    assert names(root) == ["epoch_0001"]
    replacement = sample(1)
    replacement.state["best_metric"] = 0.75
    folder = write_checkpoint(root, replacement, keep=3, best=False)
    assert read_checkpoint(folder).state["best_metric"] == 0.75
    assert sorted(os.listdir(root)) == ["best", "epoch_0001", "latest"]


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def change_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_each_damaged_file_is_named(root, name):
    for damage, message in (
        (change_a_byte, f"the content of {name} has changed"), (truncate, f"{name} has"),
        (Path.unlink, f"{name} is missing"),
    ):  # fmt: skip
        folder = write(root, 1)
        damage(folder / name)
        with pytest.raises(UserError, match=f"epoch_0001: damaged checkpoint: {message}"):
            read_checkpoint(folder)


def rewrite_manifest(folder: Path, change) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.update(format="another trainer"), "not a checkpoint of this trainer"),
        (lambda manifest: manifest.update(version=2), "checkpoint version 2; this software reads 1"),
        (lambda manifest: manifest["files"].pop("state.json"), "lists no model.pdparams and state.json"),
        (
            lambda manifest: manifest["files"].update({"../secret": {"bytes": 3, "sha256": "0" * 64}}),
            "refused: manifest.json names files outside the checkpoint",
        ),
    ],
)
def test_manifests_that_are_refused(root, change, message):
    folder = write(root, 1)
    rewrite_manifest(folder, change)
    with pytest.raises(UserError) as error:
        read_checkpoint(folder)
    assert str(error.value).startswith(f"{folder}: ")
    assert message in str(error.value)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        read_checkpoint(folder)


def test_foreign_folders_and_weight_files_are_refused(root, tmp_path):
    folder = write(root, 1)
    with pytest.raises(UserError, match=r"nowhere: no such checkpoint folder"):
        find_checkpoint(str(tmp_path / "nowhere"), root)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(UserError, match=r"pictures: not a checkpoint of this trainer: manifest\.json is missing"):
        find_checkpoint(str(tmp_path / "pictures"), root)
    with pytest.raises(UserError, match=r"--resume wants a checkpoint folder .* Global\.pretrained_model"):
        find_checkpoint(str(folder / "model.pdparams"), root)


def test_a_hostile_pickle_is_refused_even_with_a_right_checksum(root, tmp_path):
    class Command:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "witness"),)

    folder = write(root, 1)
    hostile = folder / "optimizer.pdopt"
    hostile.write_bytes(pickle.dumps({"x": Command()}))
    entry = {"bytes": hostile.stat().st_size, "sha256": sha256_of(hostile)}
    rewrite_manifest(folder, lambda manifest: manifest["files"].update({"optimizer.pdopt": entry}))
    with pytest.raises(UserError, match="refused, nothing in it was executed"):
        read_checkpoint(folder)
    assert not (tmp_path / "witness").exists()


def test_auto_takes_the_newest_and_starts_afresh_without_any(root, caplog):
    with caplog.at_level(logging.INFO):
        assert find_checkpoint("auto", root) is None
    assert "no checkpoint in" in caplog.text
    for epoch, step in [(1, 0), (2, 0), (2, 40)]:
        write(root, epoch, step)
    found = find_checkpoint("auto", root)
    assert (found.state["epoch"], found.state["step"]) == (2, 40)
    assert find_checkpoint(None, root) is None


def test_auto_falls_back_to_the_newest_good_one_and_names_the_damaged_ones(root, caplog):
    for epoch in (1, 2, 3):
        write(root, epoch)
    truncate(root / "epoch_0003" / "model.pdparams")
    (root / "epoch_0002" / "manifest.json").unlink()
    assert find_checkpoint("auto", root).state["epoch"] == 1
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert "epoch_0003: damaged checkpoint: model.pdparams has" in warnings[0]
    assert "epoch_0002: not a checkpoint of this trainer" in warnings[1]
    change_a_byte(root / "epoch_0001" / "state.json")
    with pytest.raises(UserError, match="none of the 3 checkpoints is whole; remove them to start afresh"):
        find_checkpoint("auto", root)


def test_a_run_that_goes_on_from_an_earlier_checkpoint_leaves_the_later_ones(root, caplog):
    for epoch, step in [(1, 0), (2, 0), (2, 40), (3, 0)]:
        write(root, epoch, step, best=epoch == 3, best_epoch=1)
    with caplog.at_level(logging.INFO):
        go_on_from(root, 2, 0, best_epoch=1)
    (aside,) = root.parent.glob("abandoned_*")
    assert names(aside) == ["epoch_0002_step_000040", "epoch_0003"]
    assert f"after epoch_0002: epoch_0002_step_000040, epoch_0003 moved to {aside}" in caplog.text
    assert (os.readlink(root / "latest"), os.readlink(root / "best")) == ("epoch_0002", "epoch_0001")
    assert find_checkpoint("auto", root).state["epoch"] == 2
    go_on_from(root, 2, 0, best_epoch=0)
    assert os.readlink(root / "best") == "epoch_0002", "until one was evaluated"
    write(root, 3, best=True)
    go_on_from(root, 2, 0, best_epoch=1)
    write(root, 3, best=True)
    shutil.rmtree(root / "epoch_0001")
    go_on_from(root, 2, 0, best_epoch=1)
    assert sorted(os.listdir(root)) == ["epoch_0002", "latest"]


def test_auto_continues_the_branch_that_ran_last(root):
    """Earlier versions left the later checkpoints where they were: here epochs 4 and 5, taken up again from epoch 2."""
    for epoch in [1, 2, 3, 4, 5, 3]:
        write(root, epoch)
    assert find_checkpoint("auto", root).state["epoch"] == 3
    (root / "latest").unlink()
    assert find_checkpoint("auto", root).state["epoch"] == 5


@pytest.mark.parametrize("step", ["fsync", "rename", "symlink", "replace"])
def test_a_full_disk_keeps_the_last_good_checkpoint(root, monkeypatch, step):
    def fail(*_arguments, **_named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(UserError, match="No space left on device.*there is no older checkpoint"):
            write(root, 1)
    assert names(root) == []
    write(root, 1, best=True)
    with monkeypatch.context() as patched:
        patched.setattr(os, step, fail)
        with pytest.raises(UserError) as error:
            write(root, 2, keep=1)
    message = str(error.value)
    assert message.startswith(f"{root / 'epoch_0002'}: cannot save the checkpoint (No space left on device); ")
    assert "the last good checkpoint is" in message and "--resume auto" in message
    assert same_arrays(read_checkpoint(root / "epoch_0001").model, sample(1).model)
    assert find_checkpoint("auto", root) is not None
    assert not [name for name in os.listdir(root) if name.startswith(".epoch")]
