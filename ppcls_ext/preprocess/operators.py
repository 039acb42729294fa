"""The image operators that inference needs, with PaddleClas 2.6's names and arguments; training uses the same ones.
Below them, lists of operators from YAML: checked, built and applied in order.

An image is an ``uint8`` array ``[H, W, 3]`` until ``NormalizeImage`` makes it ``float32``. The operators of detection
are in ``ppcls_ext.preprocess.detection``: PaddleDetection has others of the same names.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image

from ppcls_ext.preprocess.decode import ImageError, Picture, TooManyPixelsError, decode_image, read_bytes, rgb_of
from ppcls_ext.preprocess.depth import RangeWatch
from ppcls_ext.preprocess.samples import AnyRange, Bits, Note, Range, stated_range
from ppcls_ext.preprocess.sonar import SonarEnhance
from ppcls_ext.utils.errors import ConfigError, UserError, suggestion
from ppcls_ext.utils.signature import PositiveNumber, check_arguments, parameters_of

Backend = Literal["cv2", "pil"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "area", "lanczos", "box", "hamming"]

CV2_INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}  # fmt: skip
PIL_INTERPOLATIONS = {
    name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "box", "lanczos", "hamming")
}


def check_interpolation(interpolation: str, backend: str) -> None:
    """Raises ``ValueError``, which begins with the argument's name, if the backend does not know the interpolation."""
    allowed = CV2_INTERPOLATIONS if backend == "cv2" else PIL_INTERPOLATIONS
    if interpolation not in allowed:
        known = f"not available with backend '{backend}'; allowed: {', '.join(sorted(allowed))}"
        raise ValueError(f"interpolation: '{interpolation}' is {known}")


# Megapixels of a resized picture, unless the operator says otherwise by this argument.
LIMIT_ARGUMENT, MEGAPIXELS = "max_megapixels", 64.0
# From so many pixels on, a picture that is cut afterwards is cut before it is resized.
CROPPED_FIRST = 16_000_000
# How many pixels around one any of the interpolations looks at.
REACH = 4


def refuse_large_result(width: int, height: int, megapixels: float) -> None:
    """Raises ``TooManyPixelsError``, which tells the size, if a picture would become larger than ``megapixels``."""
    if width * height > megapixels * 1e6:
        raise TooManyPixelsError(
            "image",
            f"would be resized to {width} x {height} pixels; at most {megapixels:g} megapixels are made "
            f"({LIMIT_ARGUMENT} of the operator)",
        )


def check_target(width: int, height: int, megapixels: float, argument: str) -> None:
    """Raises ``ValueError``, whose message begins with ``argument``, if a fixed size is larger than ``megapixels``."""
    if width * height > megapixels * 1e6:
        raise ValueError(f"{argument}: {width} x {height} pixels are above {LIMIT_ARGUMENT}, {megapixels:g}")


def with_limit(operations: Any, megapixels: float | None, table: Mapping[str, Any]) -> Any:
    """Returns a YAML list of operators in which each that resizes has this limit; ``None`` leaves the list as it is.

    Raises:
        UserError: the limit is not positive. What is malformed is left for :func:`build_operators` to tell.
    """
    if megapixels is None or not isinstance(operations, list):
        return operations
    if not megapixels > 0:
        raise UserError(f"--max-resized-megapixels must be above 0, got {megapixels:g}")
    changed = []
    for entry in operations:
        with contextlib.suppress(ConfigError):
            name, arguments = split_entry(entry, "")
            if name in table and LIMIT_ARGUMENT in parameters_of(table[name]):
                entry = {name: {**arguments, LIMIT_ARGUMENT: megapixels}}
        changed.append(entry)
    return changed


def resize(image: np.ndarray, width: int, height: int, interpolation: str, backend: str) -> np.ndarray:
    """Resizes ``uint8`` ``[H, W, 3]``; ``pil`` low-pass filters when it makes an image smaller (antialiasing), ``cv2``
    does so only with ``area``."""
    if image.shape[0] == height and image.shape[1] == width:
        return image
    if backend == "cv2":
        return cv2.resize(image, (width, height), interpolation=CV2_INTERPOLATIONS[interpolation])
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), PIL_INTERPOLATIONS[interpolation]))


