"""Preprocessing of a detector at deployment: the operators of a reader of PaddleDetection 2.6, bit for bit.

Files are decoded by the one decoder of this package, in training (``detection.operators.Decode``) as well.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import cv2
import numpy as np

from ppcls_ext.preprocess.decode import ImageError
from ppcls_ext.preprocess.operators import MEGAPIXELS, Decoder, Decoding, build_operators, check_target, two_sides
from ppcls_ext.preprocess.sonar import SonarEnhance
from ppcls_ext.utils.errors import ConfigError
from ppcls_ext.utils.signature import Limits, PositiveNumber

LARGEST_BYTE = 255
GREY = 114
Pair = tuple[float, float]
Triple = tuple[float, float, float]
# OpenCV's numbers: 0 nearest, 1 bilinear, 2 bicubic, 3 area, 4 Lanczos.
Interpolation = Annotated[int, Limits(ge=0, le=4)]
NO_PAD = np.zeros(2, dtype=np.float32)
NO_PAD.flags.writeable = False


class Prepared(NamedTuple):
    """An image as a detector takes it.

    Attributes:
        pixels: ``float32`` ``[3, H, W]``.
        scale_factor: ``float32`` ``[2]``: height and width after resizing, divided by those of the image.
        im_shape: ``float32`` ``[2]``: height and width after resizing, before padding.
        height, width: of the image.
        pad: ``float32`` ``[2]``: pixels of the input above the image and to its left; zeros without a letterbox.
    """

    pixels: np.ndarray
    scale_factor: np.ndarray
    im_shape: np.ndarray
    height: int
    width: int
    pad: np.ndarray = NO_PAD


def height_and_width(size: int | list[int], argument: str) -> tuple[int, int]:
    """As ``two_sides``, but the height first."""
    return two_sides(size, argument, "[height, width]")


def colour(values: list[int] | None, argument: str, default: int) -> tuple[int, int, int]:
    """Returns a colour of three bytes, ``default`` thrice for ``None``; raises ``ValueError`` if it is none."""
    chosen = [default] * 3 if values is None else list(values)
    if len(chosen) != 3 or any(int(value) != value or not 0 <= value <= LARGEST_BYTE for value in chosen):
        raise ValueError(f"{argument}: must be three whole numbers from 0 to {LARGEST_BYTE}, got {values}")
    return int(chosen[0]), int(chosen[1]), int(chosen[2])


class Decode(Decoder):
    """A path, an encoded file's bytes or a picture that a program holds to an array.

    Of a transparent picture the colours count and not the transparency, as with ppdet's operator of that name.
    """

    on_white = False


class Resize:
    """Resizes, and notes by how much.

    Args:
        target_size: ``[height, width]``, or the side of a square.
        keep_ratio: the short side gets the smaller of the two sizes, unless the long one would exceed the larger.
            (PaddleDetection later than 2.6 rounds both sides to whole pixels and stretches accordingly; without
            ``keep_ratio`` it gives the same as 2.6.)
        interp: number of OpenCV's interpolation.
        max_megapixels: ours; the largest ``target_size``. With or without the ratio kept, no result is larger than it.
    """

    def __init__(
        self,
        target_size: int | list[int],
        keep_ratio: bool,
        interp: Interpolation = cv2.INTER_LINEAR,
        max_megapixels: PositiveNumber = MEGAPIXELS,
    ) -> None:
        self.target_size = height_and_width(target_size, "target_size")
        check_target(*self.target_size[::-1], max_megapixels, "target_size")
        self.keep_ratio = keep_ratio
        self.interp = interp

    def effect(self, height: int, width: int) -> tuple[Pair, Pair, Pair]:
        """Returns the factors of an image of this size, its size afterwards, and what is added above and to the left.

        Each is for height and width, in this order. With the ratio kept, ppdet notes the exact size and not the one in
        whole pixels.
        """
        if self.keep_ratio:
            factors = (min(min(self.target_size) / min(height, width), max(self.target_size) / max(height, width)),) * 2
        else:
            factors = (self.target_size[0] / height, self.target_size[1] / width)
        exact = (factors[0] * float(height), factors[1] * float(width))
        return factors, exact if self.keep_ratio else self.target_size, (0, 0)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """``[H, W, 3]`` -> ``[height, width, 3]`` of the same type; ``ImageError`` where nothing would remain."""
        self.refuse_nothing(*image.shape[:2])
        (vertical, horizontal), _, _ = self.effect(*image.shape[:2])
        # By factors and not by size: they decide where OpenCV samples.
        return cv2.resize(image, None, None, fx=horizontal, fy=vertical, interpolation=self.interp)

    def refuse_nothing(self, height: int, width: int) -> None:
        """Raises ``ImageError`` if nothing would remain of a picture of this size."""
        factors, _, _ = self.effect(height, width)
        # As OpenCV rounds.
        if 0 in (round(height * factors[0]), round(width * factors[1])):
            raise ImageError(
                "image",
                f"has {width} x {height} pixels, of which resizing by {factors[0]:.3g} leaves none of the short side "
                "(keep_ratio: false, or LetterResize, would leave one)",
            )


class Placement(NamedTuple):
    """Where a picture lies in the input, in whole pixels: its size (at least 1), the padding above and to its left."""

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
        interp: number of OpenCV's interpolation.
        upscale: enlarge pictures that are smaller; else they are only padded.
        max_megapixels: ours; the largest ``target_size``.

    Raises:
        ValueError: an argument is out of range; the message begins with its name.
    """

    def __init__(
        self,
        target_size: int | list[int],
        fill_value: list[int] | None = None,
        interp: Interpolation = cv2.INTER_LINEAR,
        upscale: bool = True,
        max_megapixels: PositiveNumber = MEGAPIXELS,
    ) -> None:
        self.target_size = height_and_width(target_size, "target_size")
        check_target(*self.target_size[::-1], max_megapixels, "target_size")
        self.fill_value = colour(fill_value, "fill_value", GREY)
        self.interp = interp
        self.upscale = upscale

    def placement(self, height: int, width: int) -> Placement:
        """Returns where a picture of this size goes; for rounding, the factors of the two axes may differ a little."""
        ratio = min(self.target_size[0] / height, self.target_size[1] / width)
        if not self.upscale:
            ratio = min(ratio, 1.0)
        new_height, new_width = (max(int(side * ratio + 0.5), 1) for side in (height, width))
        top, left = (self.target_size[0] - new_height) // 2, (self.target_size[1] - new_width) // 2
        return Placement(new_height, new_width, top, left)

    def effect(self, height: int, width: int) -> tuple[Pair, Pair, Pair]:
        """As :meth:`Resize.effect`."""
        place = self.placement(height, width)
        return (place.height / height, place.width / width), (place.height, place.width), (place.top, place.left)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """``[H, W, 3]`` -> ``[height, width, 3]`` of the same type."""
        place = self.placement(*image.shape[:2])
        result = np.empty([*self.target_size, 3], dtype=image.dtype)
        result[:] = np.array(self.fill_value, dtype=image.dtype)
        if image.shape[:2] != (place.height, place.width):
            image = cv2.resize(image, (place.width, place.height), interpolation=self.interp)
        result[place.top : place.top + place.height, place.left : place.left + place.width] = image
        return result


