"""Image operators of ours for ppdet's readers, named in YAML like its own: ``sample_transforms: [SonarEnhance: {}]``.

Those that draw random numbers use NumPy's global generator, as ppdet's operators do; the loader seeds it. Coordinates
are those of boxes: the pixel in column i covers i to i + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import ppdet.data.transform
from ppdet.data.transform import operators as toolkit
from ppdet.data.transform.operators import BaseOperator, RandomFlip, register_op

from ppcls_ext.preprocess import ImageError, sonar
from ppcls_ext.preprocess import detection as preprocess
from ppcls_ext.preprocess.detection import GREY, colour, height_and_width
from ppcls_ext.preprocess.operators import MEGAPIXELS
from ppcls_ext.preprocess.samples import Bits, Range
from ppcls_ext.utils.signature import Limits, PositiveNumber, Probability

# What PadGT pads.
PADDED = {"gt_bbox", "gt_class", "gt_score", "is_crowd", "difficult", "pad_gt_mask"}
# What a sample has for each of its boxes beside the box.
PER_BOX = ("gt_class", "is_crowd", "difficult", "gt_score")
# What would have to move with the picture besides boxes, and does not.
SHAPES = ("gt_poly", "gt_segm", "gt_keypoint", "semantic", "gt_rbox")
# OpenCV's hue of bytes goes from 0 to 179, two degrees a step.
HUES, BYTES = 180, 256
TILES = 4
IMAGE_AXES = 3
NotNegative = Annotated[float, Limits(ge=0)]
Degrees = Annotated[float, Limits(ge=0, le=180)]
Slant = Annotated[float, Limits(ge=0, le=80)]
Gain = Annotated[float, Limits(ge=0, le=0.99)]
Tilt = Annotated[float, Limits(ge=0, le=0.9)]
Size = tuple[int, int]


def boxes_of(sample: dict[str, Any]) -> np.ndarray:
    """Returns the boxes of a sample, ``float64`` ``[N, 4]`` (x1, y1, x2, y2); none where it has no ``gt_bbox``."""
    return np.asarray(sample.get("gt_bbox", []), dtype=np.float64).reshape(-1, 4)


def place_boxes(sample: dict[str, Any], place: preprocess.Placement, top: int, left: int) -> np.ndarray:
    """Returns the boxes of a sample whose picture, not yet resized, goes to ``place`` at this top left corner."""
    height, width = sample["image"].shape[:2]
    return boxes_of(sample) * np.tile([place.width / width, place.height / height], 2) + np.tile([left, top], 2)


def keep_boxes(sample: dict[str, Any], boxes: np.ndarray, kept: np.ndarray) -> None:
    """Gives a sample that has ``gt_bbox`` those of ``boxes`` ``[N, 4]`` that are ``kept`` ``[N]``, with what belongs to
    them."""
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


class Decode(toolkit.Decode):
    """Reads pictures by the same code as deployed models and the checks: ``ppcls_ext.preprocess.detection.Decode``.

    Stands in the place of ppdet's operator of that name, which knows fewer formats, takes damaged files, and hands on
    the bytes of what it cannot read.
    """

    def __init__(self, bits: Bits | None = None, value_range: Range | None = None) -> None:
        super().__init__()
        self._decode = preprocess.Decode(bits, value_range)

    def apply(self, sample: dict[str, Any], context: Any = None) -> dict[str, Any]:
        """Reads ``im_file``, unless the sample has an ``image`` (encoded, or decoded before), and notes its size.

        Raises:
            ImageError: the file cannot be read; the message names it.
        """
        file = sample.pop("im_file", "image")
        sample["image"] = self._decode(sample.get("image", file), file)
        note_size(sample)
        return sample


class Resize(toolkit.Resize):
    """ppdet's operator, in its place, which says in one line where nothing would remain of a picture."""

    def __init__(
        self,
        target_size: int | list[int],
        keep_ratio: bool,
        interp: preprocess.Interpolation = cv2.INTER_LINEAR,
        max_megapixels: PositiveNumber = MEGAPIXELS,
    ) -> None:
        super().__init__(target_size, keep_ratio, interp)
        self._resize = preprocess.Resize(target_size, keep_ratio, interp, max_megapixels)

    def apply(self, sample: dict[str, Any], context: Any = None) -> dict[str, Any]:
        """Resizes the picture ``[H, W, 3]`` and its boxes; ``ImageError`` where nothing would remain."""
        if isinstance(sample["image"], np.ndarray) and sample["image"].ndim == IMAGE_AXES:
            self._resize.refuse_nothing(*sample["image"].shape[:2])
        return super().apply(sample, context)


