"""Random erasing, mixup and cutmix, and the table of training operators by the names that configurations use.

Operators with ``random = True`` are called with a generator. Names and arguments are PaddleClas 2.6's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

import numpy as np

from classification.data.colour import ColorJitter, RandomGrayscale, TimmAutoAugment
from classification.data.geometry import Pad, RandCropImage, RandFlipImage, RandomCropImage, RandomRotation
from ppcls_ext.preprocess.operators import (
    OPERATORS,
    NormalizeImage,
    ToCHWImage,
    build_named,
    entries_of,
    split_entry,
)
from ppcls_ext.preprocess.sonar import SonarEnhance
from ppcls_ext.utils.errors import ConfigError
from ppcls_ext.utils.signature import Limits, PositiveNumber, Probability, convert

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
        self, EPSILON: Probability = 0.5, sl: float = 0.02, sh: float = 0.4,  # noqa: N803  (PaddleClas's name)
        r1: Annotated[float, Limits(gt=0, le=1)] = 0.3, mean: tuple[float, float, float] | None = None,
        attempt: int = 100, use_log_aspect: bool = False, mode: Literal["const", "rand", "pixel"] = "const",
    ) -> None:  # fmt: skip
        if not 0.0 < sl <= sh <= 1.0:
            raise ValueError(f"sl: must be above 0 and not above sh, and sh at most 1, got {sl} and {sh}")
        self.probability = EPSILON
        self.smallest, self.largest = sl, sh
        self.ratios = (math.log(r1), -math.log(r1)) if use_log_aspect else (r1, 1.0 / r1)
        self.mean = np.asarray(mean or [0.0, 0.0, 0.0], dtype=np.float32)
        self.attempt, self.use_log_aspect, self.mode = attempt, use_log_aspect, mode

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


def normalisation_of(operators: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns factor and offset of each channel, ``[3]``: operators make ``byte * factor + offset`` of a byte."""
    for operator in reversed(operators):
        if isinstance(operator, NormalizeImage):
            return operator.factors, operator.offsets
    return np.ones(3, np.float32), np.zeros(3, np.float32)


# Compute on bytes, besides what has ``backend: pil``.
_ON_BYTES = (ColorJitter, RandomRotation, SonarEnhance, TimmAutoAugment)


def misplaced(operators: Sequence[Any]) -> Iterator[tuple[int, str]]:
    """Yields number and fault of each operator that stands behind one whose result it cannot take."""
    normalised, turned = False, None
    for number, operator in enumerate(operators):
        if normalised and (isinstance(operator, _ON_BYTES) or getattr(operator, "backend", None) == "pil"):
            yield number, "works on bytes: it must stand before NormalizeImage"
        elif turned and not isinstance(operator, NormalizeImage | RandomErasing):
            yield number, f"works on images [H, W, 3]: it must stand before {turned}"
        normalised = normalised or isinstance(operator, NormalizeImage)
        if isinstance(operator, ToCHWImage):
            turned = turned or "ToCHWImage"
        elif getattr(operator, "channel_first", False):
            turned = "an operator with channel_first: True"


TRAIN_OPERATORS: dict[str, type[Any]] = OPERATORS | {
    operator.__name__: operator
    for operator in (
        RandCropImage, RandomCropImage, Pad, RandFlipImage, RandomRotation, TimmAutoAugment, RandomErasing,
        ColorJitter, RandomGrayscale,
    )
}  # fmt: skip


MixedBatch = tuple[np.ndarray, np.ndarray, np.ndarray, float]


