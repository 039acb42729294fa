"""Anchors, complete IoU, assigner and losses against brute force, NumPy and numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from detection.yolov10 import loss
from detection.yolov10.loss import (
    Assignment,
    YOLOv10Assigner,
    box_losses,
    class_loss,
    complete_iou,
    normalisers,
    objects_of,
)
from ppcls_ext.utils.errors import UserError
from tests.support.yolov10 import iou_parts, make_batch, slow_assignment, slow_iou

REG_MAX = 16
CLASSES = 3
POINTS = np.array([(4.0, 4.0), (12.0, 4.0), (4.0, 12.0), (12.0, 12.0), (8.0, 8.0)], dtype="float32")
STRIDES = np.array([[8.0], [8.0], [8.0], [8.0], [16.0]], dtype="float32")
# Anchors 1 and 4 of the first image, anchor 3 of the second, from which no bin reaches the right side of its box.
POSITIVE = np.array([1, 4, 8])
BOXES = np.array([(2.0, 1.0, 20.0, 11.0), (0.0, 2.0, 14.0, 14.0), (5.0, 6.0, 400.0, 30.0)], dtype="float32")
LABELS = np.array([2, 0, 1])
SCORES = np.array([0.8, 0.3, 0.6], dtype="float32")


def assignment(count: int = len(POSITIVE)) -> Any:
    return Assignment(*(paddle.to_tensor(values[:count]) for values in (POSITIVE, BOXES, LABELS, SCORES)))


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(0, 2, shape).astype("float32")


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_the_class_loss_is_the_binary_cross_entropy_of_all_anchors_and_classes() -> None:
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


def test_box_losses_are_weighted_by_the_scores() -> None:
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
    logits = paddle.to_tensor(random(2, 5, 4 * REG_MAX), stop_gradient=False)
    first, second = box_losses(logits, paddle.to_tensor(POINTS), paddle.to_tensor(STRIDES), assignment(0), REG_MAX)
    (first + second).backward()
    assert float(first) == float(second) == 0
    # There is a gradient, because other processes wait for it.
    assert logits.grad.abs().max() == 0


def test_the_normaliser_is_the_sum_of_the_scores_but_at_least_one() -> None:
    found = normalisers([assignment(), assignment(1), assignment(0)])
    np.testing.assert_allclose(found.numpy(), [1.7, 1.0, 1.0], rtol=1e-6)


def test_random_boxes_agree_with_double_precision() -> None:
    generator = np.random.default_rng(1)
    corners = generator.uniform(0, 50, (40, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(1, 40, (40, 2))], axis=1).astype("float32")
    found = complete_iou(paddle.to_tensor(boxes).unsqueeze(0), paddle.to_tensor(boxes).unsqueeze(1)).numpy()
    expected = [[slow_iou(one, other) for one in boxes] for other in boxes]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_boxes_without_area_give_finite_values_and_gradients() -> None:
    predicted = paddle.to_tensor([5.0, 5.0, 5.0, 5.0], stop_gradient=False)
    value = complete_iou(predicted, predicted.detach())
    value.backward()
    assert np.isfinite(float(value)) and np.isfinite(predicted.grad.numpy()).all()


def test_gradients_take_the_weight_of_the_proportions_as_given() -> None:
    box = paddle.to_tensor([2.0, 3.0, 30.0, 21.0], stop_gradient=False)
    other = [0.0, 0.0, 20.0, 24.0]
    complete_iou(box, paddle.to_tensor(other)).backward()
    iou, _, skew = iou_parts(box.tolist(), other)
    weight = skew / (1 - iou + skew)

    def value(moved: np.ndarray) -> float:
        iou, apart, skew = iou_parts(moved, other)
        return iou - apart - weight * skew

    steps = 1e-5 * np.eye(4)
    gradient = [(value(box.numpy() + step) - value(box.numpy() - step)) / 2e-5 for step in steps]
    np.testing.assert_allclose(box.grad.numpy(), gradient, atol=1e-5)


SIDE = 64


def grid() -> np.ndarray:
    """Centres of the cells of a picture of 64 x 64 pixels, ``[84, 2]``."""
    maps = [np.indices((SIDE // step, SIDE // step))[::-1].reshape(2, -1).T * step + step / 2 for step in (8, 16, 32)]
    return np.concatenate(maps).astype("float32")


def predictions(generator: np.random.Generator, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores ``[N, 84, 3]`` and boxes around the anchors ``[N, 84, 4]``."""
    points = grid()
    scores = generator.uniform(0.001, 1, (images, len(points), CLASSES)).astype("float32")
    reach = generator.uniform(2, 30, (images, len(points), 4)).astype("float32")
    return scores, np.concatenate([points - reach[..., :2], points + reach[..., 2:]], axis=-1)


