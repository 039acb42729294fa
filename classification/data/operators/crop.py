"""Random crops and padding, with PaddleClas 2.6's names and arguments."""

from __future__ import annotations

import math
from typing import Literal

import cv2
import numpy as np

from classification.data.operators.resample import FILTERS, resize_antialiased
from ppcls_ext.preprocess.decode import ImageError
from ppcls_ext.preprocess.operators import Backend, Interpolation, check_interpolation, resize, width_and_height


class RandCropImage:
    """Cuts out a random part of random area and aspect ratio and resizes it ("inception crop", arXiv 1409.4842).

    The largest area is lowered where the aspect ratio would not fit, so a part is always found at the first draw.

    Args:
        size: side of the square result, or ``[width, height]``.
        progress_size: a schedule of sizes by epoch; only null is supported.
        scale: smallest and largest share of the picture's area; 0.08 to 1 when absent.
        ratio: smallest and largest width / height; 3/4 to 4/3 when absent.
        interpolation: ``bilinear`` when absent.
        use_log_aspect: draws the logarithm of the aspect ratio evenly, else its value.
        backend: ``pil`` is antialiased, ``cv2`` is not.
    """

    random = True

    def __init__(
        self,
        size: int | list[int],
        progress_size: None = None,
        scale: list[float] | None = None,
        ratio: list[float] | None = None,
        interpolation: Interpolation | None = None,
        use_log_aspect: bool = False,
        backend: Backend = "cv2",
    ) -> None:
        self.width, self.height = width_and_height(size)
        self.scale = _range(scale or [0.08, 1.0], "scale")
        self.ratio = _range(ratio or [3.0 / 4.0, 4.0 / 3.0], "ratio")
        self.interpolation = interpolation or "bilinear"
        check_interpolation(self.interpolation, backend)
        self.use_log_aspect = use_log_aspect
        self.backend = backend

    def draw(self, width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
        """Draws a part of a picture of this size: left, top, width, height in pixels."""
        if self.use_log_aspect:
            ratio = math.exp(generator.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
        else:
            ratio = generator.uniform(*self.ratio)
        # Largest share of the area that a rectangle of this ratio can cover.
        bound = min(width / height / ratio, height / width * ratio)
        share = generator.uniform(min(self.scale[0], bound), min(self.scale[1], bound))
        area = share * width * height
        part_width = min(max(int(math.sqrt(area * ratio)), 1), width)
        part_height = min(max(int(math.sqrt(area / ratio)), 1), height)
        left = int(generator.integers(width - part_width + 1))
        top = int(generator.integers(height - part_height + 1))
        return left, top, part_width, part_height

    def __call__(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """``uint8`` ``[H, W, 3]`` -> ``uint8`` ``[height, width, 3]``."""
        left, top, width, height = self.draw(image.shape[1], image.shape[0], generator)
        part = image[top : top + height, left : left + width]
        if self.backend == "pil" and self.interpolation in FILTERS:
            return resize_antialiased(part, self.width, self.height, self.interpolation)
        return resize(part, self.width, self.height, self.interpolation, self.backend)


class RandomCropImage:
    """Cuts a part of fixed size out of a random place.

    Args:
        size: side of the square, or ``[width, height]``.
    """

    random = True

    def __init__(self, size: int | list[int]) -> None:
        self.width, self.height = width_and_height(size)

    def __call__(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """``[H, W, 3]`` -> ``[height, width, 3]``; raises ``ImageError`` where the image is smaller."""
        height, width = image.shape[:2]
        if width < self.width or height < self.height:
            raise ImageError(
                "image",
                f"RandomCropImage cannot cut {self.width}x{self.height} out of {width}x{height}; put a Pad first",
            )
        left = int(generator.integers(width - self.width + 1))
        top = int(generator.integers(height - self.height + 1))
        return image[top : top + self.height, left : left + self.width]


class Pad:
    """Adds a margin on all sides.

    Args:
        padding: pixels on every side, ``[left and right, top and bottom]`` or ``[left, top, right, bottom]``.
        fill: grey value, or ``[red, green, blue]``, of a constant margin.
        padding_mode: ``constant``; ``edge`` repeats the last pixel; ``reflect`` and ``symmetric`` mirror without and
            with it.
        backend: accepted for PaddleClas's configurations; the result is the same.
    """

    borders = {
        "constant": cv2.BORDER_CONSTANT,
        "edge": cv2.BORDER_REPLICATE,
        "reflect": cv2.BORDER_REFLECT_101,
        "symmetric": cv2.BORDER_REFLECT,
    }

    def __init__(
        self,
        padding: int | list[int],
        fill: int | list[int] = 0,
        padding_mode: Literal["constant", "edge", "reflect", "symmetric"] = "constant",
        backend: Backend = "pil",
    ) -> None:
        sides = [padding] if isinstance(padding, int) else list(padding)
        if len(sides) not in (1, 2, 4) or min(sides) < 0:
            raise ValueError(f"padding: must be one, two or four numbers of pixels, got {padding}")
        self.left, self.top, self.right, self.bottom = (sides * (4 // len(sides)))[:4]
        self.fill = [fill] * 3 if isinstance(fill, int) else list(fill)
        if len(self.fill) != 3:
            raise ValueError(f"fill: must be one or three numbers, got {fill}")
        self.border = self.borders[padding_mode]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """``[H, W, 3]`` -> ``[top + H + bottom, left + W + right, 3]``."""
        return cv2.copyMakeBorder(
            image, self.top, self.bottom, self.left, self.right, self.border, value=tuple(self.fill)
        )


def _range(numbers: list[float], argument: str) -> tuple[float, float]:
    if len(numbers) != 2 or not 0 < numbers[0] <= numbers[1]:
        raise ValueError(f"{argument}: must be [smallest, largest], both above 0, got {numbers}")
    return float(numbers[0]), float(numbers[1])
