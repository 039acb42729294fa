"""Image operators of ours for ppdet's readers, named in YAML like its own: ``sample_transforms: [SonarEnhance: {}]``.

Those that draw random numbers use NumPy's global generator, as ppdet's operators do; the loader seeds it.
"""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
import ppdet.data.transform
from ppdet.data.transform.operators import BaseOperator, RandomFlip, register_op

from detection.data.operators_mosaic import MosaicPerspective, RandomPerspective, boxes_of, keep_boxes, refuse_shapes
from ppcls_ext.preprocess import ImageError, letterbox, sonar
from ppcls_ext.utils.errors import UserError

# What PadGT pads.
PADDED = {"gt_bbox", "gt_class", "gt_score", "is_crowd", "difficult", "pad_gt_mask"}
# OpenCV's hue of bytes goes from 0 to 179, two degrees a step.
HUES, BYTES = 180, 256


class LabelsToInt64(BaseOperator):
    """Makes ``gt_class`` ``int64``; stands in ``batch_transforms``, behind ``PadGT``.

    ppdet's assigners add the labels to ``int64`` indices, and Paddle 3 refuses to mix the two types. For a batch
    without any box those of 2.6 return a value too few; so its images get one box that ``pad_gt_mask`` hides, as images
    without boxes have in any other batch.
    """

    def __call__(self, samples: list[dict[str, Any]], context: Any = None) -> list[dict[str, Any]]:
        """Converts ``gt_class`` ``[N, 1]`` of each sample of the batch that has it; afterwards N is at least 1."""
        for sample in samples:
            if "pad_gt_mask" in sample and len(sample["pad_gt_mask"]) == 0:
                for name in PADDED & sample.keys():
                    array = np.asarray(sample[name])
                    sample[name] = np.zeros((1, *array.shape[1:]), dtype=array.dtype)
            if "gt_class" in sample:
                sample["gt_class"] = np.asarray(sample["gt_class"]).astype(np.int64, copy=False)
        return samples


class SonarEnhance(BaseOperator):
    """Makes raw sonar frames visible, by the same code as deployed models: ``ppcls_ext.preprocess.sonar.SonarEnhance``.

    Stands in ``sample_transforms``, behind ``Decode`` and before everything else. Arguments and errors are those of
    that class.
    """

    def __init__(
        self,
        method: Literal["none", "gamma", "log", "equalize", "clahe"] = "none",
        channel: Literal["auto", "red", "green", "blue"] = "auto",
        gamma: float = 0.5,
        clip_limit: float = 2.0,
        tile_grid: int | list[int] = 8,
    ) -> None:
        super().__init__()
        self.method = method
        self.channel = channel
        self.gamma = gamma
        self.clip_limit = clip_limit
        self.tile_grid = tile_grid
        self._enhance = sonar.SonarEnhance(method, channel, gamma, clip_limit, tile_grid)

    def apply(self, sample: dict[str, Any], context: Any = None) -> dict[str, Any]:
        """Replaces ``image``, ``uint8`` ``[H, W, 3]``, by the enhanced one of the same form."""
        try:
            sample["image"] = self._enhance(sample["image"])
        except ImageError as error:
            # The loader adds the name of the file.
            raise ValueError(error.cause) from error
        return sample


class SonarFlip(RandomFlip):
    """Mirrors frames and boxes at the axis of symmetry of the fan, and never anything else.

    Port and starboard may change places; near and far may not, for brightness falls with the range and shadows point
    away from the sonar. Stands in ``sample_transforms``.

    Args:
        prob: probability of flipping.
        axis: ``horizontal`` mirrors left and right: the fan opens upwards or downwards. ``vertical`` mirrors up and
            down: the fan lies on its side. ``none`` never flips: the fan is cut unevenly.

    Raises:
        ValueError: an argument is out of range; the message begins with its name.
    """

    def __init__(self, prob: float = 0.5, axis: Literal["horizontal", "vertical", "none"] = "horizontal") -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"prob: must be from 0 to 1, got {prob}")
        if axis not in ("horizontal", "vertical", "none"):
            raise ValueError(f"axis: must be horizontal, vertical or none, got {axis!r}")
        super().__init__(float(prob))
        self.axis = axis

    def apply(self, sample: dict[str, Any], context: Any = None) -> dict[str, Any]:
        """Mirrors ``image`` ``[H, W, 3]`` and ``gt_bbox`` ``[N, 4]`` (corners), or leaves both.

        Raises:
            ValueError: the axis is vertical, and the sample has outlines or key points besides boxes.
        """
        if self.axis == "horizontal":
            return super().apply(sample, context)
        if self.axis == "none" or np.random.uniform(0, 1) >= self.prob:
            return sample
        refuse_shapes(sample, "SonarFlip with axis: vertical")
        image = sample["image"]
        if len(sample.get("gt_bbox", [])):
            top, bottom = sample["gt_bbox"][:, 1].copy(), sample["gt_bbox"][:, 3].copy()
            sample["gt_bbox"][:, 1] = image.shape[0] - bottom
            sample["gt_bbox"][:, 3] = image.shape[0] - top
        sample["image"] = image[::-1]
        sample["flipped"] = True
        return sample


