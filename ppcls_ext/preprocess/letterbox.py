"""The letterbox: a picture resized without changing its shape, in the middle of an input of fixed size."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from ppcls_ext.preprocess.arguments import colour, height_and_width, interpolation

GREY = 114


class Placement(NamedTuple):
    """Where a picture lies in the input, in whole pixels.

    Attributes:
        height, width: of the picture after resizing, at least 1.
        top, left: of the padding above it and to its left.
    """

    height: int
    width: int
    top: int
    left: int


class LetterResize:
    """Resizes a picture as far as it fits into a size, keeps its shape, and fills what remains around it evenly.

    Where the padding is an odd number of pixels, the bottom or the right side gets the one more.

    Args:
        target_size: ``[height, width]`` of the result, or the side of a square.
        fill_value: RGB of what is added, three bytes; a mid grey, 114, when absent.
        interp: number of OpenCV's interpolation: 0 nearest, 1 bilinear, 2 bicubic, 3 area, 4 Lanczos.
        upscale: enlarge pictures that are smaller; else they are only padded.

    Raises:
        ValueError: an argument is out of range; the message begins with its name.
    """

    def __init__(
        self,
        target_size: int | list[int],
        fill_value: list[int] | None = None,
        interp: int = cv2.INTER_LINEAR,
        upscale: bool = True,
    ) -> None:
        self.target_size = height_and_width(target_size, "target_size")
        self.fill_value = colour(fill_value, "fill_value", GREY)
        self.interp = interpolation(interp)
        self.upscale = upscale

    def placement(self, height: int, width: int) -> Placement:
        """Returns where a picture of this size goes.

        A side of it divided by its length before is the exact factor of that axis; for rounding to whole pixels, the
        factors of the two axes may differ a little.
        """
        ratio = min(self.target_size[0] / height, self.target_size[1] / width)
        if not self.upscale:
            ratio = min(ratio, 1.0)
        new_height, new_width = (max(int(side * ratio + 0.5), 1) for side in (height, width))
        top, left = (self.target_size[0] - new_height) // 2, (self.target_size[1] - new_width) // 2
        return Placement(new_height, new_width, top, left)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """``[H, W, 3]`` -> ``[height, width, 3]`` of the same type."""
        place = self.placement(*image.shape[:2])
        result = np.empty([*self.target_size, 3], dtype=image.dtype)
        result[:] = np.array(self.fill_value, dtype=image.dtype)
        if image.shape[:2] != (place.height, place.width):
            image = cv2.resize(image, (place.width, place.height), interpolation=self.interp)
        result[place.top : place.top + place.height, place.left : place.left + place.width] = image
        return result
