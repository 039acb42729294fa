"""Pruning of hidden channels: against NumPy, exact where it must be, and told in one line where it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_ext import build_model
from ppcls_ext.deploy.prune import (
    Evidence,
    Pruned,
    PruningRequest,
    choose_channels,
    find_expansions,
    gather_evidence,
    magnitude,
    prune,
)
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import load_weights
from tests.support.seeded import seed_weights

# Convolutions [out, in, 1, 1], and linear layers [in, out].
MODELS: dict[str, dict[str, Any]] = {
    "EConvNeXt_mini": {"width_multiplier": 0.5, "depth_multiplier": 0.34},
    "ConvNeXtV1_tiny": {"width_multiplier": 0.25, "depth_multiplier": 0.34},
}


def seeded(name: str) -> nn.Layer:
    model = build_model(name, class_num=4, **MODELS[name])
    seed_weights(model)
    model.eval()
    return model


def rebuilt(name: str, pruned: Pruned) -> nn.Layer:
    model = build_model(name, class_num=4, expansion_channels=pruned.expansion_channels, **MODELS[name])
    load_weights(model, pruned.weights)
    model.eval()
    return model


def images(number: int = 2) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(number).normal(size=(number, 3, 32, 32)).astype(np.float32))


def evidence_of(model: nn.Layer, batches: int = 2) -> Evidence:
    losses = (
        nn.functional.cross_entropy(model(images(2 + number)), paddle.arange(2 + number)) for number in range(batches)
    )
    return gather_evidence(model, find_expansions(model), losses)


def check_same_outputs(name: str, pruned: Pruned, model: nn.Layer) -> None:
    expected = model(images()).numpy()
    assert np.abs(rebuilt(name, pruned)(images()).numpy() - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_blocks_of_a_model_are_found() -> None:
    expansions = find_expansions(seeded("EConvNeXt_mini"))
    assert [expansion.stage for expansion in expansions] == np.repeat(np.arange(4), [2, 2, 4, 2]).tolist()
    assert [expansion.width for expansion in expansions][:4] == [72, 72, 144, 144]
    # The response norm of ConvNeXt V2 mixes the channels.
    for model in (nn.Sequential(nn.Linear(2, 2)), build_model("ConvNeXtV2_atto", width_multiplier=0.5)):
        with pytest.raises(UserError, match="no block that can be pruned"):
            find_expansions(model)


@pytest.mark.parametrize("name", MODELS)
def test_channels_without_weight_go_and_outputs_stay(name: str) -> None:
    model = seeded(name)
    removed = 0
    for number, expansion in enumerate(find_expansions(model)):
        dead = np.arange(number % 3, expansion.width, 3)
        layer = expansion.block.expand if number % 2 else expansion.block.project
        weight, bias = layer.weight.numpy(), layer.bias.numpy()
        channel_last = (weight.ndim == 4) != (number % 2 == 1)
        weight[(slice(None), dead) if channel_last else dead] = 0
        layer.weight.set_value(weight)
        if number % 2:
            bias[dead] = 0
            layer.bias.set_value(bias)
        removed += len(dead)
    expansions = find_expansions(model)
    share = removed / sum(expansion.width for expansion in expansions)
    pruned = prune(model, None, "magnitude", [share], multiple=1)
    assert pruned.removed == pytest.approx(share)
    assert pruned.expansion_channels[0] == [2 * expansions[0].width // 3] * 2
    check_same_outputs(name, pruned, model)


def test_magnitude_against_numpy() -> None:
    expansion = find_expansions(seeded("EConvNeXt_mini"))[5]
    expand, project = expansion.block.expand, expansion.block.project
    incoming = np.sqrt((expand.weight.numpy() ** 2).sum((1, 2, 3)) + expand.bias.numpy() ** 2)
    expected = incoming * np.sqrt((project.weight.numpy() ** 2).sum((0, 2, 3)))
    np.testing.assert_allclose(magnitude(expansion), expected / expected.mean(), rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_taylor_importance_and_means_against_numpy(name: str) -> None:
    """The squared sum of value times gradient, from the values themselves rather than from the weights."""
    model = seeded(name)
    expansion = find_expansions(model)[4]
    others = (0, 2, 3) if expansion.block.project.weight.ndim == 4 else (0, 1, 2)
    seen: list[paddle.Tensor] = []

    def keep(_: nn.Layer, inputs: tuple[paddle.Tensor, ...]) -> None:
        inputs[0].retain_grads()
        seen.append(inputs[0])

    hook = expansion.block.project.register_forward_pre_hook(keep)
    expected, means = [], []
    for number in (2, 3):
        nn.functional.cross_entropy(model(images(number)), paddle.arange(number)).backward()
        values, gradients = seen[-1].numpy().astype(np.float64), seen[-1].grad.numpy()
        expected.append((values * gradients).sum(axis=others) ** 2)
        means.append(values.mean(axis=others))
        for parameter in model.parameters():
            parameter.clear_gradient()
    hook.remove()
    before = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    evidence = evidence_of(model)
    assert evidence.batches == 2
    wanted = np.mean(expected, axis=0)
    np.testing.assert_allclose(evidence.taylor[4], wanted, rtol=1e-3, atol=1e-4 * wanted.max())
    np.testing.assert_allclose(evidence.activation[4], np.mean(means, axis=0), rtol=1e-4, atol=1e-6)
    assert all(np.array_equal(value.numpy(), before[key]) for key, value in model.state_dict().items())
    assert not any(np.any(parameter.grad.numpy()) for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("name", MODELS)
def test_a_channel_that_is_constant_goes_into_the_bias(name: str) -> None:
    model = seeded(name)
    first = find_expansions(model)[0]
    weight = first.block.expand.weight.numpy()
    weight[slice(0, 8) if weight.ndim == 4 else (slice(None), slice(0, 8))] = 0  # The bias remains.
    first.block.expand.weight.set_value(weight)
    evidence = evidence_of(model, 1)
    for importance in evidence.taylor:
        importance[:] = 1 + np.arange(len(importance))
    evidence.taylor[0][:8] = 0
    pruned = prune(model, evidence, "taylor", [8 / (2 * first.width) + 1e-6, 0, 0, 0], multiple=8)
    assert pruned.expansion_channels[0] == [first.width - 8, first.width]
    check_same_outputs(name, pruned, model)


def test_choice_of_the_whole_network_and_of_each_stage() -> None:
    importance = [np.arange(16.0), 100 + np.arange(16.0), np.arange(32.0)[::-1]]
    stages = [0, 0, 1]
    together = choose_channels(importance, stages, [0.375], multiple=4)
    assert [len(kept) for kept in together] == [4, 16, 20]
    np.testing.assert_array_equal(together[0], [12, 13, 14, 15])
    np.testing.assert_array_equal(together[2], np.arange(20))
    each = choose_channels(importance, stages, [0.25, 0.5], multiple=4)
    assert [len(kept) for kept in each] == [8, 16, 16]
    with pytest.raises(UserError, match="one number, or 2"):
        choose_channels(importance, stages, [0.1, 0.1, 0.1])
    # Widths are rounded and never zero.
    importance = [np.arange(20.0), 100 + np.arange(20.0)]
    for ratio, width in ((0.5, 8), (0.075, 16)):
        assert [len(kept) for kept in choose_channels(importance, [0, 0], [ratio], 8)] == [width, 20]


def test_wrong_requests_are_told_before_any_work(tmp_path: Path) -> None:
    for changes, message in (({"ratio": (1.2,)}, "--ratio: must be"), ({"epochs": 0}, "--epochs: must be at least 1")):
        with pytest.raises(UserError, match=message):
            PruningRequest(**{"output": tmp_path, "ratio": (0.3,), **changes}).check()
    with pytest.raises(ValueError, match="expansion_channels: must be"):
        build_model("EConvNeXt_mini", expansion_channels=[[1]])
