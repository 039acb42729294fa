"""The profiler: kinds and stages of layers, totals of networks, pages, tables and charts."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import paddle
import pandas
import pytest
from paddle import nn

from ppcls_ext import build_model
from ppcls_ext.arch.convnext import ChannelNorm
from ppcls_ext.arch.layers import DropPath
from ppcls_ext.deploy import profile as result
from ppcls_ext.deploy.profile import (
    ATTENTION,
    BETWEEN,
    DEPTHWISE,
    NETWORK,
    POINTWISE,
    LayerFigures,
    Profile,
    Subject,
    assign_stages,
    count_flops,
    kind_of,
    markdown_page,
    profile_networks,
)
from ppcls_ext.utils.errors import UserError
from tests.support.seeded import seed_weights


@pytest.mark.parametrize(
    ("layer", "shape", "kind", "flops"),
    [
        # 6 x 5 positions of 8 channels, each of 3 x 3 x 4 products and a bias.
        (nn.Conv2D(4, 8, 3, padding=1, groups=2), (1, 4, 6, 5), result.CONVOLUTION, 6 * 5 * 8 * (9 * 2 + 1)),
        (nn.Conv2D(4, 4, 7, padding=3, groups=4), (1, 4, 6, 5), DEPTHWISE, 6 * 5 * 4 * (49 + 1)),
        # paddle.flops leaves the bias of a linear layer out.
        (nn.Linear(4, 3), (1, 6, 5, 4), POINTWISE, 6 * 5 * 3 * 4),
        (ChannelNorm(4), (1, 4, 6, 5), result.NORM, 0),
        (nn.AvgPool2D(2), (1, 4, 6, 4), result.POOLING, 4 * 3 * 2),
        (DropPath(0.1), (1, 4, 6, 5), result.OTHER, 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Layer) else None,
)
def test_kind_and_flops(layer, shape, kind, flops):
    layer.eval()
    x = paddle.zeros(shape)
    assert kind_of(layer, inside_attention=False) == kind
    assert count_flops(layer, (x,), layer(x)) == flops


def tiny(name: str, **arguments) -> nn.Layer:
    """One of ours with few and narrow blocks."""
    return build_model(name, class_num=10, depth_multiplier=0.1, width_multiplier=0.125, **arguments)


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


def test_figures_of_a_small_network():
    (profile,) = profile_networks([subject_of(Net(), 8)], repeats=2)
    rows = {row.name: row for row in profile.layers.itertuples()}
    assert list(rows) == ["conv", "act", "head", "auxiliary", NETWORK]
    conv, act, auxiliary = rows["conv"], rows["act"], rows["auxiliary"]
    assert (conv.flops, conv.activation_bytes) == (8 * 8 * 4 * (3 * 9 + 1), 4 * 8 * 8 * 4)
    assert (conv.output_shape, conv.parameters) == ((1, 4, 8, 8), 4 * 3 * 9 + 4)
    assert (act.calls, act.activation_bytes) == (2, 2 * conv.activation_bytes)
    assert (auxiliary.calls, auxiliary.milliseconds, auxiliary.parameters) == (0, 0, 25)
    assert (rows[NETWORK].kind, rows[NETWORK].parameters) == (BETWEEN, 4)
    assert all(row.milliseconds > 0 for row in rows.values() if row.calls) and profile.forward_milliseconds > 0


@pytest.mark.parametrize("name", ["EConvNeXt_mini", "ResNet18"])
def test_totals_are_those_of_paddle(name):
    network = tiny(name) if name == "EConvNeXt_mini" else build_model(name, class_num=10)
    (profile,) = profile_networks([subject_of(network, 64)], repeats=1)
    with contextlib.redirect_stdout(io.StringIO()):
        assert profile.total.flops == int(paddle.flops(network, [1, 3, 64, 64]))
    assert profile.total.parameters == sum(int(p.size) for p in network.parameters() if not p.stop_gradient)
    # Every part is one of those that tables and charts show.
    for groups in (profile.by("stage"), profile.by("kind")):
        assert groups.flops.sum() == profile.total.flops
        assert groups.milliseconds.sum() == pytest.approx(profile.total.milliseconds)
    assert {"stem", "stage 1", "stage 2", "stage 3", "stage 4", "head"} <= set(profile.by("stage").index)
    inside = profile.layers[profile.layers.name.str.contains(".attention", regex=False)]
    assert set(inside.kind) == ({ATTENTION} if name == "EConvNeXt_mini" else set())


def hooks_of(network: nn.Layer) -> int:
    layers = network.sublayers(include_self=True)
    return sum(len(layer._forward_pre_hooks) + len(layer._forward_post_hooks) for layer in layers)


def test_a_network_and_its_outputs_are_left_as_they_were():
    network = tiny("ConvNeXtV2_atto", drop_path_rate=0.3)
    seed_weights(network)
    network.train()
    network.stages[0].eval()  # A frozen part keeps its own mode.
    modes = [layer.training for layer in network.sublayers(include_self=True)]
    weights = {name: value.numpy().copy() for name, value in network.state_dict().items()}
    outputs = []

    def forward(x: paddle.Tensor) -> paddle.Tensor:
        outputs.append(network(x))
        return outputs[-1]

    profile_networks([Subject("net", network, forward, (3, 32, 32))], repeats=2)
    assert hooks_of(network) == 0
    assert [layer.training for layer in network.sublayers(include_self=True)] == modes
    assert list(network.state_dict()) == list(weights)
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), weights[name])
    # With hooks and without them the same.
    assert len(outputs) > 3
    for output in outputs[1:]:
        np.testing.assert_array_equal(output.numpy(), outputs[0].numpy())


class Refusing(nn.Layer):
    """Takes no image."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        raise ValueError("traceback of several lines\n\nonly squares of 16\n")


