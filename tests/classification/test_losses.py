"""Losses against NumPy: smoothing, mixed labels, weights, and gradients."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from classification.losses import CELoss, WeightedSum, loss_parameters

GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.normal(0, 3, (5, 4)).astype("float32")
LABEL = np.array([0, 3, 1, 1, 2])
MIXED = np.array([3, 0, 1, 2, 2])


def by_hand(logits: np.ndarray, target: np.ndarray) -> float:
    """Mean cross-entropy of ``[N, C]`` logits and ``[N, C]`` target probabilities."""
    logits = logits.astype("float64")
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(-(target * log_probabilities).sum(axis=1).mean())


def smoothed(label: np.ndarray, epsilon: float, classes: int = 4) -> np.ndarray:
    return np.eye(classes)[label] * (1 - epsilon) + epsilon / classes


def compute(loss, mixed: np.ndarray | None = None, lam: float = 1.0, logits: np.ndarray = LOGITS) -> float:
    mixed = None if mixed is None else paddle.to_tensor(mixed)
    return float(loss(paddle.to_tensor(logits), paddle.to_tensor(LABEL), mixed, lam))


@pytest.mark.parametrize("epsilon", [None, 0.0, 0.1, 0.9])
def test_cross_entropy_with_smoothing(epsilon):
    assert compute(CELoss(epsilon)) == pytest.approx(by_hand(LOGITS, smoothed(LABEL, epsilon or 0.0)), rel=1e-5)


@pytest.mark.parametrize("epsilon", [None, 0.1])
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_mixed_labels_weigh_by_their_share(epsilon, lam):
    target = lam * smoothed(LABEL, epsilon or 0.0) + (1 - lam) * smoothed(MIXED, epsilon or 0.0)
    assert compute(CELoss(epsilon), MIXED, lam) == pytest.approx(by_hand(LOGITS, target), rel=1e-5)


def test_an_unmixed_batch_ignores_the_second_label():
    assert compute(CELoss(0.1), MIXED, 1.0) == compute(CELoss(0.1))


def test_large_logits_do_not_overflow():
    # Paddle's log_softmax on the CPU stops at -64, so the differences stay below that.
    logits = np.array([[1040.0, 1000.0, 1020.0, 1020.0]] * 5, dtype="float32")
    hard, even = (0 + 20 + 40 + 40 + 20) / 5, (0 + 40 + 20 + 20) / 4
    assert compute(CELoss(0.1), logits=logits) == pytest.approx(0.9 * hard + 0.1 * even, rel=1e-6)


def test_the_loss_is_computed_in_float32_whatever_the_logits_are():
    logits = paddle.to_tensor(LOGITS).astype("float16")
    loss = CELoss(0.1)(logits, paddle.to_tensor(LABEL))
    assert loss.dtype == paddle.float32
    assert loss.shape == []
    exact = by_hand(logits.astype("float32").numpy(), smoothed(LABEL, 0.1))
    assert float(loss) == pytest.approx(exact, rel=1e-5)


def test_the_gradient_is_probability_minus_target():
    logits = paddle.to_tensor(LOGITS, stop_gradient=False)
    CELoss(0.1)(logits, paddle.to_tensor(LABEL), paddle.to_tensor(MIXED), 0.3).backward()
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    target = 0.3 * smoothed(LABEL, 0.1) + 0.7 * smoothed(MIXED, 0.1)
    np.testing.assert_allclose(logits.grad.numpy(), (probabilities - target) / len(LABEL), rtol=1e-4, atol=1e-6)


def test_weighted_sum():
    total = WeightedSum([(2.0, CELoss()), (0.5, CELoss(0.1))])
    expected = 2 * by_hand(LOGITS, smoothed(LABEL, 0)) + 0.5 * by_hand(LOGITS, smoothed(LABEL, 0.1))
    assert compute(total) == pytest.approx(expected, rel=1e-5)


def test_yaml_may_name_the_weight_and_the_constructors_arguments():
    assert set(loss_parameters("CELoss")) == {"epsilon", "weight"}


@pytest.mark.parametrize("epsilon", [-0.1, 1.0])
def test_epsilon_out_of_range(epsilon):
    with pytest.raises(ValueError, match="^epsilon: must be at least 0 and below 1"):
        CELoss(epsilon)
