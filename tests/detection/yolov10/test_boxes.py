"""Anchors, distributions and the complete IoU, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from detection.yolov10.boxes import anchor_points, boxes_around, complete_iou, distances_to, expected_distances
from tests.support.yolov10 import slow_iou


def iou_of(first: list[float], second: list[float]) -> float:
    return float(complete_iou(paddle.to_tensor(first), paddle.to_tensor(second)))


def test_anchors_are_the_centres_of_the_cells() -> None:
    features = [paddle.zeros([1, 5, 2, 3]), paddle.zeros([1, 7, 1, 2])]
    points, strides = anchor_points(features, [8, 16])
    assert points.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8], [24, 8]]
    assert strides.flatten().tolist() == [8] * 6 + [16] * 2


def test_a_distance_is_the_expectation_of_its_bins() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (5, 4, 16)).astype("float32")
    weights = np.exp(logits.astype(float))
    expected = (weights / weights.sum(-1, keepdims=True) * np.arange(16)).sum(-1)
    found = expected_distances(paddle.to_tensor(logits.reshape(5, 64)), 16)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_boxes_and_distances_are_each_others_reverse() -> None:
    points = paddle.to_tensor([[10.0, 20.0]])
    distances = paddle.to_tensor([[1.0, 2.0, 3.0, 4.0]])
    boxes = boxes_around(points, distances)
    assert boxes.tolist() == [[9.0, 18.0, 13.0, 24.0]]
    assert distances_to(points, boxes).tolist() == distances.tolist()


def test_equal_boxes_have_complete_iou_one() -> None:
    assert iou_of([3, 4, 13, 24], [3, 4, 13, 24]) == pytest.approx(1, abs=1e-6)


def test_shifted_boxes_of_equal_proportions_lose_the_distance_of_their_centres() -> None:
    # Shared 50 of 150; centres 5 apart, the box around both is 15 x 10.
    assert iou_of([0, 0, 10, 10], [5, 0, 15, 10]) == pytest.approx(1 / 3 - 25 / 325, abs=1e-6)


def test_boxes_apart_are_negative() -> None:
    # Centres 20 apart, the box around both is 30 x 10.
    assert iou_of([0, 0, 10, 10], [20, 0, 30, 10]) == pytest.approx(-400 / 1000, abs=1e-6)


def test_other_proportions_cost_by_their_angles() -> None:
    # One centre, shared 100 of 300: only the proportions count, 2 : 1 against 1 : 2.
    skew = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
    expected = 1 / 3 - skew**2 / (1 - 1 / 3 + skew)
    assert iou_of([-10, -5, 10, 5], [-5, -10, 5, 10]) == pytest.approx(expected, abs=1e-6)


def test_random_boxes_agree_with_double_precision() -> None:
    generator = np.random.default_rng(1)
    corners = generator.uniform(0, 50, (40, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(1, 40, (40, 2))], axis=1).astype("float32")
    found = complete_iou(paddle.to_tensor(boxes).unsqueeze(0), paddle.to_tensor(boxes).unsqueeze(1)).numpy()
    expected = [[slow_iou(one, other) for one in boxes] for other in boxes]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_gradients_take_the_weight_of_the_proportions_as_given() -> None:
    box = paddle.to_tensor([2.0, 3.0, 30.0, 21.0], stop_gradient=False)
    other = [0.0, 0.0, 20.0, 24.0]
    complete_iou(box, paddle.to_tensor(other)).backward()
    step, gradient = 1e-5, []
    iou, skew = plain_iou(box.tolist(), other), skew_of(box.tolist(), other)
    weight = skew / (1 - iou + skew)
    for side in range(4):
        values = []
        for sign in (1, -1):
            moved = [value + sign * step * (side == index) for index, value in enumerate(box.tolist())]
            distance = slow_iou(moved, other) - plain_iou(moved, other)
            own = skew_of(moved, other)
            own_weight = own / (1 - plain_iou(moved, other) + own)
            values.append(plain_iou(moved, other) + distance + own_weight * own - weight * own)
        gradient.append((values[0] - values[1]) / (2 * step))
    np.testing.assert_allclose(box.grad.numpy(), gradient, atol=1e-5)


def plain_iou(first: list[float], second: list[float]) -> float:
    shared = max(0.0, min(first[2], second[2]) - max(first[0], second[0])) * max(
        0.0, min(first[3], second[3]) - max(first[1], second[1])
    )
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return shared / (areas - shared)


def skew_of(first: list[float], second: list[float]) -> float:
    angles = [math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (first, second)]
    return 4 / math.pi**2 * (angles[0] - angles[1]) ** 2


@pytest.mark.parametrize("box", [[5, 5, 5, 5], [5, 5, 5, 9], [5, 5, 9, 5]])
def test_boxes_without_area_give_finite_values_and_gradients(box: list[float]) -> None:
    predicted = paddle.to_tensor([float(value) for value in box], stop_gradient=False)
    value = complete_iou(predicted, paddle.to_tensor([float(number) for number in box]))
    value.backward()
    assert math.isfinite(float(value))
    assert np.isfinite(predicted.grad.numpy()).all()