class SonarEnhance(BaseOperator):
    """Makes raw sonar frames visible, by the same code as deployed models: ``ppcls_ext.preprocess.sonar.SonarEnhance``.

    Stands in ``sample_transforms``, behind ``Decode`` and before everything else.
    """

    def __init__(
        self,
        method: sonar.Method = "none",
        channel: sonar.Channel = "auto",
        gamma: PositiveNumber = 0.5,
        clip_limit: PositiveNumber = 2.0,
        tile_grid: sonar.Tiles = 8,
    ) -> None:
        super().__init__()
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
    """

    def __init__(self, prob: Probability = 0.5, axis: Literal["horizontal", "vertical", "none"] = "horizontal") -> None:
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
    """

    def __init__(
        self,
        hue: Annotated[float, Limits(ge=0, le=0.5)] = 0.015,
        saturation: Probability = 0.7,
        value: Probability = 0.4,
    ) -> None:
        super().__init__()
        self.limits = np.array([hue, saturation, value])

    def apply(self, sample: dict[str, Any], context: Any = None) -> dict[str, Any]:
        """Replaces ``image``, RGB ``[H, W, 3]``; ``ValueError`` if it is not of bytes any more."""
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
    """Letterboxes pictures by the same code as deployed models: ``ppcls_ext.preprocess.detection.LetterResize``.

    Only YOLOv10 takes the padding back from what it finds, so with other architectures it may stand in ``TrainReader``
    only.
    """

    def __init__(
        self,
        target_size: int | list[int],
        fill_value: list[int] | None = None,
        interp: preprocess.Interpolation = cv2.INTER_LINEAR,
        upscale: bool = True,
        max_megapixels: PositiveNumber = MEGAPIXELS,
    ) -> None:
        super().__init__()
        self._resize = preprocess.LetterResize(target_size, fill_value, interp, upscale, max_megapixels)

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
        boxes = place_boxes(sample, place, place.top, place.left)
        sample["image"] = self._resize(sample["image"])
        keep_boxes(sample, boxes, np.ones(len(boxes), dtype=bool))
        scale_factor = np.asarray(sample.get("scale_factor", np.ones(2)), dtype=np.float64)
        sample["scale_factor"] = (scale_factor * factors).astype(np.float32)
        sample["im_shape"] = np.array([place.height, place.width], dtype=np.float32)
        sample["pad"] = np.array([place.top, place.left], dtype=np.float32)
        return sample


