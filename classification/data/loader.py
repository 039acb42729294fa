"""Batches as tensors, the same bit for bit for any number of worker processes.

A batch is a dictionary of tensors: ``image`` ``float32`` ``[B, C, H, W]``; ``label`` and ``label_mixed`` ``int64``
``[B]``; ``lam`` ``float32`` scalar, the weight of ``label``; ``index`` ``int64`` ``[B]``, the samples in the batch;
``bad`` ``int64``, one entry for each sample asked for: its index if it could not be read, else -1. The last two are
on the CPU. Training replaces unreadable samples, so B is constant; evaluation leaves them out, so B may be smaller,
even 0 (``image`` is then ``[0, 3, 1, 1]``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from classification.data.batch_operators import BatchOperator
from classification.data.datasets.base import ImageDataset
from classification.data.samples import BatchReader, SampleReader
from ppcls_ext.engine.loader import BatchWorkers, EpochBatchSampler, Loader

if TYPE_CHECKING:
    import paddle


def to_tensors(arrays: dict[str, np.ndarray]) -> dict[str, paddle.Tensor]:
    """Copies arrays into tensors: those for computing on the current device, the indices on the CPU."""
    import paddle

    places = {"index": paddle.CPUPlace(), "bad": paddle.CPUPlace()}
    return {name: paddle.to_tensor(array, place=places.get(name)) for name, array in arrays.items()}


def build_loader(
    dataset: ImageDataset,
    operators: Sequence[Any],
    batch_operator: BatchOperator | None,
    sampler: EpochBatchSampler,
    *,
    seed: int,
    training: bool,
    num_workers: int = 0,
    use_shared_memory: bool = True,
    image_shape: Sequence[int] = (3, 224, 224),
) -> Loader:
    """Builds the loader.

    Args:
        dataset: the data set.
        operators: built by ``build_operators(..., table=TRAIN_OPERATORS)``.
        batch_operator: built by ``build_batch_operator``, or None.
        sampler: order, batch size and position.
        seed: seed of augmentation and mixing.
        training: what happens to unreadable images, see above.
        num_workers: worker processes, which live as long as the loader; 0 loads in a thread of this process.
        use_shared_memory: how workers hand over their images; pipes are slower.
        image_shape: ``[C, H, W]`` of a prepared image; larger ones go through pipes.
    """
    reader = SampleReader(dataset, operators, seed, training)
    batch_reader = BatchReader(reader, batch_operator, seed, sampler.rank, sampler.global_batch_size)
    slot_bytes = 4 * sampler.batch_size * math.prod(image_shape) if use_shared_memory else 0
    return Loader(BatchWorkers(batch_reader, num_workers, slot_bytes), sampler, to_tensors)
