"""The losses of a distillation against NumPy."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from classification.distillation.losses import feature_loss, hard_loss, soft_loss

GENERATOR = np.random.default_rng(0)
OURS = GENERATOR.normal(0, 3, (5, 4)).astype("float32")
THEIRS = GENERATOR.normal(0, 3, (5, 4)).astype("float32")


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype("float64"))
    return powers / powers.sum(axis=1, keepdims=True)


def whitened(features: np.ndarray) -> np.ndarray:
    features = features.astype("float64")
    return (features - features.mean(1, keepdims=True)) / np.sqrt(features.var(1, keepdims=True) + 1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_soft_is_the_divergence_times_the_squared_temperature(temperature):
    p, q = softmax(THEIRS / temperature), softmax(OURS / temperature)
    expected = temperature**2 * (p * (np.log(p) - np.log(q))).sum(axis=1).mean()
    loss = soft_loss(paddle.to_tensor(OURS), paddle.to_tensor(THEIRS), temperature)
    assert (loss.dtype, loss.shape) == (paddle.float32, [])
    assert float(loss) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_of_soft_is_the_difference_of_probabilities(temperature):
    logits = paddle.to_tensor(OURS, stop_gradient=False)
    soft_loss(logits, paddle.to_tensor(THEIRS), temperature).backward()
    expected = temperature * (softmax(OURS / temperature) - softmax(THEIRS / temperature)) / len(OURS)
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_soft_is_nothing_for_the_same_answer_and_computed_in_float32():
    half = paddle.to_tensor(OURS).astype("float16")
    assert float(soft_loss(half, half + 3.0, 2.0)) == pytest.approx(0.0, abs=1e-5)
    assert soft_loss(half, half, 2.0).dtype == paddle.float32


def test_hard_takes_the_teachers_best_class_for_the_label():
    expected = -np.log(softmax(OURS))[np.arange(5), THEIRS.argmax(axis=1)].mean()
    assert float(hard_loss(paddle.to_tensor(OURS), paddle.to_tensor(THEIRS))) == pytest.approx(expected, rel=1e-5)


def test_features_are_compared_by_direction_not_by_scale():
    shapes = {"ours": [(2, 6, 4, 4), (2, 3, 2, 2)], "theirs": [(2, 6, 8, 8), (2, 3, 2, 2)]}
    ours, theirs = ([GENERATOR.normal(size=shape).astype("float32") for shape in side] for side in shapes.values())
    pooled = theirs[0].reshape(2, 6, 4, 2, 4, 2).mean(axis=(3, 5))
    parts = [((whitened(a) - whitened(b)) ** 2).mean() for a, b in zip(ours, [pooled, theirs[1]], strict=True)]
    tensors = [[paddle.to_tensor(value) for value in side] for side in (ours, theirs)]
    assert float(feature_loss(*tensors)) == pytest.approx(sum(parts) / 2, rel=1e-4)
    scaled = [4.0 * value + 7.0 for value in tensors[0]]
    assert float(feature_loss(tensors[0], scaled)) == pytest.approx(0.0, abs=1e-4)