def _translation(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def warp(image: np.ndarray, matrix: np.ndarray, target: Size, fill: tuple[int, int, int]) -> np.ndarray:
    """Moves a picture ``[H, W, 3]`` into one of ``target`` height and width, as :meth:`RandomPerspective.draw_motion`
    says; what it does not cover gets the RGB ``fill``."""
    # OpenCV counts from the middle of the first pixel, boxes from its edge.
    pixels = _translation(-0.5, -0.5) @ matrix @ _translation(0.5, 0.5)
    parallel = np.array_equal(pixels[2], [0, 0, 1])
    move, pixels = (cv2.warpAffine, pixels[:2]) if parallel else (cv2.warpPerspective, pixels)
    return move(image, pixels, target[::-1], flags=cv2.INTER_LINEAR, borderValue=fill)


def move_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Returns the smallest upright boxes ``[N, 4]`` around moved ones; a box without area stays one."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    moved = np.concatenate([corners, np.ones([len(boxes), 4, 1])], axis=2) @ matrix.T
    points = moved[..., :2] / moved[..., 2:]
    low, high = points.min(axis=1), points.max(axis=1)
    # A line that is turned would get a box with an area.
    return np.concatenate([low, np.where(areas(boxes)[:, None] > 0, high, low)], axis=1)


def clip_boxes(boxes: np.ndarray, left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Returns the parts of boxes ``[N, 4]`` within a frame; what lies outside gets no area."""
    return boxes.clip([left, top, left, top], [right, bottom, right, bottom])


def areas(boxes: np.ndarray) -> np.ndarray:
    """Returns the areas ``[N]`` of boxes ``[N, 4]``; 0 where a side is not positive."""
    return (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1)


class RandomPerspective(BaseOperator):
    """Rotates, shifts, scales, shears and tilts a picture at random; its size stays the same.

    Boxes become the upright ones around the moved ones, are cut off at the border, and vanish if little is left. Stands
    in ``sample_transforms``. Each amount is drawn evenly from minus to plus its limit.

    Args:
        degrees: limit of the rotation.
        translate: of the shift, as a share of the width and of the height of the result.
        scale: the picture is magnified by 1 plus or minus as much.
        shear: slant of the vertical and of the horizontal lines, in degrees.
        perspective: how much nearer one edge seems than the centre; 0 keeps parallels parallel.
        fill_value: RGB of what the picture does not cover, three bytes; 114 when absent, black for sonar.
        prob: probability of moving a picture at all.
        least_share: share of a box's area that must be left of it.
        least_side: width and height in pixels that must be left of a box.
    """

    def __init__(
        self,
        degrees: Degrees = 0.0,
        translate: Probability = 0.1,
        scale: Gain = 0.5,
        shear: Slant = 0.0,
        perspective: Tilt = 0.0,
        fill_value: list[int] | None = None,
        prob: Probability = 1.0,
        least_share: Probability = 0.1,
        least_side: NotNegative = 2.0,
    ) -> None:
        super().__init__()
        self.degrees, self.translate, self.scale = degrees, translate, scale
        self.shear, self.perspective = shear, perspective
        self.fill_value = colour(fill_value, "fill_value", GREY)
        self.prob, self.least_share, self.least_side = float(prob), float(least_share), float(least_side)

    def draw_motion(self, source: Size, target: Size) -> np.ndarray:
        """Draws a motion that takes the centre of ``source`` (height, width) to about the centre of ``target``:
        ``float64`` ``[3, 3]``, from homogeneous coordinates (x, y, 1) of the one to those of the other."""
        angle = np.deg2rad(np.random.uniform(-self.degrees, self.degrees))
        gain = 1.0 + np.random.uniform(-self.scale, self.scale)
        slant = np.tan(np.deg2rad(np.random.uniform(-self.shear, self.shear, 2)))
        tilt = np.random.uniform(-self.perspective, self.perspective, 2)
        shift = 0.5 + np.random.uniform(-self.translate, self.translate, 2)
        centred = _translation(-source[1] / 2, -source[0] / 2)
        tilted = np.eye(3)
        # At the corners the two add up to at most the limit, so the homogeneous depth stays positive.
        tilted[2, :2] = tilt / (source[1], source[0])
        turned = np.eye(3)
        turned[:2, :2] = gain * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        sheared = np.array([[1, slant[0], 0], [slant[1], 1, 0], [0, 0, 1]])
        return _translation(shift[0] * target[1], shift[1] * target[0]) @ sheared @ turned @ tilted @ centred

    def keep_what_is_left(self, sample: dict[str, Any], seen: np.ndarray, whole: np.ndarray) -> None:
        """Gives a sample the parts of its boxes that are seen, ``[N, 4]``, where enough is left of the whole ones to
        learn from; a box without area never is."""
        sides = (seen[:, 2:] - seen[:, :2]).min(axis=1, initial=np.inf)
        large = (sides > 0) & (sides >= self.least_side) & (areas(seen) >= self.least_share * areas(whole))
        keep_boxes(sample, seen, large)

    def apply(self, sample: dict[str, Any], context: Any = None) -> dict[str, Any]:
        """Moves ``image`` ``[H, W, 3]`` and ``gt_bbox`` ``[N, 4]`` (corners), or leaves both.

        Raises:
            ValueError: the sample has outlines or key points besides boxes.
        """
        refuse_shapes(sample, type(self).__name__)
        if np.random.uniform() >= self.prob:
            return sample
        size = sample["image"].shape[:2]
        matrix = self.draw_motion(size, size)
        sample["image"] = warp(sample["image"], matrix, size, self.fill_value)
        whole = move_boxes(boxes_of(sample), matrix)
        seen = clip_boxes(whole, 0, 0, size[1], size[0])
        self.keep_what_is_left(sample, seen, whole)
        return sample


class MosaicPerspective(RandomPerspective):
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
        prob: probability of a mosaic where there are samples for one; else the first is letterboxed.
        others: as :class:`RandomPerspective` has them.
    """

    def __init__(
        self,
        target_size: int | list[int],
        degrees: Degrees = 0.0,
        translate: Probability = 0.1,
        scale: Gain = 0.5,
        shear: Slant = 0.0,
        perspective: Tilt = 0.0,
        fill_value: list[int] | None = None,
        prob: Probability = 1.0,
        least_share: Probability = 0.1,
        least_side: NotNegative = 2.0,
    ) -> None:
        super().__init__(
            degrees, translate, scale, shear, perspective, fill_value, prob, least_share, least_side
        )
        self.target_size = height_and_width(target_size, "target_size")
        self._letterbox = preprocess.LetterResize(list(self.target_size), list(self.fill_value))

    def __call__(self, sample: dict[str, Any] | Sequence[dict[str, Any]], context: Any = None) -> dict[str, Any]:
        """Makes one sample of one, or of the first four; the result has what else the first one has.

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
        place = self._letterbox.placement(*sample["image"].shape[:2])
        boxes = place_boxes(sample, place, place.top, place.left)
        sample["image"] = self._letterbox(sample["image"])
        keep_boxes(sample, boxes, areas(boxes) > 0)
        note_size(sample)
        return sample

    def _together(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        height, width = self.target_size
        canvas = np.empty([2 * height, 2 * width, 3], dtype=samples[0]["image"].dtype)
        canvas[:] = np.array(self.fill_value, dtype=canvas.dtype)
        # Where the four meet: anywhere in the middle, a quarter of the whole away from its edges.
        row, column = (int(side * np.random.uniform(0.5, 1.5)) for side in (height, width))
        parts = [self._paste(canvas, sample, place, row, column) for place, sample in enumerate(samples)]
        matrix = self.draw_motion((2 * height, 2 * width), (height, width))
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

        Returns its boxes as far as the canvas shows them, and whole, in pixels of the canvas.
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
        whole = place_boxes(sample, size, top, left)
        return clip_boxes(whole, first_column, first_row, last_column, last_row), whole


OPERATORS = (
    LabelsToInt64, LetterResize, MosaicPerspective, RandomHSV, RandomPerspective, SonarEnhance, SonarFlip,
)  # fmt: skip

# These stand in the place of ppdet's own.
REPLACEMENTS = (Decode, Resize)

for _operator in OPERATORS:
    register_op(_operator)
for _operator in (*OPERATORS, *REPLACEMENTS):
    # The readers look here.
    setattr(ppdet.data.transform, _operator.__name__, _operator)
