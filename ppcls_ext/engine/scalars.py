"""VisualDL's curves of a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any


class Scalars:
    """Writes scalars into ``RUN/vdl``; the file is opened with the first of them.

    Args:
        folder: the run's folder.
        active: false writes nothing.
        fresh: the run starts at its beginning. VisualDL cannot cut a file back, so such a run starts with none.
    """

    def __init__(self, folder: Path, active: bool, fresh: bool) -> None:
        self.folder = folder / "vdl"
        self.active = active
        self.fresh = fresh
        self._writer: Any = None

    def add(self, tag: str, value: float, step: int) -> None:
        """Writes one value."""
        if not self.active:
            return
        if self._writer is None:
            from visualdl import LogWriter

            if self.fresh:
                shutil.rmtree(self.folder, ignore_errors=True)
            self._writer = LogWriter(logdir=str(self.folder))
        self._writer.add_scalar(tag=tag, step=step, value=value)

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
