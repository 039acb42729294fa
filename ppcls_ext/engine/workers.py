"""Worker processes that prepare batches and never touch Paddle.

``paddle.io.DataLoader`` forks the trainer and uses Paddle in the child. A lock of Paddle's memory statistics that
another thread happens to hold at that moment stays locked in the child for ever: with Paddle 3.2.2 about one start in
ten hung. The workers here are forked too (the data set is inherited, not copied) but run NumPy, OpenCV and Pillow only.
"""

from __future__ import annotations

import logging
import mmap
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cv2
import numpy as np

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.machine import read_machine

logger = logging.getLogger(__name__)

BATCHES_AHEAD = 2
PARENT_CHECK_SECONDS = 2.0
IN_SLOT = "image_in_slot"
WORKER_KILLED = "a loader worker was killed, probably for lack of memory: lower num_workers or batch_size"

Arrays = dict[str, Any]


class _WorkerState:
    """What a worker process inherits; set once, in the worker."""

    read_batch: Callable[[Any], Arrays]
    slots: Sequence[mmap.mmap]


def _leave_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(1)


def _start_worker(read_batch: Callable[[Any], Arrays], slots: Sequence[mmap.mmap], parent: int) -> None:
    # Ctrl-C reaches the whole group of processes; the trainer decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_leave_with_parent, args=(parent,), daemon=True).start()
    _WorkerState.read_batch = staticmethod(read_batch)
    _WorkerState.slots = slots


def _work(request: Any, slot: int | None) -> Arrays:
    """Prepares a batch; its images stay in the slot of shared memory where they fit."""
    arrays = _WorkerState.read_batch(request)
    image = arrays["image"]
    # A slot holds float32; anything else goes through the pipe, as it is.
    if slot is not None and image.dtype == np.float32 and 0 < image.nbytes <= len(_WorkerState.slots[slot]):
        _view(_WorkerState.slots[slot], image.shape)[:] = image
        arrays["image"] = None
        arrays[IN_SLOT] = image.shape
    return arrays


def _view(slot: mmap.mmap, shape: Sequence[int]) -> np.ndarray:
    return np.frombuffer(slot, dtype=np.float32, count=int(np.prod(shape))).reshape(shape)


class BatchWorkers:
    """Prepares batches ahead of their use, in order, in processes or in one thread.

    Args:
        read_batch: request -> arrays, among them ``image``, ``float32``.
        num_workers: processes; 0 is one thread of this process.
        slot_bytes: size of a batch's images, for shared memory; 0 sends them through pipes.
    """

    def __init__(self, read_batch: Callable[[Any], Arrays], num_workers: int, slot_bytes: int) -> None:
        self.read_batch = read_batch
        self.num_workers = num_workers
        self.ahead = BATCHES_AHEAD * max(num_workers, 1)
        self.slots = shared_slots(self.ahead, slot_bytes) if num_workers > 0 else []
        self.free_slots = list(range(len(self.slots)))
        self._executor: Executor | None = None

    def _start(self) -> Executor:
        if self.num_workers == 0:
            return ThreadPoolExecutor(1, thread_name_prefix="batches")
        # A pool of OpenCV's threads does not survive the fork; without one, there is nothing to lose.
        cv2.setNumThreads(1)
        return ProcessPoolExecutor(
            self.num_workers,
            mp_context=multiprocessing.get_context("fork"),
            initializer=_start_worker,
            initargs=(self.read_batch, self.slots, os.getpid()),
        )

    def submit(self, request: Any) -> tuple[Future[Arrays], int | None]:
        """Hands out a request; returns what :meth:`take` needs.

        Raises:
            UserError: a worker was killed before.
        """
        if self._executor is None:
            self._executor = self._start()
        if self.num_workers == 0:
            return self._executor.submit(self.read_batch, request), None
        slot = self.free_slots.pop() if self.free_slots else None
        try:
            return self._executor.submit(_work, request, slot), slot
        except BrokenProcessPool as error:
            if slot is not None:
                self.free_slots.append(slot)
            raise UserError(WORKER_KILLED) from error

    def take(self, ticket: tuple[Future[Arrays], int | None], convert: Callable[[Arrays], Any]) -> Any:
        """Waits for a batch and returns ``convert(arrays)``, which must copy: the memory is used again.

        Raises:
            UserError: a worker was killed, or what the worker itself raised.
        """
        future, slot = ticket
        try:
            arrays = future.result()
            shape = arrays.pop(IN_SLOT, None)
            if shape is not None:
                arrays["image"] = _view(self.slots[slot], shape)
            return convert(arrays)
        except BrokenProcessPool as error:
            raise UserError(WORKER_KILLED) from error
        finally:
            if slot is not None:
                self.free_slots.append(slot)

    def drop(self, tickets: Sequence[tuple[Future[Arrays], int | None]]) -> None:
        """Gives up batches that nobody will take, and waits until no worker writes to their memory any more."""
        running = [future for future, _slot in tickets if not future.cancel()]
        wait(running)
        self.free_slots.extend(slot for _future, slot in tickets if slot is not None)

    def close(self) -> None:
        """Ends the workers; a later :meth:`submit` starts new ones."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None


def shared_slots(count: int, slot_bytes: int) -> list[mmap.mmap]:
    """Returns ``count`` pieces of memory shared with later forks, or none, with a warning, where memory is short.

    Anonymous memory is not bounded by the size of ``/dev/shm``, which is 64 MB in a container by default.
    """
    if slot_bytes <= 0:
        return []
    free = read_machine().memory_available
    if free is not None and count * slot_bytes > free:
        logger.warning(
            "shared memory for the loader's workers would take %.0f MB of %.0f MB free: batches go through pipes "
            "(slower); lower batch_size or num_workers",
            count * slot_bytes / 1e6,
            free / 1e6,
        )
        return []
    try:
        return [mmap.mmap(-1, slot_bytes) for _ in range(count)]
    except OSError as error:
        logger.warning("no shared memory for the loader's workers (%s): batches go through pipes (slower)", error)
        return []