def two_sides(size: int | list[int], argument: str = "size", order: str = "[width, height]") -> tuple[int, int]:
    """Returns both sides, in the given order, of a size that may be one number for a square.

    Raises ``ValueError``, which begins with ``argument``, where these are not one or two positive numbers.
    """
    pair = [size, size] if isinstance(size, int) else list(size)
    if len(pair) != 2 or any(number <= 0 for number in pair):
        raise ValueError(f"{argument}: must be a positive number of pixels or {order}, got {size}")
    return pair[0], pair[1]


class Decoder:
    """Makes an array of a path, an encoded file's bytes or a picture that a program holds.

    Args:
        bits: how many of the bits of a sample are in use where a file has more than 8, 8 to 32: values from 0 to 2 to
            the power of ``bits`` become bytes (``samples.to_bytes``); all 16 when absent. ``auto`` is found on the
            training set when training starts.
        value_range: the same as lowest and highest value, ``[low, high]``.

    Raises:
        ValueError: both are given, or the range is empty; the message begins with the argument's name.
    """

    # Transparent pictures are laid on white; else their colours count alone.
    on_white = True

    def __init__(self, bits: Bits | None = None, value_range: Range | None = None) -> None:
        self.value_range = stated_range(bits, value_range)
        # At inference: is given the samples of pictures that have more than 8 bits.
        self.note: Note | None = None

    def __call__(self, image: bytes | str | os.PathLike[str] | Picture, name: str = "image") -> np.ndarray:
        """Returns ``uint8`` RGB ``[H, W, 3]``; ``ImageError``, which begins with ``name`` or the path, where there is
        none."""
        if isinstance(image, (str, os.PathLike)):
            image, name = read_bytes(image), os.fspath(image)
        if isinstance(image, bytes):
            return decode_image(image, name, self.value_range, self.note, self.on_white)
        return rgb_of(image, name, self.value_range, self.note, self.on_white)


class DecodeImage(Decoder):
    """A path, encoded bytes or a picture to an ``uint8`` array.

    Args:
        to_np, backend: accepted because PaddleClas's configurations carry them, as ``return_numpy`` of ``ResizeImage``.
        to_rgb: RGB channel order, else BGR.
        channel_first: returns ``[3, H, W]`` instead of ``[H, W, 3]``.
        bits, value_range: see :class:`Decoder`.
    """

    def __init__(
        self,
        to_np: bool = True,
        to_rgb: bool = True,
        channel_first: bool = False,
        backend: Backend = "cv2",
        bits: Bits | None = None,
        value_range: Range | None = None,
    ) -> None:
        super().__init__(bits, value_range)
        self.to_rgb = to_rgb
        self.channel_first = channel_first

    def __call__(self, image: bytes | str | os.PathLike[str] | Picture, name: str = "image") -> np.ndarray:
        """As :class:`Decoder`, but for the order of channels and axes."""
        image = super().__call__(image, name)
        if not self.to_rgb:
            image = np.ascontiguousarray(image[:, :, ::-1])
        return np.ascontiguousarray(image.transpose(2, 0, 1)) if self.channel_first else image


