"""Compares the outputs of an export with those of the model that it was made of.

Logits are compared by number. Detections are not compared by position: NMS turns the smallest difference of two scores
or overlaps into another choice of boxes. Each detection must have a partner, or a reason not to have one that rounding
alone can make, and each box of the export must be one that the model's anchors give.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ppcls_ext.arch.outputs import logits_of
from ppcls_ext.deploy.formats import EXACT, PRECISIONS, PrecisionRow
from ppcls_ext.preprocess.detection import Prepared
from ppcls_ext.runtime.description import OutputForm
from ppcls_ext.runtime.nms import LOWEST_ADAPTED, NmsSettings, TopkSettings, intersection_over_union
from ppcls_ext.runtime.predictor import Engine
from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    import paddle

FLOAT32 = PRECISIONS[EXACT]


class EagerBackend:
    """Runs a classifier that was not exported, behind the interface of one that was; puts it into evaluation mode."""

    computed_in = "float32"

    def __init__(self, model: paddle.nn.Layer) -> None:
        self.model = model
        model.eval()

    def run(self, images: np.ndarray) -> np.ndarray:
        """``float32`` ``[N, 3, H, W]`` -> logits ``float32`` ``[N, class_num]``."""
        import paddle

        with paddle.no_grad():
            return logits_of(self.model(paddle.to_tensor(images))).astype("float32").numpy()


class MismatchError(Exception):
    """The outputs differ by more than rounding; the message says how."""


# Compares engines, given by a name for reports, with the model; returns what ``inference.yml`` holds as verification.
Comparison = Callable[[Mapping[str, Any], PrecisionRow], dict[str, Any]]


def single_and_batched(inputs: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Returns batches of prepared images of one shape by a name for messages: one by one, and all as one batch."""
    return {**{name: [one] for name, one in inputs.items()}, f"all {len(inputs)} images at once": [*inputs.values()]}


@contextlib.contextmanager
def comparing(engine: str, run: str) -> Iterator[None]:
    """Turns a MismatchError into a UserError that names engine, images and difference."""
    try:
        yield
    except MismatchError as mismatch:
        raise UserError(
            f"the export does not compute what the model computes: {engine}, {run}: {mismatch}; nothing was written"
        ) from mismatch


# Classifiers


