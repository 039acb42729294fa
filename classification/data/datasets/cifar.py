"""CIFAR-10 and CIFAR-100 from the official python archives (Krizhevsky, "Learning multiple layers ...", 2009)."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from classification.data.datasets.base import ImageDataset, existing_file, existing_folder
from classification.data.errors import DatasetError
from ppcls_ext.preprocess.operators import Backend
from ppcls_ext.weights.pickles import STAND_INS, PickledBytes

PIXELS = 3 * 32 * 32


def _empty_bytes() -> bytes:
    """What Python 3 writes for empty bytes in the old pickle protocol of the archives; it takes no arguments."""
    return b""


def _encoded(text: str, codec: str) -> bytes:
    """What Python 3 writes there for all other bytes, which are keys of the archives too."""
    return PickledBytes(text, codec).content


PERMITTED = {
    **STAND_INS,
    ("__builtin__", "bytes"): _empty_bytes,
    ("builtins", "bytes"): _empty_bytes,
    ("_codecs", "encode"): _encoded,
}


class _ArchiveUnpickler(pickle.Unpickler):
    """Admits arrays, bytes, numbers, lists and dictionaries: nothing that the file names is called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PERMITTED:
            raise pickle.UnpicklingError(f"it asks for '{module}.{name}', which no CIFAR archive needs")
        return PERMITTED[(module, name)]


def _read_batch(content: bytes, source: str, argument: str) -> dict[str, Any]:
    """Returns a batch file's dictionary with text keys and arrays in place of their pickled forms."""
    try:
        batch = _ArchiveUnpickler(io.BytesIO(content), encoding="bytes").load()
        return {
            key.decode("ascii") if isinstance(key, bytes) else key: getattr(value, "array", value)
            for key, value in batch.items()
        }
    except Exception as error:  # A damaged or hostile pickle can raise anything; none of it is our own code failing.
        raise DatasetError(argument, f"{source} is damaged or not a CIFAR batch ({error})") from error


class _Cifar(ImageDataset):
    """What CIFAR-10 and CIFAR-100 share. Images are kept in memory as ``uint8`` ``[N, 32, 32, 3]``."""

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
    path = existing_file(data_file, "data_file")
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
    folder = existing_folder(data_dir, "data_dir")
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
