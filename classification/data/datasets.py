"""Data sets by the names that configurations use: image lists and folders, CIFAR, scikit-learn's digits."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tarfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import cv2
import numpy as np

from ppcls_ext.preprocess.content import photographs_left_out
from ppcls_ext.preprocess.decode import read_bytes
from ppcls_ext.preprocess.operators import Backend
from ppcls_ext.preprocess.samples import Range
from ppcls_ext.utils.errors import UserError, suggestion
from ppcls_ext.utils.image_files import SUFFIXES, images_in
from ppcls_ext.utils.names import class_of_folder, match_names, meant_path, visible_folders
from ppcls_ext.utils.signature import Limits
from ppcls_ext.utils.texts import read_text
from ppcls_ext.weights.pickles import unpickle

logger = logging.getLogger(__name__)


class DatasetError(UserError):
    """A data set that is missing, empty or malformed: ``argument`` of its constructor, and one line about it."""

    def __init__(self, argument: str, message: str) -> None:
        self.argument, self.message = argument, message
        super().__init__(f"{argument}: {message}")


class ImageDataset(ABC):
    """Labelled images by index.

    Attributes:
        labels: ``int64`` ``[length]``, the class of each image.
        class_names: name of each class by number, or None where the data carry none.
        label_order: what an evaluation set takes over, so that its numbers mean the same: the folders, or the labels of
            the list as they were before ``relabel``, by class number. None where the data state the numbers.
        lacking: names of the classes of a given ``label_order`` that have no image.
        held_out: how many images belong to the other side of ``split``.
        value_range: for those who decode without the operators: what ``decode_image`` makes bytes of.
    """

    labels: np.ndarray
    class_names: list[str] | None = None
    label_order: list[Any] | None = None
    lacking: Sequence[str] = ()
    held_out: int = 0
    value_range: Range | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def spread(self, count: int) -> list[int]:
        """Returns the numbers of ``count`` images at equal distances, of all where they are fewer."""
        return np.linspace(0, len(self) - 1, min(count, len(self))).astype(int).tolist()

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


class _Files(ImageDataset):
    """Base of data sets on the disk: ``paths`` below ``image_root``."""

    image_root: Path
    paths: list[str | Path]

    def load(self, index: int) -> tuple[bytes, int]:
        """Returns the encoded file and its label."""
        return read_bytes(self.image_root / self.paths[index]), int(self.labels[index])

    def name_of(self, index: int) -> str:
        """Returns the path of the image."""
        return str(self.image_root / self.paths[index])


class _Pictures(ImageDataset):
    """Base of data sets in memory: ``images``, ``uint8`` RGB ``[N, H, W, 3]``; ``source`` names them in messages."""

    def __init__(self, source: str, images: np.ndarray, labels: Any, class_names: list[str] | None) -> None:
        self.source, self.images, self.class_names = source, images, class_names
        self.images.setflags(write=False)
        self.labels = np.asarray(labels, dtype=np.int64)

    def load(self, index: int) -> tuple[np.ndarray, int]:
        """Returns the picture and its label."""
        return self.images[index], int(self.labels[index])

    def name_of(self, index: int) -> str:
        """Returns the source and the place in it."""
        return f"{self.source}#{index}"


@contextlib.contextmanager
def blame(argument: str) -> Iterator[None]:
    """Lets other mistakes of the user, such as a text that cannot be read, be those of this argument."""
    try:
        yield
    except DatasetError:
        raise
    except UserError as error:
        raise DatasetError(argument, str(error)) from error


def existing(path: str | os.PathLike[str], argument: str, folder: bool = False) -> Path:
    """Returns the file, or the folder, as a path; raises a DatasetError if it is not there, or is the other of both."""
    found = meant_path(path)
    if found.is_dir() if folder else found.is_file():
        return found
    other = "is a file, not a folder" if folder else "is a folder, not a file"
    raise DatasetError(argument, f"{path} {other if found.exists() else 'does not exist'}")


def check_labels(dataset: ImageDataset, class_num: int) -> None:
    """Checks that the model has an output for each label.

    Raises:
        DatasetError: a label is not; the message names the first such image, and the setting that fits if there is one.
    """
    outside = np.flatnonzero((dataset.labels < 0) | (dataset.labels >= class_num))
    if len(outside):
        first = int(outside[0])
        others = f" (and {len(outside) - 1} more)" if len(outside) > 1 else ""
        smallest, largest = int(dataset.labels.min()), int(dataset.labels.max())
        advice = f"the largest label is {largest}: use -o Arch.class_num={largest + 1}"
        if smallest < 0:
            advice = f"the smallest label is {smallest}, and labels begin at 0"
        elif hint := relabel_hint(dataset):
            advice = f"{hint}; or use -o Arch.class_num={largest + 1}"
        name = f"label {int(dataset.labels[first])} of {dataset.name_of(first)}{others}"
        raise DatasetError("class_num", f"{name} is outside 0..{class_num - 1}; {advice}")


def relabel_hint(dataset: ImageDataset) -> str:
    """Says that ``relabel: True`` helps a list whose labels begin at 1 or have gaps; empty for any other data set."""
    used = np.unique(dataset.labels)
    if not isinstance(dataset, ImageNetDataset) or dataset.label_order is not None or used[0] < 0:
        return ""
    count = len(used)
    if used[-1] == count - 1:
        return ""
    what = f"begin at {used[0]}" if used[-1] - used[0] == count - 1 else f"have gaps ({count} labels up to {used[-1]})"
    numbered = f"numbers them 0 to {count - 1} (Arch.class_num={count})"
    return f"the labels of the list {what}: relabel: True beside cls_label_path, in Train and in Eval, {numbered}"


def stratified_holdout(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Chooses a share (0 to 1) of every class of ``labels`` ``[N]`` for validation: ``bool`` ``[N]``.

    Each class keeps at least one image on either side if it has two or more. The same seed gives the same choice on
    every machine.
    """
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = np.random.default_rng([seed, int(label)]).permutation(len(members))
        if len(members) > 1:
            count = min(max(round(len(members) * share), 1), len(members) - 1)
            held_out[members[order[:count]]] = True
    return held_out


