"""A detection configuration that has been read and checked, and the settings that the engine asks for by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from ppcls_ext.utils.config import Document

PARTS = ("Train", "Eval", "Test")


@dataclasses.dataclass(frozen=True)
class DatasetFiles:
    """Where one part of a data set lies.

    Attributes:
        image_dir: the folder that the file names in the annotations start from.
        annotations: the COCO annotation file, or ``None`` where the section names none.
    """

    image_dir: Path
    annotations: Path | None


@dataclasses.dataclass(frozen=True)
class DetectionConfig:
    """A configuration with its ``_BASE_`` files merged and its ``-o`` changes applied.

    Attributes:
        document: its data, and the file and line that each key came from.
    """

    document: Document

    @property
    def path(self) -> Path:
        """The file that was loaded."""
        return self.document.path

    @property
    def data(self) -> dict[str, Any]:
        """PaddleDetection's sections, as plain dictionaries, lists and scalars."""
        return self.document.data

    @property
    def architecture(self) -> str:
        """Name of the detector, such as ``PPYOLOE``."""
        return self.data["architecture"]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.data["num_classes"]

    @property
    def epochs(self) -> int:
        """Number of training epochs."""
        return self.data["epoch"]

    @property
    def save_dir(self) -> Path:
        """The folder that holds the folders of runs."""
        return Path(self.data.get("save_dir", "output"))

    @property
    def output_dir(self) -> Path:
        """The folder of the run: ``save_dir`` and the name of the configuration, as in PaddleDetection."""
        return self.save_dir / self.path.stem

    @property
    def datasets(self) -> dict[str, DatasetFiles]:
        """Image folder and annotation file of ``Train``, ``Eval`` and ``Test``, as far as the sections are there."""
        found = {}
        for part in PARTS:
            section = self.data.get(f"{part}Dataset")
            if not isinstance(section, dict):
                continue
            root = Path(section.get("dataset_dir") or "").expanduser()
            annotations = section.get("anno_path")
            found[part] = DatasetFiles(
                image_dir=root / (section.get("image_dir") or ""),
                annotations=root / annotations if annotations else None,
            )
        return found

    def to_yaml(self) -> str:
        """Returns the resolved configuration as YAML, which we and PaddleDetection load to the same data."""
        return yaml.safe_dump(self.data, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