class BatchOperator(Protocol):
    """Called with images ``float32`` ``[B, C, H, W]``, labels ``int64`` ``[B]`` and a generator.

    Returns images, labels, the labels mixed in, and the weight of the former: the loss is
    ``weight * loss(labels) + (1 - weight) * loss(labels mixed in)``.
    """

    def __call__(self, images: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> MixedBatch: ...


class MixupOperator:
    """Weighted mean of each image and another of the batch (Zhang et al., "mixup", arXiv 1710.09412).

    The weight is drawn from Beta(alpha, alpha).
    """

    def __init__(self, alpha: PositiveNumber = 1.0) -> None:
        self.alpha = alpha

    def __call__(self, images: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> MixedBatch:
        weight = float(generator.beta(self.alpha, self.alpha))
        partner = generator.permutation(len(images))
        mixed = images * np.float32(weight)
        mixed += images[partner] * np.float32(1.0 - weight)
        return mixed, labels, labels[partner], weight


class CutmixOperator:
    """Puts a rectangle of another image of the batch into each (Yun et al., "CutMix", arXiv 1905.04899).

    The share of the image that stays is drawn from Beta(alpha, alpha).
    """

    def __init__(self, alpha: PositiveNumber = 0.2) -> None:
        self.alpha = alpha

    def __call__(self, images: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> MixedBatch:
        height, width = images.shape[2:]
        side = float(np.sqrt(1.0 - generator.beta(self.alpha, self.alpha)))
        partner = generator.permutation(len(images))
        centre_y, centre_x = int(generator.integers(height)), int(generator.integers(width))
        half_height, half_width = int(height * side) // 2, int(width * side) // 2
        top, bottom = max(centre_y - half_height, 0), min(centre_y + half_height, height)
        left, right = max(centre_x - half_width, 0), min(centre_x + half_width, width)
        mixed = images.copy()
        mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
        weight = 1.0 - (bottom - top) * (right - left) / (height * width)
        return mixed, labels, labels[partner], weight


class OpSampler:
    """Applies one of several batch operators, drawn anew for each batch by ``probabilities``, whose sum is at most 1.

    The remaining probability leaves the batch as it is.
    """

    def __init__(self, operators: Sequence[BatchOperator], probabilities: Sequence[float]) -> None:
        if sum(probabilities) > 1.0 + 1e-9:
            raise ValueError(f"prob: the sum over the operators must be at most 1, got {sum(probabilities):g}")
        self.operators = list(operators)
        self.limits = np.cumsum(probabilities)

    def __call__(self, images: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> MixedBatch:
        chosen = int(np.searchsorted(self.limits, generator.random(), side="right"))
        if chosen == len(self.operators):
            return images, labels, labels, 1.0
        return self.operators[chosen](images, labels, generator)


MIXING_OPERATORS: dict[str, type[Any]] = {"MixupOperator": MixupOperator, "CutmixOperator": CutmixOperator}
BATCH_OPERATORS: dict[str, type[Any]] = {**MIXING_OPERATORS, "OpSampler": OpSampler}


def _build_sampler(nested: Mapping[str, Any], where: str) -> OpSampler:
    operators, probabilities, problems = [], [], []
    for entry in nested.items():
        try:
            name, arguments = split_entry(dict([entry]), where)
            probability = arguments.pop("prob", 1.0)
            operators.append(build_named(name, arguments, where, MIXING_OPERATORS))
            probabilities.append(convert(probability, Probability))
        except ConfigError as error:
            problems.extend(error.problems)
        except ValueError as error:
            problems.append(f"{where}.{entry[0]}.prob: {error}")
    if not nested:
        problems.append(f"{where}: names no operator; known: {', '.join(MIXING_OPERATORS)}")
    if problems:
        raise ConfigError(problems)
    try:
        return OpSampler(operators, probabilities)
    except ValueError as error:
        raise ConfigError([f"{where}: {error}"]) from error


def build_batch_operator(operations: Any, where: str) -> BatchOperator | None:
    """Builds the operator of ``batch_transform_ops``, a list of at most one ``{Name: {argument: value}}``, else None.

    ``OpSampler`` holds further operators, each with its ``prob`` (1 when absent); ``where`` is the list's dotted path.

    Raises:
        ConfigError: with all problems of the list.
    """
    entries, place = entries_of(operations, where), f"{where}[0]"
    if not entries:
        return None
    if len(entries) > 1:
        raise ConfigError([f"{where}: only one operator may mix a batch; put alternatives into one OpSampler"])
    name, arguments = split_entry(entries[0], place)
    if name == "OpSampler":
        return _build_sampler(arguments, f"{place}.OpSampler")
    return build_named(name, arguments, place, BATCH_OPERATORS)
