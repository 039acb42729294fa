"""Data sets by the names that configurations use: image lists and folders, CIFAR, scikit-learn's digits."""

from __future__ import annotations

import os
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np

from ppcls_ext.preprocess.decode import read_bytes
from ppcls_ext.preprocess.operators import Backend
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.image_files import SUFFIXES, images_in
from ppcls_ext.weights.pickles import unpickle


class DatasetError(UserError):
    """A data set that is missing, empty or malformed.

    Args:
        argument: name of the constructor argument that led there, for example ``image_root``; the caller puts the
            dotted path of the configuration before it.
        message: what is wrong, one line.
    """

    def __init__(self, argument: str, message: str) -> None:
        self.argument = argument
        self.message = message
        super().__init__(f"{argument}: {message}")

    def __reduce__(self) -> tuple[type[DatasetError], tuple[str, str]]:
        return type(self), (self.argument, self.message)


class ImageDataset(ABC):
    """Labelled images by index.

    Attributes:
        labels: ``int64`` ``[length]``, the class of each image.
        class_names: name of each class by number, or None where the data carry none.
    """

    labels: np.ndarray
    class_names: list[str] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def load(self, index: int) -> tuple[bytes | np.ndarray, int]:
        """Returns the encoded file or the ``uint8`` RGB picture ``[H, W, 3]``, and its label.

        A picture that the data set keeps must not be writable: operators may hand views of it on.

        Raises:
            ImageError: the file cannot be read.
        """

    @abstractmethod
    def name_of(self, index: int) -> str:
        """Returns the image's name for messages: its path, or its place in the archive."""


def existing(path: str | os.PathLike[str], argument: str, folder: bool = False) -> Path:
    """Returns the file, or the folder, as a path.

    Raises:
        DatasetError: it does not exist, or is the other of the two.
    """
    found = Path(path)
    if found.is_dir() if folder else found.is_file():
        return found
    other = "is a file, not a folder" if folder else "is a folder, not a file"
    raise DatasetError(argument, f"{path} {other if found.exists() else 'does not exist'}")


def check_labels(dataset: ImageDataset, class_num: int) -> None:
    """Checks that the model has an output for each label.

    Raises:
        DatasetError: a label is negative or not below ``class_num``; the message names the first such image, and the
            setting that fits the labels if there is one. Its ``argument`` is ``class_num``.
    """
    outside = np.flatnonzero((dataset.labels < 0) | (dataset.labels >= class_num))
    if len(outside):
        first = int(outside[0])
        others = f" (and {len(outside) - 1} more)" if len(outside) > 1 else ""
        smallest, largest = int(dataset.labels.min()), int(dataset.labels.max())
        if smallest < 0:
            advice = f"the smallest label is {smallest}, and labels begin at 0"
        else:
            advice = f"the largest label is {largest}: use -o Arch.class_num={largest + 1}"
        raise DatasetError(
            "class_num",
            f"label {int(dataset.labels[first])} of {dataset.name_of(first)}{others} is outside 0..{class_num - 1}; "
            f"{advice}",
        )


