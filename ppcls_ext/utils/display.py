"""Shows the progress of a training: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)

# Characters of the bar, and between and behind the columns of its line.
BAR_WIDTH, GAPS = 16, 5


def clock(seconds: float) -> str:
    """Returns ``1:02:03`` for 3,723 seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


class Display:
    """Shows progress through batches.

    Args:
        title: what is going on, such as ``epoch 3/10``.
        total: batches in all.
        done: batches that are done before the first call.
        every: batches between two plain lines; 0 for none.
        active: false on every rank but the first: shows nothing.
    """

    def __init__(self, title: str, total: int, done: int = 0, every: int = 10, active: bool = True) -> None:
        self.title = title
        self.total = total
        self.done = done
        self.every = every
        self.active = active
        self._first = done
        self._start = time.monotonic()
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Display:
        if self.active and sys.stdout.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=BAR_WIDTH),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=Console(),
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task(self.title, total=self.total, completed=self.done, figures="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def advance(self, **figures: str) -> None:
        """Counts one batch and shows ``figures`` beside it."""
        self.done += 1
        if not self.active:
            return
        if self._progress is not None:
            self._progress.update(self._task, completed=self.done, figures=self._fitting(figures))
            return
        text = "  ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
        if self.every and (self.done % self.every == 0 or self.done == self.total):
            left = clock(self.time_left())
            logger.info("%s  batch %d/%d  %s  left %s", self.title, self.done, self.total, text, left)

    def _fitting(self, figures: dict[str, str]) -> str:
        """Returns as many figures as stand beside title, bar, counts and time left in one line of the terminal."""
        # Rich would take the room from the columns before.
        counts = 2 * len(str(self.total)) + 1
        room = self._progress.console.width - len(self.title) - BAR_WIDTH - counts - len("0:00:00") - GAPS
        text = ""
        for name, value in figures.items():
            longer = f"{text}  " * bool(text) + f"{name.removeprefix('loss_')} {value}"
            if len(longer) > room:
                break
            text = longer
        return text

    def time_left(self) -> float:
        """Returns the seconds that the remaining batches take at the speed so far."""
        seconds = time.monotonic() - self._start
        return seconds / max(self.done - self._first, 1) * (self.total - self.done)
