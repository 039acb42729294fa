"""Names of files as other systems write them, and what systems leave behind."""

from __future__ import annotations

import logging
import os
import unicodedata
from pathlib import Path

import pytest

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.image_files import find_images, images_in
from ppcls_ext.utils.names import match_names, meant_path, user_path

FILES = ("train/cat/a b.jpg", "train/cat/Big.JPG", "train/dog/café.png", "val/1.jpg", "海参/1.png", "50%25.jpg")


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "my set" / "images"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO)
    return caplog


@pytest.mark.parametrize(
    ("stated", "meant"),
    [
        (".\\train/cat\\a b.jpg", "train/cat/a b.jpg"),
        ("train%5Ccat%5Ca%20b.jpg", "train/cat/a b.jpg"),
        ("Train/CAT/big.jpg", "train/cat/Big.JPG"),
        (unicodedata.normalize("NFD", "train/dog/café.png"), "train/dog/café.png"),
        ("C:\\Users\\me\\data\\train\\cat\\a b.jpg", "train/cat/a b.jpg"),
        ("\\\\nas\\share\\val\\1.jpg", "val/1.jpg"),
        ("/elsewhere/set/val/1.jpg", "val/1.jpg"),
        ("file:///D:/set/train/cat/a%20b.jpg", "train/cat/a b.jpg"),
        ("my set\\Images\\val\\1.jpg", "val/1.jpg"),
    ],
)
def test_a_name_of_another_system_finds_its_file_and_is_said(root, log, stated, meant):
    (found,) = match_names(root, [stated], "list.txt")
    assert os.path.normpath(found) == meant
    assert "list.txt: names respelt: 1 " in log.text


def test_what_is_there_counts_first_and_nothing_is_said(root, log):
    (root / "val\\1.jpg").write_bytes(b"another picture")
    (root / "train/cat/big.jpg").write_bytes(b"another picture")
    names = ["val\\1.jpg", "train/cat/big.jpg", "50%25.jpg", str(root / "val/1.jpg"), "./val/1.jpg"]
    assert match_names(root, names, "list.txt") == names
    assert log.text == ""


def test_one_line_counts_the_ways(root, log):
    match_names(root, ["train\\cat\\a b.jpg", "train\\dog\\café.png", "val/1.JPG", "val/1.JPG"], "list.txt")
    assert len(log.records) == 1
    assert "2 with back slashes, 1 in other case or accents" in log.text


def test_a_name_that_fits_several_files_is_refused(root):
    (root / "train/cat/BIG.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"list\.txt: train/cat/big\.jpg is not in .*BIG\.jpg and .*Big\.JPG are"):
        match_names(root, ["train/cat/big.jpg"], "list.txt")


def test_no_name_takes_the_file_of_another_one(root):
    # One of a pair is lost, as on a system that does not tell them apart; a base name alone is no match.
    for names in (["val/1.jpg", "val/1.JPG"], ["train/1.jpg"], ["1.jpg"], ["other/1.jpg", "nowhere.png"]):
        assert match_names(root, names, "list.txt") == names
    # /old is what lies elsewhere: val/2.jpg is missing and is not the 2.jpg above.
    (root / "2.jpg").write_bytes(b"x")
    names = ["/old/val/1.jpg", "/old/train/cat/a b.jpg", "/old/val/2.jpg"]
    assert match_names(root, names, "list.txt") == ["val/1.jpg", "train/cat/a b.jpg", "/old/val/2.jpg"]


def test_names_in_bytes_of_gbk(root, log):
    name = os.fsdecode("扇贝".encode("gbk"))
    try:
        (root / name).mkdir()
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    (root / name / "1.jpg").write_bytes(b"x")
    assert match_names(root, ["扇贝\\1.jpg"], "list.txt") == [f"{name}/1.jpg"]


def test_paths_of_configurations_and_options(root, log, monkeypatch):
    stated = str(root).replace("/", "\\")
    assert meant_path(f"{stated}\\val") == root / "val"
    assert meant_path(f"file://{root}/train/cat/a%20b.jpg") == root / "train/cat/a b.jpg"
    assert "does not exist; reading" in log.text
    assert meant_path("no\\where") == Path("no\\where")
    monkeypatch.setenv("HOME", str(root))
    assert (meant_path("~/val"), user_path("~/new")) == (root / "val", root / "new")
    assert user_path("~nobody of that name/best") == Path("~nobody of that name/best")


def test_what_systems_leave_behind_is_nobodys_data(tmp_path, monkeypatch):
    left = ("__MACOSX/._1.jpg", "__MACOSX/2.jpg", "@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "#recycle/3.jpg", "._1.jpg",
            "$RECYCLE.BIN/4.jpg", ".Trash-1000/5.jpg", "System Volume Information/6.jpg", "lost+found/7.jpg",
            ".ipynb_checkpoints/1-checkpoint.jpg", "Thumbs.db", "desktop.ini", ".DS_Store")  # fmt: skip
    for name in ("1.jpg", "recycled/8.jpg", *left):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [str(path.relative_to(tmp_path)) for path in images_in(tmp_path)] == ["1.jpg", "recycled/8.jpg"]
    monkeypatch.chdir(tmp_path)
    assert [str(path) for path in find_images(["**/*.jpg"])] == ["1.jpg", "recycled/8.jpg"]
    assert [str(path) for path in find_images(["@eaDir/1.jpg", "recycled\\8.jpg", "#recycle/*.jpg"])] == [
        "@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "recycled/8.jpg", "#recycle/3.jpg"
    ]  # fmt: skip
