"""The profiler: kinds and stages of layers, totals of networks, pages, tables and charts."""

from __future__ import annotations

import contextlib
import io

import paddle
import pandas
import pytest
from paddle import nn

from ppcls_ext import build_model
from ppcls_ext.arch.convnext import ChannelNorm
from ppcls_ext.arch.layers import DropPath
from ppcls_ext.deploy.profile import (
    ACTIVATION,
    ATTENTION,
    BETWEEN,
    CONVOLUTION,
    DEPTHWISE,
    NETWORK,
    NORM,
    OTHER,
    POINTWISE,
    POOLING,
    LayerFigures,
    Profile,
    Subject,
    assign_stages,
    count_network,
    markdown_page,
    profile_networks,
)
from ppcls_ext.utils.errors import UserError


def tiny(name: str, **arguments) -> nn.Layer:
    """One of ours with few and narrow blocks."""
    return build_model(name, class_num=10, depth_multiplier=0.1, width_multiplier=0.125, **arguments)


class Net(nn.Layer):
    """One layer of each kind, an activation that is called twice, a sum, and a layer that is only for training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 3, padding=1)
        self.depthwise = nn.Conv2D(4, 4, 7, padding=3, groups=4)
        self.norm, self.act, self.pool, self.drop = ChannelNorm(4), nn.ReLU(), nn.AvgPool2D(2), DropPath(0.1)
        self.head = nn.Linear(4, 2)
        self.auxiliary = nn.Linear(4, 5)
        self.scale = self.create_parameter([4, 1, 1])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.norm(self.depthwise(self.act(self.conv(x))))
        x = self.pool(self.drop(self.act(x + self.scale)))
        return self.head(x.mean([2, 3]))


def subject_of(network: nn.Layer, size: int = 32, name: str = "net") -> Subject:
    return Subject(name, network, (3, size, size))


def test_figures_of_a_small_network():
    (profile,) = profile_networks([subject_of(Net(), 8)], repeats=2)
    rows = {row.name: row for row in profile.layers.itertuples()}
    kinds_and_flops = {
        # 8 x 8 positions of 4 channels, each with products and a bias.
        "conv": (CONVOLUTION, 8 * 8 * 4 * (3 * 9 + 1)), "act": (ACTIVATION, 0),
        "depthwise": (DEPTHWISE, 8 * 8 * 4 * (49 + 1)), "norm": (NORM, 0), "drop": (OTHER, 0),
        "pool": (POOLING, 4 * 4 * 4),
        # paddle.flops leaves the bias of a linear layer out.
        "head": (POINTWISE, 4 * 2), "auxiliary": (POINTWISE, 0), NETWORK: (BETWEEN, 0),
    }  # fmt: skip
    assert {name: (row.kind, row.flops) for name, row in rows.items()} == kinds_and_flops
    conv, act, auxiliary = rows["conv"], rows["act"], rows["auxiliary"]
    assert (conv.output_shape, conv.parameters, conv.activation_bytes) == ((1, 4, 8, 8), 4 * 3 * 9 + 4, 4 * 8 * 8 * 4)
    assert (act.calls, act.activation_bytes) == (2, 2 * conv.activation_bytes)
    assert (auxiliary.calls, auxiliary.milliseconds, auxiliary.parameters) == (0, 0, 25)
    assert rows[NETWORK].parameters == 4
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


class Refusing(nn.Layer):
    """Takes no image."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        raise ValueError("traceback of several lines\n\nonly squares of 16\n")


def test_images_that_a_network_cannot_take_are_one_line():
    with pytest.raises(UserError, match=r"^refusing does not take images of 3 x 8 x 8: only squares of 16$"):
        profile_networks([subject_of(nn.Sequential(Refusing()), 8, "refusing")], repeats=1)


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


@pytest.mark.parametrize(
    "expected",
    [
        # By name: with a stem of stride 1 strides would say otherwise.
        {"stem.0": "stem", **{f"stages.{i}.norm": f"stage {i + 1}" for i in range(4)}, "stages": "rest",
         "norm": "head"},
        {"backbone.stem": "stem", **{f"backbone.stages.{i}": f"stage {i + 1}" for i in range(4)}, "neck.fpn": "neck",
         "yolo_head.conv.0": "head"},
    ],
)  # fmt: skip
def test_names_of_stages_go_first(expected):
    shapes = {name: () if stage == "rest" else (1, 8, 64, 64) for name, stage in expected.items()}
    assert assign_stages(shapes, (64, 64)) == expected


def test_blocks_without_names_of_stages_go_by_the_stride_of_most_of_their_outputs():
    shapes = {"conv1": (1, 8, 16, 16), "blocks.0.a": (1, 8, 8, 8), "blocks.1.pooled": (1, 8, 1, 1),
              "blocks.1.squeezed": (1, 8), "blocks.1.a": (1, 8, 4, 4), "blocks.1.b": (1, 8, 4, 4),
              "blocks.7": (1, 1, 8), "out": (1, 10)}  # fmt: skip
    expected = ["stem", "stage 1", *["stage 2"] * 4, "stage 4", "head"]
    assert list(assign_stages(shapes, (32, 32)).values()) == expected


@pytest.mark.parametrize(("name", "size"), [("EfficientNetB0", 64), ("MobileNetV3_small_x0_35", 32)])
def test_networks_of_paddleclas_have_all_stages_and_their_classifier_is_the_head(name, size):
    profile = count_network(subject_of(build_model(name, class_num=10), size))
    assert {"stem", "stage 1", "stage 2", "stage 3", "stage 4", "head"} <= set(profile.by("stage").index)
    assert profile.layers[profile.layers.output_shape.map(lambda shape: shape == (1, 10))].stage.unique() == ["head"]
