"""The profiler: kinds and stages of layers, totals of networks, pages, tables and charts."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn
from PIL import Image

from ppcls_ext import build_model
from ppcls_ext.arch.convnext import ChannelNorm, GlobalResponseNorm
from ppcls_ext.arch.econvnext import Block, EffectiveSE
from ppcls_ext.arch.layers import DropPath, GlobalAveragePool
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
    csv_text,
    draw_profiles,
    json_value,
    kind_of,
    markdown_page,
    profile_networks,
    write_report,
)
from ppcls_ext.utils.errors import UserError
from tests.support.seeded import seed_weights, seeded_array


@pytest.mark.parametrize(
    ("layer", "shape", "kind", "flops"),
    [
        # 6 x 5 positions of 8 channels, each of 3 x 3 x 4 products and a bias.
        (nn.Conv2D(4, 8, 3, padding=1), (1, 4, 6, 5), result.CONVOLUTION, 6 * 5 * 8 * (9 * 4 + 1)),
        (nn.Conv2D(4, 8, 2, 2, bias_attr=False), (1, 4, 6, 4), result.CONVOLUTION, 3 * 2 * 8 * (4 * 4)),
        (nn.Conv2D(4, 8, 3, padding=1, groups=2), (1, 4, 6, 5), result.CONVOLUTION, 6 * 5 * 8 * (9 * 2 + 1)),
        (nn.Conv2D(4, 4, 7, padding=3, groups=4), (1, 4, 6, 5), result.DEPTHWISE, 6 * 5 * 4 * (49 + 1)),
        (nn.Conv2D(4, 8, 1), (1, 4, 6, 5), result.POINTWISE, 6 * 5 * 8 * (4 + 1)),
        # paddle.flops leaves the bias of a linear layer out.
        (nn.Linear(4, 3), (1, 6, 5, 4), result.POINTWISE, 6 * 5 * 3 * 4),
        (nn.BatchNorm2D(4), (1, 4, 6, 5), result.NORM, 2 * 4 * 6 * 5),
        (nn.LayerNorm(4), (1, 6, 5, 4), result.NORM, 0),
        (ChannelNorm(4), (1, 4, 6, 5), result.NORM, 0),
        (GlobalResponseNorm(4), (1, 6, 5, 4), result.NORM, 0),
        (nn.GELU(), (1, 4, 6, 5), result.ACTIVATION, 0),
        (nn.LeakyReLU(), (1, 4, 6, 5), result.ACTIVATION, 4 * 6 * 5),
        (nn.AvgPool2D(2), (1, 4, 6, 4), result.POOLING, 4 * 3 * 2),
        (nn.AdaptiveAvgPool2D(1), (1, 4, 6, 5), result.POOLING, 4 * (6 * 5 + 1)),
        (GlobalAveragePool(), (1, 4, 6, 5), result.POOLING, 0),
        (DropPath(0.1), (1, 4, 6, 5), result.OTHER, 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Layer) else None,
)
def test_kind_and_flops(layer, shape, kind, flops):
    layer.eval()
    x = paddle.zeros(shape)
    assert kind_of(layer, inside_attention=False) == kind
    assert count_flops(layer, (x,), layer(x)) == flops


def test_what_a_block_does_itself_is_between_layers():
    assert kind_of(Block(4), inside_attention=False) == result.BETWEEN
    assert kind_of(nn.Sequential(nn.GELU()), inside_attention=False) == result.BETWEEN


def test_all_inside_attention_is_attention():
    assert kind_of(EffectiveSE(4), inside_attention=True) == result.ATTENTION
    assert kind_of(nn.Conv2D(4, 4, 1), inside_attention=True) == result.ATTENTION


@pytest.mark.parametrize(
    ("name", "expected"),
    [("SELayer", True), ("WindowAttention", True), ("ESEAttn", True), ("PSA", True), ("SENet", False), ("Base", False)],
)
def test_attention_by_name(name, expected):
    assert bool(result.ATTENTION_NAME.search(name)) is expected


GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "models.json").read_text())


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




def made_profile(name: str, factor: float = 1.0) -> Profile:
    layers = (
        LayerFigures("stem", "Conv2D", DEPTHWISE, "stem", 1, (2, 8, 4, 4), 100, 1_000_000, 4_000_000, 1.0 * factor),
        LayerFigures("stages.0.a", "Linear", POINTWISE, "stage 1", 2, (2, 8), 3000, 9_000_000, 500_000, 6.0 * factor),
        LayerFigures("stages.0.b", "SE", ATTENTION, "stage 1", 1, (), 0, 0, 0, 2.0 * factor),
        LayerFigures("(network)", "Net", BETWEEN, "rest", 1, (), 0, 0, 0, 1.0 * factor),
    )
    return Profile(name, (3, 32, 32), 2, layers, 9.0 * factor)


def rows_of(page: str, heading: str) -> list[list[str]]:
    """Cells of the first table after ``heading``, without its head."""
    lines = page[page.index(heading) :].splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("| ---"))
    table = lines[start + 1 :]
    end = next((index for index, line in enumerate(table) if not line.startswith("|")), len(table))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[:end]]


def test_page_of_one_network():
    page = markdown_page([made_profile("net")], slowest=2)
    assert "eager mode" in page
    assert rows_of(page, "# Profile") == [
        ["net", "2 x 3 x 32 x 32", "0.00", "0.010", "4.5", "9.0", "10.0", "10 %"]
    ]
    stages = rows_of(page, "## net")
    # Two images of 9 M multiply-adds in 8 ms.
    assert stages[1] == ["stage 1", "8.00", "80 %", "9.0", "90 %", "2.2", "0.003", "0.50"]
    assert stages[-1][:3] == ["sum", "10.00", "100 %"]
    slowest = rows_of(page, "Slowest layers of net")
    assert [row[0] for row in slowest] == ["stages.0.a", "stages.0.b"]
    assert "Slowest" not in markdown_page([made_profile("net")], slowest=0)


def test_networks_stand_side_by_side():
    page = markdown_page([made_profile("one"), made_profile("two", 3.0)], slowest=0)
    assert ["stage 1", "8.0 (80 %)", "24.0 (80 %)"] in rows_of(page, "## Time by stage")
    assert [row[0] for row in rows_of(page, "## Time by kind")] == [DEPTHWISE, POINTWISE, ATTENTION, BETWEEN]


def test_every_layer_is_in_the_csv():
    rows = list(csv.DictReader(io.StringIO(csv_text([made_profile("one"), made_profile("two")]))))
    assert len(rows) == 8
    assert rows[5]["model"] == "two"
    assert rows[5]["name"] == "stages.0.a"
    assert rows[5]["flops"] == "9000000"
    assert rows[0]["output_shape"] == "2x8x4x4"


def test_json_holds_layers_and_sums():
    value = json.loads(json.dumps(json_value([made_profile("one")])))
    assert value["mode"] == "eager"
    (network,) = value["networks"]
    assert network["by_stage"]["stage 1"]["milliseconds"] == 8.0
    assert network["total"]["flops"] == sum(layer["flops"] for layer in network["layers"])


def test_four_files_are_written(tmp_path):
    profiles = [made_profile("one"), made_profile("two", 2.0)]
    written = write_report(profiles, "# page\n", tmp_path / "new" / "profile.md")
    assert [path.name for path in written] == ["profile.md", "profile.csv", "profile.json", "profile.png"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(path.name for path in written)
    picture = Image.open(written[3])
    assert picture.width > 1000
    colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
    # The colours of the depthwise convolution and of stage 1.
    assert {(0xD6, 0x27, 0x28), (0xC6, 0xDB, 0xEF)} <= colours


def test_a_failing_disk_leaves_the_old_chart(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    path = tmp_path / "profile.png"
    path.write_bytes(b"old")

    def fail(self, target, **_):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="No space left"):
        draw_profiles([made_profile("one")], path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def stages_of(shapes: dict[str, tuple[int, ...]], size: tuple[int, int] = (64, 64)) -> dict[str, str]:
    return assign_stages(shapes, size)



def test_names_go_first():
    # With a stem of stride 1 strides would say otherwise.
    shapes = {"stem.0": (1, 8, 64, 64), **{f"stages.{i}.norm": (1, 8, 64 >> i, 64 >> i) for i in range(4)}}
    shapes |= {"stages": (), "pool": (1, 8, 1, 1), "norm": (1, 8), "head": (1, 10)}
    assert stages_of(shapes) == {
        "stem.0": "stem", "stages.0.norm": "stage 1", "stages.1.norm": "stage 2", "stages.2.norm": "stage 3",
        "stages.3.norm": "stage 4", "stages": "rest", "pool": "head", "norm": "head", "head": "head",
    }  # fmt: skip


def test_names_of_paddleclas_convnext():
    shapes = {**{f"downsample_layers.{i}.1": (1, 8, 4, 4) for i in range(4)}, **{f"stages.{i}.0": () for i in range(4)}}
    found = stages_of(shapes)
    assert found["downsample_layers.0.1"] == "stem"
    assert found["downsample_layers.2.1"] == found["stages.2.0"] == "stage 3"


def test_parts_of_a_detector():
    shapes = {f"backbone.stages.{i}": () for i in range(4)}
    shapes |= {"backbone.stem": (), "neck.fpn": (1, 8, 8, 8), "yolo_head.conv.0": (1, 8, 8, 8)}
    found = stages_of(shapes)
    assert found["backbone.stages.1"] == "stage 2"
    assert (found["backbone.stem"], found["neck.fpn"], found["yolo_head.conv.0"]) == ("stem", "neck", "head")


@pytest.mark.parametrize(
    ("stride", "stage"), [(1, "stem"), (2, "stem"), (4, "stage 1"), (8, "stage 2"), (16, "stage 3"), (32, "stage 4")]
)
def test_a_unit_is_of_the_stage_of_its_stride(stride, stage):
    size = 64 // stride
    # Most layers of the unit tell, not its first, which still sees the larger map, and not the squeezed ones.
    shapes = {
        "blocks.5.conv0": (1, 8, 2 * size, 2 * size), "blocks.5.conv1": (1, 8, size, size),
        "blocks.5.conv2": (1, 8, size, size), "blocks.5.gate": (1, 8, 1, 1) if size > 2 else (1, 8),
        "blocks": (1, 8, 2, 2), "blocks.0": (1, 8, 32, 32), "unused": (), "embedding": (1, 8),
        "conv_head": (1, 8, 1, 1),
    }  # fmt: skip
    found = stages_of(shapes)
    assert {found[name] for name in shapes if name.startswith("blocks.5")} == {stage}
    assert found["blocks"] == found["unused"] == "rest"
    assert found["embedding"] == found["conv_head"] == "head"


def test_tokens_have_a_stride():
    # 16 tokens of a 64 px image and the class token.
    assert stages_of({"blocks.0.mlp": (1, 17, 192)})["blocks.0.mlp"] == "stage 3"


def test_three_numbered_parts_are_not_the_four_stages():
    shapes = {f"layers.{i}.conv": (1, 8, 4, 4) for i in range(3)}
    assert set(stages_of(shapes).values()) == {"stage 3"}
