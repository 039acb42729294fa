"""Rare classes: weights in the loss, and images that an epoch shows more often than others. Loads no Paddle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ppcls_ext.utils.errors import UserError, suggestion

logger = logging.getLogger(__name__)

# A class of n images counts 1 / RULES[name](n).
BETA = 0.999
RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "balanced": lambda counts: counts,
    "effective_number": lambda counts: -np.expm1(counts * np.log(BETA)) / (1 - BETA),
}
# A class of n images is drawn as often as n to this power (arXiv 1910.09217, equation 1).
SAMPLING = {"square_root": 0.5, "full": 0.0}
SHOWN = 10


def class_weights(
    stated: str | Sequence[float] | dict[str | int, float], names: Sequence[str], counts: np.ndarray
) -> np.ndarray:
    """Returns what an example of each class counts in the loss, ``float32`` ``[K]``.

    Args:
        stated: ``balanced`` (each class as much as any other), ``effective_number`` (Cui et al., Class-Balanced Loss,
            arXiv 1901.05555, equation 2: as 1 / (1 - beta^n) for n examples, beta 0.999), a number for each class, or
            numbers by name (or number, where no class is called so), 1 for the classes that are not named. The first
            two are scaled so that the mean over the examples is 1, and with it the size of the loss.
        names: of the K classes.
        counts: examples that an epoch shows of each, ``[K]``; a class without any counts 1.

    Raises:
        ValueError: a name is unknown, or there are more or fewer numbers than classes.
    """
    if isinstance(stated, dict):
        numbered = {str(number): name for number, name in enumerate(names)}
        given = {key if (key := str(one)) in names else numbered.get(key, key): stated[one] for one in stated}
        if unknown := [name for name in given if name not in names]:
            classes = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
            raise ValueError(f"there is no class '{unknown[0]}'{suggestion(unknown[0], names)}; the classes: {classes}")
        return np.array([given.get(name, 1.0) for name in names], np.float32)
    if not isinstance(stated, str):
        if len(stated) != len(names):
            raise ValueError(f"must have {len(names)} numbers, one for each class, got {len(stated)}")
        return np.array(stated, np.float32)
    present = counts > 0
    weights = np.where(present, 1 / RULES[stated](np.where(present, counts, 1)), 0)
    return np.where(present, weights * counts.sum() / (weights * counts).sum(), 1).astype(np.float32)


def settle_class_weights(
    stated: Any, names: Sequence[str], counts: np.ndarray, problem: Callable[[str], str]
) -> np.ndarray:
    """Returns :func:`class_weights` and says them; ``problem`` makes the line of a UserError if they do not fit."""
    try:
        weights = class_weights(stated, names, counts)
    except ValueError as error:
        raise UserError(problem(str(error))) from error
    rule = stated if isinstance(stated, str) else "as stated"
    logger.info("class_weights, %s: %s", rule, by_class(names, weights, counts))
    return weights


def by_class(names: Sequence[str], values: np.ndarray, counts: np.ndarray) -> str:
    """Returns ``dog 3.4 (of 80), cat 0.52 (of 1,200)``: the values of classes, largest first, and their counts."""
    order = np.argsort(-values, kind="stable")
    shown = [f"{names[label]} {values[label]:.3g} (of {counts[label]:,.0f})" for label in order[:SHOWN]]
    rest = values[order[SHOWN:]]
    more = [f"{len(rest)} more from {rest.max():.3g} to {rest.min():.3g}"] if len(rest) else []
    return ", ".join([*shown, *more])


def class_sampling(kind: str, labels: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, str]:
    """Plans an epoch of as many images as the set has, in which rare classes come more often and common ones less.

    ``full`` shows all classes equally often; ``square_root`` goes half the way. Returns how often an epoch shows each
    image of ``labels`` ``[N]`` on average, ``[N]``, and a line about it.
    """
    counts = np.bincount(labels, minlength=len(names))
    shares = np.where(counts > 0, counts ** SAMPLING[kind], 0.0)
    factors = len(labels) * shares / shares.sum() / np.maximum(counts, 1)
    shown = by_class(names, factors, counts)
    return factors[labels], f"class_sampling {kind}: an epoch shows {len(labels):,} images, each so often: {shown}"


def repeat_sampling(
    threshold: float, rows: np.ndarray, classes: np.ndarray, images: int, names: Sequence[str]
) -> tuple[np.ndarray, str]:
    """Plans an epoch in which images with rare classes are repeated (Gupta et al., LVIS, arXiv 1908.03195, section 4).

    A class in the share f of the images has the factor max(1, sqrt(threshold / f)), an image the largest of those of
    its classes. ``rows`` and ``classes`` are the numbers of the image and of the class of each box, ``int64`` ``[A]``.
    Returns how often an epoch shows each image on average, ``[images]``, and a line about it.
    """
    pairs = np.unique(np.stack([rows, classes], axis=1), axis=0)
    counts = np.bincount(pairs[:, 1], minlength=len(names))
    by_label = np.maximum(1, np.sqrt(threshold * images / np.maximum(counts, 1))) * (counts > 0)
    factors = np.ones(images)
    np.maximum.at(factors, pairs[:, 0], by_label[pairs[:, 1]])
    epoch = f"an epoch shows {factors.sum():,.0f} images in place of {images:,}"
    shown = by_class(names, by_label, counts)
    return factors, f"repeat_threshold {threshold:g}: {epoch}, those of each class at least so often: {shown}"
