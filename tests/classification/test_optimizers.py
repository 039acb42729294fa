"""Optimizers: which parameters decay, single steps against NumPy, and clipping."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from classification.optimizers import SGD, Adam, AdamW, Momentum, OptimizerSettings, RMSProp

RATE = 0.1


class Tiny(paddle.nn.Layer):
    """``[N, 3]`` -> ``[N, 2]``, with a norm and a table of two dimensions that is to be spared by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.position_table = self.create_parameter([1, 3])
        self.norm = paddle.nn.LayerNorm(3)
        self.linear = paddle.nn.Linear(3, 2)

    def forward(self, features: paddle.Tensor) -> paddle.Tensor:
        """``[N, 3]`` -> ``[N, 2]``."""
        return self.linear(self.norm(features + self.position_table))


@pytest.fixture
def model():
    paddle.seed(0)
    return Tiny()


def arrays_of(model, what=lambda parameter: parameter) -> dict[str, np.ndarray]:
    return {name: what(parameter).numpy().astype("float64") for name, parameter in model.named_parameters()}


def step(settings, model):
    """Does an optimizer step; returns the parameters before it, the gradients, and the parameters after it."""
    optimizer = settings.build(list(model.named_parameters()))
    optimizer.set_lr(RATE)
    features = paddle.to_tensor(np.arange(6, dtype="float32").reshape(2, 3) ** 2)
    (model(features) ** 2).sum().backward()
    before, gradients = arrays_of(model), arrays_of(model, lambda parameter: parameter.grad)
    optimizer.step()
    return before, gradients, arrays_of(model)


def test_which_parameters_decay(model):
    for rules, expected in (
        ({}, {"position_table", "norm.weight", "norm.bias", "linear.weight", "linear.bias"}),
        ({"one_dim_param_no_weight_decay": True}, {"position_table", "linear.weight"}),
        ({"no_weight_decay_name": "table bias"}, {"norm.weight", "linear.weight"}),
        ({"one_dim_param_no_weight_decay": True, "no_weight_decay_name": "position_table"}, {"linear.weight"}),
    ):
        decays = OptimizerSettings(**rules).decays
        assert {name for name, parameter in model.named_parameters() if decays(name, parameter)} == expected, rules


def test_adamw_decays_the_weights_and_not_the_gradient(model):
    """Loshchilov and Hutter, algorithm 2, of which the first step has the gradient as mean and its square."""
    settings = AdamW(epsilon=1e-3, weight_decay=0.5, one_dim_param_no_weight_decay=True)
    before, gradients, after = step(settings, model)
    for name, gradient in gradients.items():
        decay = 0.5 if before[name].ndim > 1 else 0.0
        expected = before[name] * (1 - RATE * decay) - RATE * gradient / (np.abs(gradient) + 1e-3)
        np.testing.assert_allclose(after[name], expected, rtol=1e-3, atol=1e-5, err_msg=name)


# The move of a parameter, given the gradient with the decay in it.
FORMULAS = [
    (Momentum(momentum=0.5, use_nesterov=True, weight_decay=0.5, one_dim_param_no_weight_decay=True), 0.5,
     lambda total: 1.5 * total),
    (Adam(epsilon=1.0, weight_decay=10.0, one_dim_param_no_weight_decay=True), 10.0,
     lambda total: total / (np.abs(total) + 1.0)),
    (RMSProp(momentum=0.5, rho=0.75, epsilon=0.5, weight_decay=2.0, one_dim_param_no_weight_decay=True), 2.0,
     lambda total: total / np.sqrt(0.25 * total**2 + 0.5)),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "decay", "move"), FORMULAS, ids=lambda value: type(value).__name__)
def test_the_others_put_the_decay_of_decaying_parameters_into_the_gradient(model, settings, decay, move):
    before, gradients, after = step(settings, model)
    for name, gradient in gradients.items():
        total = gradient + (decay * before[name] if before[name].ndim > 1 else 0.0)
        np.testing.assert_allclose(after[name], before[name] - RATE * move(total), rtol=1e-3, atol=1e-4, err_msg=name)


def test_the_norm_is_clipped_over_decaying_and_spared_parameters_together(model):
    """Paddle clips the norm of each parameter group by itself, so there must be one group only."""
    settings = SGD(weight_decay=1e-9, one_dim_param_no_weight_decay=True, clip_norm=1.0)
    before, gradients, after = step(settings, model)
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
    assert norm > 1, "nothing would be clipped: the test proves nothing"
    for name, gradient in gradients.items():
        np.testing.assert_allclose(before[name] - after[name], RATE * gradient / norm, 1e-4, 1e-6, err_msg=name)


def test_clip_value_cuts_each_entry(model):
    before, gradients, after = step(SGD(clip_value=0.25), model)
    assert any((np.abs(gradient) > 0.25).any() for gradient in gradients.values())
    for name, gradient in gradients.items():
        expected = before[name] - RATE * np.clip(gradient, -0.25, 0.25)
        np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("settings_class", "arguments", "name"),
    [
        (AdamW, {"beta1": 1.0}, "beta1"),
        (RMSProp, {"multi_precision": True}, "multi_precision"),
        (SGD, {"clip_norm": 1.0, "clip_value": 1.0}, "clip_value: cannot stand beside clip_norm"),
    ],
)
def test_values_out_of_range_are_refused_by_name(settings_class, arguments, name):
    with pytest.raises(ValueError, match=name):
        settings_class(**arguments)
