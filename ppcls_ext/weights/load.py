"""Loads weights into a model, strictly: every difference is an error unless the caller permitted it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights.files import find_weights, read_weights, widened
from ppcls_ext.weights.pickles import first_of

if TYPE_CHECKING:
    import paddle

logger = logging.getLogger(__name__)
# Where E-ConvNeXt keeps its classifier: the only part that another number of classes changes.
CLASSIFIER = ("head.",)


def is_reference(weights: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of the paper's repository."""
    return any(name.startswith("Down_Conv.") for name in weights)


@dataclass
class LoadReport:
    """Report of ``load_weights``: lists of names, and for ``mismatched`` (shape in the file, shape in the model)."""

    source: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    @property
    def different(self) -> list[str]:
        """The names in which file and model do not agree."""
        return [*self.missing, *self.unexpected, *self.mismatched]

    @property
    def complete(self) -> bool:
        """Whether file and model agree in every name and shape."""
        return not self.different

    def differences(self) -> str:
        """Returns the differences in one line: the first few names of each kind, with their number."""
        mismatched = [
            f"{name} (file {list(theirs)}, model {list(ours)})" for name, (theirs, ours) in self.mismatched.items()
        ]
        kinds = {"missing in the file": self.missing, "not in the model": self.unexpected}
        kinds["of another shape"] = mismatched
        return "; ".join(f"{len(names)} {kind}: {first_of(names)}" for kind, names in kinds.items() if names)

    def outside(self, prefixes: Sequence[str]) -> LoadReport:
        """Returns the report without the differences in names that begin with one of ``prefixes``."""

        def others(names: Iterable[str]) -> list[str]:
            return [name for name in names if not name.startswith(tuple(prefixes))]

        mismatched = {name: self.mismatched[name] for name in others(self.mismatched)}
        return LoadReport(self.source, self.loaded, others(self.missing), others(self.unexpected), mismatched)

    def summary(self) -> str:
        """Returns one line: how many weights were loaded and what was left as it was."""
        total = len(self.loaded) + len(self.missing) + len(self.mismatched)
        line = f"{self.source}: loaded {len(self.loaded)} of {total} weights"
        return line if self.complete else f"{line}, the rest starts fresh: {self.differences()}"


def compare(label: str, shapes: Mapping[str, tuple[int, ...]], weights: Mapping[str, np.ndarray]) -> LoadReport:
    """Compares the names and shapes of a model with those of ``weights``; ``loaded`` lists what fits."""
    report = LoadReport(label, unexpected=[name for name in weights if name not in shapes])
    for name, shape in shapes.items():
        if name not in weights:
            report.missing.append(name)
        elif tuple(weights[name].shape) != shape:
            report.mismatched[name] = (tuple(weights[name].shape), shape)
        else:
            report.loaded.append(name)
    return report


def refusal_of_model(report: LoadReport, weights: Mapping[str, np.ndarray]) -> str:
    """Returns what is said of weights that do not fit a model of this project, and what to do about it."""
    advice = "Choose the model (Arch.name and its arguments) that the weights were trained with"
    if is_reference(weights):
        advice = "These are the paper repository's names: convert them with tools/convert_weights.py --from reference"
    elif report.outside(CLASSIFIER).complete:
        advice = "Only the classifier differs: set Arch.class_num to the number of classes of the file"
    return f"{report.source} does not fit the model: {report.differences()}. {advice}"


def load_weights(
    model: paddle.nn.Layer,
    source: str | os.PathLike[str] | Mapping[str, np.ndarray],
    may_differ: Sequence[str] = (),
    refusal: Callable[[LoadReport, Mapping[str, np.ndarray]], str] = refusal_of_model,
) -> LoadReport:
    """Loads weights into ``model`` in place; it is changed completely or, on an error, not at all.

    Args:
        model: receives the weights; numbers are converted to its precision.
        source: a weight file, a checkpoint folder (see ``find_weights``), or arrays by name.
        may_differ: prefixes of names that may be missing, superfluous or of another shape, for example ``CLASSIFIER``
            when fine-tuning for another number of classes. What differs there keeps the model's own values, and one
            line of the log says so.
        refusal: makes of the forbidden differences and the weights what is said of them, in one line.

    Raises:
        UserError: a name or shape differs outside ``may_differ``, or the source cannot be read.
    """
    import paddle

    if isinstance(source, Mapping):
        label, weights = "given weights", dict(source)
    else:
        label, weights = str(find_weights(source)), read_weights(source)
    targets = model.state_dict()
    report = compare(label, {name: tuple(target.shape) for name, target in targets.items()}, weights)
    forbidden = report.outside(may_differ)
    if not forbidden.complete:
        raise UserError(refusal(forbidden, weights))
    if not report.loaded:
        raise UserError(f"{label} does not fit the model: no weight has a name that the model knows")
    with paddle.no_grad():
        for name in report.loaded:
            target = targets[name]
            target.set_value(paddle.to_tensor(widened(weights[name]), place="cpu").astype(target.dtype))
    if not report.complete:
        logger.warning(report.summary())
    return report
