"""Comparison of an export with its model: rounding is told from a network that computes something else."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.deploy.formats import PRECISIONS
from ppcls_ext.deploy.verify import (
    ClassifierComparison,
    DetectionFigures,
    DetectorComparison,
    MismatchError,
    compare_detections,
)
from ppcls_ext.preprocess.detection import Prepared
from ppcls_ext.runtime.description import OutputForm
from ppcls_ext.runtime.nms import NmsSettings, suppress
from ppcls_ext.utils.errors import UserError

NMS = NmsSettings(score_threshold=0.1, nms_top_k=50, keep_top_k=20, nms_threshold=0.6)


def anchors(seed: int = 0, count: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Returns boxes ``[A, 4]`` in clusters and scores ``[2, A]``."""
    generator = np.random.default_rng(seed)
    corner = generator.integers(0, 4, (count, 2)) * 30 + generator.uniform(0, 6, (count, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(20, 30, (count, 2))], axis=1)
    return boxes.astype(np.float32), generator.uniform(0, 1, (2, count)).astype(np.float32)


def compare(rows: np.ndarray, expected: np.ndarray, raw: tuple[np.ndarray, np.ndarray]) -> DetectionFigures:
    found = DetectionFigures()
    compare_detections(rows, expected, raw, NMS, found)
    return found


def test_rounding_is_measured_in_any_order() -> None:
    raw = anchors()
    expected = suppress(*raw, NMS)
    found = compare((expected + np.array([0, 2e-4, 0.03, -0.03, 0, 0], np.float32))[::-1], expected, raw)
    assert (found.matched, found.tied) == (len(expected), 0)
    assert (found.box_error, found.score_error) == (pytest.approx(0.03, abs=1e-4), pytest.approx(2e-4, abs=1e-6))


def test_choices_that_rounding_makes_are_ties() -> None:
    ties = 0
    for seed in range(6):
        boxes, scores = anchors(seed)
        # Many equal scores: the last digit decides which of two boxes suppresses the other, and which is the 20th.
        scores = scores.round(1) + 0.05
        noise = np.random.default_rng(seed + 100).uniform(-1e-5, 1e-5, scores.shape).astype(np.float32)
        rows, expected = suppress(boxes, scores + noise, NMS), suppress(boxes, scores, NMS)
        found = compare(rows, expected, (boxes, scores))
        assert found.matched + found.tied >= len(expected)
        ties += found.tied
    assert ties > 0
    # A score at the threshold.
    boxes, scores = np.array([[0, 0, 9, 9]], np.float32), np.array([[0.1001], [0]], np.float32)
    expected = suppress(boxes, scores, NMS)
    assert compare(expected[:0], expected, (boxes, scores)).tied == len(expected) == 1


def test_other_numbers_are_refused() -> None:
    boxes, scores = np.array([[0, 0, 9, 9]], np.float32), np.array([[0.8], [0.2]], np.float32)
    expected = suppress(boxes, scores, NMS)[:1]
    for place, change in ((0, 1), (1, 5e-3), (2, 0.3), (2, np.nan)):
        rows = expected.copy()
        rows[0, place] += change
        with pytest.raises(MismatchError, match="is found by the export only|is no number"):
            compare(rows, expected, (boxes, scores))


def test_lost_and_surplus_boxes_and_such_that_suppression_would_drop_are_refused() -> None:
    raw = anchors()
    expected, lenient = suppress(*raw, NMS), suppress(*raw, NmsSettings(0.1, 50, 20, nms_threshold=0.9))
    fewer = np.delete(expected, int(expected[:, 1].argmax()), axis=0)
    for rows, wanted, message in (
        (fewer, expected, "is found by the model, but not by the export"),
        (expected, fewer, "is kept by the export, but not by the model"),
        (lenient, expected, "overlaps another box that is kept by the export"),
    ):
        with pytest.raises(MismatchError, match=message):
            compare(rows, wanted, raw)


class Fixed:
    """A detector that finds the same in every image: detections, or boxes and scores of all anchors."""

    def __init__(self, rows: np.ndarray, scores: np.ndarray | None = None) -> None:
        self.rows, self.scores = rows, scores

    def detect(self, images: np.ndarray, scale_factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.scores is not None:
            return np.stack([self.rows] * len(images)), np.stack([self.scores] * len(images))
        return np.concatenate([self.rows] * len(images)), np.full(len(images), len(self.rows), np.int32)


PREPARED = Prepared(np.zeros([3, 8, 8], np.float32), np.ones(2, np.float32), np.ones(2, np.float32), 8, 8)


def test_raw_outputs_are_compared_anchor_by_anchor() -> None:
    boxes, scores = anchors()
    compared = DetectorComparison(Fixed(boxes, scores), None, {"frame": PREPARED}, OutputForm(NMS, final=False))
    figures = compared({"engine": Fixed(boxes + np.float32(0.01), scores)})["engines"]["engine"]
    # Alone, and as a batch of one.
    assert (figures["compared"], figures["box_error_px"]) == (160, pytest.approx(0.01, abs=1e-3))
    for changed, message in (
        ((boxes, scores + np.float32(0.01)), "scores differ by"),
        ((boxes * np.float32(np.nan), scores), "boxes differ by nan"),
        ((boxes[1:], scores), r"boxes have shape \[1, 79, 4\]"),
    ):
        with pytest.raises(UserError, match=message):
            compared({"engine": Fixed(*changed)})


def test_the_message_names_engine_image_and_box() -> None:
    expected = suppress(*anchors(), NMS)
    images = {"first frame": PREPARED, "second frame": PREPARED}
    compared = DetectorComparison(Fixed(expected), Fixed(*anchors()), images, OutputForm(NMS))
    report = compared({"good engine": Fixed(expected)})
    # One by one, and as one batch of two.
    assert report["engines"]["good engine"]["compared"] == 4 * len(expected)
    assert report["images"] == ["first frame", "second frame"]
    broken = Fixed(expected + np.array([0, 0, 1, 1, 1, 1], np.float32))
    with pytest.raises(UserError, match="bad engine, first frame: class .* is found by the export only; nothing was"):
        compared({"bad engine": broken})


class Logits:
    """A classifier that gives the same logits for every image."""

    def __init__(self, *logits: float) -> None:
        self.logits = np.array([logits], dtype=np.float32)

    def run(self, images: np.ndarray) -> np.ndarray:
        return self.logits.repeat(len(images), axis=0)


INPUTS = {"photo": np.zeros((3, 4, 4), dtype=np.float32)}


@pytest.mark.parametrize("value", [1.001, float("nan"), -1.0])
def test_no_wrong_logit_is_accepted(value: float) -> None:
    compared = ClassifierComparison(Logits(1.0, 1.0), INPUTS)
    assert compared({"same": Logits(1.0, 1.0)})["relative_error"] == {"same": 0.0}
    with pytest.raises(UserError, match="other, photo"):
        compared({"same": Logits(1.0, 1.0), "other": Logits(value, value)})


def test_another_best_class_is_refused_where_the_model_is_decided() -> None:
    limits = PRECISIONS["bf16"]
    close = ClassifierComparison(Logits(1.0, 0.98), INPUTS)({"engine": Logits(0.97, 0.99)}, limits)
    assert close["top1_agreement"] == {"engine": 0.0}
    with pytest.raises(UserError, match="engine, photo: another best class"):
        ClassifierComparison(Logits(1.0, 0.94), INPUTS)({"engine": Logits(0.96, 0.98)}, limits)