class ImageNetDataset(_Files):
    """Images and labels from a list file.

    Args:
        image_root: folder that the paths of the list are relative to.
        cls_label_path: the list, one ``path label`` a line; empty lines are skipped.
        delimiter: what stands between path and label; a space when absent. The last one of a line counts, so paths may
            hold it too.
        relabel: numbers the labels that occur 0, 1, 2, ... in ascending order.
        label_order: of the training set; ``relabel`` numbers by it, for a list may lack some of its labels.

    Raises:
        DatasetError: the folder or the list does not exist, the list is empty, a line is malformed (its number is
            given), a path that is not there fits several files, or a label is not in ``label_order``.
    """

    def __init__(
        self, image_root: str, cls_label_path: str, delimiter: str | None = None, relabel: bool = False,
        label_order: Sequence[Any] | None = None,
    ) -> None:  # fmt: skip
        self.image_root = existing(image_root, "image_root", folder=True)
        file = existing(cls_label_path, "cls_label_path")
        self.paths, labels = [], []
        with blame("cls_label_path"):
            text = read_text(file)
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            path, *rest = line.strip().rsplit(delimiter or None, 1)
            try:
                labels.append(np.int64(int(rest[0])))
            except (IndexError, OverflowError, ValueError):
                separator = repr(delimiter) if delimiter else "a space"
                message = f"{file}, line {number}: expected a path, {separator} and a whole number, got {line!r}"
                raise DatasetError("cls_label_path", message) from None
            self.paths.append(path.strip())
        if not self.paths:
            raise DatasetError("cls_label_path", f"{file} lists no images")
        with blame("cls_label_path"):
            self.paths = match_names(self.image_root, self.paths, str(file))
        self.labels = np.asarray(labels, dtype=np.int64)
        if relabel:
            self.label_order = np.unique(self.labels).tolist() if label_order is None else list(label_order)
            new = {label: number for number, label in enumerate(self.label_order)}
            unknown = [label for label in np.unique(self.labels).tolist() if label not in new]
            if unknown:
                message = f"{file} has the label {unknown[0]}, which the training list does not have"
                raise DatasetError("cls_label_path", message)
            self.labels = np.array([new[label] for label in labels], dtype=np.int64)


