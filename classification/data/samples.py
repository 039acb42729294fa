"""From the key of a sample to its augmented image, and from samples to a batch; runs in the loader's workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from classification.data.batch_operators import BatchOperator
from classification.data.datasets.base import ImageDataset
from ppcls_ext.engine.loader import SampleKey, batch_generator, sample_generator
from ppcls_ext.preprocess.decode import ImageError
from ppcls_ext.preprocess.operators import DecodeImage, ToCHWImage
from ppcls_ext.utils.errors import UserError

# So many neighbours in a row that cannot be read are no accident: the data are elsewhere or broken as a whole.
REPLACEMENT_TRIES = 100


class Sample(NamedTuple):
    """One prepared sample.

    Attributes:
        image: ``float32`` ``[C, H, W]``, or None where it could not be read.
        label: its class.
        index: the sample that was loaded in fact.
        bad: the sample that could not be read, or -1.
    """

    image: np.ndarray | None
    label: int
    index: int
    bad: int


class SampleReader:
    """Loads and augments one sample.

    Args:
        dataset: the data set.
        operators: deterministic ones ``op(image)`` and, with ``random = True``, ``op(image, generator)``.
        seed: seed of the augmentation.
        training: replaces an unreadable sample by the next readable one; else leaves it out.
    """

    def __init__(self, dataset: ImageDataset, operators: Sequence[Any], seed: int, training: bool) -> None:
        self.dataset = dataset
        self.operators = list(operators)
        if not self.operators or not isinstance(self.operators[0], DecodeImage):
            self.operators.insert(0, DecodeImage())
        self.seed = seed
        self.training = training
        self.channel_first = any(
            isinstance(operator, ToCHWImage) or getattr(operator, "channel_first", False) for operator in operators
        )

    def read(self, key: SampleKey) -> Sample:
        """Returns the sample, its replacement, or a sample without an image.

        Raises:
            UserError: no replacement can be read either.
        """
        tries = min(REPLACEMENT_TRIES, len(self.dataset)) if self.training else 1
        first_cause = ""
        for step in range(tries):
            index = (key.index + step) % len(self.dataset)
            try:
                image, label = self.prepare(index, key.epoch)
            except ImageError as error:
                first_cause = first_cause or error.cause
                continue
            return Sample(image, label, index, -1 if step == 0 else key.index)
        if self.training:
            name = self.dataset.name_of(key.index)
            raise UserError(f"{name} and the {tries - 1} images after it cannot be used: {first_cause}")
        return Sample(None, int(self.dataset.labels[key.index]), key.index, key.index)

    def prepare(self, index: int, epoch: int) -> tuple[np.ndarray, int]:
        """Returns the augmented image, ``float32`` ``[C, H, W]``, and its label.

        Raises:
            ImageError: the image cannot be read or does not fit an operator.
        """
        image, label = self.dataset.load(index)
        generator = sample_generator(self.seed, epoch, index)
        for operator in self.operators:
            image = operator(image, generator) if getattr(operator, "random", False) else operator(image)
        if not self.channel_first:
            image = image.transpose(2, 0, 1)
        return np.ascontiguousarray(image, dtype=np.float32), label


class BatchReader:
    """Loads the samples of a batch, stacks and mixes them.

    Args:
        reader: loads the samples.
        batch_operator: mixes the batch; None leaves it as it is.
        seed: seed of the mixing.
        rank: this process.
        global_batch_size: samples in a batch of all processes, by which the number of the batch is known.
    """

    def __init__(
        self, reader: SampleReader, batch_operator: BatchOperator | None, seed: int, rank: int, global_batch_size: int
    ) -> None:
        self.reader = reader
        self.batch_operator = batch_operator
        self.seed = seed
        self.rank = rank
        self.global_batch_size = global_batch_size

    def __call__(self, keys: Sequence[SampleKey]) -> dict[str, np.ndarray]:
        """Returns the batch of these samples with the entries that ``loader.Loader`` describes, as arrays.

        Raises:
            UserError: images differ in size, or none of many can be read.
        """
        samples = [self.reader.read(key) for key in keys]
        good = [sample for sample in samples if sample.image is not None]
        images = stack_images([sample.image for sample in good])
        labels = np.asarray([sample.label for sample in good], dtype=np.int64)
        mixed_labels, weight = labels, 1.0
        if self.batch_operator is not None and good:
            number = keys[0].position // self.global_batch_size
            generator = batch_generator(self.seed, keys[0].epoch, number, self.rank)
            images, labels, mixed_labels, weight = self.batch_operator(images, labels, generator)
        return {
            "image": images,
            "label": labels,
            "label_mixed": mixed_labels,
            "lam": np.asarray(weight, dtype=np.float32),
            "index": np.asarray([sample.index for sample in good], dtype=np.int64),
            "bad": np.asarray([sample.bad for sample in samples], dtype=np.int64),
        }


def stack_images(images: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks ``[C, H, W]`` images to ``[B, C, H, W]``; no image gives ``[0, 3, 1, 1]``.

    Raises:
        UserError: they differ in size.
    """
    if not images:
        return np.zeros((0, 3, 1, 1), dtype=np.float32)
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise UserError(
            f"images of one batch differ in size ({list(min(shapes))} and {list(max(shapes))}): transform_ops must end "
            "in one size for all, for example by RandCropImage, or by ResizeImage and CropImage"
        )
    return np.stack(images)
