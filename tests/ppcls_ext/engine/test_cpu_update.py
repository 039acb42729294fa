"""The fused optimizer step: AdamW as the paper states it, averages with the same bits, other optimizers untouched."""

from __future__ import annotations

import copy

import numpy as np
import paddle
import pytest

from ppcls_ext.engine import cpu
from ppcls_ext.engine.cpu_update import fuse_update, move_averages

SHAPES, RATE, DECAY, STEPS = ([40, 7], [40], [3, 1, 5, 5]), 1e-3, 0.05, 8


@pytest.fixture(autouse=True)
def loaded() -> None:
    cpu.load_kernels()


def parameters() -> list[paddle.Tensor]:
    generator = np.random.default_rng(0)
    made = [paddle.create_parameter(shape, "float32") for shape in SHAPES]
    for parameter in made:
        parameter.set_value(1e-2 * generator.standard_normal(parameter.shape).astype("float32"))
    return made


def gradients(step: int) -> list[np.ndarray]:
    generator = np.random.default_rng(step)
    return [(3.0**step * generator.standard_normal(shape)).astype("float32") for shape in SHAPES]


def train(made: list[paddle.Tensor], optimizer: paddle.optimizer.Optimizer, steps: range) -> None:
    for step in steps:
        for parameter, gradient in zip(made, gradients(step), strict=True):
            parameter.grad = paddle.to_tensor(gradient)
        optimizer.step()


@pytest.mark.parametrize("largest_norm", [None, 5.0])
def test_adamw_is_as_exact_as_paddles(largest_norm: float | None) -> None:
    found = {}
    for fused in (False, True):
        made = parameters()
        made[2].optimize_attr["learning_rate"] = 0.1
        bias = made[1].name
        optimizer = paddle.optimizer.AdamW(
            RATE, parameters=made, weight_decay=DECAY, apply_decay_param_fun=lambda name, bias=bias: name != bias,
            grad_clip=largest_norm and paddle.nn.ClipGradByGlobalNorm(largest_norm),
        )  # fmt: skip
        assert not fused or fuse_update(optimizer)
        train(made, optimizer, range(STEPS))
        found[fused] = [parameter.numpy() for parameter in made]
    expected = [parameter.numpy().astype("float64") for parameter in parameters()]
    moments = [[np.zeros(shape), np.zeros(shape)] for shape in SHAPES]
    for step in range(STEPS):
        given = [gradient.astype("float64") for gradient in gradients(step)]
        norm = np.sqrt(sum((gradient**2).sum() for gradient in given))
        for index, gradient in enumerate(given):
            rate, first, second = RATE * (0.1 if index == 2 else 1), *moments[index]
            gradient = gradient * (min(1.0, largest_norm / norm) if largest_norm else 1)
            first[:], second[:] = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            corrected = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
            expected[index] *= 1 - rate * (0 if index == 1 else DECAY)
            expected[index] -= rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    for index, reference in enumerate(expected):
        errors = [abs(found[fused][index] - reference).max() / abs(reference).max() for fused in (False, True)]
        assert errors[1] <= max(errors[0], 1e-6), f"ours {errors[1]:.1e}, Paddle's {errors[0]:.1e}"


def test_a_saved_state_goes_on_to_the_same_bits() -> None:
    results = []
    for interrupted in (False, True):
        made = parameters()
        # Paddle numbers the moments of a process; a resumed process begins anew.
        with paddle.utils.unique_name.guard():
            optimizer = paddle.optimizer.AdamW(RATE, parameters=made, weight_decay=DECAY)
            fuse_update(optimizer)
            train(made, optimizer, range(3))
            state = copy.deepcopy(optimizer.state_dict())
        with paddle.utils.unique_name.guard():
            if interrupted:
                optimizer = paddle.optimizer.AdamW(RATE, parameters=made, weight_decay=DECAY)
                optimizer.set_state_dict(state)
                fuse_update(optimizer)
            train(made, optimizer, range(3, 6))
        results.append([parameter.numpy() for parameter in made])
    for whole, resumed in zip(*results, strict=True):
        np.testing.assert_array_equal(whole, resumed)


def test_frozen_parameters_and_those_without_gradient_stay() -> None:
    made = parameters()
    before = [parameter.numpy() for parameter in made]
    optimizer = paddle.optimizer.AdamW(RATE, parameters=made)
    fuse_update(optimizer)
    made[0].stop_gradient = True
    for parameter, gradient in zip(made[:2], gradients(0), strict=False):
        parameter.grad = paddle.to_tensor(gradient)
    optimizer.step()
    changed = [not np.array_equal(parameter.numpy(), old) for parameter, old in zip(made, before, strict=True)]
    assert changed == [False, True, False]


def test_other_optimizers_keep_their_own_step() -> None:
    made = parameters()
    others = [
        paddle.optimizer.Momentum(RATE, parameters=made),
        paddle.optimizer.AdamW(RATE, parameters=made, amsgrad=True),
        paddle.optimizer.AdamW(RATE, parameters=made, beta2=0.0),
        paddle.optimizer.AdamW(RATE, parameters=made, grad_clip=paddle.nn.ClipGradByNorm(1.0)),
        paddle.optimizer.AdamW(RATE, parameters=[{"params": made, "learning_rate": 0.1}]),
    ]
    for optimizer in others:
        assert not fuse_update(optimizer)
        assert "step" not in vars(optimizer)


def test_averages_have_the_bits_of_paddles_operators() -> None:
    generator = np.random.default_rng(0)
    start, values = (
        [paddle.to_tensor(generator.standard_normal(shape).astype("float32")) for shape in SHAPES] for _ in range(2)
    )
    for decay in (1 / 11, 0.98, 0.9998):
        averages = [tensor.clone() for tensor in start]
        assert move_averages(averages, values, decay)
        for average, before, value in zip(averages, start, values, strict=True):
            np.testing.assert_array_equal(average.numpy(), (decay * before + (1 - decay) * value).numpy())
    assert not move_averages([start[0].astype("float64")], [values[0]], 0.5)
