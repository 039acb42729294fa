"""Batches for training and evaluation: which samples form which batch, and the processes that prepare them.

Order, augmentation and mixing are functions of the seed and the position in the run, so the batches are the same bit
for bit for any number of workers, and a resumed run sees those that the uninterrupted run would have seen.

The workers do not come from ``paddle.io.DataLoader``, which forks the trainer and uses Paddle in the child: a lock of
Paddle's memory statistics that another thread happens to hold at that moment stays locked in the child for ever; with
Paddle 3.2.2 about one start in ten hung. The workers here are forked too (the data set is inherited, not copied) but
run NumPy, OpenCV and Pillow only. This module loads no Paddle.
"""

from __future__ import annotations

import itertools
import logging
import mmap
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.machine import read_machine

if TYPE_CHECKING:
    import paddle

logger = logging.getLogger(__name__)

BATCHES_AHEAD = 2
PARENT_CHECK_SECONDS = 2.0
# So many neighbours in a row that cannot be read are no accident: the data are elsewhere or broken as a whole.
REPLACEMENT_TRIES = 100
IN_SLOT = "image_in_slot"
WORKER_KILLED = "a loader worker was killed, probably for lack of memory: lower num_workers or batch_size"

Arrays = dict[str, Any]

# The first word keeps the streams apart: numpy pads short seeds with zeros, so [1, 2] and [1, 2, 0] are one stream.
ORDER, SAMPLE, BATCH = 1, 2, 3


def sample_generator(seed: int, epoch: int, index: int, copy: int = 0) -> np.random.Generator:
    """For the augmentation of a copy of one sample in one epoch."""
    return np.random.default_rng([SAMPLE, seed, epoch, index, copy])


def batch_generator(seed: int, epoch: int, batch: int, rank: int) -> np.random.Generator:
    """For the mixing of one batch of one process."""
    return np.random.default_rng([BATCH, seed, epoch, batch, rank])


class SampleKey(NamedTuple):
    """Identifies one sample to the loader's workers, who need to know nothing else: its place in the epoch's order,
    over all processes, and in the data set, and how often the epoch has shown it before.
    """

    epoch: int
    position: int
    index: int
    copy: int = 0


