"""Batches as tensors, the same bit for bit for any number of worker processes.

A batch is a dictionary of tensors: ``image`` ``float32`` ``[B, C, H, W]``; ``label`` and ``label_mixed`` ``int64``
``[B]``; ``lam`` ``float32`` scalar, the weight of ``label``; ``index`` ``int64`` ``[B]``, the samples in the batch;
``bad`` ``int64``, one entry for each sample asked for: its index if it could not be read, else -1. The last two are
on the CPU. ``causes`` is a list of texts: why each of the latter could not be read. Training replaces unreadable
samples, so B is constant; evaluation leaves them out, so B may be smaller, even 0 (``image`` is then
``[0, 3, 1, 1]``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from classification.data.datasets import ImageDataset
from classification.data.operators import BatchOperator
from ppcls_ext.engine.loader import (
    REPLACEMENT_TRIES,
    EpochBatchSampler,
    Loader,
    SampleKey,
    batch_generator,
    sample_generator,
)
from ppcls_ext.preprocess.decode import ImageError
from ppcls_ext.preprocess.operators import DecodeImage, ToCHWImage, tell_crops
from ppcls_ext.utils.errors import UserError


class Sample(NamedTuple):
    """One prepared sample: ``float32`` ``[C, H, W]`` or None, its class, and the number of what was loaded in fact.

    ``bad`` is the number of the sample that could not be read, or -1; ``cause`` says why.
    """

    image: np.ndarray | None
    label: int
    index: int
    bad: int
    cause: str = ""


class SampleReader:
    """Loads and augments one sample.

    Args:
        dataset: where from.
        operators: deterministic ones ``op(image)`` and, with ``random = True``, ``op(image, generator)``.
        seed: seed of the augmentation.
        training: replaces an unreadable sample by the next readable one; else leaves it out.
    """

    def __init__(self, dataset: ImageDataset, operators: Sequence[Any], seed: int, training: bool) -> None:
        self.dataset, self.operators, self.seed, self.training = dataset, list(operators), seed, training
        tell_crops(self.operators)
        if not self.operators or not isinstance(self.operators[0], DecodeImage):
            self.operators.insert(0, DecodeImage())
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
                image, label = self.prepare(index, key.epoch, key.copy)
            except ImageError as error:
                first_cause = first_cause or error.cause
                continue
            return Sample(image, label, index, -1 if step == 0 else key.index, first_cause)
        if self.training:
            name = self.dataset.name_of(key.index)
            raise UserError(f"{name} and the {tries - 1} images after it cannot be used: {first_cause}")
        return Sample(None, int(self.dataset.labels[key.index]), key.index, key.index, first_cause)

    def prepare(self, index: int, epoch: int, copy: int = 0) -> tuple[np.ndarray, int]:
        """Returns the augmented image, ``float32`` ``[C, H, W]``, and its label; each copy is augmented otherwise.

        Raises:
            ImageError: the image cannot be read or does not fit an operator.
        """
        image, label = self.dataset.load(index)
        generator = sample_generator(self.seed, epoch, index, copy)
        decode, *others = self.operators
        image = decode(image, self.dataset.name_of(index))
        for operator in others:
            image = operator(image, generator) if getattr(operator, "random", False) else operator(image)
        if not self.channel_first:
            image = image.transpose(2, 0, 1)
        return np.ascontiguousarray(image, dtype=np.float32), label


class BatchReader:
    """Loads the samples of a batch of ``sampler``, stacks and mixes them; the seed is that of the samples."""

    def __init__(
        self, reader: SampleReader, batch_operator: BatchOperator | None, sampler: EpochBatchSampler
    ) -> None:
        self.reader, self.batch_operator, self.seed = reader, batch_operator, reader.seed
        self.rank, self.global_batch_size = sampler.rank, sampler.global_batch_size

    def __call__(self, keys: Sequence[SampleKey]) -> dict[str, Any]:
        """Returns the batch of these samples with the entries that this module describes, as arrays.

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
            "causes": [sample.cause for sample in samples if sample.bad >= 0],
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


def to_tensors(arrays: dict[str, Any]) -> dict[str, Any]:
    """Copies arrays into tensors: those to compute with on the current device, indices on the CPU; ``causes`` stays."""
    import paddle

    places = {"index": paddle.CPUPlace(), "bad": paddle.CPUPlace()}
    causes = {"causes": arrays.pop("causes", [])}
    return {name: paddle.to_tensor(array, place=places.get(name)) for name, array in arrays.items()} | causes


def build_loader(
    dataset: ImageDataset, operators: Sequence[Any], batch_operator: BatchOperator | None, sampler: EpochBatchSampler,
    *, seed: int, training: bool, num_workers: int = 0, use_shared_memory: bool = True,
    image_shape: Sequence[int] = (3, 224, 224),
) -> Loader:  # fmt: skip
    """Builds the loader.

    Args:
        dataset, operators, batch_operator, sampler: what is loaded, and in which order.
        seed: seed of augmentation and mixing.
        training: what happens to unreadable images, see above.
        num_workers: worker processes, which live as long as the loader; 0 loads in a thread of this process.
        use_shared_memory: how workers hand over their images; pipes are slower.
        image_shape: ``[C, H, W]`` of a prepared image; larger ones go through pipes.
    """
    batch_reader = BatchReader(SampleReader(dataset, operators, seed, training), batch_operator, sampler)
    slot_bytes = 4 * sampler.batch_size * math.prod(image_shape) if use_shared_memory else 0
    return Loader(batch_reader, sampler, to_tensors, num_workers, slot_bytes)
