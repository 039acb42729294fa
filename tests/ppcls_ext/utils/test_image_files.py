"""Files, folders and patterns to images."""

from __future__ import annotations

import pytest

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.image_files import find_images, left_out


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ("a/1.png", "a/2.JPG", "a/notes.txt", "b/deep/3.jpeg", "a/.hidden/4.png", "[x]/5.png", "odd.data",
                 "frames/f10.png", "frames/f2.png", "frames/10/1.png", "frames/3 b.png"):  # fmt: skip
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_finds_each_image_once_in_order_or_names_the_input(tree):
    for inputs, expected in (
        (["**/*.jpeg"], ["b/deep/3.jpeg"]),
        (["b", "odd.data", "a/1.png", "a"], ["b/deep/3.jpeg", "odd.data", "a/1.png", "a/2.JPG"]),
        (["[x]"], ["[x]/5.png"]),
        (["a/*"], ["a/1.png", "a/2.JPG"]),
        (["a\\*.png"], ["a/1.png"]),
        (["frames"], ["frames/3 b.png", "frames/10/1.png", "frames/f2.png", "frames/f10.png"]),
    ):
        assert [str(path) for path in find_images(inputs)] == expected
    for given in ("empty", "absent.png", "a/*.txt"):
        with pytest.raises(UserError, match="--input") as error:
            find_images(["a", given])
        assert given in str(error.value)


def test_hidden_files_are_left_out_and_links_followed_once(tree):
    (tree / "a" / "._1.png").write_bytes(b"x")
    (tree / "b" / "linked").symlink_to(tree / "a")
    (tree / "a" / "back").symlink_to(tree / "b")
    assert [str(path) for path in find_images(["b"])] == ["b/deep/3.jpeg", "b/linked/1.png", "b/linked/2.JPG"]


def test_other_files_of_folders_are_named_or_counted(tree):
    assert left_out(["a/1.png", "odd.data", "b"]) is None
    (tree / "a" / "clip.mp4").write_bytes(b"x")
    assert left_out(["a", "b", "a/1.png"]) == "left out as no images: a/clip.mp4, a/notes.txt"
    for name in ("b/deep/1.xml", "b/deep/2.XML", "b/README", "b/x.csv"):
        (tree / name).write_bytes(b"x")
    assert left_out(["a", "b"]) == "left out as no images: 2 .xml, 1 .csv, 1 .mp4, 1 .txt, 1 no suffix"