def stratified_holdout(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Chooses the same share of every class for validation.

    Args:
        labels: ``int64`` ``[N]``.
        share: above 0 and below 1; each class keeps at least one image on either side if it has two or more.
        seed: the same seed gives the same choice on every machine.

    Returns:
        ``bool`` ``[N]``, true for the images held out.
    """
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = np.random.default_rng([seed, int(label)]).permutation(len(members))
        if len(members) > 1:
            count = min(max(round(len(members) * share), 1), len(members) - 1)
            held_out[members[order[:count]]] = True
    return held_out


class ImageNetDataset(ImageDataset):
    """Images and labels from a list file.

    Args:
        image_root: folder that the paths of the list are relative to.
        cls_label_path: the list, one ``path label`` a line; empty lines are skipped.
        delimiter: what stands between path and label; a space when absent. The last one of a line counts, so paths may
            hold it too.
        relabel: numbers the labels that occur 0, 1, 2, ... in ascending order.

    Raises:
        DatasetError: a path does not exist, the list is empty or a line is malformed (its number is given).
    """

    def __init__(
        self, image_root: str, cls_label_path: str, delimiter: str | None = None, relabel: bool = False
    ) -> None:
        self.image_root = existing(image_root, "image_root", folder=True)
        self.list_path = existing(cls_label_path, "cls_label_path")
        self.paths, labels = self._read_list(delimiter)
        self.labels = np.asarray(labels, dtype=np.int64)
        if relabel:
            self.labels = np.unique(self.labels, return_inverse=True)[1].astype(np.int64)

    def _read_list(self, delimiter: str | None) -> tuple[list[str], list[int]]:
        paths: list[str] = []
        labels: list[int] = []
        try:
            text = self.list_path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DatasetError("cls_label_path", f"{self.list_path} is not a text file in UTF-8 ({error})") from error
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            parts = line.strip().rsplit(delimiter, 1)
            try:
                path, label = parts[0].strip(), int(parts[1])
            except (IndexError, ValueError):
                separator = "a space" if delimiter is None else repr(delimiter)
                raise DatasetError(
                    "cls_label_path",
                    f"{self.list_path}, line {number}: expected a path, {separator} and a whole number, got {line!r}",
                ) from None
            paths.append(path)
            labels.append(label)
        if not paths:
            raise DatasetError("cls_label_path", f"{self.list_path} lists no images")
        return paths, labels

    def _path(self, index: int) -> Path:
        return self.image_root / self.paths[index]

    def load(self, index: int) -> tuple[bytes, int]:
        """Returns the encoded file and its label; raises ``ImageError`` where the file cannot be read."""
        return read_bytes(self._path(index)), int(self.labels[index])

    def name_of(self, index: int) -> str:
        """Returns the path of the image."""
        return str(self._path(index))


SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "eval", "test", "testing"})


class ImageFolder(ImageDataset):
    """Class folders: ``image_root/<class name>/**/<image>``. Classes are numbered in alphabetical order.

    Hidden files and folders are left out, and links to folders are followed.

    Args:
        image_root: the folder that holds the class folders.
        split: ``train`` or ``val`` side of a held-out part that is drawn at random; all images when absent.
        holdout: share of each class that goes to ``val``.
        seed: seed of that draw. The draw depends on the file names, so the same folder gives the same split anywhere.

    Raises:
        DatasetError: the folder does not exist, holds no class folder with images, or holds ``train`` and the like
            with the class folders below.
    """

    def __init__(
        self,
        image_root: str,
        split: Literal["train", "val"] | None = None,
        holdout: float = 0.2,
        seed: int = 0,
    ) -> None:
        if not 0.0 < holdout < 1.0:
            raise ValueError(f"holdout: must be above 0 and below 1, got {holdout}")
        root = existing(image_root, "image_root", folder=True)
        folders = _folders_in(root)
        _refuse_splits(root, folders)
        if not folders:
            raise DatasetError("image_root", f"{image_root} holds no class folders (expected one folder a class)")
        self.class_names = [folder.name for folder in folders]
        self.paths = []
        labels = []
        for label, folder in enumerate(folders):
            images = images_in(folder)
            if not images:
                raise DatasetError("image_root", f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")
            self.paths.extend(images)
            labels.extend([label] * len(images))
        self.labels = np.asarray(labels, dtype=np.int64)
        if split is not None:
            chosen = stratified_holdout(self.labels, holdout, seed) == (split == "val")
            self.paths = [self.paths[index] for index in np.flatnonzero(chosen)]
            self.labels = self.labels[chosen]
            if not self.paths:
                raise DatasetError("image_root", f"{image_root} has too few images for a '{split}' split")

    def load(self, index: int) -> tuple[bytes, int]:
        """Returns the encoded file and its label; raises ``ImageError`` where the file cannot be read."""
        return read_bytes(self.paths[index]), int(self.labels[index])

    def name_of(self, index: int) -> str:
        """Returns the path of the image."""
        return str(self.paths[index])


def _folders_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _refuse_splits(root: Path, folders: list[Path]) -> None:
    """Raises DatasetError where the folders are the parts of a data set, with its classes below, and no classes."""
    if not all(folder.name.lower() in SPLIT_NAMES for folder in folders):
        return
    splits = [folder for folder in folders if _folders_in(folder)]
    if splits:
        names = ", ".join(folder.name for folder in folders)
        training = next((folder for folder in splits if folder.name.lower().startswith("train")), splits[0])
        others = [str(folder) for folder in splits if folder is not training]
        hint = f", and {' or '.join(others)} for evaluation" if others else ""
        raise DatasetError(
            "image_root", f"{root} holds no class folders but parts of a data set ({names}): use {training}{hint}"
        )


PIXELS = 3 * 32 * 32


def _read_batch(content: bytes, source: str, argument: str) -> dict[str, Any]:
    """Returns a batch file's dictionary with text keys and arrays in place of their pickled forms."""
    try:
        batch = unpickle(content, encoding="bytes")
        return {key.decode("ascii") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    except Exception as error:  # A damaged or hostile pickle can raise anything; none of it is our own code failing.
        raise DatasetError(argument, f"{source} is damaged or not a CIFAR batch ({error})") from error


class _Cifar(ImageDataset):
    """Base of CIFAR-10 and CIFAR-100. Images are kept in memory as ``uint8`` ``[N, 32, 32, 3]``."""

    files: ClassVar[dict[str, tuple[str, ...]]]
    meta_file: ClassVar[str]
    label_key: ClassVar[str]
    names_key: ClassVar[str]

    def __init__(
        self,
        data_file: str | None = None,
        mode: Literal["train", "test"] = "train",
        download: bool = False,
        backend: Backend = "cv2",
        data_dir: str | None = None,
    ) -> None:
        if (data_file is None) == (data_dir is None):
            raise DatasetError(
                "data_file", "give either 'data_file' (the official archive) or 'data_dir' (its unpacked folder)"
            )
        argument = "data_file" if data_file is not None else "data_dir"
        wanted = (*self.files[mode], self.meta_file)
        contents = dict(_archive_members(data_file, wanted) if data_file else _folder_members(data_dir, wanted))
        self._source = str(data_file or data_dir)
        images, labels = [], []
        for name in self.files[mode]:
            if name not in contents:
                raise DatasetError(argument, f"{self._source} has no '{name}'; is it the python version of the data?")
            batch = _read_batch(contents[name], f"{self._source}:{name}", argument)
            images.append(self._images_of(batch, name, argument))
            labels.extend(batch[self.label_key])
        self.images = np.concatenate(images)
        self.images.setflags(write=False)
        self.labels = np.asarray(labels, dtype=np.int64)
        if len(self.images) != len(self.labels) or not len(self.labels):
            raise DatasetError(argument, f"{self._source} has {len(self.images)} images and {len(self.labels)} labels")
        if self.meta_file in contents:
            meta = _read_batch(contents[self.meta_file], f"{self._source}:{self.meta_file}", argument)
            names = meta.get(self.names_key, [])
            self.class_names = [name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in names]

    def _images_of(self, batch: dict[str, Any], name: str, argument: str) -> np.ndarray:
        data = batch.get("data")
        fits = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2 and data.shape[1] == PIXELS
        if not fits or self.label_key not in batch:
            raise DatasetError(
                argument, f"{self._source}:{name} lacks 'data' of {PIXELS} bytes an image or '{self.label_key}'"
            )
        return np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))

    def load(self, index: int) -> tuple[np.ndarray, int]:
        """Returns the ``uint8`` RGB picture ``[32, 32, 3]``, which cannot be written to, and its label."""
        return self.images[index], int(self.labels[index])

    def name_of(self, index: int) -> str:
        """Returns the archive and the place in it."""
        return f"{self._source}#{index}"


