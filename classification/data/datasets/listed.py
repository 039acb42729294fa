"""Images named by a list file, as PaddleClas keeps ImageNet: one ``path label`` a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from classification.data.datasets.base import ImageDataset, existing_file, existing_folder
from classification.data.errors import DatasetError
from ppcls_ext.preprocess.decode import read_bytes


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
        self.image_root = existing_folder(image_root, "image_root")
        self.list_path = existing_file(cls_label_path, "cls_label_path")
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