def random_objects(generator: np.random.Generator, number: int) -> list[tuple[Any, int]]:
    corners = generator.uniform(0, 50, (number, 2))
    far = np.minimum(corners + generator.uniform(1, 50, (number, 2)), SIDE)
    boxes = np.concatenate([corners, far], axis=1).astype("float32")
    return [(tuple(box.tolist()), int(generator.integers(CLASSES))) for box in boxes]


def assign(scores: np.ndarray, boxes: np.ndarray, batch: dict[str, paddle.Tensor], most: int) -> list[dict]:
    """Anchors of each image with their box, class and score."""
    tensors = [paddle.to_tensor(array) for array in (scores, boxes, grid())]
    found = YOLOv10Assigner().assign(*tensors, objects_of(batch), most)
    images: list[dict] = [{} for _ in scores]
    columns = (found.positive, found.boxes, found.labels, found.scores)
    for flat, box, label, score in zip(*(column.tolist() for column in columns), strict=True):
        images[flat // len(grid())][flat % len(grid())] = (tuple(box), label, score)
    return images


def check(scores: np.ndarray, boxes: np.ndarray, shown: list[list[tuple[Any, int]]], most: int) -> list[dict]:
    """Compares both versions; returns what they found."""
    found = assign(scores, boxes, make_batch(shown), most)
    for image, objects in enumerate(shown):
        expected = slow_assignment(scores[image], boxes[image], grid(), objects, most)
        assert found[image].keys() == expected.keys()
        for anchor, (number, score) in expected.items():
            assert found[image][anchor][:2] == objects[number]
            assert found[image][anchor][2] == pytest.approx(score, rel=2e-4)
    return found


@pytest.mark.parametrize(("most", "pairs_at_once"), [(10, 2**22), (1, 200)])
def test_random_boxes_are_assigned_as_by_brute_force(pairs_at_once: int, most: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(loss, "PAIRS_AT_ONCE", pairs_at_once)
    generator = np.random.default_rng(0)
    shown = [random_objects(generator, number) for number in (6, 0, 1, 12)]
    found = check(*predictions(generator, len(shown)), shown, most)
    assert found[1] == {}
    assert len(found[3]) > 3


def test_boxes_without_area_padding_and_crowds_are_left_out() -> None:
    scores, boxes = predictions(np.random.default_rng(3), 2)
    kept = ((10.0, 10.0, 50.0, 50.0), 1)
    shown = [
        [((20.0, 20.0, 20.0, 20.0), 0), ((12.0, 4.0, 12.0, 60.0), 0), kept, ((0.0, 0.0, 64.0, 64.0), 2)],
        [((0.0, 0.0, 64.0, 64.0), 2)],
    ]
    batch = make_batch(shown)
    crowd = np.zeros((2, 4, 1), np.int32)
    crowd[0, 3] = crowd[1, 0] = 1
    batch["is_crowd"] = paddle.to_tensor(crowd)
    found = assign(scores, boxes, batch, 10)
    assert found == assign(scores, boxes, make_batch([[kept], []]), 10)
    assert found[0] and not found[1]
    assert {value[:2] for value in found[0].values()} == {kept}


def test_batches_without_any_box() -> None:
    scores, predicted = predictions(np.random.default_rng(3), 2)
    # PadGT leaves no row at all, LabelsToInt64 one that is hidden.
    for rows in (0, 1):
        batch = {name: value if name == "image" else value[:, :rows] for name, value in make_batch([[], []]).items()}
        assert assign(scores, predicted, batch, 10) == [{}, {}]


def test_a_reader_without_padding_is_named() -> None:
    batch = make_batch()
    del batch["pad_gt_mask"]
    with pytest.raises(UserError, match="TrainReader: .*'pad_gt_mask'.*PadGT"):
        objects_of(batch)
