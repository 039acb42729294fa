"""A prepared data set of synthetic frames: ``tools/prepare_data.py synthetic``."""

from __future__ import annotations

import argparse
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

import cv2

from detection.prepare.writing import MARKER, check_output
from detection.synthetic.scene import SMALLEST_SIZE, synthetic_frame
from detection.synthetic.targets import CLASSES
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_folder, write_json, write_text

logger = logging.getLogger(__name__)

DEFAULT_SIZE = 160
# Validation counts from here, so that its frames are the same however many there are for training.
FIRST_VALIDATION = 1_000_000


def write_synthetic(
    output: str | os.PathLike[str],
    train: int = 320,
    val: int = 64,
    size: int = DEFAULT_SIZE,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a prepared data set of synthetic frames, all of it or nothing.

    Args:
        output: the folder: ``images``, ``annotations/{train,val}.json``, ``classes.txt``, ``report.json``.
        train, val: how many frames.
        size: side of a frame in pixels.
        seed: chooses the frames; the same one always gives the same.
        overwrite: replace a prepared data set that is there.

    Returns:
        The content of ``report.json``.

    Raises:
        UserError: a number is out of range, or ``output`` may not be written.
    """
    for name, value, least in (("train", train, 1), ("val", val, 1), ("size", size, SMALLEST_SIZE), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"--{name} must be at least {least}, got {value}")
    if train > FIRST_VALIDATION:
        raise UserError(f"--train must be at most {FIRST_VALIDATION}, got {train}")
    target = Path(output)
    check_output(target, overwrite)
    report: dict[str, Any] = {"source": "synthetic", "seed": seed, "size": size, "classes": list(CLASSES), "parts": {}}
    first_image = first_box = 1
    with atomic_folder(target) as folder:
        (folder / "images").mkdir()
        (folder / "annotations").mkdir()
        for part, numbers in (("train", range(train)), ("val", range(FIRST_VALIDATION, FIRST_VALIDATION + val))):
            coco = _write_part(folder / "images", part, numbers, (seed, size), (first_image, first_box))
            write_json(folder / "annotations" / f"{part}.json", coco)
            report["parts"][part] = _summary(coco)
            first_image += len(coco["images"])
            first_box += len(coco["annotations"])
        write_text(folder / "classes.txt", "".join(f"{name}\n" for name in CLASSES))
        write_json(folder / "report.json", report)
        write_text(folder / MARKER, "written by tools/prepare_data.py\n")
    return report


def _write_part(
    images: Path, part: str, numbers: range, seed_and_size: tuple[int, int], first_ids: tuple[int, int]
) -> dict[str, Any]:
    """Writes the frames of one part; returns their COCO dictionary, with ids from ``first_ids`` on."""
    seed, size = seed_and_size
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, number in enumerate(numbers):
        frame = synthetic_frame(seed, number, size)
        name = f"{part}_{index:05d}.png"
        if not cv2.imwrite(str(images / name), frame.image):
            raise OSError(f"{images / name}: cannot be written")
        image_id = first_ids[0] + index
        entries.append({"sonar": frame.sonar, "id": image_id, "file_name": name, "width": size, "height": size})
        for box, category in zip(frame.boxes.tolist(), frame.categories.tolist(), strict=True):
            annotations.append(
                {
                    "id": first_ids[1] + len(annotations),
                    "image_id": image_id,
                    "category_id": category + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "segmentation": [],
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    return {"images": entries, "annotations": annotations, "categories": categories}


def _summary(coco: dict[str, Any]) -> dict[str, Any]:
    counts = Counter(annotation["category_id"] for annotation in coco["annotations"])
    return {
        "images": len(coco["images"]),
        "images_without_boxes": len(coco["images"]) - len({box["image_id"] for box in coco["annotations"]}),
        "boxes": len(coco["annotations"]),
        "boxes_by_class": {name: counts[number] for number, name in enumerate(CLASSES, start=1)},
    }


def add_synthetic_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``prepare_data.py synthetic`` takes."""
    default = "dataset/synthetic_sonar"
    parser.add_argument(
        "--output", type=Path, default=Path(default), metavar="OUT", help=f"folder to write ({default})"
    )
    parser.add_argument("--train", type=int, default=320, metavar="N", help="frames for training (320)")
    parser.add_argument("--val", type=int, default=64, metavar="N", help="frames for validation (64)")
    parser.add_argument("--size", type=int, default=DEFAULT_SIZE, help=f"side of a frame in pixels ({DEFAULT_SIZE})")
    parser.add_argument("--seed", type=int, default=0, help="chooses the frames (0)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if this tool wrote it")


def prepare_synthetic(arguments: argparse.Namespace) -> None:
    """Writes the data set that the command line asks for, and says what is in it.

    Raises:
        UserError: an option is out of range, or the output may not be written.
    """
    report = write_synthetic(
        arguments.output, arguments.train, arguments.val, arguments.size, arguments.seed, arguments.overwrite
    )
    for part, summary in report["parts"].items():
        boxes = ", ".join(f"{name} {count}" for name, count in summary["boxes_by_class"].items())
        logger.info(
            "%s: %d frames (%d empty), %d boxes: %s",
            part, summary["images"], summary["images_without_boxes"], summary["boxes"], boxes,
        )  # fmt: skip
    logger.info("wrote %s", arguments.output)
