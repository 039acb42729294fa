"""COCO files that tests make themselves: random annotations and detections of several classes and sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEIGHT = 640, 480


def coco_data(images: int, names: list[str], annotations: list[dict[str, Any]], first_id: int = 1) -> dict[str, Any]:
    """Returns a COCO object: ``images`` images from ``first_id`` on, category ids from 1."""
    return {
        "images": [
            {"id": number, "file_name": f"{number:04d}.png", "width": WIDTH, "height": HEIGHT}
            for number in range(first_id, first_id + images)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
        "annotations": annotations,
    }


def annotation(number: int, image_id: int, category_id: int, box: list[float], crowd: int = 0) -> dict[str, Any]:
    """Returns one annotated box ``[x, y, width, height]``."""
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [float(value) for value in box],
        "area": float(box[2] * box[3]),
        "iscrowd": crowd,
        "segmentation": [],
    }


def detection(image_id: int, category_id: int, box: list[float], score: float) -> dict[str, Any]:
    """Returns one COCO result."""
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [float(value) for value in box],
        "score": float(score),
    }


def random_box(generator: np.random.Generator) -> list[float]:
    """Returns a box of any of COCO's three sizes."""
    width, height = np.exp(generator.uniform(np.log(8), np.log(250), 2))
    return [generator.uniform(0, WIDTH - width), generator.uniform(0, HEIGHT - height), width, height]


def random_coco(seed: int, images: int = 40, classes: int = 5) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns random annotations and detections: crowds, images without boxes or detections, an unseen class.

    The last class has detections but no annotation; every fifth image is empty; every seventh has no detections.
    """
    generator = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        boxes = 0 if image_id % 5 == 0 else int(generator.integers(1, 9))
        for _ in range(boxes):
            box, category_id = random_box(generator), int(generator.integers(1, classes))
            crowd = int(generator.random() < 0.1)
            annotations.append(annotation(len(annotations) + 1, image_id, category_id, box, crowd))
            if image_id % 7 == 0:
                continue
            for _ in range(int(generator.integers(0, 4))):
                shift = generator.normal(0, 0.12, 4) * [box[2], box[3], box[2], box[3]]
                moved = [*(np.array(box) + shift)[:2], *np.maximum((np.array(box) + shift)[2:], 1)]
                label = category_id if generator.random() < 0.8 else int(generator.integers(1, classes + 1))
                # Rounded, so that some scores are equal.
                detections.append(detection(image_id, label, moved, round(float(generator.beta(4, 2)), 2)))
        if image_id % 7:
            for _ in range(int(generator.integers(0, 130 if image_id % 11 == 0 else 6))):
                label = int(generator.integers(1, classes + 1))
                detections.append(detection(image_id, label, random_box(generator), float(generator.beta(1, 4))))
    names = [f"class {number}" for number in range(1, classes + 1)]
    return coco_data(images, names, annotations), detections


def write_coco(path: Path, data: dict[str, Any]) -> Path:
    """Writes an annotation file; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path
