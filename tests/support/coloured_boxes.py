"""Pictures with rectangles of pure colours, so that boxes can be compared with what is really seen."""

from __future__ import annotations

from typing import Any

import numpy as np

# One colour for each class; neither grey nor black, which fill what no picture covers.
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255]], np.uint8)
GROUND = 40
# A pixel at the edge is a mixture; it counts as seen where the colour is most of it.
MOST = 128


def coloured_sample(
    number: int, height: int, width: int, boxes: list[list[int]], classes: list[int] | None = None
) -> dict[str, Any]:
    """Returns a sample as ppdet's ``Decode`` leaves it, with a rectangle of the colour of its class in each box.

    Args:
        number: ``im_id``.
        height, width: of the picture.
        boxes: corners in whole pixels, none on top of another.
        classes: of the boxes; their numbers when absent.
    """
    image = np.full([height, width, 3], GROUND, np.uint8)
    labels = list(range(len(boxes))) if classes is None else classes
    for (left, top, right, bottom), label in zip(boxes, labels, strict=True):
        image[top:bottom, left:right] = COLOURS[label]
    return {
        "im_id": np.array([number]), "image": image, "h": height, "w": width,
        "im_shape": np.array([height, width], np.float32), "scale_factor": np.ones(2, np.float32),
        "gt_bbox": np.array(boxes, np.float32).reshape(-1, 4),
        "gt_class": np.array(labels, np.int32).reshape(-1, 1),
        "is_crowd": np.zeros([len(boxes), 1], np.int32),
    }  # fmt: skip


def seen_box(image: np.ndarray, label: int) -> np.ndarray | None:
    """Returns the corners around the pixels of a class's colour, ``float64`` ``[4]``, or ``None`` if there are none."""
    mask = np.abs(image.astype(int) - COLOURS[label]).max(axis=2) < MOST
    if not mask.any():
        return None
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)
