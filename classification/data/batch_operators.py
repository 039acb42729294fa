"""Operators that mix the images of a batch, with PaddleClas 2.6's names and arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ppcls_ext.preprocess.pipeline import build_named, entries_of, split_entry
from ppcls_ext.utils.errors import ConfigError
from ppcls_ext.utils.signature import convert

MixedBatch = tuple[np.ndarray, np.ndarray, np.ndarray, float]


class BatchOperator(Protocol):
    """Called with images ``float32`` ``[B, C, H, W]``, labels ``int64`` ``[B]`` and a generator.

    Returns images, labels, the labels mixed in, and the weight of the former: the loss is
    ``weight * loss(labels) + (1 - weight) * loss(labels mixed in)``.
    """

    def __call__(self, images: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> MixedBatch: ...


class MixupOperator:
    """Weighted mean of each image and another of the batch (Zhang et al., "mixup", arXiv 1710.09412).

    Args:
        alpha: the weight is drawn from Beta(alpha, alpha).
    """

    def __init__(self, alpha: float = 1.0) -> None:
        if alpha <= 0:
            raise ValueError(f"alpha: must be positive, got {alpha}")
        self.alpha = alpha

    def __call__(self, images: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> MixedBatch:
        """``[B, C, H, W]``, ``[B]`` -> images, labels, labels mixed in, weight."""
        weight = float(generator.beta(self.alpha, self.alpha))
        partner = generator.permutation(len(images))
        mixed = images * np.float32(weight)
        mixed += images[partner] * np.float32(1.0 - weight)
        return mixed, labels, labels[partner], weight


class CutmixOperator:
    """Puts a rectangle of another image of the batch into each (Yun et al., "CutMix", arXiv 1905.04899).

    Args:
        alpha: the share of the image that stays is drawn from Beta(alpha, alpha).
    """

    def __init__(self, alpha: float = 0.2) -> None:
        if alpha <= 0:
            raise ValueError(f"alpha: must be positive, got {alpha}")
        self.alpha = alpha

    def __call__(self, images: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> MixedBatch:
        """``[B, C, H, W]``, ``[B]`` -> images, labels, labels mixed in, share of the pixels that stayed."""
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
    """Applies one of several batch operators, drawn anew for each batch; the remaining probability leaves it as it is.

    Args:
        operators: the operators.
        probabilities: one for each; their sum is at most 1.
    """

    def __init__(self, operators: Sequence[BatchOperator], probabilities: Sequence[float]) -> None:
        if any(probability < 0 for probability in probabilities):
            raise ValueError(f"prob: must not be negative, got {list(probabilities)}")
        if sum(probabilities) > 1.0 + 1e-9:
            raise ValueError(f"prob: the sum over the operators must be at most 1, got {sum(probabilities):g}")
        self.operators = list(operators)
        self.limits = np.cumsum(probabilities)

    def __call__(self, images: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> MixedBatch:
        """``[B, C, H, W]``, ``[B]`` -> images, labels, labels mixed in, weight."""
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
            probabilities.append(convert(probability, float))
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
    """Builds the operator of ``batch_transform_ops``, or None where there is none.

    Args:
        operations: list of at most one ``{Name: {argument: value}}``. ``OpSampler`` holds further operators, each with
            its ``prob`` (1 when absent).
        where: dotted path of the list, for messages.

    Raises:
        ConfigError: with all problems of the list.
    """
    entries = entries_of(operations, where)
    if not entries:
        return None
    if len(entries) > 1:
        raise ConfigError([f"{where}: only one operator may mix a batch; put alternatives into one OpSampler"])
    place = f"{where}[0]"
    name, arguments = split_entry(entries[0], place)
    if name == "OpSampler":
        return _build_sampler(arguments, f"{place}.OpSampler")
    return build_named(name, arguments, place, BATCH_OPERATORS)
