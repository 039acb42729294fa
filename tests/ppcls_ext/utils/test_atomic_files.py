"""Files and folders that are whole or absent, whatever fails in the middle."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ppcls_ext.utils.files import atomic_folder, atomic_path, read_mapping, write_json, write_text


@pytest.mark.parametrize("name", ["a.json", "a.yaml"])
def test_a_mapping_that_an_editor_of_windows_wrote_is_read(tmp_path, name):
    (tmp_path / name).write_text('\ufeff{"a": 1}', encoding="utf-8")
    assert read_mapping(tmp_path / name) == {"a": 1}


def full_disk(*_arguments, **_named):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def contents(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_a_file_is_replaced(tmp_path):
    file = tmp_path / "new" / "report.txt"
    write_text(file, "first")
    write_text(file, "zweiter Text: ü")
    assert file.read_text(encoding="utf-8") == "zweiter Text: ü"
    assert os.listdir(file.parent) == ["report.txt"]
    write_json(tmp_path / "a.json", {"name": "ü", "value": 0.1})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "name": "ü",\n  "value": 0.1\n}\n'
    with atomic_path(tmp_path / "curves.png") as temporary:
        assert (temporary.suffix, temporary.parent) == (".png", tmp_path), "writers choose their format by it"
        assert temporary != tmp_path / "curves.png"


def test_new_files_and_folders_are_as_readable_as_any_other(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "x")
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "inside").write_text("x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


@pytest.mark.parametrize("step", ["body", "fsync", "replace"])
def test_a_failure_in_the_middle_leaves_the_old_file(tmp_path, monkeypatch, step):
    file = tmp_path / "report.txt"
    write_text(file, "old")
    if step != "body":
        monkeypatch.setattr(os, step, full_disk)
    with pytest.raises(OSError, match="No space left"), atomic_path(file) as temporary:
        temporary.write_text("half of the n")
        if step == "body":
            full_disk()
    assert contents(tmp_path) == {"report.txt": "old"}


def fill(folder: Path, text: str) -> None:
    (folder / "a").write_text(text)
    (folder / "below").mkdir()
    (folder / "below" / "b").write_text(text)


def test_a_folder_is_replaced_whole(tmp_path):
    target = tmp_path / "deep" / "epoch_0001"
    for text in ("old", "new"):
        with atomic_folder(target) as temporary:
            fill(temporary, text)
    assert contents(tmp_path) == {"deep/epoch_0001/a": "new", "deep/epoch_0001/below/b": "new"}
    assert os.listdir(target.parent) == ["epoch_0001"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    for name in ("big/sonar", "here"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "here" / "sonar").symlink_to("../big/sonar")
    (tmp_path / "here" / "report.txt").symlink_to("../big/report.txt")
    with atomic_folder(tmp_path / "here" / "sonar") as temporary:
        fill(temporary, "new")
    write_text(tmp_path / "here" / "report.txt", "new")
    assert all(path.is_symlink() for path in (tmp_path / "here").iterdir())
    assert contents(tmp_path / "big") == {"sonar/a": "new", "sonar/below/b": "new", "report.txt": "new"}


@pytest.mark.parametrize("step", ["body", "fsync", "rename of the new", "rename of the old"])
@pytest.mark.parametrize("older", [True, False])
def test_a_failure_in_the_middle_leaves_the_old_folder(tmp_path, monkeypatch, step, older):
    target, real_rename = tmp_path / "epoch_0001", os.rename
    if older:
        with atomic_folder(target) as temporary:
            fill(temporary, "old")
    elif step == "rename of the old":
        return

    def rename(source, destination):
        is_new = Path(destination) == target and not (Path(source).parent.name.startswith(".epoch_0001-old-"))
        if step == ("rename of the old" if Path(source) == target else "rename of the new" if is_new else ""):
            full_disk()
        real_rename(source, destination)

    monkeypatch.setattr(os, "rename", rename)
    if step == "fsync":
        monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"), atomic_folder(target) as temporary:
        fill(temporary, "new")
        if step == "body":
            full_disk()
    assert contents(tmp_path) == ({"epoch_0001/a": "old", "epoch_0001/below/b": "old"} if older else {})


def test_every_file_and_folder_inside_is_flushed_before_its_name_appears(tmp_path, monkeypatch):
    """A rename that reaches the disk before the content leaves an empty file after a power cut."""
    order, real_fsync, real_rename = [], os.fsync, os.rename

    def fsync(descriptor):
        order.append(os.fstat(descriptor).st_ino)
        real_fsync(descriptor)

    def rename(source, target):
        order.append("rename")
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    with atomic_folder(tmp_path / "run") as temporary:
        fill(temporary, "x")
    inside = {path.stat().st_ino for path in [tmp_path / "run", *(tmp_path / "run").rglob("*")]}
    assert (set(order[:-2]), len(inside)) == (inside, 4)
    assert order[-2:] == ["rename", tmp_path.stat().st_ino]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    file = tmp_path / "report.txt"
    write_text(file, "old")
    script = (
        "import os, sys\nfrom ppcls_ext.utils.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n    temporary.write_text('half')\n    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(file)], check=False)
    assert killed.returncode == -9
    assert file.read_text() == "old"