def test_images_that_a_network_cannot_take_are_one_line_and_leave_nothing():
    network = nn.Sequential(Refusing())
    network.train()
    with pytest.raises(UserError, match=r"^refusing does not take images of 3 x 8 x 8: only squares of 16$"):
        profile_networks([subject_of(network, 8, "refusing")], repeats=1)
    assert network.training and hooks_of(network) == 0


def made_profile(name: str, factor: float = 1.0) -> Profile:
    layers = (
        LayerFigures("stem", "Conv2D", DEPTHWISE, "stem", 1, (1, 8, 4, 4), 100, 1_000_000, 4_000_000, 1.0 * factor),
        LayerFigures("stages.0.a", "Linear", POINTWISE, "stage 1", 2, (1, 8), 3000, 9_000_000, 500_000, 6.0 * factor),
        LayerFigures("stages.0.b", "SE", ATTENTION, "stage 1", 1, (), 0, 0, 0, 2.0 * factor),
        LayerFigures("(network)", "Net", BETWEEN, "rest", 1, (), 0, 0, 0, 1.0 * factor),
    )
    return Profile(name, (3, 32, 32), pandas.DataFrame(layers), 9.0 * factor)


def rows_of(page: str, heading: str) -> list[list[str]]:
    """Cells of the first table after ``heading``, without its head."""
    table = page[page.index(heading) :].split("| --- |\n", 1)[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_page():
    page = markdown_page([made_profile("one"), made_profile("two", 3.0)])
    assert "eager mode" in page
    assert rows_of(page, "# Profile")[0] == ["one", "3 x 32 x 32", "0.00", "0.010", "4.5", "9.0", "10.0", "10 %"]
    assert ["stage 1", "8.0 (80 %)", "24.0 (80 %)"] in rows_of(page, "## Time by stage")
    stages = rows_of(page, "## one")
    # An image of 9 M multiply-adds in 8 ms.
    assert stages[1] == ["stage 1", "8.00", "80 %", "9.0", "90 %", "1.1", "0.003", "0.50"]
    assert stages[-1][:3] == ["sum", "10.00", "100 %"]
    assert [row[0] for row in rows_of(page, "Slowest layers of one")][:2] == ["stages.0.a", "stages.0.b"]


STAGES_BY_NAME = {
    # With a stem of stride 1 strides would say otherwise.
    "stem.0": "stem", **{f"stages.{i}.norm": f"stage {i + 1}" for i in range(4)}, "stages": "rest", "pool": "head",
    "norm": "head", "head": "head",
}  # fmt: skip
STAGES_OF_A_DETECTOR = {
    **{f"backbone.stages.{i}": f"stage {i + 1}" for i in range(4)}, "backbone.stem": "stem", "neck.fpn": "neck",
    "yolo_head.conv.0": "head",
}  # fmt: skip


@pytest.mark.parametrize("expected", [STAGES_BY_NAME, STAGES_OF_A_DETECTOR])
def test_names_of_stages_go_first(expected):
    shapes = {name: () if stage == "rest" else (1, 8, 64, 64) for name, stage in expected.items()}
    assert assign_stages(shapes, (64, 64)) == expected
