"""Random erasing, with PaddleClas 2.6's name and arguments (Zhong et al., arXiv 1708.04896)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

# Of ImageNet's red, green and blue, in bytes.
MEAN = 255.0 * np.asarray([0.485, 0.456, 0.406], dtype=np.float32)[:, np.newaxis, np.newaxis]
DEVIATION = 255.0 * np.asarray([0.229, 0.224, 0.225], dtype=np.float32)[:, np.newaxis, np.newaxis]


class RandomErasing:
    """Overwrites a random rectangle; meant for a place after ``NormalizeImage``.

    There noise of mean zero and unit variance looks like an image. Before it, on ``uint8``, the noise gets the mean and
    the deviation of ImageNet's bytes, so that it looks the same in the end.

    Args:
        EPSILON: share of the images that lose a rectangle.
        sl, sh: smallest and largest share of the area.
        r1: smallest height / width; the largest is its inverse.
        mean: what ``const`` writes, one number a channel, in the unit of the image: bytes on ``uint8``.
        attempt: draws until a rectangle fits; then the image stays as it is.
        use_log_aspect: draws the logarithm of the aspect ratio evenly, else its value.
        mode: ``const`` writes ``mean``, ``rand`` one normal random colour, ``pixel`` normal noise in every pixel.
    """

    random = True

    def __init__(
        self,
        EPSILON: float = 0.5,  # noqa: N803  (PaddleClas's name)
        sl: float = 0.02,
        sh: float = 0.4,
        r1: float = 0.3,
        mean: list[float] | None = None,
        attempt: int = 100,
        use_log_aspect: bool = False,
        mode: Literal["const", "rand", "pixel"] = "const",
    ) -> None:
        if not 0.0 <= EPSILON <= 1.0:
            raise ValueError(f"EPSILON: must be from 0 to 1, got {EPSILON}")
        if not 0.0 < sl <= sh <= 1.0:
            raise ValueError(f"sl: must be above 0 and not above sh, and sh at most 1, got {sl} and {sh}")
        if not 0.0 < r1 <= 1.0:
            raise ValueError(f"r1: must be above 0 and at most 1, got {r1}")
        if mean is not None and len(mean) != 3:
            raise ValueError(f"mean: must be three numbers, got {mean}")
        self.probability = EPSILON
        self.smallest, self.largest = sl, sh
        self.ratios = (math.log(r1), -math.log(r1)) if use_log_aspect else (r1, 1.0 / r1)
        self.mean = np.asarray(mean or [0.0, 0.0, 0.0], dtype=np.float32)
        self.attempt = attempt
        self.use_log_aspect = use_log_aspect
        self.mode = mode

    def draw(self, width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int] | None:
        """Draws left, top, width and height of the rectangle, or None where none of the attempts fits."""
        for _ in range(self.attempt):
            area = generator.uniform(self.smallest, self.largest) * width * height
            ratio = generator.uniform(*self.ratios)
            ratio = math.exp(ratio) if self.use_log_aspect else ratio
            part_height, part_width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < part_width < width and 0 < part_height < height:
                left = int(generator.integers(width - part_width + 1))
                top = int(generator.integers(height - part_height + 1))
                return left, top, part_width, part_height
        return None

    def __call__(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """``float32`` or ``uint8`` ``[H, W, 3]`` or ``[3, H, W]`` -> the same; what is given is left as it was."""
        if generator.random() >= self.probability:
            return image
        channel_last = image.shape[2] == 3
        height, width = image.shape[:2] if channel_last else image.shape[1:]
        rectangle = self.draw(width, height, generator)
        if rectangle is None:
            return image
        # It may be a view of the data set's own memory. "K" keeps the order in memory that NormalizeImage chose.
        erased = image.copy(order="K")
        planes = erased.transpose(2, 0, 1) if channel_last else erased
        left, top, width, height = rectangle
        content = self._content(width, height, generator)
        if image.dtype == np.uint8:
            content = np.clip(np.rint(content if self.mode == "const" else content * DEVIATION + MEAN), 0, 255)
        planes[:, top : top + height, left : left + width] = content
        return erased

    def _content(self, width: int, height: int, generator: np.random.Generator) -> np.ndarray:
        if self.mode == "const":
            return self.mean[:, np.newaxis, np.newaxis]
        shape = (3, height, width) if self.mode == "pixel" else (3, 1, 1)
        return generator.standard_normal(shape, dtype=np.float32)
