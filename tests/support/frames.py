"""A small COCO data set on disk, whole and clean, which a test may spoil before it is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from detection.configuration import DetectionConfig, load_config
from tests.support.coco import annotation
from tests.support.pictures import smooth_picture, write_picture
from tests.support.runs import ROOT

BASE = ROOT / "configs" / "detection" / "marine_debris" / "ppyoloe_s_cspresnet.yml"
NAMES = ["cube", "ball", "tyre"]
WIDTH, HEIGHT = 96, 80
BOXES = ([10.0, 8.0, 30.0, 24.0], [50.0, 40.0, 28.0, 32.0])
COUNTS = {"train": 18, "val": 6}


class Frames:
    """Pictures of 96 x 80 pixels with two boxes each; 12 training and 4 validation boxes of each of three classes.

    Args:
        root: gets ``images/{train,val}_NN.png`` now and ``annotations/{train,val}.json`` by :meth:`write`.

    Attributes:
        train, val: the annotation files as dictionaries.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.train = self._make("train", 0)
        self.val = self._make("val", 500)

    def _make(self, name: str, seed: int) -> dict[str, Any]:
        images, annotations = [], []
        for number in range(COUNTS[name]):
            file = f"{name}_{number:02d}.png"
            write_picture(self.root / "images" / file, smooth_picture(seed + number, WIDTH, HEIGHT))
            images.append({"id": number + 1, "file_name": file, "width": WIDTH, "height": HEIGHT})
            for box in BOXES:
                count = len(annotations)
                annotations.append(annotation(count + 1, number + 1, count % len(NAMES) + 1, box))
        categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)]
        return {"images": images, "categories": categories, "annotations": annotations}

    def image(self, file: str) -> Path:
        """Returns the path of an image, such as ``train_00.png``."""
        return self.root / "images" / file

    def annotations(self, name: str) -> Path:
        """Returns the path of ``train`` or ``val``."""
        return self.root / "annotations" / f"{name}.json"

    def write(self) -> None:
        """Writes the annotation files."""
        (self.root / "annotations").mkdir(exist_ok=True)
        for name, data in (("train", self.train), ("val", self.val)):
            self.annotations(name).write_text(json.dumps(data), encoding="utf-8")

    def write_config(self) -> Path:
        """Writes the annotation files and a configuration of them, based on one of ours; returns its path."""
        self.write()
        sections = {
            f"{part}Dataset": {"dataset_dir": str(self.root), "anno_path": f"annotations/{name}.json"}
            for part, name in (("Train", "train"), ("Eval", "val"))
        }
        steps = [{"Decode": {}}, {"Resize": {"target_size": [HEIGHT, WIDTH], "keep_ratio": False, "interp": 2}}]
        data = {"_BASE_": str(BASE), "num_classes": len(NAMES), **sections, "EvalReader": {"sample_transforms": steps}}
        path = self.root / "frames.yml"
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        return path

    def config(self, *changes: str) -> DetectionConfig:
        """Returns what :meth:`write_config` writes, with ``KEY=VALUE`` changes."""
        return load_config(self.write_config(), changes)