class EpochBatchSampler:
    """Yields lists of :class:`SampleKey`; may begin in the middle of an epoch.

    The k-th batches of all processes together hold exactly the samples of the k-th batch of one process with
    ``world_size`` times the batch size, but for what ``equal_batches`` leaves out of the last. Without ``factors`` no
    sample is repeated.

    Args:
        length: number of samples.
        batch_size: samples in a batch of one process.
        shuffle: a new order each epoch, drawn from ``seed`` and the epoch.
        drop_last: leaves out the samples that do not fill a batch on all processes.
        seed: seed of the orders.
        rank, world_size: this process and how many there are.
        equal_batches: every process yields equally many batches of equally many samples, as training needs: gradients
            are averaged over the processes, and only so is that the average over the samples. Of the last batch, fewer
            than ``world_size`` samples are left out for it; one process leaves out none. Evaluation switches it off
            and sees every sample.
        factors: how often an epoch shows each sample on average, ``[length]``; once each where it is None. All epochs
            are equally long, and in each a factor of 2.3 means two or three times.

    Raises:
        ValueError: the arguments leave no batch; the message begins with the argument's name.
    """

    def __init__(
        self, length: int, batch_size: int, shuffle: bool = False, drop_last: bool = False, seed: int = 0,
        rank: int = 0, world_size: int = 1, equal_batches: bool = True, factors: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        if batch_size < 1:
            raise ValueError(f"batch_size: must be positive, got {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: must be at least 0 and below {world_size}, got {rank}")
        self.length, self.batch_size, self.shuffle, self.drop_last = length, batch_size, shuffle, drop_last
        self.seed, self.rank, self.world_size, self.factors = seed, rank, world_size, factors
        self.epoch = self.start_batch = 0
        self.shown = length if factors is None else round(float(factors.sum()))
        rest = self.shown % self.global_batch_size
        left_out = rest if drop_last else rest % world_size if equal_batches else 0
        self.used = self.shown - left_out
        if self.used == 0:
            raise ValueError(
                f"batch_size: {self.shown} samples do not fill a batch of {batch_size} on {world_size} process(es)"
            )

    @property
    def global_batch_size(self) -> int:
        """Samples in a batch of all processes together."""
        return self.batch_size * self.world_size

    def set_position(self, epoch: int, start_batch: int = 0) -> None:
        """Chooses the epoch and the first batch of the next iteration; batches before it are skipped, not loaded."""
        self.epoch, self.start_batch = epoch, start_batch

    def order(self) -> np.ndarray:
        """Returns the epoch's order of the whole data set, ``int64`` ``[length]``; with ``factors`` of all it shows."""
        generator = np.random.default_rng([ORDER, self.seed, self.epoch])
        order = generator.permutation(self.length) if self.shuffle else np.arange(self.length)
        if self.factors is None:
            return order
        # Systematic sampling: the factors lie end to end, and marks at equal distances fall on them.
        factors = self.factors[order]
        marks = np.floor(np.cumsum(factors) * (self.shown / factors.sum()) + generator.random()).astype(np.int64)
        marks[-1] = self.shown
        order = np.repeat(order, np.diff(marks, prepend=0))
        return generator.permutation(order) if self.shuffle else order

    def __len__(self) -> int:
        """Number of batches of a whole epoch, wherever the iteration begins."""
        own = len(range(self.rank, self.used, self.world_size))
        return (own + self.batch_size - 1) // self.batch_size

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = self.order()
        copies = np.zeros_like(order) if self.factors is None else copies_before(order)
        epoch, size = self.epoch, self.global_batch_size
        for number in range(self.start_batch, len(self)):
            positions = range(number * size + self.rank, min((number + 1) * size, self.used), self.world_size)
            yield [SampleKey(epoch, position, int(order[position]), int(copies[position])) for position in positions]


def copies_before(order: np.ndarray) -> np.ndarray:
    """Returns how often each entry of an order stands before its place, ``int64`` like ``order``."""
    places = np.argsort(order, kind="stable")
    found = np.empty_like(order)
    found[places] = np.arange(len(order)) - np.searchsorted(order[places], order[places])
    return found


class Loader:
    """Iterates over the batches of the sampler's epoch, from its start batch, and prepares some of them ahead.

    Args:
        read_batch: list of :class:`SampleKey` -> arrays by name, among them ``image``, ``float32``.
        sampler: chooses the batches.
        convert: copies the arrays of a batch into tensors; the arrays' memory is used again.
        num_workers: processes, which live until :meth:`close`; 0 is one thread of this process.
        slot_bytes: size of a batch's images, for shared memory; 0 sends them through pipes.
    """

    def __init__(
        self, read_batch: Callable[[list[SampleKey]], Arrays], sampler: EpochBatchSampler,
        convert: Callable[[Arrays], dict[str, paddle.Tensor]], num_workers: int = 0, slot_bytes: int = 0,
    ) -> None:  # fmt: skip
        self.read_batch, self.sampler, self.convert, self.num_workers = read_batch, sampler, convert, num_workers
        self.ahead = BATCHES_AHEAD * max(num_workers, 1)
        self.slots = shared_slots(self.ahead, slot_bytes) if num_workers > 0 else []
        self.free_slots = list(range(len(self.slots)))
        self._executor: Executor | None = None

    def __len__(self) -> int:
        """Number of batches of a whole epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[dict[str, paddle.Tensor]]:
        """Yields the batches in order.

        Raises:
            UserError: a worker was killed, or what a worker itself raised.
        """
        requests = iter(self.sampler)
        waiting: deque[tuple[Future[Arrays], int | None]] = deque()
        try:
            for keys in itertools.islice(requests, self.ahead):
                waiting.append(self._submit(keys))
            while waiting:
                batch = self._take(*waiting.popleft())
                for keys in itertools.islice(requests, 1):
                    waiting.append(self._submit(keys))
                yield batch
        except BrokenProcessPool as error:
            raise UserError(WORKER_KILLED) from error
        finally:
            # Nobody will take the rest; no worker may write to its memory any more when that is used again.
            wait([future for future, _slot in waiting if not future.cancel()])
            self.free_slots.extend(slot for _future, slot in waiting if slot is not None)

    def _submit(self, keys: list[SampleKey]) -> tuple[Future[Arrays], int | None]:
        """Asks for a batch; returns its future and the slot of shared memory that its images go to."""
        if self._executor is None:
            self._executor = self._start()
        if self.num_workers == 0:
            return self._executor.submit(self.read_batch, keys), None
        slot = self.free_slots[-1] if self.free_slots else None
        future = self._executor.submit(_work, keys, slot)
        if slot is not None:
            self.free_slots.pop()
        return future, slot

    def _take(self, future: Future[Arrays], slot: int | None) -> dict[str, paddle.Tensor]:
        try:
            arrays = future.result()
            shape = arrays.pop(IN_SLOT, None)
            if shape is not None:
                arrays["image"] = _view(self.slots[slot], shape)
            return self.convert(arrays)
        finally:
            if slot is not None:
                self.free_slots.append(slot)

    def _start(self) -> Executor:
        if self.num_workers == 0:
            return ThreadPoolExecutor(1, thread_name_prefix="batches")
        # A pool of OpenCV's threads does not survive the fork; without one, there is nothing to lose.
        cv2.setNumThreads(1)
        arguments = (self.read_batch, self.slots, os.getpid())
        return ProcessPoolExecutor(self.num_workers, multiprocessing.get_context("fork"), _start_worker, arguments)

    def close(self) -> None:
        """Ends the workers; a later iteration starts new ones."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None


class _WorkerState:
    """State of a worker process; set once, in the worker."""

    read_batch: Callable[[list[SampleKey]], Arrays]
    slots: Sequence[mmap.mmap]


def _start_worker(read_batch: Callable[[Any], Arrays], slots: Sequence[mmap.mmap], parent: int) -> None:
    def leave_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_SECONDS)
        os._exit(1)

    # Ctrl-C reaches the whole group of processes; the trainer decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    _WorkerState.read_batch = staticmethod(read_batch)
    _WorkerState.slots = slots


