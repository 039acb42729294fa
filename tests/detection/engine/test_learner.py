"""What a checkpoint of the learner holds, on a network of one layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from detection.engine.learner import Learner
from detection.engine.parts import Parts
from ppcls_ext.engine.environment import Environment

ALONE = Environment("cpu", 0, 1, 0)
BATCH = {"image": np.ones((2, 3), dtype="float32")}


class Line(paddle.nn.Layer):
    """A detector as the learner sees one: a batch in, losses out."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = paddle.nn.Linear(3, 1)
        self.listed = paddle.nn.Linear(3, 1)

    def forward(self, batch: dict[str, Any]) -> dict[str, paddle.Tensor]:
        image = paddle.to_tensor(batch["image"])
        return {"loss": ((self.trained(image) + self.listed(image) - 3) ** 2).mean()}


def make_learner(cycle_epoch: int = -1) -> Learner:
    pytest.importorskip("ppdet")
    from ppdet.optimizer import ModelEMA

    model = Line()
    rate = paddle.optimizer.lr.PiecewiseDecay([100], [0.1, 0.01])
    optimizer = paddle.optimizer.Momentum(rate, parameters=model.parameters())
    average = ModelEMA(model, decay=0.5, cycle_epoch=cycle_epoch, ema_black_list=["listed"])
    return Learner(Parts(None, None, model, rate, optimizer, average), {}, ALONE)  # type: ignore[arg-type]


def train(learner: Learner, batches: int) -> None:
    for number in range(batches):
        learner.train_batch(BATCH, 0, number)


def evaluated(learner: Learner) -> dict[str, np.ndarray]:
    with learner.averaged():
        return {name: value.numpy() for name, value in learner.model.state_dict().items()}


def assert_equal(left: Any, right: Any) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)


def test_at_the_end_of_a_cycle_the_checkpoint_holds_what_was_evaluated() -> None:
    learner = make_learner(cycle_epoch=1)
    train(learner, 3)
    before = evaluated(learner)
    learner.end_epoch()
    arrays = learner.arrays()
    assert_equal(arrays["ema"], before)
    assert not np.array_equal(before["trained.weight"], arrays["model"]["trained.weight"])
    assert learner.state()["average"] == {"step": 0, "epoch": 0}
    train(learner, 1)
    # One step after the average began anew, it is what was trained.
    np.testing.assert_allclose(evaluated(learner)["trained.weight"], learner.model.trained.weight.numpy(), rtol=1e-6)


def test_what_is_never_averaged_follows_the_model_after_a_resume() -> None:
    whole = make_learner()
    train(whole, 2)
    state, arrays = whole.state(), whole.arrays()
    resumed = make_learner()
    resumed.restore(state, arrays, "checkpoint")
    for learner in (whole, resumed):
        train(learner, 2)
    assert_equal(resumed.arrays()["ema"], whole.arrays()["ema"])
    np.testing.assert_array_equal(evaluated(resumed)["listed.weight"], resumed.model.listed.weight.numpy())


def test_looking_at_the_average_freezes_nothing() -> None:
    learner = make_learner()
    train(learner, 1)
    learner.arrays()
    before = learner.model.listed.weight.numpy().copy()
    train(learner, 1)
    assert not np.array_equal(learner.model.listed.weight.numpy(), before)
