"""The moving average: its formula, what it averages, and that evaluating it leaves no trace."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_ext.engine.ema import ExponentialMovingAverage
from tests.support.runs import same_arrays


class Small(paddle.nn.Layer):
    """``[N, 3]`` -> ``[N, 2]``, with running statistics and a counter that is no floating-point number."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = paddle.nn.BatchNorm1D(3)
        self.linear = paddle.nn.Linear(3, 2)
        self.register_buffer("steps", paddle.zeros([1], dtype="int64"))

    def forward(self, features: paddle.Tensor) -> paddle.Tensor:
        """``[N, 3]`` -> ``[N, 2]``."""
        self.steps.add_(paddle.ones([1], dtype="int64"))
        return self.linear(self.norm(features))


def state_of(model) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def disturb(model, seed: int) -> None:
    """Changes every weight and statistic, as a training step does."""
    generator = np.random.default_rng(seed)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.set_value(generator.normal(size=value.shape).astype("float32"))
        else:
            value.set_value(value.numpy() + 1)


@pytest.fixture
def model():
    paddle.seed(0)
    return Small()


def test_the_formula_with_its_rising_decay(model):
    average = ExponentialMovingAverage(model, decay=0.3)
    expected = {name: value.astype("float64") for name, value in state_of(model).items()}
    # (1 + n) / (10 + n) for n = 1, 2, 3, 4 is 0.18, 0.25, 0.31, 0.36: the limit of 0.3 acts from the third on.
    for number, decay in enumerate([2 / 11, 3 / 12, 0.3, 0.3], start=1):
        disturb(model, number)
        average.update()
        for name, value in state_of(model).items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    result = average.state()
    for name in ("linear.weight", "linear.bias", "norm.weight", "norm._mean", "norm._variance"):
        np.testing.assert_allclose(result[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert average.updates == 4


def test_evaluation_uses_the_average_and_leaves_no_trace_also_after_an_error(model):
    average = ExponentialMovingAverage(model, 0.9)
    assert same_arrays(average.state(), state_of(model)), "it starts at the model's weights"
    disturb(model, 1)
    average.update()
    trained, averaged = state_of(model), average.state()
    optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
    assert not same_arrays(trained, averaged)
    # What is no floating-point number is the model's.
    assert (averaged["steps"].tolist(), averaged["steps"].dtype) == ([1], np.int64)
    with pytest.raises(ZeroDivisionError), average.applied():
        assert same_arrays(state_of(model), averaged)
        raise ZeroDivisionError
    assert same_arrays(state_of(model), trained)
    assert same_arrays(average.state(), averaged)
    # Optimizer and average still refer to the same tensors.
    model(paddle.ones([2, 3])).sum().backward()
    optimizer.step()
    average.update()
    assert not np.array_equal(trained["linear.bias"], state_of(model)["linear.bias"])
    assert not np.array_equal(averaged["linear.bias"], average.state()["linear.bias"])


def test_a_restored_average_continues_bit_for_bit(model):
    average = ExponentialMovingAverage(model, 0.9999)
    disturb(model, 1)
    average.update()
    other = Small()
    other.set_state_dict(state_of(model))
    restored = ExponentialMovingAverage(other, 0.9999)
    restored.restore(average.state(), average.updates)
    for seed in (2, 3):
        disturb(model, seed)
        disturb(other, seed)
        average.update()
        restored.update()
    assert same_arrays(average.state(), restored.state())
