"""Data sets from made files, and what they say when the files are not right."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classification.data.datasets import (
    Cifar10,
    Cifar100,
    DatasetError,
    Digits,
    ImageFolder,
    ImageNetDataset,
    check_labels,
)
from ppcls_ext.utils.signature import check_arguments, parameters_of


def save(path: Path, colour: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (colour, 0, 0)).save(path)


def listed(tmp_path: Path, text: str, **arguments: object) -> ImageNetDataset:
    (tmp_path / "list.txt").write_text(text, encoding="utf-8")
    return ImageNetDataset(str(tmp_path), str(tmp_path / "list.txt"), **arguments)


class TestImageNetDataset:
    def test_reads_files_and_labels(self, tmp_path: Path) -> None:
        save(tmp_path / "train" / "a b.png")
        dataset = listed(tmp_path, "train/a b.png 7\n\ntrain/c.png 3\n")
        assert len(dataset) == 2
        assert dataset.labels.tolist() == [7, 3]
        data, label = dataset.load(0)
        assert data == (tmp_path / "train" / "a b.png").read_bytes()
        assert label == 7
        assert dataset.name_of(1) == str(tmp_path / "train" / "c.png")
        assert dataset.class_names is None
        dataset = listed(tmp_path, "a.png,30\nb.png,10\nc.png,30\n", delimiter=",", relabel=True)
        assert dataset.labels.tolist() == [1, 0, 1]
        # As a system with other encodings and separators writes it.
        save(tmp_path / "海参" / "1.PNG")
        (tmp_path / "list.txt").write_bytes("海参\\1.png\t4\r\n".encode("gb18030"))
        dataset = ImageNetDataset(str(tmp_path), str(tmp_path / "list.txt"))
        assert (dataset.name_of(0), dataset.labels.tolist()) == (str(tmp_path / "海参" / "1.PNG"), [4])

    def test_what_is_missing_or_empty_is_told_by_argument_and_path(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="nowhere does not exist") as caught:
            ImageNetDataset(str(tmp_path / "nowhere"), str(tmp_path / "list.txt"))
        assert caught.value.argument == "image_root"
        with pytest.raises(DatasetError, match=r"list\.txt does not exist") as caught:
            ImageNetDataset(str(tmp_path), str(tmp_path / "list.txt"))
        assert caught.value.argument == "cls_label_path"
        with pytest.raises(DatasetError, match=r"list\.txt lists no images"):
            listed(tmp_path, "\n  \n")
        with pytest.raises(DatasetError, match=r"list\.txt, line 3: expected a path"):
            listed(tmp_path, "a.png 0\n\na.png 1.5\n")
        with pytest.raises(DatasetError, match=r"list\.txt, line 1: expected a path, a space and a whole number"):
            listed(tmp_path, f"a.png {2**63}\n", delimiter="")

    def test_label_outside_class_num(self, tmp_path: Path) -> None:
        for label, advice in ((10, "use -o Arch.class_num=11"), (-1, "labels begin at 0")):
            with pytest.raises(DatasetError, match=rf"label {label} of .*b\.png is outside 0\.\.9.*{advice}$"):
                check_labels(listed(tmp_path, f"a.png 0\nb.png {label}\n"), 10)
        check_labels(listed(tmp_path, "a.png 0\nb.png 9\n"), 10)

class TestImageFolder:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for name, count in (("zebra", 10), ("ant", 5)):
            for number in range(count):
                save(tmp_path / name / f"{number}.png", number)
        (tmp_path / "ant" / "notes.txt").write_text("not an image")
        return tmp_path

    def test_classes_are_alphabetical_and_hidden_folders_left_out(self, root: Path) -> None:
        save(root / ".cache" / "0.png")
        dataset = ImageFolder(str(root))
        assert dataset.class_names == ["ant", "zebra"]
        assert dataset.labels.tolist() == [0] * 5 + [1] * 10
        assert dataset.name_of(0).endswith("ant/0.png")

    def test_classes_are_those_of_every_system(self, tmp_path: Path) -> None:
        """What systems leave behind is no class, and accents stored as characters of their own change no order."""
        for form, folder in (("NFC", "train"), ("NFD", "val")):
            for name in ("été", "f", "z"):
                save(tmp_path / folder / unicodedata.normalize(form, name) / "0.png")
        for name in ("__MACOSX/é", "@eaDir", "$RECYCLE.BIN", "z/@eaDir/0.png"):
            save(tmp_path / "val" / name / "0.png")
        datasets = [ImageFolder(str(tmp_path / folder)) for folder in ("train", "val")]
        assert datasets[0].class_names == datasets[1].class_names == ["f", "z", "été"]
        assert [len(dataset) for dataset in datasets] == [3, 3]
        save(tmp_path / "val" / "été" / "0.png")
        with pytest.raises(DatasetError, match="2 folders of the class 'été'"):
            ImageFolder(str(tmp_path / "val"))

    def test_split_is_disjoint_complete_stratified_and_seeded(self, root: Path) -> None:
        train, val = (ImageFolder(str(root), split=split, holdout=0.2, seed=3) for split in ("train", "val"))
        names = [{dataset.name_of(index) for index in range(len(dataset))} for dataset in (train, val)]
        assert names[0].isdisjoint(names[1])
        assert len(names[0] | names[1]) == 15
        assert np.bincount(val.labels).tolist() == [1, 2]
        others = {tuple(ImageFolder(str(root), split="val", seed=seed).paths) for seed in range(6)}
        assert len(others) > 1

    def test_parts_of_a_data_set_are_not_taken_for_classes(self, root: Path, tmp_path: Path) -> None:
        data = tmp_path / "data"
        for part in ("train", "Val", "test"):
            for name in ("ant", "zebra"):
                save(data / part / name / "0.png")
        with pytest.raises(DatasetError) as caught:
            ImageFolder(str(data))
        assert caught.value.argument == "image_root"
        assert "(Val, test, train)" in str(caught.value)
        assert f"use {data / 'train'}, and {data / 'Val'} or {data / 'test'} for evaluation" in str(caught.value)
        assert ImageFolder(str(data / "train")).class_names == ["ant", "zebra"]
        for path in ("train/0.png", "test/0.png"):
            save(tmp_path / "flat" / path)
        assert ImageFolder(str(tmp_path / "flat")).class_names == ["test", "train"]

    def test_photographs_that_are_not_read_are_counted(self, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        """A class might lose most of its pictures otherwise, without a word."""
        for name in ("ant/1.HEIC", "ant/deep/2.heic", "zebra/3.dng", "zebra/4.pdf"):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(b"\0\0\0\x20ftypheic")
        save(root / "ant" / "more.JFIF")
        assert ImageFolder(str(root)).labels.tolist() == [0] * 6 + [1] * 10
        assert f"{root}: photographs that are not read here are left out (1 .dng, 2 .heic)" in caplog.text

    def test_folders_without_classes_or_images_and_a_holdout_out_of_range(self, root: Path, tmp_path: Path) -> None:
        (root / "bee").mkdir()
        with pytest.raises(DatasetError, match="bee holds no images"):
            ImageFolder(str(root))
        with pytest.raises(DatasetError, match="holds no class folders"):
            ImageFolder(str(root / "bee"))
        _, problems = check_arguments(parameters_of(ImageFolder), {"image_root": "x", "holdout": 1.0})
        assert problems == [("holdout", "must be above 0 and below 1, got 1.0")]


def cifar_batch(count: int, label_key: str, seed: int) -> dict[bytes, object]:
    generator = np.random.default_rng(seed)
    return {
        b"data": generator.integers(0, 256, (count, 3072), dtype=np.uint8),
        label_key.encode(): generator.integers(0, 3, count).tolist(),
        b"filenames": [b"x.png"] * count,
    }


def cifar10_files() -> dict[str, object]:
    files: dict[str, object] = {f"data_batch_{number}": cifar_batch(4, "labels", number) for number in range(1, 6)}
    return {**files, "test_batch": cifar_batch(3, "labels", 9), "batches.meta": {b"label_names": [b"a", b"b", b"c"]}}


def write_archive(path: Path, files: dict[str, object]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else pickle.dumps(content, protocol=2)
            member = tarfile.TarInfo(f"cifar/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


class TestCifar:
    def test_cifar10_archive(self, tmp_path: Path) -> None:
        files = cifar10_files()
        path = write_archive(tmp_path / "cifar-10-python.tar.gz", files)
        dataset = Cifar10(data_file=str(path), mode="train")
        assert len(dataset) == 20
        assert dataset.class_names == ["a", "b", "c"]
        image, label = dataset.load(5)
        batch = files["data_batch_2"]
        assert np.array_equal(image, batch[b"data"][1].reshape(3, 32, 32).transpose(1, 2, 0))
        assert label == batch[b"labels"][1]
        assert not image.flags.writeable
        assert len(Cifar10(data_file=str(path), mode="test")) == 3

    def test_cifar100_folder_has_fine_labels(self, tmp_path: Path) -> None:
        batch = {**cifar_batch(6, "fine_labels", 1), b"coarse_labels": [0] * 6}
        for name, content in (("train", batch), ("meta", {b"fine_label_names": [b"x", b"y", b"z"]})):
            (tmp_path / name).write_bytes(pickle.dumps(content, protocol=2))
        dataset = Cifar100(data_dir=str(tmp_path))
        assert dataset.labels.tolist() == batch[b"fine_labels"]
        assert dataset.class_names == ["x", "y", "z"]

    def test_a_part_of_the_training_images_is_held_out_and_none_of_the_test_images(self, tmp_path: Path) -> None:
        path = str(write_archive(tmp_path / "cifar-10-python.tar.gz", cifar10_files()))
        whole = Cifar10(data_file=path)
        train, val = (Cifar10(data_file=path, split=split, holdout=0.25, seed=1) for split in ("train", "val"))
        counts = [np.bincount(data.labels, minlength=3) for data in (whole, train, val)]
        assert np.array_equal(counts[0], counts[1] + counts[2])
        np.testing.assert_allclose(counts[2], counts[0] / 4, atol=0.5)
        pictures = {image.tobytes() for part in (train, val) for image in part.images}
        assert len(pictures) == len(whole) and (train.held_out, val.held_out) == (len(val), len(train))
        with pytest.raises(DatasetError, match="split: holds out a part of the training images"):
            Cifar10(data_file=path, mode="test", split="val")

    def test_archive_that_runs_code_is_refused_and_not_run(self, tmp_path: Path) -> None:
        class Attack:
            def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
                return os.mkdir, (str(tmp_path / "was_run"),)

        files = {**cifar10_files(), "data_batch_3": {b"data": Attack()}}
        with pytest.raises(DatasetError, match="data_batch_3 is damaged .*mkdir"):
            Cifar10(data_file=str(write_archive(tmp_path / "bad.tar.gz", files)))
        assert not (tmp_path / "was_run").exists()

    def test_archives_that_lack_something(self, tmp_path: Path) -> None:
        path = tmp_path / "c.tar.gz"
        files = cifar10_files()
        del files["data_batch_4"]
        with pytest.raises(DatasetError, match="has no 'data_batch_4'"):
            Cifar10(data_file=str(write_archive(path, files)))
        files = {**cifar10_files(), "test_batch": {b"data": np.zeros((2, 5), np.uint8), b"labels": [0, 1]}}
        with pytest.raises(DatasetError, match="3072 bytes an image"):
            Cifar10(data_file=str(write_archive(path, files)), mode="test")
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(DatasetError, match=r"c\.tar\.gz is damaged"):
            Cifar10(data_file=str(path))
        with pytest.raises(DatasetError, match="does not exist") as caught:
            Cifar100(data_file=str(tmp_path / "absent.tar.gz"))
        assert caught.value.argument == "data_file"
        with pytest.raises(DatasetError, match="give either 'data_file'"):
            Cifar100()


def test_digits_are_split_by_class_and_rgb_over_the_whole_range() -> None:
    train, val = Digits("train"), Digits("val", size=40)
    assert len(train) + len(val) == 1797
    assert train.class_names == [str(digit) for digit in range(10)]
    shares = np.bincount(val.labels) / (np.bincount(val.labels) + np.bincount(train.labels))
    np.testing.assert_allclose(shares, 0.2, atol=0.01)
    keys = [{image.tobytes() for image in dataset.images} for dataset in (train, Digits("val"))]
    assert len(keys[0] & keys[1]) <= 1  # at most the data's own duplicates, not a shared half
    image, label = val.load(0)
    assert image.shape == (40, 40, 3) and image.dtype == np.uint8 and not image.flags.writeable
    assert image.max() > 200 and label in range(10)
