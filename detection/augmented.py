"""A sheet of a detector's training samples as the network gets them (``tools/check_data.py --augmented``)."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from detection.configuration import DetectionConfig, class_names_of, operators_of
from detection.loaders import training_loader
from detection.task import with_settled_depth
from detection.toolkit import workspace
from ppcls_ext.engine.augmented import as_picture, first_samples
from ppcls_ext.engine.environment import Environment
from ppcls_ext.preprocess.detection import NormalizeImage
from ppcls_ext.utils.drawing import contact_sheet, draw_boxes
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.fonts import drawable

# The longer side of a sample on the sheet, in pixels; small ones are enlarged by a whole factor.
SIDE = 320
COLUMNS = 6


def draw_augmented(config: DetectionConfig) -> Image.Image:
    """Draws training samples after all operators with their boxes."""
    import ppdet.engine  # noqa: F401  (registers what the workspace may name)

    for section in ("TrainDataset", "TrainReader"):
        if not config.data.get(section):
            raise UserError(f"{config.path}: --augmented draws samples of {section}, which is missing")
    environment = Environment("cpu", 0, 1, config.data.get("seed") or 0)
    config = with_settled_depth(config, None, environment.seed)
    with workspace(config):
        loader = training_loader(config, environment)
    names = class_names_of(config, ["Train"]) or []
    steps = dict(operators_of(config.data, "TrainReader"))
    low, high = 0.0, 255.0
    if "NormalizeImage" in steps:
        normalise = NormalizeImage(**steps["NormalizeImage"])
        low, high = (normalise(np.full((1, 1, 3), value, np.uint8)) for value in (0, 255))
    tiles = []
    for batch, number in first_samples(loader):
        if not {"gt_bbox", "gt_class", "pad_gt_mask"} <= batch.keys():
            raise UserError(f"{config.path}: to draw boxes, TrainReader.batch_transforms needs PadGT")
        chosen = batch["pad_gt_mask"][number].ravel() > 0
        boxes, labels = batch["gt_bbox"][number][chosen], batch["gt_class"][number][chosen].ravel().tolist()
        picture = as_picture(batch["image"][number], low, high)
        factor = min(SIDE / max(picture.shape[:2]), 1.0)
        picture, boxes = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), boxes * factor
        texts = [drawable(names[label] if label < len(names) else str(label), label) for label in labels]
        tiles.append(draw_boxes(picture, boxes, texts, classes=labels, smallest=SIDE))
    return contact_sheet(tiles, COLUMNS, f"Training samples after all operators: {config.path}")
