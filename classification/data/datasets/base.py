"""What every data set offers, and the checks that hold for all of them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from classification.data.errors import DatasetError


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
        """Returns what a person would call the image: its path, or its place in the archive."""


def existing_folder(path: str | os.PathLike[str], argument: str) -> Path:
    """Returns the folder as a path.

    Raises:
        DatasetError: it does not exist or is a file.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    cause = "is a file, not a folder" if folder.exists() else "does not exist"
    raise DatasetError(argument, f"{path} {cause}")


def existing_file(path: str | os.PathLike[str], argument: str) -> Path:
    """Returns the file as a path.

    Raises:
        DatasetError: it does not exist or is a folder.
    """
    file = Path(path)
    if file.is_file():
        return file
    cause = "is a folder, not a file" if file.exists() else "does not exist"
    raise DatasetError(argument, f"{path} {cause}")


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
