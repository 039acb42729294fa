"""Pruning of hidden channels: against NumPy, exact where it must be, and told in one line where it cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_ext import build_model
from ppcls_ext.deploy.compress.expansion import find_expansions
from ppcls_ext.deploy.compress.importance import Evidence, gather_evidence, magnitude
from ppcls_ext.deploy.compress.pruning import Pruned, prune
from ppcls_ext.deploy.compress.selection import choose_channels
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import load_weights
from tests.support.seeded import seed_weights

NAME = "EConvNeXt_mini"
BLOCKS = [3, 3, 9, 3]


def seeded(**arguments: Any) -> nn.Layer:
    model = build_model(NAME, class_num=4, **arguments)
    seed_weights(model)
    model.eval()
    return model


def images(number: int = 2) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(number).normal(size=(number, 3, 32, 32)).astype(np.float32))


def rebuilt(pruned: Pruned) -> nn.Layer:
    model = build_model(NAME, class_num=4, expansion_channels=pruned.expansion_channels)
    load_weights(model, pruned.weights)
    model.eval()
    return model


def evidence_of(model: nn.Layer, batches: int = 2) -> Evidence:
    def loss_of(batch: paddle.Tensor) -> paddle.Tensor:
        return nn.functional.cross_entropy(model(batch), paddle.arange(len(batch)))

    return gather_evidence(model, find_expansions(model), [images(2 + number) for number in range(batches)], loss_of)


def test_every_block_of_the_model_is_found() -> None:
    expansions = find_expansions(seeded())
    assert [expansion.stage for expansion in expansions] == np.repeat(np.arange(4), BLOCKS).tolist()
    assert [expansion.width for expansion in expansions][:4] == [144, 144, 144, 288]


def test_a_model_without_such_blocks_is_refused() -> None:
    with pytest.raises(UserError, match="no block that can be pruned"):
        find_expansions(nn.Sequential(nn.Linear(2, 2)))


def test_channels_without_weight_go_and_outputs_stay() -> None:
    model = seeded()
    removed = 0
    with paddle.no_grad():
        for number, expansion in enumerate(find_expansions(model)):
            dead = np.arange(number % 3, expansion.width, 3)
            layer = expansion.block.expand if number % 2 else expansion.block.project
            weight = layer.weight.numpy()
            if number % 2:
                weight[dead] = 0
                bias = layer.bias.numpy()
                bias[dead] = 0
                layer.bias.set_value(bias)
            else:
                weight[:, dead] = 0
            layer.weight.set_value(weight)
            removed += len(dead)
    total = sum(expansion.width for expansion in find_expansions(model))
    pruned = prune(model, None, "magnitude", [removed / total], multiple=1)
    assert pruned.removed == pytest.approx(removed / total)
    assert pruned.expansion_channels[0] == [96, 96, 96]
    expected = model(images()).numpy()
    assert np.abs(rebuilt(pruned)(images()).numpy() - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("criterion", ["taylor", "magnitude"])
def test_ratio_zero_is_the_identity(criterion: str) -> None:
    model = seeded()
    pruned = prune(model, evidence_of(model, 1), criterion, [0.0])
    assert pruned.removed == 0
    assert all(np.array_equal(pruned.weights[name], value.numpy()) for name, value in model.state_dict().items())
    assert np.array_equal(rebuilt(pruned)(images()).numpy(), model(images()).numpy())


def test_magnitude_against_numpy() -> None:
    expansion = find_expansions(seeded())[5]
    expand, project = expansion.block.expand, expansion.block.project
    expected = []
    for channel in range(expansion.width):
        incoming = np.sqrt((expand.weight.numpy()[channel] ** 2).sum() + expand.bias.numpy()[channel] ** 2)
        expected.append(incoming * np.sqrt((project.weight.numpy()[:, channel] ** 2).sum()))
    np.testing.assert_allclose(magnitude(expansion), np.array(expected) / np.mean(expected), rtol=1e-5)


def kept_values(expansion: Any) -> tuple[list[paddle.Tensor], Any]:
    """Keeps what goes into the last layer of a block, with its gradients; the hook that it returns must be removed."""
    seen: list[paddle.Tensor] = []

    def keep(_: nn.Layer, inputs: tuple[paddle.Tensor, ...]) -> None:
        inputs[0].retain_grads()
        seen.append(inputs[0])

    return seen, expansion.block.project.register_forward_pre_hook(keep)


def test_taylor_importance_and_means_against_numpy() -> None:
    """The squared sum of value times gradient, from the values themselves rather than from the weights."""
    model = seeded()
    expansion = find_expansions(model)[4]
    seen, hook = kept_values(expansion)
    expected, means = [], []
    for number in (2, 3):
        nn.functional.cross_entropy(model(images(number)), paddle.arange(number)).backward()
        values, gradients = seen[-1].numpy().astype(np.float64), seen[-1].grad.numpy()
        expected.append((values * gradients).sum(axis=(0, 2, 3)) ** 2)
        means.append(values.mean(axis=(0, 2, 3)))
        for parameter in model.parameters():
            parameter.clear_gradient()
    hook.remove()
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    evidence = evidence_of(model)
    assert evidence.batches == 2
    expected = np.mean(expected, axis=0)
    np.testing.assert_allclose(evidence.taylor[4], expected, rtol=1e-3, atol=1e-4 * expected.max())
    np.testing.assert_allclose(evidence.activation[4], np.mean(means, axis=0), rtol=1e-4, atol=1e-6)
    assert all(np.array_equal(value.numpy(), before[name]) for name, value in model.state_dict().items())
    assert not any(np.any(parameter.grad.numpy()) for parameter in model.parameters() if parameter.grad is not None)


def test_a_channel_that_is_constant_goes_into_the_bias() -> None:
    model = seeded()
    expansion = find_expansions(model)[0]
    with paddle.no_grad():
        weight = expansion.block.expand.weight.numpy()
        weight[:8] = 0  # The bias remains: the channel has the same value everywhere.
        expansion.block.expand.weight.set_value(weight)
    evidence = evidence_of(model)
    evidence.taylor[0][8:] = 1 + np.arange(expansion.width - 8)
    evidence.taylor[0][:8] = 0
    pruned = prune(model, evidence, "taylor", [8 / (3 * 144) + 1e-6, 0, 0, 0], multiple=8)
    assert pruned.expansion_channels[0] == [136, 144, 144]
    expected = model(images()).numpy()
    assert np.abs(rebuilt(pruned)(images()).numpy() - expected).max() < 1e-5 * np.abs(expected).max()


def test_choice_of_the_whole_network_and_of_each_stage() -> None:
    importance = [np.arange(16.0), 100 + np.arange(16.0), np.arange(32.0)[::-1]]
    stages = [0, 0, 1]
    together = choose_channels(importance, stages, [0.375], multiple=4)
    assert [len(kept) for kept in together] == [4, 16, 20]
    np.testing.assert_array_equal(together[0], [12, 13, 14, 15])
    np.testing.assert_array_equal(together[2], np.arange(20))
    each = choose_channels(importance, stages, [0.25, 0.5], multiple=4)
    assert [len(kept) for kept in each] == [8, 16, 16]


def test_widths_are_rounded_and_never_zero() -> None:
    importance = [np.arange(20.0), 100 + np.arange(20.0)]
    assert [len(kept) for kept in choose_channels(importance, [0, 0], [0.5], 8)] == [8, 20]
    assert [len(kept) for kept in choose_channels(importance, [0, 0], [0.3], 8)] == [8, 20]
    assert [len(kept) for kept in choose_channels(importance, [0, 0], [0.075], 8)] == [16, 20]


@pytest.mark.parametrize(
    ("ratio", "multiple", "message"),
    [([1.0], 8, "--ratio: must be at least 0 and below 1, got 1"), ([-0.1], 8, "--ratio"),
     ([float("nan")], 8, "--ratio"), ([0.1, 0.1], 8, "one number, or 3"), ([0.1], 0, "--multiple")],
)  # fmt: skip
def test_wrong_numbers_are_refused(ratio: list[float], multiple: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_channels([np.ones(8)] * 3, [0, 1, 2], ratio, multiple)


def test_an_unknown_criterion_is_refused() -> None:
    with pytest.raises(UserError, match="unknown 'tailor'.*did you mean 'taylor'"):
        prune(seeded(), None, "tailor", [0.1])


@pytest.mark.parametrize("wrong", [[[1]], [[8] * 3, [8] * 3, [8] * 9, [8, 8, 0]], [[8] * 3, [8] * 3, [8] * 9, 8]])
def test_models_refuse_wrong_widths(wrong: Any) -> None:
    with pytest.raises(ValueError, match="expansion_channels: must be"):
        build_model(NAME, expansion_channels=wrong)


CHANNELS_LAST = {"width_multiplier": 0.25, "class_num": 4}


def seeded_convnext() -> nn.Layer:
    model = build_model("ConvNeXtV1_tiny", **CHANNELS_LAST)
    seed_weights(model)
    model.eval()
    return model


def rebuilt_convnext(pruned: Pruned) -> nn.Layer:
    model = build_model("ConvNeXtV1_tiny", **CHANNELS_LAST, expansion_channels=pruned.expansion_channels)
    load_weights(model, pruned.weights)
    model.eval()
    return model


def test_convnext_loses_channels_without_weight_and_keeps_its_outputs() -> None:
    model = seeded_convnext()
    expansions = find_expansions(model)
    assert [expansion.width for expansion in expansions][:4] == [96, 96, 96, 192]
    removed = 0
    for number, expansion in enumerate(expansions):
        dead = np.arange(number % 3, expansion.width, 3)
        expand, project = expansion.block.expand, expansion.block.project
        if number % 2:
            weight, bias = expand.weight.numpy(), expand.bias.numpy()
            weight[:, dead], bias[dead] = 0, 0
            expand.weight.set_value(weight)
            expand.bias.set_value(bias)
        else:
            weight = project.weight.numpy()
            weight[dead] = 0
            project.weight.set_value(weight)
        removed += len(dead)
    total = sum(expansion.width for expansion in expansions)
    pruned = prune(model, None, "magnitude", [removed / total], multiple=1)
    assert pruned.expansion_channels[0] == [64, 64, 64]
    expected = model(images()).numpy()
    assert np.abs(rebuilt_convnext(pruned)(images()).numpy() - expected).max() < 1e-5 * np.abs(expected).max()


def test_evidence_of_convnext_is_that_of_its_values() -> None:
    model = seeded_convnext()
    expansion = find_expansions(model)[4]
    seen, hook = kept_values(expansion)
    nn.functional.cross_entropy(model(images(2)), paddle.arange(2)).backward()
    hook.remove()
    values, gradients = seen[-1].numpy().astype(np.float64), seen[-1].grad.numpy()
    for parameter in model.parameters():
        parameter.clear_gradient()
    evidence = evidence_of(model, 1)
    expected = (values * gradients).sum(axis=(0, 1, 2)) ** 2
    np.testing.assert_allclose(evidence.taylor[4], expected, rtol=1e-3, atol=1e-4 * expected.max())
    np.testing.assert_allclose(evidence.activation[4], values.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-6)
    weight = expansion.block.expand.weight.numpy()
    weight[:, :8] = 0  # The bias remains: the channel has the same value everywhere.
    expansion.block.expand.weight.set_value(weight)
    evidence = evidence_of(model, 1)
    for number in (3, 4, 5):
        evidence.taylor[number][:] = 1 + np.arange(expansion.width)
    evidence.taylor[4][:8] = 0
    pruned = prune(model, evidence, "taylor", [0, 8 / (3 * 192) + 1e-6, 0, 0], multiple=8)
    assert pruned.expansion_channels[1] == [192, 184, 192]
    expected = model(images()).numpy()
    assert np.abs(rebuilt_convnext(pruned)(images()).numpy() - expected).max() < 1e-5 * np.abs(expected).max()


def test_convnext_v2_is_refused_because_its_response_norm_mixes_the_channels() -> None:
    with pytest.raises(UserError, match="no block that can be pruned"):
        find_expansions(build_model("ConvNeXtV2_atto", width_multiplier=0.5))
