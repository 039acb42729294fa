"""The losses of a branch against NumPy, written from the description."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from detection import toolkit
from tests.support.yolov10 import slow_iou

REG_MAX = 16
CLASSES = 3
POINTS = np.array([(4.0, 4.0), (12.0, 4.0), (4.0, 12.0), (12.0, 12.0), (8.0, 8.0)], dtype="float32")
STRIDES = np.array([[8.0], [8.0], [8.0], [8.0], [16.0]], dtype="float32")
# Anchors 1 and 4 of the first image, anchor 3 of the second.
POSITIVE = np.array([1, 4, 8])
BOXES = np.array([(2.0, 1.0, 20.0, 11.0), (0.0, 2.0, 14.0, 14.0), (5.0, 6.0, 40.0, 30.0)], dtype="float32")
LABELS = np.array([2, 0, 1])
SCORES = np.array([0.8, 0.3, 0.6], dtype="float32")


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    toolkit.register()


def assignment(count: int = len(POSITIVE)) -> Any:
    from detection.yolov10.assigner import Assignment

    return Assignment(*(paddle.to_tensor(values[:count]) for values in (POSITIVE, BOXES, LABELS, SCORES)))


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(0, 2, shape).astype("float32")


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_the_class_loss_is_the_binary_cross_entropy_of_all_anchors_and_classes() -> None:
    from detection.yolov10.losses import class_loss

    logits = random(2, 5, CLASSES)
    targets = np.zeros((2, 5, CLASSES))
    for flat, label, score in zip(POSITIVE, LABELS, SCORES, strict=True):
        targets[flat // 5, flat % 5, label] = score
    chances = 1 / (1 + np.exp(-logits.astype(float)))
    expected = -(targets * np.log(chances) + (1 - targets) * np.log(1 - chances)).sum()
    tensor = paddle.to_tensor(logits, stop_gradient=False)
    found = class_loss(tensor, assignment())
    found.backward()
    assert float(found) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(tensor.grad.numpy(), chances - targets, atol=1e-5)


def test_the_distribution_loss_weighs_the_two_bins_around_the_distance() -> None:
    from detection.yolov10.losses import distribution_loss

    logits, distances = random(2, 4, REG_MAX), np.array([[0.0, 3.25, 7.5, 14.75], [2.0, -1.0, 40.0, 14.999]])
    # Below 0 the first bin has to be learnt, beyond the last 14.99.
    cut = np.array([[0.0, 3.25, 7.5, 14.75], [2.0, 0.0, 14.99, 14.99]])
    logarithms = log_softmax(logits.astype(float))
    expected = [
        np.mean([
            -(1 - value % 1) * logarithms[row, side, int(value)] - value % 1 * logarithms[row, side, int(value) + 1]
            for side, value in enumerate(cut[row])
        ])
        for row in range(2)
    ]  # fmt: skip
    found = distribution_loss(paddle.to_tensor(logits.reshape(2, -1)), paddle.to_tensor(distances, "float32"), REG_MAX)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_box_losses_are_weighted_by_the_scores() -> None:
    from detection.yolov10.losses import box_losses

    logits = random(2, 5, 4 * REG_MAX)
    iou = dfl = 0.0
    for flat, box, score in zip(POSITIVE, BOXES.astype(float), SCORES, strict=True):
        (x, y), stride = POINTS[flat % 5], STRIDES[flat % 5, 0]
        logarithms = log_softmax(logits[flat // 5, flat % 5].astype(float).reshape(4, REG_MAX))
        left, top, right, bottom = (np.exp(logarithms) * np.arange(REG_MAX)).sum(axis=-1) * stride
        iou += (1 - slow_iou((x - left, y - top, x + right, y + bottom), box)) * score
        wanted = np.array([x - box[0], y - box[1], box[2] - x, box[3] - y]) / stride
        wanted = np.clip(wanted, 0, REG_MAX - 1.01)
        sides = range(4)
        low = [logarithms[side, int(wanted[side])] * (1 - wanted[side] % 1) for side in sides]
        high = [logarithms[side, int(wanted[side]) + 1] * (wanted[side] % 1) for side in sides]
        dfl -= np.mean(np.add(low, high)) * score
    found = box_losses(
        paddle.to_tensor(logits), paddle.to_tensor(POINTS), paddle.to_tensor(STRIDES), assignment(), REG_MAX
    )
    assert [float(value) for value in found] == pytest.approx([iou, dfl], rel=1e-5)


def test_without_positive_anchors_box_losses_and_gradients_are_zero() -> None:
    from detection.yolov10.losses import box_losses

    logits = paddle.to_tensor(random(2, 5, 4 * REG_MAX), stop_gradient=False)
    first, second = box_losses(logits, paddle.to_tensor(POINTS), paddle.to_tensor(STRIDES), assignment(0), REG_MAX)
    (first + second).backward()
    assert float(first) == float(second) == 0
    # There is a gradient, because other processes wait for it.
    assert logits.grad.abs().max() == 0


def test_the_normaliser_is_the_sum_of_the_scores_but_at_least_one() -> None:
    from detection.yolov10.losses import normalisers

    found = normalisers([assignment(), assignment(1), assignment(0)])
    np.testing.assert_allclose(found.numpy(), [1.7, 1.0, 1.0], rtol=1e-6)
