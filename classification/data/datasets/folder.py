"""A folder with one folder of images for each class."""

from __future__ import annotations

from typing import Literal

import numpy as np

from classification.data.datasets.base import IMAGE_SUFFIXES, ImageDataset, existing_folder, stratified_holdout
from classification.data.errors import DatasetError
from ppcls_ext.preprocess.decode import read_bytes


class ImageFolder(ImageDataset):
    """Class folders: ``image_root/<class name>/**/<image>``. Classes are numbered in alphabetical order.

    Args:
        image_root: the folder that holds the class folders.
        split: ``train`` or ``val`` side of a held-out part that is drawn at random; all images when absent.
        holdout: share of each class that goes to ``val``.
        seed: seed of that draw. The draw depends on the file names, so the same folder gives the same split anywhere.

    Raises:
        DatasetError: the folder does not exist, or holds no class folder with images.
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
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        if not folders:
            raise DatasetError("image_root", f"{image_root} holds no class folders (expected one folder a class)")
        self.class_names = [folder.name for folder in folders]
        self.paths = []
        labels = []
        for label, folder in enumerate(folders):
            images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
            if not images:
                raise DatasetError("image_root", f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
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
