"""Optimizer state moves between models whose generated parameter names differ, and both continue identically."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from classification.optimizers import OPTIMIZERS, AdamW
from ppcls_ext.engine.checkpoint import export_optimizer_state, import_optimizer_state
from ppcls_ext.utils.errors import UserError
from tests.support.runs import same_arrays


class Small(paddle.nn.Layer):
    """``[N, 3]`` -> ``[N, 2]``; its second layer is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first = paddle.nn.Linear(3, 4)
        self.frozen = paddle.nn.Linear(4, 4)
        self.head = paddle.nn.Linear(4, 2)
        for parameter in self.frozen.parameters():
            parameter.stop_gradient = True

    def forward(self, features: paddle.Tensor) -> paddle.Tensor:
        """``[N, 3]`` -> ``[N, 2]``."""
        return self.head(paddle.tanh(self.frozen(self.first(features))))


class Run:
    """A model with its optimizer."""

    def __init__(self, settings) -> None:
        self.model = Small()
        self.named = list(self.model.named_parameters())
        self.optimizer = settings.build(self.named)

    def step(self, number: int) -> None:
        features = np.random.default_rng(number).normal(size=(4, 3)).astype("float32")
        self.optimizer.set_lr(0.05)
        (self.model(paddle.to_tensor(features)) ** 2).sum().backward()
        self.optimizer.step()
        self.optimizer.clear_grad()

    def weights(self) -> dict[str, np.ndarray]:
        return {name: value.numpy().copy() for name, value in self.model.state_dict().items()}

    def state(self) -> dict[str, np.ndarray]:
        return export_optimizer_state(self.optimizer, self.named)


def settings_of(name: str):
    return OPTIMIZERS[name](weight_decay=0.1, one_dim_param_no_weight_decay=True, clip_norm=1.0)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_second_model_continues_identically(name):
    first = Run(settings_of(name))
    for number in range(3):
        first.step(number)
    second, stateless = Run(settings_of(name)), Run(settings_of(name))
    generated = {parameter.name for _, parameter in first.named}
    assert generated.isdisjoint(parameter.name for _, parameter in second.named), "the test needs other names"
    for run, state in ((stateless, {}), (second, first.state())):
        run.model.set_state_dict(first.weights())
        import_optimizer_state(run.optimizer, run.named, state, "checkpoint")
    assert stateless.state() == {}
    for number in range(3, 6):
        for run in (first, second, stateless):
            run.step(number)
    assert same_arrays(first.weights(), second.weights())
    assert same_arrays(first.state(), second.state())
    assert name == "SGD" or not same_arrays(first.weights(), stateless.weights()), "the test proves nothing"


def test_names_survive_generated_names_of_which_one_begins_another():
    """``linear_1.w_0`` and ``linear_10.w_0``, with more layers than digits."""
    layers = paddle.nn.Sequential(*(paddle.nn.Linear(2, 2) for _ in range(25)))
    named = list(layers.named_parameters())
    optimizer = AdamW().build(named)
    optimizer.set_lr(0.1)
    layers(paddle.ones([1, 2])).sum().backward()
    optimizer.step()
    state = export_optimizer_state(optimizer, named)
    assert len(state) == 50 * 4
    for name, parameter in named:
        assert np.array_equal(state[f"{name}/moment1_0"], optimizer.state_dict()[f"{parameter.name}_moment1_0"].numpy())


def test_state_of_a_parameter_that_the_model_lacks_is_refused():
    run = Run(settings_of("AdamW"))
    run.step(0)
    state = {name.replace("head", "classifier"): value for name, value in run.state().items()}
    with pytest.raises(UserError, match=r"^checkpoint of epoch 3: holds optimizer state for 'classifier\.\w+'"):
        import_optimizer_state(Run(settings_of("AdamW")).optimizer, run.named, state, "checkpoint of epoch 3")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.skipif(not paddle.is_compiled_with_cuda(), reason="needs a GPU: float32 copies of low-precision weights")
def test_float32_copies_of_low_precision_weights_move_too(dtype):
    runs = []
    for _ in range(2):
        run = Run(AdamW())
        run.model, run.optimizer = paddle.amp.decorate(run.model, run.optimizer, level="O2", dtype=dtype)
        runs.append(run)
    first, second = runs
    first.step(0)
    assert any(name.endswith("/master_weight") for name in first.state())
    second.model.set_state_dict(first.model.state_dict())
    import_optimizer_state(second.optimizer, second.named, first.state(), "checkpoint")
    for number in (1, 2):
        first.step(number)
        second.step(number)
    assert same_arrays(first.state(), second.state())


@pytest.mark.parametrize("name", ["AdamW", "Momentum"])
def test_parameters_that_were_frozen_begin_after_a_resume_as_without_it(name: str) -> None:
    found = []
    for resumed in (False, True):
        paddle.seed(0)
        layer = paddle.nn.Linear(3, 2)
        named = list(layer.named_parameters())

        state: dict[str, np.ndarray] = {}
        for first, last in ((0, 2), (2, 4)) if resumed else ((0, 4),):
            # Paddle numbers the moments of a process; a resumed process begins anew.
            with paddle.utils.unique_name.guard():
                own = getattr(paddle.optimizer, name)(learning_rate=0.1, parameters=layer.parameters())
                if state:
                    layer.bias.stop_gradient = False
                    import_optimizer_state(own, named, state, "here")
                for step in range(first, last):
                    layer.bias.stop_gradient = step < 2
                    layer(paddle.ones([1, 3])).square().sum().backward()
                    own.step()
                    own.clear_grad()
                state = export_optimizer_state(own, named)
        found.append([value.numpy() for _, value in named])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
