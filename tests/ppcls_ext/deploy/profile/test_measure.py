"""Profiles of whole networks: totals, sums, and that nothing stays behind."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_ext import build_model
from ppcls_ext.deploy.profile import result
from ppcls_ext.deploy.profile.measure import NETWORK, Subject, profile_networks
from ppcls_ext.utils.errors import UserError
from tests.support.seeded import seed_weights, seeded_array

GOLDEN = json.loads((Path(__file__).parents[3] / "golden" / "models.json").read_text())


class Net(nn.Layer):
    """A convolution whose activation is called twice, a sum, and a head; one layer is only for training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 3, padding=1)
        self.act = nn.ReLU()
        self.head = nn.Linear(4, 2)
        self.auxiliary = nn.Linear(4, 5)
        self.scale = self.create_parameter([4, 1, 1])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.act(self.conv(x))
        x = self.act(x + self.scale)
        return self.head(x.mean([2, 3]))


def subject_of(network: nn.Layer, size: int = 32, name: str = "net") -> Subject:
    return Subject(name, network, network, (3, size, size))


def paddle_flops(network: nn.Layer, size: int) -> int:
    with contextlib.redirect_stdout(io.StringIO()):
        return int(paddle.flops(network, [1, 3, size, size]))


def test_figures_of_a_small_network():
    (profile,) = profile_networks([subject_of(Net(), 8)], batch=2, repeats=2)
    rows = {row.name: row for row in profile.layers}
    assert list(rows) == ["conv", "act", "head", "auxiliary", NETWORK]
    assert rows["conv"].flops == 8 * 8 * 4 * (3 * 9 + 1)
    assert rows["conv"].activation_bytes == 2 * 4 * 8 * 8 * 4
    assert rows["conv"].output_shape == (2, 4, 8, 8)
    assert rows["conv"].parameters == 4 * 3 * 9 + 4
    assert rows["act"].calls == 2
    assert rows["act"].activation_bytes == 2 * rows["conv"].activation_bytes
    assert rows["auxiliary"].calls == 0
    assert rows["auxiliary"].milliseconds == 0
    assert rows["auxiliary"].parameters == 25
    assert rows[NETWORK].kind == result.BETWEEN
    assert rows[NETWORK].parameters == 4
    assert all(row.milliseconds > 0 for row in profile.layers if row.calls)
    assert profile.forward_milliseconds > 0


@pytest.mark.parametrize("name", ["EConvNeXt_mini", "ConvNeXtV2_atto", "MobileNetV4_conv_small", "ResNet18"])
def test_totals_are_those_of_paddle(name):
    network = build_model(name, class_num=10)
    (profile,) = profile_networks([subject_of(network, 64)], repeats=1)
    assert profile.total.flops == paddle_flops(network, 64)
    assert profile.total.parameters == sum(int(p.size) for p in network.parameters() if not p.stop_gradient)
    # Every part is one of those that tables and charts show.
    for groups in (profile.by_stage(), profile.by_kind()):
        assert sum(sums.flops for sums in groups.values()) == profile.total.flops
        assert sum(sums.milliseconds for sums in groups.values()) == pytest.approx(profile.total.milliseconds)
    assert {"stem", "stage 1", "stage 2", "stage 3", "stage 4", "head"} <= set(profile.by_stage())


def test_totals_are_the_golden_ones():
    (profile,) = profile_networks([subject_of(build_model("EConvNeXt_mini"), 224)], repeats=1)
    assert profile.total.flops == GOLDEN["EConvNeXt_mini"]["flops"]
    assert profile.total.parameters == GOLDEN["EConvNeXt_mini"]["parameters"]


def test_a_batch_costs_more_memory_but_no_more_flops_for_one_image():
    network = build_model("ConvNeXtV2_atto", class_num=10)
    one, three = (profile_networks([subject_of(network)], batch=batch, repeats=1)[0] for batch in (1, 3))
    assert three.total.flops == one.total.flops
    assert three.total.activation_bytes == 3 * one.total.activation_bytes


def test_attention_of_a_stage():
    (profile,) = profile_networks([subject_of(build_model("EConvNeXt_mini", class_num=10))], repeats=1)
    inside = [row for row in profile.layers if ".attention" in row.name]
    assert {row.kind for row in inside} == {result.ATTENTION}
    assert sum(row.parameters for row in inside) == profile.by_kind()[result.ATTENTION].parameters


def hooks_of(network: nn.Layer) -> list[int]:
    layers = network.sublayers(include_self=True)
    return [len(layer._forward_pre_hooks) + len(layer._forward_post_hooks) for layer in layers]


def test_a_network_is_left_as_it_was():
    network = build_model("ConvNeXtV2_atto", class_num=10, drop_path_rate=0.3)
    seed_weights(network)
    network.train()
    network.stages[0].eval()  # A frozen part keeps its own mode.
    modes = [layer.training for layer in network.sublayers(include_self=True)]
    weights = {name: value.numpy().copy() for name, value in network.state_dict().items()}
    profile_networks([subject_of(network)], repeats=1)
    assert hooks_of(network) == [0] * len(modes)
    assert [layer.training for layer in network.sublayers(include_self=True)] == modes
    assert list(network.state_dict()) == list(weights)
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), weights[name])


def test_outputs_are_unchanged():
    network = build_model("EConvNeXt_mini", class_num=10)
    seed_weights(network)
    network.eval()
    images = paddle.to_tensor(seeded_array("other images", (2, 3, 32, 32)))
    before = network(images).numpy()
    outputs = []

    def forward(x: paddle.Tensor) -> paddle.Tensor:
        outputs.append(network(x))
        return outputs[-1]

    profile_networks([Subject("net", network, forward, (3, 32, 32))], batch=2, repeats=2)
    # With hooks and without them the same.
    assert len(outputs) > 3
    for output in outputs[1:]:
        np.testing.assert_array_equal(output.numpy(), outputs[0].numpy())
    np.testing.assert_array_equal(network(images).numpy(), before)


def test_images_that_a_network_cannot_take_are_one_line_and_leave_nothing():
    network = Refusing()
    network.train()
    with pytest.raises(UserError, match=r"^refusing does not take images of 3 x 8 x 8: only squares of 16$"):
        profile_networks([subject_of(network, 8, "refusing")], repeats=1)
    assert network.training
    assert hooks_of(network) == [0, 0]


class Refusing(nn.Layer):
    """Raises inside a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Raising()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.inner(x)


class Raising(nn.Layer):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        raise ValueError("traceback of several lines\n\nonly squares of 16\n")


def test_several_networks_side_by_side():
    networks = [build_model(name, class_num=10) for name in ("ConvNeXtV2_atto", "EConvNeXt_mini")]
    subjects = [subject_of(network, 32, name) for network, name in zip(networks, "ab", strict=True)]
    first, second = profile_networks(subjects, repeats=2)
    assert (first.name, second.name) == ("a", "b")
    assert first.total.flops == paddle_flops(networks[0], 32)
    assert second.total.flops == paddle_flops(networks[1], 32)
