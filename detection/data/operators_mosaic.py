"""Operators of ours for ppdet's readers that move pictures and their boxes: alone, or four of them in one.

Random numbers come from NumPy's global generator, as in ppdet's operators; the loader seeds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from ppdet.data.transform.operators import BaseOperator

from detection.data.geometry import Motion, clip_boxes, large_enough, move_boxes, warp
from ppcls_ext.preprocess.arguments import colour, height_and_width
from ppcls_ext.preprocess.letterbox import GREY, LetterResize

TILES = 4
# What a sample has for each of its boxes beside the box.
PER_BOX = ("gt_class", "is_crowd", "difficult", "gt_score")
# What would have to move with the picture besides boxes, and does not.
SHAPES = ("gt_poly", "gt_segm", "gt_keypoint", "semantic", "gt_rbox")


def boxes_of(sample: dict[str, Any]) -> np.ndarray:
    """Returns the boxes of a sample, ``float64`` ``[N, 4]`` (x1, y1, x2, y2); none where it has no ``gt_bbox``."""
    return np.asarray(sample.get("gt_bbox", []), dtype=np.float64).reshape(-1, 4)


def keep_boxes(sample: dict[str, Any], boxes: np.ndarray, kept: np.ndarray) -> None:
    """Gives a sample new boxes, and leaves out some of them with all that belongs to them.

    Args:
        sample: is changed; without ``gt_bbox`` it is left as it is.
        boxes: the new ``gt_bbox``, ``[N, 4]``.
        kept: which of them stay, ``bool`` ``[N]``.
    """
    if "gt_bbox" not in sample:
        return
    sample["gt_bbox"] = boxes[kept].astype(np.float32)
    for name in PER_BOX:
        if sample.get(name) is not None:
            sample[name] = np.asarray(sample[name])[kept]


def refuse_shapes(sample: dict[str, Any], operator: str) -> None:
    """Raises ``ValueError`` if a sample has outlines or key points, which ``operator`` would leave where they were."""
    for name in SHAPES:
        present = sample.get(name)
        if present is not None and any(part is not None for part in present):
            raise ValueError(f"{operator} moves boxes only, the sample has '{name}'")


def note_size(sample: dict[str, Any]) -> None:
    """Notes the size of the picture where ppdet's ``Decode`` noted that of the file; it counts as unscaled."""
    height, width = sample["image"].shape[:2]
    sample["h"], sample["w"] = height, width
    sample["im_shape"] = np.array([height, width], dtype=np.float32)
    sample["scale_factor"] = np.ones(2, dtype=np.float32)


def _share(value: float, name: str) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: must be from 0 to 1, got {value}")
    return float(value)


def _side(value: float, name: str) -> float:
    if value < 0:
        raise ValueError(f"{name}: must be at least 0, got {value}")
    return float(value)


class _Moving(BaseOperator):
    """What the operators that move pictures share: how far, with what probability, and what has to be left of a box."""

    def __init__(
        self, motion: Motion, fill_value: list[int] | None, prob: float, least_share: float, least_side: float
    ) -> None:
        super().__init__()
        self.motion = motion
        self.fill_value = colour(fill_value, "fill_value", GREY)
        self.prob = _share(prob, "prob")
        self.least_share = _share(least_share, "least_share")
        self.least_side = _side(least_side, "least_side")

    def keep_what_is_left(self, sample: dict[str, Any], seen: np.ndarray, whole: np.ndarray) -> None:
        """Gives a sample the parts of its boxes that are seen, ``[N, 4]``, where enough is left of the whole ones."""
        keep_boxes(sample, seen, large_enough(seen, whole, self.least_share, self.least_side))


class RandomPerspective(_Moving):
    """Rotates, shifts, scales, shears and tilts a picture at random; its size stays the same.

    Boxes become the upright ones around the moved ones, are cut off at the border, and vanish if little is left. Stands
    in ``sample_transforms``.

    Args:
        degrees, translate, scale, shear, perspective: limits, see ``detection.data.geometry.Motion``.
        fill_value: RGB of what the picture does not cover, three bytes; 114 when absent, black for sonar.
        prob: probability of moving a picture at all.
        least_share: share of a box's area that must be left of it.
        least_side: width and height in pixels that must be left of a box.

    Raises:
        ValueError: an argument is out of range; the message begins with its name.
    """

    def __init__(
        self,
        degrees: float = 0.0,
        translate: float = 0.1,
        scale: float = 0.5,
        shear: float = 0.0,
        perspective: float = 0.0,
        fill_value: list[int] | None = None,
        prob: float = 1.0,
        least_share: float = 0.1,
        least_side: float = 2.0,
    ) -> None:
        motion = Motion(degrees, translate, scale, shear, perspective)
        super().__init__(motion, fill_value, prob, least_share, least_side)

    def apply(self, sample: dict[str, Any], context: Any = None) -> dict[str, Any]:
        """Moves ``image`` ``[H, W, 3]`` and ``gt_bbox`` ``[N, 4]`` (corners), or leaves both.

        Raises:
            ValueError: the sample has outlines or key points besides boxes.
        """
        refuse_shapes(sample, type(self).__name__)
        if np.random.uniform() >= self.prob:
            return sample
        size = sample["image"].shape[:2]
        matrix = self.motion.draw(size, size)
        sample["image"] = warp(sample["image"], matrix, size, self.fill_value)
        whole = move_boxes(boxes_of(sample), matrix)
        seen = clip_boxes(whole, 0, 0, size[1], size[0])
        self.keep_what_is_left(sample, seen, whole)
        return sample