class Pad:
    """Pads to the right and at the bottom.

    Args:
        size: ``[height, width]`` of the result, or the side of a square; without it ``size_divisor`` decides.
        size_divisor: both sides become multiples of it.
        pad_mode: 0; other modes shift the picture, and boxes could not be taken back to it.
        fill_value: RGB of what is added.
    """

    def __init__(
        self,
        size: int | list[int] | None = None,
        size_divisor: Annotated[int, Limits(ge=1)] = 32,
        pad_mode: Literal[0] = 0,
        fill_value: Triple | None = None,
    ) -> None:
        self.size = None if size is None else height_and_width(size, "size")
        self.size_divisor = size_divisor
        self.fill_value = (127.5, 127.5, 127.5) if fill_value is None else fill_value

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """``[H, W, 3]`` -> ``float32`` ``[height, width, 3]``; ``ImageError`` where the image is larger."""
        height, width = image.shape[:2]
        new_height, new_width = self.size or (_multiple(height, self.size_divisor), _multiple(width, self.size_divisor))
        if height > new_height or width > new_width:
            raise ImageError("image", f"Pad to {new_width}x{new_height} does not hold {width}x{height} pixels")
        if (height, width) == (new_height, new_width):
            return image.astype(np.float32, copy=False)
        padded = np.empty([new_height, new_width, 3], dtype=np.float32)
        padded[:] = np.array(self.fill_value, dtype=np.float32)
        padded[:height, :width] = image
        return padded


