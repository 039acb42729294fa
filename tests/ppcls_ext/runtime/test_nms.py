"""The choice of detections in NumPy: NMS equals Paddle's operator, the best candidates equal a plain search."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ppcls_ext.runtime.nms import NmsSettings, TopkSettings, suppress


def in_the_graph(boxes, scores, settings):
    import paddle

    fields = dataclasses.asdict(settings)
    order = ("score_threshold", "nms_top_k", "keep_top_k", "nms_threshold", "normalized", "nms_eta", "background_label")
    rows, _, _ = paddle._C_ops.multiclass_nms3(
        paddle.to_tensor(boxes[np.newaxis]),
        paddle.to_tensor(scores[np.newaxis]),
        None,
        *(fields[name] for name in order),
    )
    return rows.numpy()


@pytest.mark.parametrize(
    "settings",
    [
        NmsSettings(score_threshold=0.01, nms_top_k=1000, keep_top_k=300, nms_threshold=0.7),
        NmsSettings(score_threshold=0.2, nms_top_k=30, keep_top_k=12, nms_threshold=0.5),
        NmsSettings(score_threshold=0.2, nms_top_k=-1, keep_top_k=-1, nms_threshold=0.3, normalized=False),
        NmsSettings(score_threshold=0.1, keep_top_k=40, nms_threshold=0.8, nms_eta=0.9, background_label=0),
    ],
)
def test_equals_the_operator(settings):
    generator = np.random.default_rng(1)
    kept = 0
    for trial in range(40):
        anchors, classes = generator.integers(1, 200), generator.integers(1, 5)
        corner = generator.integers(0, 4, (anchors, 2)) * 30 + generator.uniform(0, 8, (anchors, 2))
        # Every fourth set has boxes that are empty or inside out.
        sides = generator.uniform(-3 if trial % 4 == 0 else 12, 30, (anchors, 2))
        boxes = np.concatenate([corner, corner + sides], axis=1).astype(np.float32)
        scores = generator.uniform(size=(classes, anchors)).astype(np.float32)
        if trial % 2:
            # Equal scores and overlaps of exactly the threshold: the order of the candidates decides.
            boxes, scores = boxes.round(), scores.round(1)
        expected = in_the_graph(boxes, scores, settings)
        np.testing.assert_array_equal(suppress(boxes, scores, settings), expected)
        kept += len(expected)
    assert kept > 400


def test_nothing_above_the_threshold():
    boxes, scores = np.zeros([7, 4], np.float32), np.full([2, 7], 0.5, np.float32)
    assert suppress(boxes, scores, NmsSettings(score_threshold=0.5)).shape == (0, 6)
    assert suppress(boxes[:0], scores[:, :0], NmsSettings()).shape == (0, 6)
    assert TopkSettings().select(boxes[:0], scores[:, :0]).shape == (0, 6)


def test_an_anchor_may_be_kept_for_several_classes_and_overlaps_stay() -> None:
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9], [5, 5, 7, 7]], np.float32)
    scores = np.array([[0.9, 0.8, 0.1], [0.7, 0.2, 0.3]], np.float32)
    rows = TopkSettings(3).select(boxes, scores)
    assert rows[:, 0].tolist() == [0, 0, 1]
    np.testing.assert_allclose(rows[:, 1], [0.9, 0.8, 0.7])
    # The third anchor is among the three, but none of its classes.
    assert (rows[:, 2:] == boxes[0]).all()
