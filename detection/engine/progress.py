"""Where a detector's run stands: everything that a checkpoint's ``state.json`` holds beside the arrays."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass
class LossSums:
    """Sums over the batches of the present epoch on this process.

    Attributes:
        losses: sum of each loss over the batches.
        batches: number of batches.
        images: number of images.
        seconds: time spent, over all sessions of an interrupted epoch.
    """

    losses: dict[str, float] = dataclasses.field(default_factory=dict)
    batches: int = 0
    images: int = 0
    seconds: float = 0.0

    def add(self, losses: dict[str, float], images: int) -> None:
        """Adds one batch."""
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + value
        self.batches += 1
        self.images += images

    def mean(self) -> dict[str, float]:
        """Returns the mean losses by name, ``images_per_second`` and ``seconds``."""
        batches = max(self.batches, 1)
        return {
            **{name: value / batches for name, value in self.losses.items()},
            "images_per_second": self.images / max(self.seconds, 1e-9),
            "seconds": self.seconds,
        }


@dataclasses.dataclass
class RunProgress:
    """Where a run stands.

    Attributes:
        epoch: finished epochs.
        step: batches done in the epoch after these.
        best_metric: best AP so far, -1 before the first evaluation.
        best_epoch: the epoch (from 1) it belongs to.
        sums: sums over the epoch under way.
        history: one record for each finished epoch.
    """

    epoch: int = 0
    step: int = 0
    best_metric: float = -1.0
    best_epoch: int = 0
    sums: LossSums = dataclasses.field(default_factory=LossSums)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def note_best(self, record: dict[str, Any]) -> bool:
        """Notes the AP of an evaluated epoch; tells whether it is the best so far."""
        metric = record["eval"]["AP"]
        if metric <= self.best_metric:
            return False
        self.best_metric, self.best_epoch = metric, record["epoch"]
        return True

    def to_json(self) -> dict[str, Any]:
        """Returns plain values; JSON keeps every bit of a Python float."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> RunProgress:
        """Takes over what :meth:`to_json` returned; other keys are left alone."""
        names = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in state.items() if name in names}
        values["sums"] = LossSums(**values.get("sums", {}))
        return cls(**values)
