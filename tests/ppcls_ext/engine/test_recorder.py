"""One folder, one run: a second run is refused, two processes never share it, and its log tells nothing twice."""

from __future__ import annotations

import errno
import fcntl
import json
import subprocess
import sys

import numpy as np
import pytest

from ppcls_ext.engine.checkpoint import Checkpoint, write_checkpoint
from ppcls_ext.engine.recorder import RunFolder
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.history import read_history
from tests.support.runs import ROOT, content_of

HOLD = """
import sys
from pathlib import Path
from ppcls_ext.engine.recorder import RunFolder
folder = RunFolder(Path(sys.argv[1]), active=True)
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def open_folder(tmp_path):
    opened = []

    def open_one(name: str = "run", active: bool = True, resume: str | None = "auto") -> RunFolder:
        opened.append(RunFolder(tmp_path / name, active, resume=resume))
        return opened[-1]

    yield open_one
    for folder in opened:
        folder.close()


def save(folder: RunFolder, epoch: int) -> None:
    state = {"epoch": epoch, "step": 0}
    weights = {"a": np.zeros(1, "float32")}
    write_checkpoint(folder.checkpoints, Checkpoint(state, weights, None, None, ""), keep=3, best=False)


def records(folder: RunFolder) -> list[dict]:
    return [json.loads(line) for line in open(folder.path / "log.jsonl", encoding="utf-8")]


@pytest.mark.parametrize(
    ("resume", "other"), [(None, ""), ("else/epoch_0003", ", of which else/epoch_0003 is no checkpoint")]
)
def test_a_second_run_is_refused_before_a_byte_of_the_first_changes(open_folder, resume, other, monkeypatch):
    folder = open_folder(resume=resume)
    save(folder, 3)
    folder.close()
    before = content_of(folder.path)
    with pytest.raises(UserError) as error:
        open_folder(resume=resume)
    assert str(error.value) == (
        f"{folder.path}: already holds a run (epoch_0003){other}; continue it with --resume auto, "
        "choose another Global.output_dir, or remove the folder (--overwrite never replaces a run)"
    )
    assert content_of(folder.path) == before
    open_folder().close()
    open_folder(resume=f"{folder.checkpoints}/latest").close()
    monkeypatch.setenv("HOME", str(folder.path))
    open_folder(resume="~/checkpoints/latest")


def test_a_folder_is_held_by_one_process_until_that_is_gone(tmp_path, open_folder):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=r"run: another process is training in this folder; .* Global\.output_dir"):
            open_folder()
        open_folder("another run")
    finally:
        holder.kill()
        holder.communicate()
    open_folder().close()
    open_folder()


def test_a_file_system_without_locks_is_warned_of(open_folder, monkeypatch, caplog):
    def flock(*_arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    open_folder()
    assert "this file system has no locks (No locks available)" in caplog.text


def test_other_ranks_write_nothing(tmp_path, open_folder):
    open_folder()
    rank_1 = open_folder(active=False, resume=None)
    rank_1.write_config("a: 1")
    rank_1.open_log(0, 0)
    rank_1.log("step", epoch=1, step=1)
    rank_1.close()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "train.log"]
    open_folder("elsewhere", active=False)
    assert not (tmp_path / "elsewhere").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path, open_folder):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"file/run: cannot write here \(.+\); choose another Global\.output_dir"):
        open_folder("file/run")


def fill_log(folder: RunFolder) -> None:
    folder.open_log(0, 0)
    for epoch in (1, 2, 3):
        for step in (10, 20):
            folder.log("step", epoch=epoch, step=step, loss=0.5)
        folder.log("epoch", epoch=epoch, note="für\u2028alle\x85")
    folder.close()


def kept(folder: RunFolder) -> list[tuple]:
    return [(record["kind"], record["epoch"], record.get("step")) for record in records(folder)]


def test_a_resumed_log_keeps_what_the_checkpoint_covers_and_nothing_else(open_folder):
    first = [("step", 1, 10), ("step", 1, 20), ("epoch", 1, None)]
    second = [("step", 2, 10), ("step", 2, 20), ("epoch", 2, None)]
    for epoch, step, expected in ((2, 0, first + second), (1, 15, first + second[:1]), (0, 10, first[:1]), (0, 0, [])):
        folder = open_folder()
        fill_log(folder)
        folder = open_folder()
        folder.open_log(epoch, step)
        assert kept(folder) == expected
        folder.log("step", epoch=epoch + 1, step=step + 1)
        # Without closing: a killed run keeps its records.
        assert kept(folder) == [*expected, ("step", epoch + 1, step + 1)]
        folder.close()


@pytest.mark.parametrize("torn", [b"\x00\x00", b'{"kind": "st\xc3'])
def test_a_line_that_a_crash_tore_is_dropped(open_folder, torn):
    folder = open_folder()
    fill_log(folder)
    with open(folder.path / "log.jsonl", "ab") as stream:
        stream.write(torn)
    folder = open_folder()
    folder.open_log(3, 0)
    assert (len(records(folder)), len(read_history(folder.path))) == (9, 3)