def relative_error(outputs: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference of an image's outputs ``[N, C]``, relative to its largest expected output: of the
    worst image; infinite where an output is no number or the shapes differ.
    """
    if outputs.shape != expected.shape or not (np.isfinite(outputs).all() and np.isfinite(expected).all()):
        return float("inf")
    difference = np.abs(outputs.astype(np.float64) - expected).max(axis=1)
    scale = np.abs(expected).max(axis=1)
    return float((difference / np.maximum(scale, np.finfo(np.float32).tiny)).max())


class ClassifierComparison:
    """Compares logits, and the best class of images for which the model's is clear.

    Args:
        model: the model as trained.
        inputs: prepared images ``float32`` ``[3, H, W]`` by name.
    """

    def __init__(self, model: Engine, inputs: Mapping[str, np.ndarray]) -> None:
        self.names = list(inputs)
        self.batches = {run: np.stack(images) for run, images in single_and_batched(inputs).items()}
        self.expected = {run: model.run(batch) for run, batch in self.batches.items()}

    def __call__(self, engines: Mapping[str, Engine], limits: PrecisionRow = FLOAT32) -> dict[str, Any]:
        """Returns ``images``, ``tolerance``, and by engine the worst ``relative_error`` and the share of equal best
        classes, ``top1_agreement``.

        Raises:
            UserError: an engine differs by more than the tolerance.
        """
        tolerance = limits.relative_error
        errors: dict[str, list[float]] = {name: [] for name in engines}
        agreements: dict[str, list[bool]] = {name: [] for name in engines}
        for (run, batch), (name, engine) in itertools.product(self.batches.items(), engines.items()):
            with comparing(name, run):
                outputs, expected = engine.run(batch), self.expected[run]
                error = relative_error(outputs, expected)
                if not error <= tolerance:
                    raise MismatchError(f"relative error {error:.1e}, allowed {tolerance:.0e}")
                same = outputs.argmax(axis=1) == expected.argmax(axis=1)
                # Rounding may turn round which of the two best classes is ahead where they are near.
                lead = np.ptp(np.sort(expected, axis=1)[:, -2:], axis=1)
                if not same[lead > tolerance * np.abs(expected).max(axis=1)].all():
                    raise MismatchError("another best class")
            errors[name].append(error)
            agreements[name] += same.tolist()
        return {
            "images": self.names,
            "tolerance": tolerance,
            "relative_error": {name: max(found) for name, found in errors.items()},
            "top1_agreement": {name: sum(found) / len(found) for name, found in agreements.items()},
        }


# Detectors


@dataclass
class DetectionFigures:
    """Result of comparing an engine with the model: the largest differences of a coordinate (in pixels of the image)
    and of a score, and how many detections (of raw outputs, anchors) have a partner, or a reason to have none.
    """

    box_error: float = 0.0
    score_error: float = 0.0
    matched: int = 0
    tied: int = 0

    def note(self, boxes: np.ndarray, scores: np.ndarray, limits: PrecisionRow) -> None:
        """Adds differences of boxes and scores; raises a MismatchError if one is above its limit."""
        box_error, score_error = (float(np.abs(one).max(initial=0.0)) for one in (boxes, scores))
        if not box_error <= limits.box_px:
            raise MismatchError(f"boxes differ by {box_error:.3g} px, allowed {limits.box_px:.3g} px")
        if not score_error <= limits.score:
            raise MismatchError(f"scores differ by {score_error:.3g}, allowed {limits.score}")
        self.box_error, self.score_error = max(self.box_error, box_error), max(self.score_error, score_error)


class DetectorComparison:
    """Compares detections, or the boxes and scores of all anchors, in pixels of the images.

    Args:
        model: the model as trained, with the outputs of the export.
        anchors: the model as trained, with raw outputs; None for one that has none.
        inputs: prepared images by name.
        form: what the outputs mean.
    """

    def __init__(
        self, model: Engine, anchors: Engine | None, inputs: Mapping[str, Prepared],
        form: OutputForm,
    ) -> None:  # fmt: skip
        self.names, self.form, self.runs = list(inputs), form, single_and_batched(inputs)
        self.batches = {
            run: (np.stack([one.pixels for one in batch]), np.stack([one.scale_factor for one in batch]))
            for run, batch in self.runs.items()
        }
        self.expected = {run: model.detect(*batch) for run, batch in self.batches.items()}
        self.anchors: dict[str, list[Any]] = {run: [None] * len(batch) for run, batch in self.runs.items()}
        if anchors is not None and form.final:
            for run, batch in self.batches.items():
                boxes, scores = anchors.detect(*batch)
                self.anchors[run] = list(zip(form.boxes(boxes, self.runs[run]), scores, strict=True))

    def __call__(self, engines: Mapping[str, Engine], limits: PrecisionRow = FLOAT32) -> dict[str, Any]:
        """Returns ``images``, ``tolerance``, and by engine what was measured under ``engines``.

        Raises:
            UserError: an engine differs by more than ``limits``.
        """
        found = {name: DetectionFigures() for name in engines}
        for run, (name, engine) in itertools.product(self.runs, engines.items()):
            with comparing(name, run):
                self._compare(engine.detect(*self.batches[run]), run, found[name], limits)
        measured = {
            name: {"box_error_px": round(figures.box_error, 6), "score_error": round(figures.score_error, 8),
                   "compared": figures.matched, "ties": figures.tied}
            for name, figures in found.items()
        }  # fmt: skip
        tolerance = {"box_px": limits.box_px, "score": limits.score}
        return {"images": self.names, "tolerance": tolerance, "engines": measured}

    def _compare(
        self, outputs: Sequence[np.ndarray], run: str, found: DetectionFigures, limits: PrecisionRow
    ) -> None:
        expected, batch = self.expected[run], self.runs[run]
        if len(outputs) != len(expected):
            raise MismatchError(f"{len(outputs)} outputs, not {len(expected)}")
        if self.form.outputs == ["boxes", "count"]:
            counts = outputs[1]
            if counts.shape != expected[1].shape or counts.sum() != len(outputs[0]):
                raise MismatchError(f"{len(outputs[0])} boxes, {len(expected[1])} images, counts {counts.tolist()}")
        else:
            for name, values, wanted in zip(self.form.outputs, outputs, expected, strict=True):
                if values.shape != wanted.shape:
                    raise MismatchError(f"{name} have shape {list(values.shape)}, not {list(wanted.shape)}")
        own_limits = [limits.of_image(one.scale_factor) for one in batch]
        if self.form.final:
            pairs = zip(self.form.rows(outputs, batch), self.form.rows(expected, batch), strict=True)
            for (rows, wanted), raw, own in zip(pairs, self.anchors[run], own_limits, strict=True):
                compare_detections(rows, wanted, raw, self.form.selection, found, own)
            return
        boxes = self.form.boxes(outputs[0], batch).astype(np.float64) - self.form.boxes(expected[0], batch)
        scores = outputs[1].astype(np.float64) - expected[1]
        for own_boxes, own_scores, own in zip(boxes, scores, own_limits, strict=True):
            found.note(own_boxes, own_scores, own)
            found.matched += len(own_boxes)


def compare_detections(
    rows: np.ndarray, expected: np.ndarray, anchors: tuple[np.ndarray, np.ndarray] | None,
    selection: NmsSettings | TopkSettings | None, found: DetectionFigures, limits: PrecisionRow = FLOAT32,
) -> None:  # fmt: skip
    """Compares the detections of one image.

    Args:
        rows: of the export, ``[n, 6]``: class, score, x1, y1, x2, y2.
        expected: of the model, ``[m, 6]``.
        anchors: the model's boxes ``[A, 4]`` and scores ``[C, A]`` before it chooses, where they are known.
        selection: how the model chooses among them.
        found: collects the figures.
        limits: how far the outputs may be from the model's.

    Raises:
        MismatchError: a detection without a partner and without a reason, or one that no anchor of the model gives.
    """
    if not np.isfinite(rows).all():
        raise MismatchError("an output is no number")
    if isinstance(selection, NmsSettings):
        # NMS saw these very boxes, whatever the precision of the network: there is little to round.
        for number, row in enumerate(rows):
            others = rows[number + 1 :]
            others = others[others[:, 0] == row[0]]
            overlaps = intersection_over_union(row[2:], others[:, 2:], selection.normalized)
            if (overlaps > selection.nms_threshold + FLOAT32.overlap).any():
                raise MismatchError(f"{_shown(row)} overlaps another box that is kept by the export")
    partners = _pair(rows, expected, limits)
    for row, partner in partners.items():
        difference = rows[row].astype(np.float64) - expected[partner]
        found.note(difference[2:], difference[1:2], limits)
    found.matched += len(partners)
    lonely = [row for number, row in enumerate(rows) if number not in partners]
    missing = [row for number, row in enumerate(expected) if number not in partners.values()]
    for detection in lonely:
        if anchors is None or not (
            (np.abs(anchors[0] - detection[2:]).max(axis=1) <= limits.box_px)
            & (np.abs(anchors[1][int(detection[0])] - detection[1]) <= limits.score)
        ).any():
            raise MismatchError(f"{_shown(detection)} is found by the export only")
        if not _explained(detection, expected, anchors, selection, limits):
            raise MismatchError(f"{_shown(detection)} is kept by the export, but not by the model")
    for detection in missing:
        if not _explained(detection, rows, anchors, selection, limits):
            raise MismatchError(f"{_shown(detection)} is found by the model, but not by the export")
    found.tied += len(lonely) + len(missing)


def _pair(rows: np.ndarray, expected: np.ndarray, limits: PrecisionRow) -> dict[int, int]:
    """Pairs detections of one class that agree within the tolerances, the nearest first, each once."""
    near = (
        (np.abs(rows[:, None, 2:] - expected[None, :, 2:]).max(axis=2, initial=0.0) <= limits.box_px)
        & (np.abs(rows[:, None, 1] - expected[None, :, 1]) <= limits.score)
        & (rows[:, None, 0] == expected[None, :, 0])
    )
    candidates = np.argwhere(near)
    distances = np.abs(rows[candidates[:, 0], 1:] - expected[candidates[:, 1], 1:]).sum(axis=1)
    pairs: dict[int, int] = {}
    for row, partner in candidates[np.argsort(distances, kind="stable")].tolist():
        if row not in pairs and partner not in pairs.values():
            pairs[row] = partner
    return pairs


def _explained(
    detection: np.ndarray, others: np.ndarray, anchors: tuple[np.ndarray, np.ndarray] | None,
    selection: NmsSettings | TopkSettings | None, limits: PrecisionRow,
) -> bool:  # fmt: skip
    """Whether rounding alone can have kept ``detection`` from being among ``others``."""
    if not isinstance(selection, NmsSettings) or anchors is None:
        # A network without NMS keeps so many of the best.
        return bool(detection[1] <= others[:, 1].min(initial=np.inf) + limits.score)
    bounds = [selection.score_threshold]
    if len(others) == selection.keep_top_k:
        bounds.append(others[:, 1].min())
    scores = anchors[1][int(detection[0])]
    if -1 < selection.nms_top_k < len(scores):
        bounds.append(np.partition(scores, -selection.nms_top_k)[-selection.nms_top_k])
    if detection[1] <= max(bounds) + limits.score:
        return True
    rivals = others[(others[:, 0] == detection[0]) & (others[:, 1] >= detection[1] - limits.score)]
    overlaps = intersection_over_union(detection[2:], rivals[:, 2:], selection.normalized)
    lowest = min(selection.nms_threshold, LOWEST_ADAPTED * selection.nms_eta if selection.nms_eta != 1 else np.inf)
    return bool((overlaps > lowest - limits.overlap).any())


def _shown(detection: np.ndarray) -> str:
    corners = ", ".join(f"{value:.1f}" for value in detection[2:])
    return f"class {int(detection[0])} with score {detection[1]:.4f} at [{corners}]"
