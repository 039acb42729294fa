"""A folder with one folder of images for each class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from classification.data.datasets.base import ImageDataset, existing_folder, stratified_holdout
from classification.data.errors import DatasetError
from ppcls_ext.preprocess.decode import read_bytes
from ppcls_ext.utils.image_files import SUFFIXES, images_in

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
        root = existing_folder(image_root, "image_root")
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
