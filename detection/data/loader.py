"""Batches of ppdet's data sets and operators, the same bit for bit for any number of worker processes.

ppdet's own reader hands its data set to ``paddle.io.DataLoader``, whose forked workers hang now and then and draw their
random numbers from the clock. Here ppdet's operators run in workers of ours, and the global generators that they draw
from are seeded for each sample by (seed, epoch, sample) and for each batch by (seed, epoch, batch, rank).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ppcls_ext.engine.loader import EpochBatchSampler, Loader, SampleKey, batch_generator, sample_generator
from ppcls_ext.preprocess import ImageError, read_image
from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    import paddle

# What ppdet's operators raise on an image that cannot be read, or that they cannot use.
DAMAGE = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, cv2.error)
SHOWN = 2
FLOAT_BYTES = 4
LARGEST_SEED = 2**32


class DetectionBatchReader:
    """Loads, augments and collates the samples of a batch; runs in the loader's workers.

    Args:
        dataset: a data set of ppdet, parsed, with its sample transforms set.
        batch_transforms: ppdet's ``BatchCompose``.
        seed: seed of the augmentation.
        rank: this process.
        global_batch_size: samples in a batch of all processes, by which the number of the batch is known.
    """

    def __init__(self, dataset: Any, batch_transforms: Any, seed: int, rank: int, global_batch_size: int) -> None:
        self.dataset = dataset
        self.transforms = _Remembering(dataset.transform)
        dataset.set_transform(self.transforms)
        self.batch_transforms = batch_transforms
        self.seed = seed
        self.rank = rank
        self.global_batch_size = global_batch_size

    def __call__(self, keys: Sequence[SampleKey]) -> dict[str, np.ndarray]:
        """Returns the batch of these samples: ``image`` ``float32`` ``[B, 3, H, W]`` and whatever the operators add.

        Raises:
            UserError: an image is missing or damaged, or an operator refuses it; the message names the file.
        """
        self.dataset.set_epoch(keys[0].epoch)
        samples = [self._read(key) for key in keys]
        number = keys[0].position // self.global_batch_size
        _seed_globally(batch_generator(self.seed, keys[0].epoch, number, self.rank))
        try:
            batch = self.batch_transforms(samples)
        except DAMAGE as error:
            files = ", ".join(self._file_of(key) for key in keys[:SHOWN])
            raise UserError(f"batch_transforms refuse a batch ({_cause(error)}) of {files}, ...") from error
        return {name: value for name, value in batch.items() if isinstance(value, np.ndarray)}

    def _read(self, key: SampleKey) -> dict[str, Any]:
        _seed_globally(sample_generator(self.seed, key.epoch, key.index))
        # ppdet counts the samples that a process has loaded, for operators that grow stronger; we say it by position.
        self.dataset._curr_iter = key.position
        try:
            return self.dataset[key.index]
        except DAMAGE as error:
            file = self.transforms.culprit() or self._file_of(key)
            reason = f"cannot be used ({_cause(error)}); tools/check_data.py lists all such"
            raise UserError(f"{file}: {reason}") from error

    def _file_of(self, key: SampleKey) -> str:
        record = self.dataset.roidbs[key.index % len(self.dataset.roidbs)]
        return str(record.get("im_file", f"image {key.index}"))


class _Remembering:
    """The sample transforms of a reader, which remember the files that they were last given: of a mosaic, several."""

    def __init__(self, transforms: Any) -> None:
        self.transforms = transforms
        self.files: list[str] = []

    def __call__(self, records: Any) -> Any:
        several = records if isinstance(records, list) else [records]
        self.files = [str(record["im_file"]) for record in several if "im_file" in record]
        return self.transforms(records)

    def culprit(self) -> str | None:
        """Returns which of several files cannot be read, or ``None`` where it was one, or can all be read."""
        if len(self.files) < 2:
            return None
        for file in self.files:
            try:
                read_image(file)
            except ImageError:
                return file
        return None


def _cause(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return " ".join(str(error).split())[:200] or type(error).__name__


def _seed_globally(generator: np.random.Generator) -> None:
    """Seeds the two generators that ppdet's operators draw from."""
    np.random.seed(int(generator.integers(LARGEST_SEED)))
    random.seed(int(generator.integers(LARGEST_SEED)))


def to_tensors(arrays: dict[str, np.ndarray]) -> dict[str, paddle.Tensor]:
    """Copies arrays into tensors on the current device."""
    import paddle

    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def build_loader(
    dataset: Any,
    reader: Any,
    *,
    seed: int,
    training: bool,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    largest_side: int = 640,
) -> Loader:
    """Builds the loader of a part of the data.

    Args:
        dataset: a data set of ppdet.
        reader: ppdet's reader of it (``create("TrainReader")``): transforms, batch size, order.
        seed: seed of order and augmentation.
        training: all processes yield equally many samples; else every sample is yielded once.
        rank, world_size: this process and how many there are.
        num_workers: worker processes; 0 loads in a thread of this process.
        largest_side: side of the largest prepared image in pixels, for the shared memory; larger ones go through pipes.

    Raises:
        UserError: there are fewer images than one batch needs.
    """
    logging.getLogger("reader").setLevel(logging.CRITICAL)  # it would print the stack of what we report in one line
    dataset.set_transform(reader._sample_transforms)
    dataset.set_kwargs(**reader.kwargs)
    part = "TrainReader" if training else "EvalReader"
    try:
        sampler = EpochBatchSampler(
            len(dataset),
            reader.batch_size,
            shuffle=reader.shuffle,
            # An evaluation that leaves out the last images is none, whatever ppdet's default says.
            drop_last=reader.drop_last and training,
            seed=seed,
            rank=rank,
            world_size=world_size,
            in_step=training,
        )
    except ValueError as error:
        raise UserError(f"{part}.{error}") from error
    batch_reader = DetectionBatchReader(dataset, reader._batch_transforms, seed, rank, sampler.global_batch_size)
    slot_bytes = FLOAT_BYTES * reader.batch_size * 3 * largest_side**2
    return Loader(batch_reader, sampler, to_tensors, num_workers, slot_bytes)