def shared_folder(first: str, second: str) -> str | None:
    """Says how two roots of class folders share images; ``None`` where they share none, or one of them is not there.

    ``same`` is one folder, however it is named (links, relative paths, another case of letters); else these are words
    for a message: one lies in the other, or a class folder is a link to one of the other.
    """
    roots = [meant_path(root).resolve() for root in (first, second)]
    if not all(root.is_dir() for root in roots):
        return "same" if roots[0] == roots[1] else None
    if os.path.samefile(*roots):
        return "same"
    for inner, outer in (roots, reversed(roots)):
        if outer in inner.parents:
            return f"{inner} lies in {outer}"
    mine, theirs = ({os.path.realpath(folder): folder for folder in _folders_in(root)} for root in roots)
    if both := sorted(mine.keys() & theirs.keys()):
        return f"{mine[both[0]]} and {theirs[both[0]]} are one folder"
    return None


HeldOut = Annotated[float, Limits(gt=0, lt=1)]
SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "eval", "test", "testing"})


class ImageFolder(_Files):
    """Class folders: ``image_root/<class name>/**/<image>``. Classes are numbered in alphabetical order.

    Hidden files and folders and those that systems leave behind are left out, and links to folders are followed.

    Args:
        image_root: the folder that holds the class folders.
        split: ``train`` or ``val`` side of a held-out part that is drawn at random; all images when absent.
        holdout: share of each class that goes to ``val``.
        seed: seed of that draw. The draw depends on the file names, so the same folder gives the same split anywhere.
        label_order: the classes of the training set. Of these folders some may be missing or empty; without it every
            class folder must hold images.

    Raises:
        DatasetError: the folder does not exist, holds no class folder with images, or holds ``train`` and the like
            with the class folders below; or a class is not in ``label_order``.
    """

    def __init__(
        self, image_root: str, split: Literal["train", "val"] | None = None, holdout: HeldOut = 0.2, seed: int = 0,
        label_order: Sequence[Any] | None = None,
    ) -> None:  # fmt: skip
        root = existing(image_root, "image_root", folder=True)
        folders = _folders_in(root)
        parts = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
        splits = [folder for folder in folders if _folders_in(folder)] if parts == folders else []
        if splits:
            # They are the parts of a data set, with its classes below, and no classes.
            names = ", ".join(folder.name for folder in folders)
            training = next((folder for folder in splits if folder.name.lower().startswith("train")), splits[0])
            others = [str(folder) for folder in splits if folder is not training]
            hint = f", and {' or '.join(others)} for evaluation" if others else ""
            message = f"{root} holds no class folders but parts of a data set ({names}): use {training}{hint}"
            raise DatasetError("image_root", message)
        if not folders:
            raise DatasetError("image_root", f"{image_root} holds no class folders (expected one folder a class)")
        if left_out := photographs_left_out(root):
            logger.warning("%s", left_out)
        names = [class_of_folder(folder.name) for folder in folders]
        for name, count in Counter(names).items():
            if count > 1:
                message = f"{root} holds {count} folders of the class '{name}', whose names differ in their bytes only"
                raise DatasetError("image_root", message)
        self.class_names = self.label_order = names if label_order is None else [*label_order]
        self.image_root, self.paths, labels = Path(), [], []
        for folder, name in zip(folders, names, strict=True):
            if name not in self.class_names:
                near = suggestion(name, self.class_names)
                message = f"{folder} is a class that the training data do not have{near}"
                raise DatasetError("image_root", f"{message}; they have {', '.join(self.class_names)}")
            images = images_in(folder)
            if not images and label_order is None:
                raise DatasetError("image_root", f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")
            self.paths.extend(images)
            labels.extend([self.class_names.index(name)] * len(images))
        if not labels:
            raise DatasetError("image_root", f"{image_root}: its class folders hold no images")
        self.labels = np.asarray(labels, dtype=np.int64)
        present = set(labels)
        self.lacking = [name for label, name in enumerate(self.class_names) if label not in present]
        if split is not None:
            chosen = stratified_holdout(self.labels, holdout, seed) == (split == "val")
            self.paths = [self.paths[index] for index in np.flatnonzero(chosen)]
            self.labels = self.labels[chosen]
            self.held_out = int((~chosen).sum())
            if not self.paths:
                raise DatasetError("image_root", f"{image_root} has too few images for a '{split}' split")


class UnlabelledImages(_Files):
    """All images in a folder and its sub-folders, for pretraining; every label is 0.

    Args:
        image_root: the folder.
        file_list: only these: a text with one path a line, or a COCO file; paths relative to ``image_root``. It keeps
            the images of a validation set out.

    Raises:
        DatasetError: the folder or the list does not exist, or holds no images.
    """

    def __init__(self, image_root: str, file_list: str | None = None) -> None:
        self.image_root = existing(image_root, "image_root", folder=True)
        if file_list is None:
            self.paths = [path.relative_to(self.image_root) for path in images_in(self.image_root)]
            if not self.paths:
                message = f"{image_root} holds no images ({', '.join(sorted(SUFFIXES))})"
                raise DatasetError("image_root", message)
        else:
            with blame("file_list"):
                self.paths = match_listed(self.image_root, existing(file_list, "file_list"))
        if left_out := photographs_left_out(self.image_root):
            logger.warning("%s", left_out)
        self.labels = np.zeros(len(self.paths), dtype=np.int64)


def match_listed(root: Path, file: Path) -> list[str | Path]:
    """Returns the images that a text (one path a line) or a COCO file lists, each once.

    Raises:
        UserError: it lists none, is no such file, or a path fits several files.
    """
    text = read_text(file)
    try:
        if file.suffix.lower() == ".json":
            names = [os.fspath(image["file_name"]) for image in json.loads(text)["images"]]
        else:
            names = [line.strip() for line in text.split("\n") if line.strip()]
    except (ValueError, LookupError, TypeError) as error:
        message = f"{file} is neither a text with one path a line nor a COCO file ({type(error).__name__}: {error})"
        raise UserError(message) from error
    if not names:
        raise UserError(f"{file} lists no images")
    return match_names(root, list(dict.fromkeys(names)), str(file))


def _folders_in(folder: Path) -> list[Path]:
    names = visible_folders([path.name for path in folder.iterdir() if path.is_dir()])
    return [folder / name for name in sorted(names, key=class_of_folder)]


PIXELS = 3 * 32 * 32


def _read_batch(content: bytes, source: str, argument: str) -> dict[str, Any]:
    """Returns a batch file's dictionary with text keys and arrays in place of their pickled forms."""
    try:
        batch = unpickle(content, encoding="bytes")
        return {key.decode("ascii") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    except Exception as error:  # A damaged or hostile pickle can raise anything; none of it is our own code failing.
        raise DatasetError(argument, f"{source} is damaged or not a CIFAR batch ({error})") from error


class Cifar10(_Pictures):
    """CIFAR-10, kept in memory as ``uint8`` ``[N, 32, 32, 3]``.

    Args:
        data_file: the official ``cifar-10-python.tar.gz``; give this or ``data_dir``.
        mode: ``train`` (50,000 images) or ``test`` (10,000).
        download: accepted for PaddleClas's configurations; nothing is downloaded.
        backend: accepted for PaddleClas's configurations; pictures are RGB arrays.
        data_dir: the unpacked folder ``cifar-10-batches-py``.
        split, holdout, seed: of ``mode: train``, one side of a held-out part, as in :class:`ImageFolder`.

    Raises:
        DatasetError: the data are missing or damaged, or ``split`` is given for the test images.
    """

    files: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",),
    }  # fmt: skip
    meta_file, label_key, names_key = "batches.meta", "labels", "label_names"

    def __init__(
        self, data_file: str | None = None, mode: Literal["train", "test"] = "train", download: bool = False,
        backend: Backend = "cv2", data_dir: str | None = None, split: Literal["train", "val"] | None = None,
        holdout: HeldOut = 0.2, seed: int = 0,
    ) -> None:  # fmt: skip
        if split is not None and mode != "train":
            raise DatasetError("split", "holds out a part of the training images: use it with mode: train")
        if (data_file is None) == (data_dir is None):
            message = "give either 'data_file' (the official archive) or 'data_dir' (its unpacked folder)"
            raise DatasetError("data_file", message)
        argument = "data_file" if data_file is not None else "data_dir"
        wanted = (*self.files[mode], self.meta_file)
        contents = dict(_archive_members(data_file, wanted) if data_file else _folder_members(data_dir, wanted))
        source = str(data_file or data_dir)
        images, labels, class_names = [], [], None
        for name in self.files[mode]:
            if name not in contents:
                raise DatasetError(argument, f"{source} has no '{name}'; is it the python version of the data?")
            batch = _read_batch(contents[name], f"{source}:{name}", argument)
            data = batch.get("data")
            fits = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape[1:] == (PIXELS,)
            if not fits or self.label_key not in batch:
                message = f"{source}:{name} lacks 'data' of {PIXELS} bytes an image or '{self.label_key}'"
                raise DatasetError(argument, message)
            images.append(np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)))
            labels.extend(batch[self.label_key])
        if sum(map(len, images)) != len(labels) or not labels:
            message = f"{source} has {sum(map(len, images))} images and {len(labels)} labels"
            raise DatasetError(argument, message)
        if self.meta_file in contents:
            meta = _read_batch(contents[self.meta_file], f"{source}:{self.meta_file}", argument)
            names = meta.get(self.names_key, [])
            class_names = [name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in names]
        pictures, labels = np.concatenate(images), np.asarray(labels)
        if split is not None:
            chosen = stratified_holdout(labels, holdout, seed) == (split == "val")
            pictures, labels, self.held_out = pictures[chosen], labels[chosen], int((~chosen).sum())
        super().__init__(source, pictures, labels, class_names)


