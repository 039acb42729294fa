"""How pictures are rotated, shifted, scaled, sheared and tilted at random, and what becomes of their boxes.

Coordinates are those of boxes: the pixel in column i covers i to i + 1. Random numbers come from NumPy's global
generator, as in ppdet's operators; the loader seeds it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# The largest value of each limit.
LIMITS = {"degrees": 180.0, "translate": 1.0, "scale": 0.99, "shear": 80.0, "perspective": 0.9}
Size = tuple[int, int]


@dataclass(frozen=True)
class Motion:
    """Within what limits a picture is moved; each amount is drawn evenly from minus to plus its limit.

    Attributes:
        degrees: rotation.
        translate: shift, as a share of the width and of the height of the result.
        scale: the picture is magnified by 1 plus or minus as much.
        shear: slant of the vertical and of the horizontal lines, in degrees.
        perspective: how much nearer one edge seems than the centre; 0 keeps parallels parallel.

    Raises:
        ValueError: a limit is out of range; the message begins with its name.
    """

    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    shear: float = 0.0
    perspective: float = 0.0

    def __post_init__(self) -> None:
        for name, limit in LIMITS.items():
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise ValueError(f"{name}: must be from 0 to {limit:g}, got {value}")

    def draw(self, source: Size, target: Size) -> np.ndarray:
        """Draws a motion that takes the centre of ``source`` to about the centre of ``target``.

        Args:
            source, target: height and width in pixels.

        Returns:
            ``float64`` ``[3, 3]``: homogeneous coordinates (x, y, 1) of the source to those of the target.
        """
        angle = np.deg2rad(np.random.uniform(-self.degrees, self.degrees))
        gain = 1.0 + np.random.uniform(-self.scale, self.scale)
        slant = np.tan(np.deg2rad(np.random.uniform(-self.shear, self.shear, 2)))
        tilt = np.random.uniform(-self.perspective, self.perspective, 2)
        shift = 0.5 + np.random.uniform(-self.translate, self.translate, 2)
        centred = _translation(-source[1] / 2, -source[0] / 2)
        tilted = np.eye(3)
        # At the corners the two add up to at most the limit, so nothing gets behind the eye.
        tilted[2, :2] = tilt / (source[1], source[0])
        turned = np.eye(3)
        turned[:2, :2] = gain * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        sheared = np.array([[1, slant[0], 0], [slant[1], 1, 0], [0, 0, 1]])
        return _translation(shift[0] * target[1], shift[1] * target[0]) @ sheared @ turned @ tilted @ centred


def _translation(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def warp(image: np.ndarray, matrix: np.ndarray, target: Size, fill: tuple[int, int, int]) -> np.ndarray:
    """Moves a picture.

    Args:
        image: ``[H, W, 3]``.
        matrix: as :meth:`Motion.draw` returns it.
        target: height and width of the result.
        fill: RGB of what the picture does not cover.

    Returns:
        ``[height, width, 3]`` of the same type.
    """
    # OpenCV counts from the middle of the first pixel, boxes from its edge.
    pixels = _translation(-0.5, -0.5) @ matrix @ _translation(0.5, 0.5)
    if np.array_equal(pixels[2], [0, 0, 1]):
        return cv2.warpAffine(image, pixels[:2], target[::-1], flags=cv2.INTER_LINEAR, borderValue=fill)
    return cv2.warpPerspective(image, pixels, target[::-1], flags=cv2.INTER_LINEAR, borderValue=fill)


def move_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Returns the smallest upright boxes around moved ones; a box without area stays one.

    Args:
        boxes: ``[N, 4]`` (x1, y1, x2, y2).
        matrix: as :meth:`Motion.draw` returns it.

    Returns:
        ``float64`` ``[N, 4]``.
    """
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


def large_enough(seen: np.ndarray, whole: np.ndarray, least_share: float, least_side: float) -> np.ndarray:
    """Tells which boxes are still worth learning from; a box without area never is.

    Args:
        seen: what is left of the boxes, ``[N, 4]``.
        whole: the boxes as they would be if nothing had been cut off, ``[N, 4]``.
        least_share: share of the whole area that must be left.
        least_side: width and height in pixels that must be left.

    Returns:
        ``bool`` ``[N]``.
    """
    sides = (seen[:, 2:] - seen[:, :2]).min(axis=1, initial=np.inf)
    return (sides > 0) & (sides >= least_side) & (areas(seen) >= least_share * areas(whole))
