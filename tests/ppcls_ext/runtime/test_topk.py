"""The best candidates without suppression, against a plain search."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.runtime.topk import TopkSettings


def plain_choice(boxes: np.ndarray, scores: np.ndarray, keep: int) -> list[list[float]]:
    """Chooses anchors and then pairs of anchor and class by sorting lists."""
    anchors = sorted(range(len(boxes)), key=lambda anchor: -max(scores[:, anchor]))[:keep]
    pairs = [(-scores[label, anchor], label, anchor) for anchor in anchors for label in range(len(scores))]
    return [[label, -score, *boxes[anchor]] for score, label, anchor in sorted(pairs)[: min(keep, len(boxes))]]


@pytest.mark.parametrize(("anchors", "classes", "keep"), [(50, 4, 10), (50, 1, 10), (6, 3, 300), (300, 11, 300)])
def test_against_a_plain_choice(anchors: int, classes: int, keep: int) -> None:
    generator = np.random.default_rng(anchors + classes)
    boxes = generator.uniform(0, 100, [anchors, 4]).astype(np.float32)
    scores = generator.uniform(0, 1, [classes, anchors]).astype(np.float32)
    rows = TopkSettings(keep).select(boxes, scores)
    assert (rows.dtype, rows.shape) == (np.float32, (min(keep, anchors), 6))
    np.testing.assert_array_equal(rows, np.array(plain_choice(boxes, scores, keep), np.float32))


def test_an_anchor_may_be_kept_for_several_classes_and_overlaps_stay() -> None:
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9], [5, 5, 7, 7]], np.float32)
    scores = np.array([[0.9, 0.8, 0.1], [0.7, 0.2, 0.3]], np.float32)
    rows = TopkSettings(3).select(boxes, scores)
    assert rows[:, 0].tolist() == [0, 0, 1]
    np.testing.assert_allclose(rows[:, 1], [0.9, 0.8, 0.7])
    # The third anchor is among the three, but none of its classes.
    assert (rows[:, 2:] == boxes[0]).all()


def test_no_anchors() -> None:
    assert TopkSettings().select(np.zeros([0, 4], np.float32), np.zeros([2, 0], np.float32)).shape == (0, 6)