class NormalizeImage:
    """Scales to 0..1, takes off the mean and divides by the deviation, channel by channel.

    Args:
        mean, std: three numbers; ImageNet's when absent.
        is_scale: divides by 255 first.
        norm_type: ``none`` leaves out mean and deviation.
    """

    def __init__(
        self,
        mean: Triple | None = None,
        std: Triple | None = None,
        is_scale: bool = True,
        norm_type: Literal["mean_std", "none"] = "mean_std",
    ) -> None:
        self.mean = (0.485, 0.456, 0.406) if mean is None else mean
        self.std = (0.229, 0.224, 0.225) if std is None else std
        if 0 in self.std:
            raise ValueError(f"std: must be three numbers other than zero, got {std}")
        self.is_scale = is_scale
        self.norm_type = norm_type
        # A byte has 256 values: the arithmetic is done once for each of them.
        values = np.arange(256, dtype=np.float32).reshape(256, 1, 1).repeat(3, axis=2)
        self.tables = np.ascontiguousarray(self._normalized(values).transpose(2, 0, 1))

    def _normalized(self, image: np.ndarray) -> np.ndarray:
        """The arithmetic as ppdet does it: in ``float32``, but mean and deviation in ``float64``, rounded each time."""
        image = image.astype(np.float32)
        if self.is_scale:
            image *= 1.0 / 255.0
        if self.norm_type == "mean_std":
            image -= np.array(self.mean)
            image /= np.array(self.std)
        return image

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """``uint8`` or ``float32`` ``[H, W, 3]`` -> ``float32`` ``[H, W, 3]``."""
        if image.dtype != np.uint8:
            return self._normalized(image)
        planes = np.empty([3, *image.shape[:2]], dtype=np.float32)
        for channel in range(3):
            cv2.LUT(cv2.extractChannel(image, channel), self.tables[channel], planes[channel])
        return planes.transpose(1, 2, 0)


class Permute:
    """Turns ``[H, W, 3]`` into ``[3, H, W]``."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """``[H, W, 3]`` -> ``[3, H, W]``."""
        return image.transpose(2, 0, 1)


# Each operator may stand behind those of its own rank and of lower ranks.
RANKS: dict[type[Any], int] = {
    Decode: 0, SonarEnhance: 1, Resize: 2, LetterResize: 2, Pad: 2, NormalizeImage: 2, Permute: 3,
}  # fmt: skip
DETECTION_OPERATORS = {operator.__name__: operator for operator in RANKS}


class DetectionPipeline(Decoding):
    """Operators of this file in a row."""

    def __init__(self, operators: list[Any]) -> None:
        super().__init__(operators, Decode)

    @property
    def enhancement(self) -> SonarEnhance | None:
        """The operator that raises the contrast of a frame, to show people what the detector sees; None without one."""
        return next((operator for operator in self.operators if isinstance(operator, SonarEnhance)), None)

    def prepare(self, pixels: np.ndarray) -> Prepared:
        """Makes a model input of a decoded picture."""
        height, width = pixels.shape[:2]
        im_shape, scale_factor, pad = (float(height), float(width)), np.ones(2, dtype=np.float32), NO_PAD
        resized = False
        for operator in self.operators:
            if isinstance(operator, Resize | LetterResize):
                if resized:
                    # What ppdet resizes once is float32 from then on; we keep bytes as long as they hold the same.
                    pixels = pixels.astype(np.float32, copy=False)
                resized = True
                factors, im_shape, added = operator.effect(*pixels.shape[:2])
                scale_factor = (scale_factor.astype(np.float64) * factors).astype(np.float32)
                pad = pad + np.array(added, dtype=np.float32)
            pixels = operator(pixels)
        tensor = np.ascontiguousarray(pixels, dtype=np.float32)
        return Prepared(tensor, scale_factor, np.array(im_shape, dtype=np.float32), height, width, pad)


def build_detection_pipeline(operators: Any, where: str = "sample_transforms") -> DetectionPipeline:
    """Builds what prepares images for a detector, of ``sample_transforms`` of a reader for evaluation or testing.

    Raises:
        ConfigError: with all problems of the list: an unknown operator or argument, a value out of range, an order
            that gives no ``[3, H, W]``, or from which boxes could not be taken back to the image.
    """
    built = build_operators(operators, where, DETECTION_OPERATORS)
    names = [type(operator).__name__ for operator in built]
    problems = []
    for number, (before, name) in enumerate(zip(names, names[1:], strict=False), start=1):
        if RANKS[DETECTION_OPERATORS[before]] > RANKS[DETECTION_OPERATORS[name]]:
            problems.append(f"{where}[{number}]: {name} must stand before {before}")
    if "LetterResize" in names:
        # A letterbox works on colours and gives the final size.
        number = names.index("LetterResize")
        if "NormalizeImage" in names[:number]:
            problems.append(f"{where}[{number}]: LetterResize must stand before NormalizeImage")
        for later, name in enumerate(names[number + 1 :], start=number + 1):
            if name in ("Resize", "Pad", "LetterResize"):
                problems.append(f"{where}[{later}]: {name} cannot follow LetterResize, which gives the final size")
    if "Permute" not in names:
        problems.append(f"{where}: Permute is missing; the model takes [3, H, W]")
    if problems:
        raise ConfigError(problems)
    return DetectionPipeline(built)


def _multiple(size: int, divisor: int) -> int:
    return -(-size // divisor) * divisor
