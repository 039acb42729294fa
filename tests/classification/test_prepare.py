"""Data sets out of data sets: CIFAR-100 of class folders and in small, and the choice of samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classification import prepare
from classification.data.datasets import Cifar100
from classification.prepare import CLASSES, choose_evenly, write_subset
from ppcls_ext.utils.errors import UserError
from tests.support.cifar import cifar_archive


def test_every_second_class_is_kept_with_new_labels(tmp_path):
    source = cifar_archive(tmp_path / "all.tar.gz", images=32)
    output = tmp_path / "some" / "half.tar.gz"
    assert write_subset(str(source), 2, output) == ["apple", "cloud"]
    for mode in ("train", "test"):
        whole, part = Cifar100(str(source), mode), Cifar100(str(output), mode)
        assert part.class_names == ["apple", "cloud"]
        wanted = np.isin(whole.labels, [0, 2])
        assert np.array_equal(part.images, whole.images[wanted])
        assert np.array_equal(part.labels, whole.labels[wanted] // 2)


@pytest.mark.parametrize(
    ("every", "name", "message"),
    [
        (4, "part.tar.gz", r"--every must be from 1 to 3"),
        (2, "part.zip", r"part.zip: must end with .tar.gz"),
        (5, "part.tar.gz", r"none.tar.gz"),
    ],
)
def test_mistakes_are_told_and_leave_no_file(tmp_path, every, name, message):
    source = cifar_archive(tmp_path / "all.tar.gz", images=8)
    before = source.read_bytes()
    with pytest.raises(UserError, match=message):
        write_subset(str(source if every < 5 else tmp_path / "none.tar.gz"), every, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["all.tar.gz"] and source.read_bytes() == before


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-100 as class folders, with two and one picture a class of the colour of its number."""
    monkeypatch.setattr(prepare, "IMAGES_A_CLASS", {"train": 2, "test": 1})
    # As 50,000 images are more than what the reader takes by default: it has 102 names to read, and 200 images.
    monkeypatch.setattr("ppcls_ext.weights.pickles.MOST_TUPLES", 150)
    for label, name in enumerate(CLASSES):
        picture = Image.new("RGB", (32, 32), (label, 2 * label, 7))
        for place in (f"train/{name}/1.png", f"train/{name}/2.png", f"test/{name}/3.png"):
            path = tmp_path / "all" / place
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    return tmp_path / "all"


def test_class_folders_become_the_official_archive(folder: Path, tmp_path: Path) -> None:
    # Another spelling, which stands elsewhere in the alphabet.
    (folder / "train" / "maple_tree").rename(folder / "train" / "Maple tree")
    output = tmp_path / "cifar-100-python.tar.gz"
    names = write_subset(str(folder), None, output)
    assert len(names) == 100 and [names[label] for label in (0, 1, 39, 47, 99)] == [
        "apple", "aquarium_fish", "keyboard", "maple_tree", "worm"
    ]  # fmt: skip
    for mode, count in (("train", 2), ("test", 1)):
        data = Cifar100(str(output), mode)
        assert data.class_names == names and np.bincount(data.labels).tolist() == [count] * 100
        assert np.array_equal(data.images[:, 5, 6], np.stack([data.labels, 2 * data.labels, 0 * data.labels + 7], 1))
    assert write_subset(str(folder), 50, tmp_path / "part.tar.gz") == ["apple", "mouse"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "test" / "worm").rename(folder / "test" / "wurm"),
         r"test: 'wurm' is no class of CIFAR-100 \(did you mean 'worm'\?\)$"),
        (lambda folder: (folder / "train" / "bee" / "1.png").unlink(), "train: has 1 images of 'bee' in place of 2$"),
        (lambda folder: Image.new("RGB", (32, 30)).save(folder / "train" / "bee" / "1.png"),
         "1.png: has 32 x 30 pixels in place of 32 x 32$"),
        (lambda folder: (folder / "test").rename(folder / "val"), r"test does not exist .*train/CLASS/\*.png"),
    ],
    ids=["class", "count", "size", "part"],
)  # fmt: skip
def test_class_folders_that_are_not_cifar100_are_told(folder: Path, tmp_path: Path, change, message: str) -> None:
    change(folder)
    with pytest.raises(UserError, match=message):
        write_subset(str(folder), None, tmp_path / "out.tar.gz")
    assert not (tmp_path / "out.tar.gz").exists()


def test_choice_takes_one_of_each_class_in_turn():
    labels = np.array([0] * 50 + [1] * 5 + [2])
    chosen = choose_evenly(labels, 7, seed=0)
    assert sorted(labels[chosen].tolist()) == [0, 0, 0, 1, 1, 1, 2]
    assert len(set(chosen.tolist())) == 7
    np.testing.assert_array_equal(chosen, choose_evenly(labels, 7, seed=0))
    assert len(choose_evenly(labels, 100, seed=0)) == 56
