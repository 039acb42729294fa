"""The detections against a plain sort."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from detection.yolov10.selection import centred, select, to_picture
from ppcls_ext.preprocess.detection import LetterResize


def sorted_out(scores: np.ndarray, boxes: np.ndarray, keep: int) -> list[list[float]]:
    """The two steps of one image, with Python's sort."""
    anchors = sorted(range(len(scores)), key=lambda anchor: -scores[anchor].max())[:keep]
    pairs = [(scores[anchor, label], label, anchor) for anchor in anchors for label in range(scores.shape[1])]
    best = sorted(pairs, reverse=True)[: min(keep, len(scores))]
    return [[label, score, *boxes[anchor]] for score, label, anchor in best]


@pytest.mark.parametrize(
    ("anchors", "classes", "keep"), [(500, 4, 300), (84, 3, 300), (400, 1, 300), (20, 5, 7), (1, 1, 1)]
)
def test_the_best_pairs_of_the_best_anchors_are_kept(anchors: int, classes: int, keep: int) -> None:
    generator = np.random.default_rng(anchors)
    # No two scores are equal.
    scores = (generator.permutation(2 * anchors * classes) / (2.0 * anchors * classes)).astype("float32")
    scores = scores.reshape(2, anchors, classes)
    boxes = generator.uniform(0, 100, (2, anchors, 4)).astype("float32")
    found = select(paddle.to_tensor(scores), paddle.to_tensor(boxes), keep)
    expected = [sorted_out(*image, keep) for image in zip(scores, boxes, strict=True)]
    assert found.shape == [2, min(keep, anchors), 6]
    np.testing.assert_array_equal(found.numpy(), np.array(expected, dtype="float32"))


def test_one_anchor_may_be_kept_for_two_classes() -> None:
    scores = paddle.to_tensor([[[0.9, 0.8], [0.7, 0.1]]])
    found = select(scores, paddle.to_tensor([[[0.0, 0, 1, 1], [0, 0, 2, 2]]]))
    assert found[0, :, 0].tolist() == [0, 1]
    assert found[0, :, 5].tolist() == [1, 1]


def test_corners_return_to_the_original_picture() -> None:
    detections = paddle.to_tensor([[[1.0, 0.5, 10, 20, 30, 40]], [[2.0, 0.4, 10, 20, 30, 40]]])
    # (y, x), as ppdet has it.
    factors = paddle.to_tensor([[2.0, 0.5], [1.0, 1.0]])
    np.testing.assert_allclose(
        to_picture(detections, factors, None).numpy(),
        [[[1, 0.5, 20, 10, 60, 20]], [[2, 0.4, 10, 20, 30, 40]]], rtol=1e-6,
    )  # fmt: skip
    # (top, left), in pixels of the input.
    pads = paddle.to_tensor([[4.0, 8.0], [0.0, 5.0]])
    np.testing.assert_allclose(
        to_picture(detections, factors, pads).numpy(),
        [[[1, 0.5, 4, 8, 44, 18]], [[2, 0.4, 5, 20, 25, 40]]], rtol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize(("height", "width"), [(80, 100), (121, 200), (130, 61), (5, 9), (64, 64)])
def test_padding_is_told_by_the_size_of_what_it_surrounds(height: int, width: int) -> None:
    """PaddleDetection's exporter has no input for the padding."""
    place = LetterResize([64, 96]).placement(height, width)
    found = centred(paddle.to_tensor([[float(place.height), float(place.width)]]), paddle.zeros([1, 3, 64, 96]))
    assert found.numpy().tolist() == [[place.top, place.left]]
