"""Raw detection data for tests: small frames, VOC-like XML in both forms, COCO files, and the tool in this process."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from tests.support import coco
from tools import prepare_data

WIDTH, HEIGHT = 64, 48
SONAR_BLOCK = (
    "<sonar><type>Gemini 1200i</type><version>2.0</version><range>14.991</range><azimuth>120</azimuth>"
    "<elevation>12</elevation><soundspeed>1493.5</soundspeed><frequency>720</frequency></sonar>"
)


def frame(seed: int, shift: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Returns a frame of blobs, ``uint8`` RGB, seen ``shift`` (0 to 16) pixels further on; seeds look different."""
    coarse = np.random.default_rng(seed).integers(0, 200, (3, 5)).astype(np.uint8)
    wide = cv2.resize(coarse, (width + 16, height), interpolation=cv2.INTER_CUBIC)
    grey = wide[:, shift : shift + width]
    return np.repeat(grey[..., None], 3, axis=2)


def write_image(path: Path, seed: int, **options: int) -> Path:
    """Writes :func:`frame` to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame(seed, **options)).save(path)
    return path


def corners(name: str, *values: Any) -> str:
    """Returns an object with ``xmin ymin xmax ymax``."""
    return _object(name, ("xmin", "ymin", "xmax", "ymax"), values)


def sides(name: str, *values: Any) -> str:
    """Returns an object with ``x y w h``."""
    return _object(name, ("x", "y", "w", "h"), values)


def _object(name: str, tags: Sequence[str], values: Sequence[Any]) -> str:
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, values, strict=True))
    return f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"


def write_voc(
    path: Path, *objects: str, filename: str = "", size: tuple[int, int] = (WIDTH, HEIGHT), extra: str = ""
) -> Path:
    """Writes a VOC-like file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    text = f"<annotation><filename>{filename}</filename>{extra}{stated}{''.join(objects)}</annotation>"
    path.write_text(f'<?xml version="1.0"?>\n{text}\n', encoding="utf-8")
    return path


def write_coco(
    path: Path, images: Sequence[Any], annotations: Sequence[Any], categories: Sequence[Any] | None = None
) -> Path:
    """Writes a COCO file; without ``categories`` it has ``cube`` (1) and ``ball`` (2)."""
    chosen = [{"id": 1, "name": "cube"}, {"id": 2, "name": "ball"}] if categories is None else list(categories)
    return coco.write_coco(path, {"images": list(images), "annotations": list(annotations), "categories": chosen})


def image_entry(number: Any, name: str, size: tuple[int, int] = (WIDTH, HEIGHT), **more: Any) -> dict[str, Any]:
    """Returns an image of a COCO file."""
    return {"id": number, "file_name": name, "width": size[0], "height": size[1], **more}


def box_entry(number: Any, image: Any, category: Any = 1, box: Any = (5, 5, 10, 10), **more: Any) -> dict[str, Any]:
    """Returns an annotation of a COCO file."""
    bbox = list(box) if isinstance(box, tuple) else box
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, **more}


def prepare(command: str, *arguments: str | Path) -> None:
    """Runs a subcommand of ``tools/prepare_data.py`` in this process."""
    parsed = prepare_data.parse_arguments([command, *map(str, arguments)])
    parsed.run(parsed)


class Prepared:
    """A prepared data set, read back.

    Args:
        folder: the output of a preparation.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        self.split = json.loads((folder / "split.json").read_text(encoding="utf-8"))
        self.parts = {
            path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (folder / "annotations").iterdir()
        }

    def kinds(self, action: str) -> dict[str, int]:
        """Returns how many entries of each kind the report lists."""
        return self.report["findings"][action]

    def reasons(self, kind: str) -> list[str]:
        """Returns ``file: reason`` of each entry of a kind."""
        return [f"{entry['file']}: {entry['reason']}" for entry in self.report["entries"] if entry["kind"] == kind]

    def names(self, part: str) -> list[str]:
        """Returns the image files of a part."""
        return [image["file_name"] for image in self.parts[part]["images"]]

    def boxes(self, name: str) -> list[tuple[str, list[float]]]:
        """Returns class and box of each annotation of an image."""
        for part in self.parts.values():
            classes = {category["id"]: category["name"] for category in part["categories"]}
            for image in part["images"]:
                if image["file_name"] == name:
                    own = [entry for entry in part["annotations"] if entry["image_id"] == image["id"]]
                    return [(classes[entry["category_id"]], entry["bbox"]) for entry in own]
        raise AssertionError(f"{name} is in no part")

    def check(self) -> None:
        """Checks what holds for every prepared data set."""
        boxes, images = self.report["boxes"], self.report["images"]
        assert boxes["input"] == boxes["kept"] + boxes["repaired"] + boxes["rejected"]
        assert images["input"] == images["kept"] + images["rejected"] + images["left_out"]
        rejected = [entry for entry in self.report["entries"] if entry["action"] == "rejected"]
        assert boxes["rejected"] == sum(entry["boxes"] for entry in rejected)
        # Subsets (``train_10``) hold frames of the training part again.
        parts = [part for name, part in self.parts.items() if not name.startswith("train_")]
        assert sum(len(part["annotations"]) for part in parts) == boxes["kept"] + boxes["repaired"]
        assert sum(len(part["images"]) for part in parts) == images["kept"]
        everything = [image for part in parts for image in part["images"]]
        annotations = [entry for part in parts for entry in part["annotations"]]
        assert max(Counter(image["id"] for image in everything).values()) == 1
        assert max(Counter(entry["id"] for entry in annotations).values()) == 1
        assert sorted(path.name for path in (self.folder / "images").iterdir()) == sorted(
            image["file_name"] for image in everything
        )
        classes = (self.folder / "classes.txt").read_text(encoding="utf-8").splitlines()
        for part in self.parts.values():
            assert part["categories"] == [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
        sizes = {image["id"]: (image["width"], image["height"]) for image in everything}
        for image in everything:
            with Image.open(self.folder / "images" / image["file_name"]) as picture:
                assert ImageOps.exif_transpose(picture).size == sizes[image["id"]]
        for entry in annotations:
            x, y, w, h = entry["bbox"]
            width, height = sizes[entry["image_id"]]
            assert x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= width and y + h <= height
            assert entry["area"] == w * h and entry["segmentation"] == [] and entry["iscrowd"] in (0, 1)


def prepared(command: str, source: Path, *arguments: str | Path) -> Prepared:
    """Prepares a folder, in place of what was prepared of it before, and checks what holds for every prepared set."""
    output = source.parent / "prepared"
    prepare(command, source, "--output", output, "--overwrite", *arguments)
    result = Prepared(output)
    result.check()
    return result
