"""Ctrl-C and termination: the batch under way is finished, then the trainer saves and leaves."""

from __future__ import annotations

import logging
import signal
from types import FrameType, TracebackType
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

# Optimizer steps between two exchanges of the flag: a stop comes soon, and the exchange costs next to nothing.
SHARED_EVERY = 10


class InterruptWatch:
    """While open, the first SIGINT or SIGTERM only sets a flag; a second SIGINT stops at once.

    Args:
        world_size: with several processes the flag is shared now and then, so that all stop after the same update.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> InterruptWatch:
        for number in self.SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:
                # Only the main thread may set handlers; elsewhere the surrounding program decides.
                continue
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self._requested:
            logger.warning("finishing what is under way, then saving; Ctrl-C again stops at once, without saving")
        self._requested = True

    def stop_after(self, update: int) -> bool:
        """Tells whether to stop after optimizer step ``update``; all processes get the same answer."""
        if self._world_size == 1:
            return self._requested
        if update % SHARED_EVERY:
            return False
        # Only here: who watches over processes of training needs no Paddle.
        from ppcls_ext.engine.environment import sum_over_ranks

        return bool(sum_over_ranks(np.array([float(self._requested)]), self._world_size)[0])