class RandomHSV(BaseOperator):
    """Changes hue, saturation and brightness of a picture at random, each by its own amount.

    What has no colour, such as a sonar frame, keeps none: only its brightness changes. Stands in ``sample_transforms``,
    before anything that turns bytes into numbers.

    Args:
        hue: the hue is turned by up to this share of the whole circle, either way.
        saturation, value: saturation and brightness are multiplied by 1 plus or minus up to this much.

    Raises:
        ValueError: an argument is out of range; the message begins with its name.
    """

    def __init__(self, hue: float = 0.015, saturation: float = 0.7, value: float = 0.4) -> None:
        for name, number, largest in (("hue", hue, 0.5), ("saturation", saturation, 1), ("value", value, 1)):
            if not 0 <= number <= largest:
                raise ValueError(f"{name}: must be from 0 to {largest}, got {number}")
        super().__init__()
        self.limits = np.array([hue, saturation, value])

    def apply(self, sample: dict[str, Any], context: Any = None) -> dict[str, Any]:
        """Replaces ``image``, ``uint8`` RGB ``[H, W, 3]``, by one of the same form.

        Raises:
            ValueError: the picture is not of bytes any more.
        """
        if sample["image"].dtype != np.uint8:
            raise ValueError(f"RandomHSV works on bytes, got {sample['image'].dtype}; let it follow Decode")
        turn, saturation, value = np.random.uniform(-self.limits, self.limits)
        steps = np.arange(BYTES)
        tables = (
            (steps + round(turn * HUES)) % HUES,
            (steps * (1 + saturation)).round().clip(0, BYTES - 1),
            (steps * (1 + value)).round().clip(0, BYTES - 1),
        )
        planes = cv2.split(cv2.cvtColor(np.ascontiguousarray(sample["image"]), cv2.COLOR_RGB2HSV))
        changed = [cv2.LUT(plane, table.astype(np.uint8)) for plane, table in zip(planes, tables, strict=True)]
        sample["image"] = cv2.cvtColor(cv2.merge(changed), cv2.COLOR_HSV2RGB)
        return sample


class LetterResize(BaseOperator):
    """Letterboxes pictures by the same code as deployed models: ``ppcls_ext.preprocess.letterbox.LetterResize``.

    Arguments and errors are those of that class. Only YOLOv10 takes the padding back from what it finds, so with other
    architectures it may stand in ``TrainReader`` only.
    """

    def __init__(
        self,
        target_size: int | list[int],
        fill_value: list[int] | None = None,
        interp: int = cv2.INTER_LINEAR,
        upscale: bool = True,
    ) -> None:
        super().__init__()
        self._resize = letterbox.LetterResize(target_size, fill_value, interp, upscale)

    def apply(self, sample: dict[str, Any], context: Any = None) -> dict[str, Any]:
        """Replaces ``image`` ``[H, W, 3]``, moves ``gt_bbox``, and notes what takes boxes back to the file's picture.

        That is ``scale_factor`` (down, across), ``im_shape`` (height and width without the padding) and ``pad`` (pixels
        above and to the left), each ``float32`` ``[2]``.

        Raises:
            ValueError: the sample is letterboxed already, or has outlines or key points besides boxes.
        """
        refuse_shapes(sample, type(self).__name__)
        if "pad" in sample:
            raise ValueError("LetterResize stands twice: boxes could not be taken back to the picture")
        height, width = sample["image"].shape[:2]
        place = self._resize.placement(height, width)
        factors = np.array([place.height / height, place.width / width])
        sample["image"] = self._resize(sample["image"])
        boxes = boxes_of(sample) * np.tile(factors[::-1], 2) + np.tile([place.left, place.top], 2)
        keep_boxes(sample, boxes, np.ones(len(boxes), dtype=bool))
        scale_factor = np.asarray(sample.get("scale_factor", np.ones(2)), dtype=np.float64)
        sample["scale_factor"] = (scale_factor * factors).astype(np.float32)
        sample["im_shape"] = np.array([place.height, place.width], dtype=np.float32)
        sample["pad"] = np.array([place.top, place.left], dtype=np.float32)
        return sample


OPERATORS = (
    LabelsToInt64, LetterResize, MosaicPerspective, RandomHSV, RandomPerspective, SonarEnhance, SonarFlip,
)  # fmt: skip


def register() -> None:
    """Makes the operators known to ppdet's readers. May be called again.

    Raises:
        UserError: ppdet already has another operator of the same name.
    """
    for operator in OPERATORS:
        name = operator.__name__
        present = getattr(BaseOperator, name, None)
        if present is None:
            register_op(operator)
        elif present is not operator:
            raise UserError(f"ppdet already has another image operator '{name}' ({present.__module__})")
        # The readers look here, where the decorator alone does not put it.
        setattr(ppdet.data.transform, name, operator)