class MosaicPerspective(_Moving):
    """Puts four pictures together, moves the whole at random, and cuts a picture of fixed size out of its middle.

    Each picture is resized to fit into ``target_size`` and touches, with one corner, a point that is drawn from the
    middle of the whole; so objects are seen at other places, sizes and among others (YOLOv4, arXiv 2004.10934, section
    3.3). Boxes are cut off at the edges of their picture and at the border, and vanish if little is left.

    ppdet's data sets hand over several samples while the epoch is below ``TrainReader.mosaic_epoch``, and one from then
    on: that one is letterboxed to ``target_size``, as in an evaluation, and not moved. (PaddleDetection's own trainer
    begins to read an epoch before it tells the data set its number, so there the mosaics end up to one epoch
    later.) Stands in ``sample_transforms``, behind ``Decode`` and ``SonarEnhance``.

    Args:
        target_size: ``[height, width]`` of the result, or the side of a square.
        degrees, translate, scale, shear, perspective: limits, see ``detection.data.geometry.Motion``.
        fill_value: RGB of what the pictures do not cover, three bytes; 114 when absent, black for sonar.
        prob: probability of a mosaic where there are samples for one; else the first is letterboxed.
        least_share: share of a box's area that must be left of it.
        least_side: width and height in pixels that must be left of a box.

    Raises:
        ValueError: an argument is out of range; the message begins with its name.
    """

    def __init__(
        self,
        target_size: int | list[int],
        degrees: float = 0.0,
        translate: float = 0.1,
        scale: float = 0.5,
        shear: float = 0.0,
        perspective: float = 0.0,
        fill_value: list[int] | None = None,
        prob: float = 1.0,
        least_share: float = 0.1,
        least_side: float = 2.0,
    ) -> None:
        motion = Motion(degrees, translate, scale, shear, perspective)
        super().__init__(motion, fill_value, prob, least_share, least_side)
        self.target_size = height_and_width(target_size, "target_size")
        self._letterbox = LetterResize(list(self.target_size), list(self.fill_value))

    def __call__(self, sample: dict[str, Any] | Sequence[dict[str, Any]], context: Any = None) -> dict[str, Any]:
        """Makes one sample of several, or of one.

        Args:
            sample: one sample, or at least four, of which four are used; ``image`` is ``[H, W, 3]``, ``gt_bbox``
                ``[N, 4]`` (corners). The result has what else the first one has.
            context: not used.

        Returns:
            ``image`` ``[height, width, 3]`` of the same type, ``gt_bbox`` and what belongs to the boxes.

        Raises:
            ValueError: there are two or three samples, or one has outlines or key points besides boxes.
        """
        samples = list(sample) if isinstance(sample, Sequence) else [sample]
        for each in samples:
            refuse_shapes(each, type(self).__name__)
        if 1 < len(samples) < TILES:
            raise ValueError(f"MosaicPerspective wants {TILES} samples, got {len(samples)}: set mosaic_epoch only")
        if len(samples) == 1 or np.random.uniform() >= self.prob:
            return self._alone(samples[0])
        return self._together(samples[:TILES])

    def _alone(self, sample: dict[str, Any]) -> dict[str, Any]:
        height, width = sample["image"].shape[:2]
        place = self._letterbox.placement(height, width)
        sample["image"] = self._letterbox(sample["image"])
        boxes = boxes_of(sample) * np.tile([place.width / width, place.height / height], 2)
        boxes += np.tile([place.left, place.top], 2)
        keep_boxes(sample, boxes, large_enough(boxes, boxes, 0.0, 0.0))
        note_size(sample)
        return sample

    def _together(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        height, width = self.target_size
        canvas = np.empty([2 * height, 2 * width, 3], dtype=samples[0]["image"].dtype)
        canvas[:] = np.array(self.fill_value, dtype=canvas.dtype)
        # Where the four meet: anywhere in the middle, a quarter of the whole away from its edges.
        row, column = (int(side * np.random.uniform(0.5, 1.5)) for side in (height, width))
        parts = [self._paste(canvas, sample, place, row, column) for place, sample in enumerate(samples)]
        matrix = self.motion.draw((2 * height, 2 * width), (height, width))
        seen, whole = (move_boxes(np.concatenate(boxes), matrix) for boxes in zip(*parts, strict=True))
        seen = clip_boxes(seen, 0, 0, width, height)
        result = samples[0]
        for name in PER_BOX:
            if result.get(name) is not None:
                result[name] = np.concatenate([np.asarray(sample[name]) for sample in samples])
        result["image"] = warp(canvas, matrix, (height, width), self.fill_value)
        self.keep_what_is_left(result, seen, whole)
        note_size(result)
        return result

    def _paste(
        self, canvas: np.ndarray, sample: dict[str, Any], place: int, row: int, column: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Puts a picture into the canvas at one of the four places around a point: above or below, left or right.

        Returns:
            The boxes as far as the canvas shows them, and whole, in pixels of the canvas, ``float64`` ``[N, 4]`` each.
        """
        image = sample["image"]
        size = self._letterbox.placement(*image.shape[:2])
        if image.shape[:2] != (size.height, size.width):
            image = cv2.resize(image, (size.width, size.height), interpolation=cv2.INTER_LINEAR)
        top = row if place >= TILES // 2 else row - size.height
        left = column if place % 2 else column - size.width
        first_row, last_row = max(top, 0), min(top + size.height, len(canvas))
        first_column, last_column = max(left, 0), min(left + size.width, canvas.shape[1])
        part = image[first_row - top : last_row - top, first_column - left : last_column - left]
        canvas[first_row:last_row, first_column:last_column] = part
        height, width = sample["image"].shape[:2]
        whole = boxes_of(sample) * np.tile([size.width / width, size.height / height], 2) + np.tile([left, top], 2)
        return clip_boxes(whole, first_column, first_row, last_column, last_row), whole
