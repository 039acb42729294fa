"""Pictures that tests make themselves: smooth, colourful and all different."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.support.runs import NORMALIZE, small_config, write_config


def smooth_picture(seed: int, width: int = 48, height: int = 40) -> np.ndarray:
    """Returns a picture of soft random blobs, ``uint8`` ``[height, width, 3]``; another one for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), 0, 255)


def write_picture(path: Path, pixels: np.ndarray, **options: object) -> Path:
    """Writes a picture in the format of its suffix; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_class_folders(root: Path, classes: int = 2, images: int = 12, first_seed: int = 0) -> Path:
    """Writes ``root/class_0/00.png`` and so on; returns ``root``."""
    for label in range(classes):
        for number in range(images):
            seed = first_seed + 1000 * label + number
            write_picture(root / f"class_{label}" / f"{number:02d}.png", smooth_picture(seed))
    return root


def folder_config(folder: Path, train: Path, evaluation: Path, class_num: int = 2, **changes: object) -> Path:
    """Writes a configuration that reads two folders of class folders; returns its path."""
    sets = {
        f"DataLoader__{part}__dataset": {
            "name": "ImageFolder",
            "image_root": str(root),
            "transform_ops": [{"DecodeImage": {}}, {"ResizeImage": {"size": 32}}, NORMALIZE],
        }
        for part, root in (("Train", train), ("Eval", evaluation))
    }
    return write_config(folder, small_config(folder / "run", Arch__class_num=class_num, **{**sets, **changes}))


def lines_of(folder: Path, root: Path, labels: dict[str, int]) -> list[str]:
    """Returns a line for each picture in class folders: its path below ``root`` and the label of its class."""
    return [f"{path.relative_to(root)} {labels[path.parent.name]}" for path in sorted(folder.rglob("*.png"))]


def list_config(root: Path, train: list[str], evaluation: list[str], class_num: int, **relabel: bool) -> Path:
    """Writes two list files and a configuration that reads them; returns its path.

    ``relabel`` is given by set, ``Train`` or ``Eval``.
    """
    sets = {}
    for part, lines in (("Train", train), ("Eval", evaluation)):
        (root / f"{part}.txt").write_text("\n".join(lines), encoding="utf-8")
        sets[f"DataLoader__{part}__dataset"] = {
            "name": "ImageNetDataset", "image_root": str(root), "cls_label_path": str(root / f"{part}.txt"),
            "transform_ops": [{"DecodeImage": {}}, {"ResizeImage": {"size": 32}}, NORMALIZE],
            **({"relabel": relabel[part]} if part in relabel else {}),
        }  # fmt: skip
    return write_config(root, small_config(root / "run", Arch__class_num=class_num, **sets), "lists.yaml")