class Cifar100(Cifar10):
    """CIFAR-100 with its fine labels: ``cifar-100-python.tar.gz`` or ``cifar-100-python``; as :class:`Cifar10`."""

    files: ClassVar[dict[str, tuple[str, ...]]] = {"train": ("train",), "test": ("test",)}
    meta_file, label_key, names_key = "meta", "fine_labels", "fine_label_names"


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
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DatasetError("data_file", f"{data_file} is damaged or not a .tar.gz archive ({error})") from error


def _folder_members(data_dir: str, wanted: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    folder = existing(data_dir, "data_dir", folder=True)
    for name in wanted:
        if (folder / name).is_file():
            yield name, (folder / name).read_bytes()


class Digits(_Pictures):
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
        self, split: Literal["train", "val"] = "train", holdout: HeldOut = 0.2, seed: int = 0,
        size: Annotated[int, Limits(ge=8)] = 32,
    ) -> None:  # fmt: skip
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise DatasetError("name", "the digits come with scikit-learn: pip install scikit-learn") from error
        digits = load_digits()
        labels = digits.target.astype(np.int64)
        chosen = np.flatnonzero(stratified_holdout(labels, holdout, seed) == (split == "val"))
        # Samples are 0..16; as bytes they use the whole range.
        grey = np.round(digits.images[chosen] * (255.0 / 16.0)).astype(np.uint8)
        enlarged = [cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR) for picture in grey]
        pictures = np.repeat(np.stack(enlarged)[..., np.newaxis], 3, axis=3)
        super().__init__(f"digits/{split}", pictures, labels[chosen], [str(digit) for digit in range(10)])


DATASETS: dict[str, type[ImageDataset]] = {
    dataset.__name__: dataset for dataset in (ImageNetDataset, ImageFolder, UnlabelledImages, Cifar10, Cifar100, Digits)
}