def _work(keys: list[SampleKey], slot: int | None) -> Arrays:
    """Prepares a batch; its images stay in the slot of shared memory where they fit."""
    arrays = _WorkerState.read_batch(keys)
    image = arrays["image"]
    # A slot holds float32; anything else goes through the pipe, as it is.
    if slot is not None and image.dtype == np.float32 and 0 < image.nbytes <= len(_WorkerState.slots[slot]):
        _view(_WorkerState.slots[slot], image.shape)[:] = image
        arrays["image"] = None
        arrays[IN_SLOT] = image.shape
    return arrays


def _view(slot: mmap.mmap, shape: Sequence[int]) -> np.ndarray:
    return np.frombuffer(slot, dtype=np.float32, count=int(np.prod(shape))).reshape(shape)


def shared_slots(count: int, slot_bytes: int) -> list[mmap.mmap]:
    """Returns ``count`` pieces of memory shared with later forks, or none, with a warning, where memory is short.

    Anonymous memory is not bounded by the size of ``/dev/shm``, which is 64 MB in a container by default.
    """
    if slot_bytes <= 0:
        return []
    free = read_machine().memory_available
    if count * slot_bytes > free:
        logger.warning(
            "shared memory for the loader's workers would take %.0f MB of %.0f MB free: batches go through pipes "
            "(slower); lower batch_size or num_workers", count * slot_bytes / 1e6, free / 1e6,
        )  # fmt: skip
        return []
    try:
        return [mmap.mmap(-1, slot_bytes) for _ in range(count)]
    except OSError as error:
        logger.warning("no shared memory for the loader's workers (%s): batches go through pipes (slower)", error)
        return []
