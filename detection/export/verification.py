"""Compares the detections of an export with those of the model that it was made of.

Suppression turns the smallest difference of two scores or overlaps into another choice of boxes. So detections are not
compared by position: each one must have a partner, or a reason not to have one that rounding alone can make, and each
box of the export must be one that the model's anchors give.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppcls_ext.deploy.export.formats import PRECISIONS, PrecisionRow
from ppcls_ext.preprocess.detection import Prepared
from ppcls_ext.runtime.backends import DetectionBackend
from ppcls_ext.runtime.description import OutputForm
from ppcls_ext.runtime.nms import LOWEST_ADAPTED, NmsSettings, TopkSettings, intersection_over_union
from ppcls_ext.utils.errors import UserError

FLOAT32 = PRECISIONS["fp32"]


@dataclass
class Comparison:
    """What the comparison of an engine with the model found, over all images so far.

    Attributes:
        box_error: largest difference of a coordinate, in pixels of the image.
        score_error: largest difference of a score.
        matched: detections with a partner; of raw outputs, anchors.
        tied: detections without one, for a reason that rounding can make.
    """

    box_error: float = 0.0
    score_error: float = 0.0
    matched: int = 0
    tied: int = 0

    def to_document(self) -> dict[str, Any]:
        """Returns the figures as ``inference.yml`` holds them."""
        return {
            "box_error_px": round(self.box_error, 6),
            "score_error": round(self.score_error, 8),
            "compared": self.matched,
            "ties": self.tied,
        }


class Remembered:
    """Runs a backend once for each batch, however many artefacts are compared with it.

    Args:
        backend: what to run.
    """

    computed_in = "float32"

    def __init__(self, backend: DetectionBackend) -> None:
        self.backend = backend
        self._outputs: dict[bytes, Sequence[np.ndarray]] = {}

    def detect(self, images: np.ndarray, scale_factors: np.ndarray) -> Sequence[np.ndarray]:
        """See ``DetectionBackend``."""
        key = hashlib.sha256(images.tobytes() + scale_factors.tobytes()).digest()
        if key not in self._outputs:
            self._outputs[key] = self.backend.detect(images, scale_factors)
        return self._outputs[key]


class MismatchError(Exception):
    """The outputs differ by more than rounding; the message says how."""


def compare_raw(
    outputs: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    found: Comparison,
    limits: PrecisionRow = FLOAT32,
) -> None:
    """Compares the boxes ``[..., A, 4]`` and scores ``[..., C, A]`` of all anchors, one by one.

    Raises:
        MismatchError: a difference above the tolerance.
    """
    for kind, values, wanted in zip(("boxes", "scores"), outputs, expected, strict=True):
        if values.shape != wanted.shape:
            raise MismatchError(f"{kind} have shape {list(values.shape)}, not {list(wanted.shape)}")
    _note(found, _largest(outputs[0], expected[0]), _largest(outputs[1], expected[1]), limits)
    found.matched += outputs[0].size // 4


def compare_detections(
    rows: np.ndarray,
    expected: np.ndarray,
    anchors: tuple[np.ndarray, np.ndarray] | None,
    selection: NmsSettings | TopkSettings | None,
    found: Comparison,
    limits: PrecisionRow = FLOAT32,
) -> None:
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
        _check_suppressed(rows, selection)
    partners = _pair(rows, expected, limits)
    for row, partner in partners:
        box_error = _largest(rows[row, 2:], expected[partner, 2:])
        _note(found, box_error, _largest(rows[row, 1], expected[partner, 1]), limits)
    found.matched += len(partners)
    ours, theirs = {row for row, _ in partners}, {partner for _, partner in partners}
    lonely = [rows[row] for row in range(len(rows)) if row not in ours]
    missing = [expected[row] for row in range(len(expected)) if row not in theirs]
    for detection in lonely:
        if anchors is None or not _has_anchor(detection, *anchors, limits):
            raise MismatchError(f"{_shown(detection)} is found by the export only")
        if not _explained(detection, expected, anchors, selection, limits):
            raise MismatchError(f"{_shown(detection)} is kept by the export, but not by the model")
    for detection in missing:
        if not _explained(detection, rows, anchors, selection, limits):
            raise MismatchError(f"{_shown(detection)} is found by the model, but not by the export")
    found.tied += len(lonely) + len(missing)


def _check_suppressed(rows: np.ndarray, settings: NmsSettings) -> None:
    """Checks that no two detections of a class overlap more than suppression lets stand.

    Suppression saw these very boxes, whatever the precision of the network: there is little to round.
    """
    for number, row in enumerate(rows):
        others = rows[number + 1 :]
        others = others[others[:, 0] == row[0]]
        overlaps = intersection_over_union(row[2:], others[:, 2:], settings.normalized)
        if (overlaps > settings.nms_threshold + FLOAT32.overlap).any():
            raise MismatchError(f"{_shown(row)} overlaps another box that is kept by the export")


def _note(found: Comparison, box_error: float, score_error: float, limits: PrecisionRow) -> None:
    if not box_error <= limits.box_px:
        raise MismatchError(f"boxes differ by {box_error:.3g} px, allowed {limits.box_px:.3g} px")
    if not score_error <= limits.score:
        raise MismatchError(f"scores differ by {score_error:.3g}, allowed {limits.score}")
    found.box_error, found.score_error = max(found.box_error, box_error), max(found.score_error, score_error)


def _largest(values: np.ndarray, others: np.ndarray) -> float:
    difference = np.abs(np.asarray(values, np.float64) - others)
    return float(difference.max()) if difference.size else 0.0


def _pair(rows: np.ndarray, expected: np.ndarray, limits: PrecisionRow) -> list[tuple[int, int]]:
    """Pairs detections of one class that agree within the tolerances, the nearest first, each once."""
    near = (
        (np.abs(rows[:, None, 2:] - expected[None, :, 2:]).max(axis=2, initial=0.0) <= limits.box_px)
        & (np.abs(rows[:, None, 1] - expected[None, :, 1]) <= limits.score)
        & (rows[:, None, 0] == expected[None, :, 0])
    )
    candidates = np.argwhere(near)
    distances = np.abs(rows[candidates[:, 0], 1:] - expected[candidates[:, 1], 1:]).sum(axis=1)
    pairs: list[tuple[int, int]] = []
    ours: set[int] = set()
    theirs: set[int] = set()
    for row, partner in candidates[np.argsort(distances, kind="stable")].tolist():
        if row not in ours and partner not in theirs:
            pairs.append((row, partner))
            ours.add(row)
            theirs.add(partner)
    return pairs


def _has_anchor(detection: np.ndarray, boxes: np.ndarray, scores: np.ndarray, limits: PrecisionRow) -> bool:
    same_score = np.abs(scores[int(detection[0])] - detection[1]) <= limits.score
    return bool((same_score & (np.abs(boxes - detection[2:]).max(axis=1) <= limits.box_px)).any())


def _explained(
    detection: np.ndarray,
    others: np.ndarray,
    anchors: tuple[np.ndarray, np.ndarray] | None,
    selection: NmsSettings | TopkSettings | None,
    limits: PrecisionRow,
) -> bool:
    """Whether rounding alone can have kept ``detection`` from being among ``others``."""
    if not isinstance(selection, NmsSettings) or anchors is None:
        # A network without suppression keeps so many of the best.
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
    lowest = selection.nms_threshold
    if selection.nms_eta != 1:
        lowest = min(lowest, LOWEST_ADAPTED * selection.nms_eta)
    return bool((overlaps > lowest - limits.overlap).any())


def _shown(detection: np.ndarray) -> str:
    corners = ", ".join(f"{value:.1f}" for value in detection[2:])
    return f"class {int(detection[0])} with score {detection[1]:.4f} at [{corners}]"


def verify(
    reference: DetectionBackend,
    anchors: DetectionBackend | None,
    candidates: Mapping[str, DetectionBackend],
    inputs: Mapping[str, Prepared],
    form: OutputForm,
    limits: PrecisionRow = FLOAT32,
) -> dict[str, Any]:
    """Runs every input through the model and the engines, one by one and as one batch.

    Args:
        reference: the model as trained, with the outputs of the export.
        anchors: the model as trained, with raw outputs; None for one that has none.
        candidates: engines with the exported network, by a name for the report.
        inputs: prepared images by name, all of one shape.
        form: what the outputs mean.
        limits: how far the outputs may be from the model's.

    Returns:
        What was measured: ``images``, ``tolerance``, and the figures of each engine under ``engines``.

    Raises:
        UserError: an engine differs by more than the tolerances; the message names engine, image and difference.
    """
    found = {name: Comparison() for name in candidates}
    runs = {name: [prepared] for name, prepared in inputs.items()}
    runs[f"all {len(inputs)} images at once"] = list(inputs.values())
    for run_name, batch in runs.items():
        images = np.stack([prepared.pixels for prepared in batch])
        scales = np.stack([prepared.scale_factor for prepared in batch])
        expected = reference.detect(images, scales)
        raw = None
        if anchors is not None and form.final:
            boxes, scores = anchors.detect(images, scales)
            raw = form.boxes(boxes, batch), scores
        for name, candidate in candidates.items():
            try:
                _compare_batch(candidate.detect(images, scales), expected, raw, batch, form, found[name], limits)
            except MismatchError as mismatch:
                raise UserError(
                    f"the export does not compute what the model computes: {name}, {run_name}: {mismatch}; "
                    "nothing was written"
                ) from mismatch
    return {
        "images": list(inputs),
        "tolerance": {"box_px": limits.box_px, "score": limits.score},
        "engines": {name: comparison.to_document() for name, comparison in found.items()},
    }


def _compare_batch(
    outputs: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    raw: Sequence[np.ndarray] | None,
    batch: Sequence[Prepared],
    form: OutputForm,
    found: Comparison,
    limits: PrecisionRow,
) -> None:
    """Compares the outputs of an engine with the model's, in pixels of the images."""
    if len(outputs) != len(expected):
        raise MismatchError(f"{len(outputs)} outputs, not {len(expected)}")
    if not form.final:
        for values, wanted in zip(outputs, expected, strict=True):
            if values.shape != wanted.shape:
                raise MismatchError(f"outputs have shape {list(values.shape)}, not {list(wanted.shape)}")
        mapped = [zip(form.boxes(boxes, batch), scores, strict=True) for boxes, scores in (outputs, expected)]
        for own, wanted, prepared in zip(*mapped, batch, strict=True):
            compare_raw(own, wanted, found, limits.of_image(prepared.scale_factor))
        return
    if len(outputs) == 2 and (outputs[1].shape != expected[1].shape or outputs[1].sum() != len(outputs[0])):
        counts = outputs[1].tolist()
        raise MismatchError(f"{len(outputs[0])} boxes for counts {counts} of {len(expected[1])} images")
    if len(outputs) == 1 and outputs[0].shape != expected[0].shape:
        raise MismatchError(f"detections have shape {list(outputs[0].shape)}, not {list(expected[0].shape)}")
    anchors = [None] * len(batch) if raw is None else list(zip(*raw, strict=True))
    images = zip(form.rows(outputs, batch), form.rows(expected, batch), anchors, batch, strict=True)
    for rows, wanted, image_anchors, prepared in images:
        own_limits = limits.of_image(prepared.scale_factor)
        compare_detections(rows, wanted, image_anchors, form.selection, found, own_limits)