class ResizeImage:
    """Resizes to a fixed size, or so that the short side has a given length.

    Args:
        size: side of the square result, or ``[width, height]``; give this or ``resize_short``.
        resize_short: length of the short side; the ratio of the sides is kept.
        interpolation: ``bilinear`` when absent.
        backend: ``pil`` is antialiased, ``cv2`` is not.
        max_megapixels: ours; a picture that would become larger is refused.

    Attributes:
        kept: width and height of what a ``CropImage`` directly behind cuts out of the centre, or None (see
            :func:`tell_crops`). Of a picture that would have more than ``CROPPED_FIRST`` pixels (20000 x 2 with a short
            side of 256 would have 655 million), only that part is computed. All others are resized whole, so that their
            pixels are the same bit for bit with and without the crop.
    """

    def __init__(
        self,
        size: int | list[int] | None = None,
        resize_short: int | None = None,
        interpolation: Interpolation | None = None,
        backend: Backend = "cv2",
        return_numpy: bool = True,
        max_megapixels: PositiveNumber = MEGAPIXELS,
    ) -> None:
        if (size is None) == (resize_short is None):
            raise ValueError("size: give exactly one of 'size' and 'resize_short'")
        if resize_short is not None and resize_short <= 0:
            raise ValueError(f"resize_short: must be positive, got {resize_short}")
        self.size = two_sides(size) if size is not None else None
        self.resize_short = resize_short
        self.interpolation = interpolation or "bilinear"
        check_interpolation(self.interpolation, backend)
        self.backend = backend
        self.max_megapixels = float(max_megapixels)
        if self.size is not None:
            check_target(*self.size, self.max_megapixels, "size")
        self.kept: tuple[int, int] | None = None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """``uint8`` ``[H, W, 3]`` -> ``[height, width, 3]``; ``TooManyPixelsError`` above ``max_megapixels``."""
        if self.size is not None:
            return resize(image, *self.size, self.interpolation, self.backend)
        width, height = self.scaled(*image.shape[:2])
        crops_first = self.kept is not None and width * height > CROPPED_FIRST
        if crops_first and width >= self.kept[0] and height >= self.kept[1]:
            return self._resize_kept(image, max(width, height), axis=int(width > height))
        refuse_large_result(width, height, self.max_megapixels)
        return resize(image, width, height, self.interpolation, self.backend)

    def _resize_kept(self, image: np.ndarray, length: int, axis: int) -> np.ndarray:
        """Returns the centre of the resized picture, as long as ``kept`` along its long side.

        The picture is cut into squares of its short side, and whole squares become whole squares: so each pixel comes
        from where it would come from if all of it were resized. A few more let the interpolation see its neighbours.
        """
        short, kept, square = image.shape[1 - axis], self.kept[1 - axis], self.resize_short
        begin, margin = (length - kept) // 2, -(-REACH // short)
        first, last = max(begin // square - margin, 0), -(-(begin + kept) // square) + margin

        def along(first: int, last: int) -> tuple[slice, ...]:
            return (slice(None),) * axis + (slice(first, last),)

        part = image[along(first * short, last * short)]
        width, height = self.scaled(*part.shape[:2])
        refuse_large_result(width, height, self.max_megapixels)
        resized = resize(part, width, height, self.interpolation, self.backend)
        begin -= first * square
        return resized[along(begin, begin + kept)]

    def scaled(self, height: int, width: int) -> tuple[int, int]:
        """Returns width and height of a picture of this size whose short side gets the length ``resize_short``."""
        factor = self.resize_short / min(width, height)
        return round(width * factor), round(height * factor)


class CropImage:
    """Cuts the centre out of an image.

    Args:
        size: side of the square, or ``[width, height]``.
    """

    def __init__(self, size: int | list[int]) -> None:
        self.width, self.height = two_sides(size)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """``[H, W, 3]`` -> ``[height, width, 3]``; raises ``ImageError`` where the image is smaller than the cut."""
        image_height, image_width = image.shape[:2]
        if image_width < self.width or image_height < self.height:
            raise ImageError(
                "image",
                f"CropImage cannot cut {self.width}x{self.height} out of {image_width}x{image_height}; "
                "put a ResizeImage before it",
            )
        left, top = (image_width - self.width) // 2, (image_height - self.height) // 2
        return image[top : top + self.height, left : left + self.width]


class NormalizeImage:
    """Computes ``(image * scale - mean) / std`` for each channel.

    The result is stored channel by channel; with a channel-last ``order`` it is a view with the axes turned, so that
    making it channel-first later costs nothing.

    Args:
        scale: factor before the mean is taken off; 1/255 when absent.
        mean, std: three numbers; ImageNet's when absent.
        order: ``chw`` if the images are ``[3, H, W]``; ``hwc`` or an empty string for ``[H, W, 3]``.
        output_fp16: gives ``float16`` instead of ``float32``.
        channel_num: three channels are supported.
    """

    def __init__(
        self,
        scale: float | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        order: Literal["chw", "hwc", ""] = "chw",
        output_fp16: bool = False,
        channel_num: Literal[3] = 3,
    ) -> None:
        factor = 1.0 / 255.0 if scale is None else float(scale)
        means = np.asarray([0.485, 0.456, 0.406] if mean is None else mean, dtype=np.float64)
        deviations = np.asarray([0.229, 0.224, 0.225] if std is None else std, dtype=np.float64)
        if means.shape != (3,):
            raise ValueError(f"mean: must be three numbers, got {mean}")
        if deviations.shape != (3,) or np.any(deviations == 0):
            raise ValueError(f"std: must be three numbers other than zero, got {std}")
        self.channel_axis = 0 if order == "chw" else 2
        self.dtype = np.float16 if output_fp16 else np.float32
        self.factors = (factor / deviations).astype(np.float32)
        self.offsets = (-means / deviations).astype(np.float32)
        # A byte has 256 values: the arithmetic is done once for each of them.
        values = np.arange(256, dtype=np.float64)
        tables = (values[:, np.newaxis] * factor - means) / deviations
        self.tables = np.ascontiguousarray(tables.T.astype(np.float32))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """``uint8`` or ``float32`` image -> ``float32`` image of the same shape."""
        if image.ndim != 3 or image.shape[self.channel_axis] != 3:
            layout = "[3, H, W]" if self.channel_axis == 0 else "[H, W, 3]"
            raise ImageError("image", f"NormalizeImage expected {layout} by its 'order', got {list(image.shape)}")
        result = np.empty((3, *np.delete(image.shape, self.channel_axis)), dtype=np.float32)
        for channel in range(3):
            plane = image[channel] if self.channel_axis == 0 else cv2.extractChannel(image, channel)
            if plane.dtype == np.uint8:
                cv2.LUT(np.ascontiguousarray(plane), self.tables[channel], result[channel])
            else:
                np.multiply(plane, self.factors[channel], out=result[channel], casting="same_kind")
                result[channel] += self.offsets[channel]
        result = result.astype(self.dtype, copy=False)
        return result if self.channel_axis == 0 else result.transpose(1, 2, 0)


class ToCHWImage:
    """Turns ``[H, W, 3]`` into contiguous ``[3, H, W]``."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """``[H, W, 3]`` -> ``[3, H, W]``."""
        return np.ascontiguousarray(image.transpose(2, 0, 1))


def tell_crops(operators: Sequence[Any]) -> None:
    """Tells each ``ResizeImage`` what a ``CropImage`` directly behind it keeps."""
    for before, after in pairwise(operators):
        if isinstance(before, ResizeImage) and isinstance(after, CropImage):
            before.kept = (after.width, after.height)


OPERATORS: dict[str, type[Any]] = {
    operator.__name__: operator
    for operator in (DecodeImage, ResizeImage, CropImage, SonarEnhance, NormalizeImage, ToCHWImage)
}


class Decoding:
    """Operators behind a decoder of their own, which warns once of pictures that the range of values does not fit.

    Args:
        operators: callables ``op(image) -> image``.
        decoder: class of the first one; one without arguments is put in front where there is none.
    """

    def __init__(self, operators: Sequence[Any], decoder: type[Decoder]) -> None:
        is_stated = bool(operators) and isinstance(operators[0], decoder)
        self.decode = copy.copy(operators[0]) if is_stated else decoder()
        self.decode.note = RangeWatch(self.value_range)
        self.operators = list(operators[1:] if is_stated else operators)

    def __call__(self, image: bytes | str | os.PathLike[str] | Picture, name: str | None = None) -> Any:
        """Makes a model input of a path, an encoded file's bytes, or what :func:`rgb_of` takes; see ``prepare``.

        Raises:
            ImageError: the picture cannot be decoded or does not fit an operator; the message begins with ``name``, its
                path when absent.
        """
        if name is None:
            name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else "image"
        try:
            return self.prepare(self.decode(image, name))
        except ImageError as error:
            raise type(error)(name, error.cause) from error

    @property
    def value_range(self) -> AnyRange:
        """What the decoder makes of samples of more than 8 bits, see ``decode_image``."""
        return self.decode.value_range


class Pipeline(Decoding):
    """Deterministic operators of a classifier in a row."""

    def __init__(self, operators: Sequence[Any]) -> None:
        super().__init__(operators, DecodeImage)
        tell_crops(self.operators)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Returns ``float32`` ``[3, H, W]`` or ``[H, W, 3]``, as the operators say, of a decoded picture."""
        for operator in self.operators:
            image = operator(image)
        return image

    def seen_part(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Returns what remains of a picture of this size behind all crops: left, top, right, bottom in its pixels."""
        left, top, right, bottom = 0.0, 0.0, float(width), float(height)
        for operator in self.operators:
            if isinstance(operator, ResizeImage):
                width, height = operator.size or operator.scaled(height, width)
            elif isinstance(operator, CropImage):
                begins = ((width - operator.width) // 2, (height - operator.height) // 2)
                steps = ((right - left) / width, (bottom - top) / height)
                left, top = left + begins[0] * steps[0], top + begins[1] * steps[1]
                width, height = operator.width, operator.height
                right, bottom = left + width * steps[0], top + height * steps[1]
        return left, top, right, bottom

    @property
    def channel_first(self) -> bool:
        """Whether the result is ``[3, H, W]``."""
        return self.decode.channel_first or any(isinstance(operator, ToCHWImage) for operator in self.operators)


def split_entry(entry: Any, where: str) -> tuple[str, dict[str, Any]]:
    """Splits an entry of an operator list, ``{Name: {argument: value}}``, ``{Name: null}`` or ``Name``, else raises
    ``ConfigError``."""
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, arguments),) = entry.items()
        if isinstance(name, str) and (arguments is None or isinstance(arguments, Mapping)):
            return name, dict(arguments or {})
    raise ConfigError([f"{where}: expected one entry as 'Name: {{arguments}}', got {entry!r}"])


def build_named(
    name: str, arguments: Mapping[str, Any], where: str, table: Mapping[str, Any], kind: str = "operator"
) -> Any:
    """Builds ``table[name]``, its arguments checked against the annotations of its constructor.

    Raises:
        ConfigError: the name is unknown, or with all problems of the arguments; the messages begin with ``where`` and
            call what is in the table ``kind``.
    """
    if name not in table:
        hint = suggestion(name, table) or f"; known: {', '.join(sorted(table))}"
        raise ConfigError([f"{where}: unknown {kind} '{name}'{hint}"])
    converted, problems = check_arguments(parameters_of(table[name]), arguments)
    if not problems:
        try:
            return table[name](**converted)
        except ValueError as error:
            problems = [("", str(error))]
    raise ConfigError([f"{where}.{name}{'.' if argument else ''}{argument}: {text}" for argument, text in problems])


def entries_of(operations: Any, where: str) -> list[Any]:
    """Returns a YAML list of operators; None is an empty one. ``ConfigError`` if it is no list."""
    operations = [] if operations is None else operations
    if not isinstance(operations, Sequence) or isinstance(operations, str):
        raise ConfigError([f"{where}: expected a list of 'Name: {{arguments}}', got {operations!r}"])
    return list(operations)


def build_operators(
    operations: Any, where: str, table: Mapping[str, Any] = OPERATORS, kind: str = "operator"
) -> list[Any]:
    """Builds the operators (losses, metrics) of a YAML list of ``{Name: {argument: value}}``; see :func:`build_named`.

    Raises:
        ConfigError: with all problems of the list.
    """
    built: list[Any] = []
    problems: list[str] = []
    for number, entry in enumerate(entries_of(operations, where)):
        place = f"{where}[{number}]"
        try:
            name, arguments = split_entry(entry, place)
            built.append(build_named(name, arguments, place, table, kind))
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return built


def build_pipeline(operations: Any, where: str) -> Pipeline:
    """Builds the deterministic pipeline of evaluation, inference and export; see :func:`build_operators`."""
    return Pipeline(build_operators(operations, where))
