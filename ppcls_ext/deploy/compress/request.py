"""What a person asks of a pruning, and the folder that comes of it; the same for classifiers and detectors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from ppcls_ext.deploy.compress.selection import check_criterion
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_folder, write_json

if TYPE_CHECKING:
    from ppcls_ext.deploy.compress.importance import Evidence
    from ppcls_ext.deploy.compress.pruning import Pruned

WEIGHTS, REPORT, FINE_TUNING, EXPORT = "weights", "report.json", "fine_tuning", "export"


@dataclass(frozen=True)
class PruningRequest:
    """One pruning.

    Attributes:
        output: folder that receives pruned weights, the configuration for their fine-tuning, and the report.
        ratio: share of the hidden channels to remove: one number, or one for each stage.
        criterion: see ``ppcls_ext.deploy.compress.selection.CRITERIA``.
        multiple: widths are rounded to multiples of it.
        batches: batches of training data that are looked at.
        epochs: of the fine-tuning; ``None`` leaves those of the configuration.
        learning_rate: of the fine-tuning; ``None`` takes a tenth of the configuration's.
        fine_tune: train at once.
        threads: of the latency measurement.
    """

    output: Path
    ratio: tuple[float, ...]
    criterion: str = "taylor"
    multiple: int = 8
    batches: int = 16
    epochs: int | None = None
    learning_rate: float | None = None
    fine_tune: bool = False
    threads: int = 2

    def check(self) -> None:
        """Checks what can be checked before anything is loaded.

        Raises:
            UserError: a value is out of range, or ``output`` is there already.
        """
        check_criterion(self.criterion)
        for value in self.ratio:
            if not 0 <= value < 1:
                raise UserError(f"--ratio: must be at least 0 and below 1, got {value:g}")
        counts = {"multiple": self.multiple, "batches": self.batches, "epochs": self.epochs, "threads": self.threads}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise UserError(f"--{name}: must be at least 1, got {count}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise UserError(f"--learning-rate: must be positive, got {self.learning_rate:g}")
        if self.output.is_file() or (self.output.is_dir() and any(self.output.iterdir())):
            raise UserError(f"{self.output}: exists; choose another folder, nothing was written")

    @property
    def weights(self) -> Path:
        """The checkpoint folder with the pruned weights."""
        return self.output / WEIGHTS

    @property
    def fine_tuning(self) -> Path:
        """The folder of the fine-tuning run."""
        return self.output / FINE_TUNING


@contextlib.contextmanager
def pruned_folder(
    request: PruningRequest, weights: Mapping[str, np.ndarray], state: Mapping[str, Any], config_name: str, config: str
) -> Iterator[None]:
    """Writes the folder of a pruning, whole or not at all.

    Args:
        request: names the folder.
        weights: arrays by name.
        state: ``class_names`` and ``arch`` for the ``state.json`` beside the weights.
        config_name, config: name and text of the configuration of the fine-tuning.

    Yields:
        Nothing: what fails inside takes the folder away again.
    """
    from ppcls_ext.weights import write_manifest, write_weights

    with atomic_folder(request.output) as temporary:
        folder = temporary / WEIGHTS
        folder.mkdir()
        write_weights(folder / "model.pdparams", weights)
        text = json.dumps({"evaluated_weights": "model", **state}, indent=1, ensure_ascii=False)
        (folder / "state.json").write_text(text, encoding="utf-8")
        write_manifest(folder)
        (temporary / config_name).write_text(config, encoding="utf-8")
        yield


def config_text(data: Mapping[str, Any], request: PruningRequest, name: str, removed: float) -> str:
    """Returns the configuration of the fine-tuning, with a comment that says what it is and how to use it."""
    comment = (
        f"Fine-tunes a pruned network: {100 * removed:.1f} % of the channels inside its blocks were removed "
        f"(criterion {request.criterion}).",
        "",
        f"Command:   python tools/train.py -c {request.output / name}",
        "Hardware:  that of the configuration it was made from.",
        f"Expected:  see {REPORT} beside this file for the figures before fine-tuning.",
    )
    lines = "\n".join(f"# {line}".rstrip() for line in comment)
    return f"{lines}\n{yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, default_flow_style=None)}"


def summary(request: PruningRequest, evidence: Evidence, pruned: Pruned) -> dict[str, Any]:
    """Returns what a report tells of the pruning itself: what was asked for, and what went."""
    return {
        "criterion": request.criterion,
        "ratio": list(request.ratio),
        "multiple": request.multiple,
        "batches": evidence.batches,
        "removed": pruned.removed,
        "expansion_channels": pruned.expansion_channels,
    }


def write_report(request: PruningRequest, report: Mapping[str, Any]) -> None:
    """Writes ``report.json``; it is replaced once there are figures after fine-tuning."""
    write_json(request.output / REPORT, report)


def with_new_weights(figures: Mapping[str, float], accuracy: Mapping[str, float]) -> dict[str, float]:
    """Returns the figures of a network whose weights alone have changed: only its accuracy is another one."""
    return {**figures, **accuracy}
