"""The average of a detector's weights: looking at it changes nothing, and it resumes to the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from detection.ema import DetectorEMA
from ppcls_ext.utils.errors import UserError


class Line(paddle.nn.Layer):
    """Two layers, of which the second is never averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = paddle.nn.Linear(3, 1)
        self.listed = paddle.nn.Linear(3, 1)


def make_average() -> DetectorEMA:
    from ppdet.optimizer import ModelEMA

    model = Line()
    return DetectorEMA(model, ModelEMA(model, decay=0.5, ema_black_list=["listed"]))


def train(average: DetectorEMA, updates: int) -> None:
    """Each update adds a number to all weights, unless they are frozen."""
    for number in range(updates):
        with paddle.no_grad():
            for parameter in average.model.parameters():
                if not parameter.stop_gradient:
                    parameter.set_value(parameter + 0.1 * (number + 1))
        average.update()


def evaluated(average: DetectorEMA) -> dict[str, np.ndarray]:
    with average.applied():
        return {name: value.numpy() for name, value in average.model.state_dict().items()}


def assert_equal(left: Any, right: Any) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)


def test_it_resumes_to_the_same_bits_and_what_is_never_averaged_follows_the_model() -> None:
    whole, resumed = make_average(), make_average()
    train(whole, 2)
    resumed.model.set_state_dict(whole.model.state_dict())
    # Earlier versions counted epochs, too.
    resumed.restore(whole.sums(), {**whole.counts(), "epoch": 0}, "checkpoint")
    for average in (whole, resumed):
        train(average, 2)
    assert_equal(resumed.state(), whole.state())
    np.testing.assert_array_equal(evaluated(resumed)["listed.weight"], resumed.model.listed.weight.numpy())
    with pytest.raises(UserError, match="checkpoint: its average lacks trained.bias and 1 more"):
        resumed.restore({"listed.weight": np.zeros(1), "listed.bias": np.zeros(1)}, whole.counts(), "checkpoint")
