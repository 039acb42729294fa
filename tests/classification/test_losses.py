"""Losses and metrics against NumPy: smoothing, mixed labels, gradients; ties and answers that are no numbers."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from classification.losses import CELoss, WeightedSum
from classification.metrics import TopkAcc

GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.normal(0, 3, (5, 4)).astype("float32")
LABEL = np.array([0, 3, 1, 1, 2])
MIXED = np.array([3, 0, 1, 2, 2])
NAN, INFINITE = float("nan"), float("inf")


def by_hand(logits: np.ndarray, target: np.ndarray) -> float:
    """Mean cross-entropy of ``[N, C]`` logits and ``[N, C]`` target probabilities."""
    logits = logits.astype("float64")
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(-(target * log_probabilities).sum(axis=1).mean())


def smoothed(label: np.ndarray, epsilon: float, classes: int = 4) -> np.ndarray:
    return np.eye(classes)[label] * (1 - epsilon) + epsilon / classes


def compute(loss, mixed: np.ndarray | None = None, lam: float = 1.0, weights: np.ndarray | None = None) -> float:
    mixed, weights = (None if value is None else paddle.to_tensor(value) for value in (mixed, weights))
    result = loss(paddle.to_tensor(LOGITS), paddle.to_tensor(LABEL), mixed, lam, weights)
    assert (result.dtype, result.shape) == (paddle.float32, [])
    return float(result)


@pytest.mark.parametrize("epsilon", [None, 0.1])
@pytest.mark.parametrize("lam", [0.3, 1.0])
def test_smoothed_and_mixed_labels_weigh_by_their_share_and_classes_by_their_weight(epsilon, lam):
    plain = lam * smoothed(LABEL, epsilon or 0.0) + (1 - lam) * smoothed(MIXED, epsilon or 0.0)
    assert compute(CELoss(epsilon), MIXED, lam) == pytest.approx(by_hand(LOGITS, plain), rel=1e-5)
    if lam == 1.0:
        assert compute(CELoss(epsilon), MIXED, lam) == compute(CELoss(epsilon))
    weights = np.array([1.0, 3.0, 0.5, 0.0], "float32")
    target = lam * weights[LABEL][:, None] * smoothed(LABEL, epsilon or 0.0)
    target = target + (1 - lam) * weights[MIXED][:, None] * smoothed(MIXED, epsilon or 0.0)
    for loss in (CELoss(epsilon), WeightedSum([CELoss(epsilon)])):
        assert compute(loss, MIXED, lam, weights) == pytest.approx(by_hand(LOGITS, target), rel=1e-5)


def test_large_logits_do_not_overflow():
    # Paddle's log_softmax on the CPU stops at -64, so the differences stay below that.
    logits = np.array([[1040.0, 1000.0, 1020.0, 1020.0]] * 5, dtype="float32")
    hard, even = (0 + 20 + 40 + 40 + 20) / 5, (0 + 40 + 20 + 20) / 4
    loss = CELoss(0.1)(paddle.to_tensor(logits), paddle.to_tensor(LABEL))
    assert float(loss) == pytest.approx(0.9 * hard + 0.1 * even, rel=1e-6)


def test_the_loss_is_computed_in_float32_whatever_the_logits_are():
    logits = paddle.to_tensor(LOGITS).astype("float16")
    loss = CELoss(0.1)(logits, paddle.to_tensor(LABEL))
    exact = by_hand(logits.astype("float32").numpy(), smoothed(LABEL, 0.1))
    assert (loss.dtype, float(loss)) == (paddle.float32, pytest.approx(exact, rel=1e-5))


def test_the_gradient_is_probability_minus_target():
    logits = paddle.to_tensor(LOGITS, stop_gradient=False)
    CELoss(0.1)(logits, paddle.to_tensor(LABEL), paddle.to_tensor(MIXED), 0.3).backward()
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    target = 0.3 * smoothed(LABEL, 0.1) + 0.7 * smoothed(MIXED, 0.1)
    np.testing.assert_allclose(logits.grad.numpy(), (probabilities - target) / len(LABEL), rtol=1e-4, atol=1e-6)


def test_weighted_sum():
    total = WeightedSum([CELoss(weight=2.0), CELoss(0.1, weight=0.5)])
    expected = 2 * by_hand(LOGITS, smoothed(LABEL, 0)) + 0.5 * by_hand(LOGITS, smoothed(LABEL, 0.1))
    assert compute(total) == pytest.approx(expected, rel=1e-5)


def hits(topk, logits, label) -> list[float]:
    return TopkAcc(topk).hits(paddle.to_tensor(np.array(logits, "float32")), paddle.to_tensor(np.array(label))).tolist()


def test_topk_against_sorting():
    generator = np.random.default_rng(0)
    logits, label = generator.normal(size=(200, 12)), generator.integers(0, 12, 200)
    order = np.argsort(-logits.astype("float32"), axis=1)
    expected = [float((order[:, :k] == label[:, None]).any(axis=1).sum()) for k in (1, 3, 5)]
    assert hits([1, 3, 5], logits, label) == expected
    assert TopkAcc([1, 5]).names == ["top1", "top5"]


@pytest.mark.parametrize(
    ("topk", "logits", "label", "expected"),
    [
        pytest.param([1, 2], [[5, 5, 0]] * 3, [0, 1, 2], [1, 2], id="ties go to the lower class"),
        pytest.param([1, 5], [[0, 1], [1, 0], [-INFINITE, 1]], [0, 0, 0], [1, 3], id="fewer classes than places"),
        pytest.param([1, 3], [[NAN, 0, 0], [0, NAN, NAN], [1, NAN, 0], [1, 0, 0]], [0] * 4, [1, 1], id="NaN is wrong"),
    ],
)
def test_topk_of_unusual_scores(topk, logits, label, expected):
    assert hits(topk, logits, label) == expected
