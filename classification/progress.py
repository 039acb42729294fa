"""Where a run stands: everything that a checkpoint's ``state.json`` holds beside the tensors."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle


@dataclasses.dataclass
class EpochSums:
    """Sums over the batches of the present epoch on this process.

    Attributes:
        loss: sum of batch losses, each times its number of images.
        hits: images whose best class is right; with mixed labels each label counts by its share.
        images: number of images.
        seconds: time spent, over all sessions of an interrupted epoch.
        parts: sums like ``loss`` of the losses that it is made of, by name.
    """

    loss: float = 0.0
    hits: float = 0.0
    images: int = 0
    seconds: float = 0.0
    parts: dict[str, float] = dataclasses.field(default_factory=dict)

    def add(self, loss: float, hits: float, images: int, parts: Mapping[str, float] | None = None) -> None:
        """Adds one batch of ``images`` images with mean loss ``loss``, made of the mean losses ``parts``."""
        self.loss += loss * images
        self.hits += hits
        self.images += images
        for name, value in (parts or {}).items():
            self.parts[name] = self.parts.get(name, 0.0) + value * images

    def mean(self) -> dict[str, float]:
        """Returns mean loss and its parts, top-1, images per second, and the seconds they took."""
        images = max(self.images, 1)
        return {
            "loss": self.loss / images,
            **{name: value / images for name, value in self.parts.items()},
            "top1": self.hits / images,
            "images_per_second": self.images / max(self.seconds, 1e-9),
            "seconds": self.seconds,
        }


@dataclasses.dataclass
class RunProgress:
    """Where a run stands.

    Attributes:
        epoch: finished epochs.
        step: batches done in the epoch after these.
        updates: optimizer steps done.
        best_metric: best value so far of the first metric (top-1), -1 before the first evaluation.
        best_epoch: the epoch (from 1) it belongs to.
        evaluated_weights: ``ema`` or ``model``: which weights did better at the last evaluation.
        sums: sums over the epoch under way.
        history: one record for each finished epoch.
        bad_images: names of unreadable training images met so far.
        bad_eval_images: the same for evaluation.
        teacher: of a distillation, the teacher's name, weights and their checksum, the stages compared and, under
            ``eval``, its figures where they were measured.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    best_metric: float = -1.0
    best_epoch: int = 0
    evaluated_weights: str = "model"
    sums: EpochSums = dataclasses.field(default_factory=EpochSums)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    bad_images: list[str] = dataclasses.field(default_factory=list)
    bad_eval_images: list[str] = dataclasses.field(default_factory=list)
    teacher: dict[str, Any] | None = None

    def note_best(self, record: dict[str, Any], name: str) -> bool:
        """Notes which weights of an epoch did better by metric ``name``; tells whether it is the best epoch so far."""
        plain, averaged = record["eval"][name], record.get("ema", {}).get(name, -1.0)
        self.evaluated_weights = "ema" if averaged >= plain else "model"
        metric = max(plain, averaged)
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
        values["sums"] = EpochSums(**values.get("sums", {}))
        return cls(**values)


def random_states() -> dict[str, Any]:
    """Returns the states of Python's, NumPy's and Paddle's generators as JSON values.

    The trainer seeds all three before every batch, so a resumed run needs them only for code that draws between
    batches (a plug-in, say).
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "paddle": [int(state.current_seed()) for state in paddle.get_rng_state()],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Takes over what :func:`random_states` returned."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    # Paddle shows only its seed; the next batch seeds it anew anyway.
    paddle.seed(states["paddle"][0])
