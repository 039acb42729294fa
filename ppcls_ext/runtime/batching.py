"""Groups images of any source into batches; what cannot be read is named and left out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np

from ppcls_ext.preprocess import ImageError
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)
ImageSource = str | os.PathLike[str] | bytes | np.ndarray


class HasError(Protocol):
    """A prediction, whatever it holds: ``error`` says why it is empty."""

    error: str | None


Empty = TypeVar("Empty", bound=HasError)
Prepared = TypeVar("Prepared")


def as_list(images: ImageSource | Sequence[ImageSource] | np.ndarray) -> Sequence[ImageSource]:
    """Returns one image, a list of them, or an array ``[N, H, W, 3]`` as a list."""
    if isinstance(images, (str, bytes, os.PathLike)) or (isinstance(images, np.ndarray) and images.ndim == 3):
        return [images]
    return list(images)


def batches(
    images: Sequence[ImageSource],
    batch_size: int,
    predictions: list[Empty],
    empty: Callable[[str], Empty],
    prepare: Callable[[ImageSource, str], Prepared],
    shape: Callable[[Prepared], tuple[int, ...]] = np.shape,
) -> Iterator[tuple[list[Empty], list[Prepared]]]:
    """Gives batches of prepared images, all of one shape, with the still empty predictions that they belong to.

    Args:
        images: what to prepare.
        batch_size: how many at most are in a batch.
        predictions: gets a prediction for every image, in their order; an unreadable one is logged by name, carries
            its ``error``, and is in no batch.
        empty: makes a prediction of a name.
        prepare: makes a model input of an image and its name.
        shape: gives the shape of a model input; those of one batch have one shape.

    Raises:
        UserError: ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    waiting: list[Empty] = []
    inputs: list[Prepared] = []
    for number, image in enumerate(images):
        name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"image {number}"
        predictions.append(empty(name))
        try:
            prepared = prepare(image, name)
        except ImageError as error:
            logger.warning("skipped %s", error)
            predictions[-1].error = error.cause
            continue
        if inputs and (len(inputs) == batch_size or shape(inputs[0]) != shape(prepared)):
            yield waiting, inputs
            waiting, inputs = [], []
        waiting.append(predictions[-1])
        inputs.append(prepared)
    if inputs:
        yield waiting, inputs
