"""Processes that read images. Records and messages come back, never pixels, so that any number of images fits."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np

from ppcls_ext.utils.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


class PictureSet(Protocol):
    """A data set as far as a check needs it: pictures by number."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> tuple[bytes | np.ndarray, Any]:
        """Returns the encoded file or the ``uint8`` RGB picture ``[H, W, 3]``, and what belongs to it.

        Raises:
            ImageError: the file cannot be read.
        """

    def name_of(self, index: int) -> str:
        """Returns what a person would call the image: its path, or its place in the archive."""


# In a worker process: the data sets, inherited from the parent and so never copied.
_datasets: dict[str, PictureSet] = {}


def dataset_of(part: str) -> PictureSet:
    """Returns the data set of a section, inside a function that :class:`Workers` runs."""
    return _datasets[part]


def _prepare_worker(datasets: Mapping[str, PictureSet]) -> None:
    _datasets.update(datasets)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent hears Ctrl-C and ends the workers.
    warnings.simplefilter("ignore")  # Pillow's remarks on odd headers, without a name.


class Workers:
    """A pool of processes that share the data sets.

    Args:
        datasets: by section of ``DataLoader``.
        count: processes; 0 does the work in this one.
    """

    def __init__(self, datasets: Mapping[str, PictureSet], count: int) -> None:
        self.datasets = dict(datasets)
        self.count = count
        self._pool: ProcessPoolExecutor | None = None
        self._threads = cv2.getNumThreads()

    def __enter__(self) -> Workers:
        if self.count:
            # Before the fork: a process that inherits a pool of OpenCV's threads waits for them for ever when it
            # resizes its own. One image a process needs one thread.
            cv2.setNumThreads(1)
            self._pool = ProcessPoolExecutor(
                self.count,
                mp_context=multiprocessing.get_context("fork"),
                initializer=_prepare_worker,
                initargs=(self.datasets,),
            )
            # Forked now, while this process has one thread only: a progress bar brings another.
            for ready in [self._pool.submit(os.getpid) for _ in range(self.count)]:
                ready.result()
        else:
            _datasets.update(self.datasets)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            cv2.setNumThreads(self._threads)
        else:
            _datasets.clear()

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yields ``function(task)`` in the order of the tasks; the function finds its images by :func:`dataset_of`.

        Raises:
            UserError: a process was killed from outside.
        """
        if self._pool is None:
            yield from map(function, tasks)
            return
        results: Iterator[Any] = self._pool.map(function, tasks)
        try:
            yield from results
        except BrokenProcessPool as error:
            raise UserError(
                "a process that reads images was killed, most likely for want of memory; use fewer: --workers 1"
            ) from error