def _archive_members(data_file: str, wanted: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yields (file name, content) of the wanted files; nothing is unpacked to the disk."""
    path = existing(data_file, "data_file")
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                stream = archive.extractfile(member) if name in wanted else None
                if stream is not None:
                    yield name, stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DatasetError("data_file", f"{data_file} is damaged or not a .tar.gz archive ({error})") from error


def _folder_members(data_dir: str, wanted: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    folder = existing(data_dir, "data_dir", folder=True)
    for name in wanted:
        if (folder / name).is_file():
            yield name, (folder / name).read_bytes()


class Cifar10(_Cifar):
    """CIFAR-10.

    Args:
        data_file: the official ``cifar-10-python.tar.gz``; give this or ``data_dir``.
        mode: ``train`` (50,000 images) or ``test`` (10,000).
        download: accepted for PaddleClas's configurations; nothing is downloaded.
        backend: accepted for PaddleClas's configurations; pictures are RGB arrays.
        data_dir: the unpacked folder ``cifar-10-batches-py``.

    Raises:
        DatasetError: the data are missing or damaged.
    """

    files: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
        "test": ("test_batch",),
    }
    meta_file = "batches.meta"
    label_key = "labels"
    names_key = "label_names"


class Cifar100(_Cifar):
    """CIFAR-100 with its fine labels.

    Args:
        data_file: the official ``cifar-100-python.tar.gz``; give this or ``data_dir``.
        mode: ``train`` (50,000 images) or ``test`` (10,000).
        download: accepted for PaddleClas's configurations; nothing is downloaded.
        backend: accepted for PaddleClas's configurations; pictures are RGB arrays.
        data_dir: the unpacked folder ``cifar-100-python``.

    Raises:
        DatasetError: the data are missing or damaged.
    """

    files: ClassVar[dict[str, tuple[str, ...]]] = {"train": ("train",), "test": ("test",)}
    meta_file = "meta"
    label_key = "fine_labels"
    names_key = "fine_label_names"


class Digits(ImageDataset):
    """Handwritten digits of 8x8 pixels, enlarged, as RGB (Alpaydin and Kaynak, UCI repository, 1998).

    Args:
        split: the ``train`` or the ``val`` side of a seeded split that keeps the proportions of the classes.
        holdout: share of each digit that goes to ``val``.
        seed: seed of the split.
        size: side of the pictures in pixels.

    Raises:
        DatasetError: scikit-learn is not installed.
    """

    def __init__(
        self, split: Literal["train", "val"] = "train", holdout: float = 0.2, seed: int = 0, size: int = 32
    ) -> None:
        if not 0.0 < holdout < 1.0:
            raise ValueError(f"holdout: must be above 0 and below 1, got {holdout}")
        if size < 8:
            raise ValueError(f"size: must be at least 8, got {size}")
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise DatasetError("name", "the digits come with scikit-learn: pip install scikit-learn") from error
        digits = load_digits()
        labels = digits.target.astype(np.int64)
        chosen = np.flatnonzero(stratified_holdout(labels, holdout, seed) == (split == "val"))
        self.split = split
        self.class_names = [str(digit) for digit in range(10)]
        self.labels = labels[chosen]
        # Samples are 0..16; as bytes they use the whole range.
        grey = np.round(digits.images[chosen] * (255.0 / 16.0)).astype(np.uint8)
        enlarged = [cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR) for picture in grey]
        self.images = np.repeat(np.stack(enlarged)[..., np.newaxis], 3, axis=3)
        self.images.setflags(write=False)

    def load(self, index: int) -> tuple[np.ndarray, int]:
        """Returns the ``uint8`` RGB picture ``[size, size, 3]``, which cannot be written to, and its label."""
        return self.images[index], int(self.labels[index])

    def name_of(self, index: int) -> str:
        """Returns the digit's place in its split."""
        return f"digits/{self.split}#{index}"


DATASETS: dict[str, type[ImageDataset]] = {
    dataset.__name__: dataset for dataset in (ImageNetDataset, ImageFolder, Cifar10, Cifar100, Digits)
}
