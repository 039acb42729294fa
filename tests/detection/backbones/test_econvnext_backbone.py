"""E-ConvNeXt under the contract of ppdet's backbones."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from detection import toolkit
from tests.support.seeded import seed_weights, seeded_array

CHANNELS = {"mini": [96, 192, 384, 768], "tiny": [128, 256, 512, 1024]}


def make(arch: str = "mini", name: str = "EConvNeXt", **arguments: Any) -> nn.Layer:
    toolkit.register()
    from detection import backbone as econvnext

    backbone = getattr(econvnext, name)(arch=arch, **arguments)
    seed_weights(backbone)
    return backbone


def images(height: int = 32, width: int = 64) -> paddle.Tensor:
    return paddle.to_tensor(seeded_array("images", (2, 3, height, width)))


@pytest.mark.parametrize(
    ("arch", "return_idx", "norm_output"), [("mini", [0, 1, 2, 3], True), ("tiny", [0, 3], False)]
)
def test_shapes_are_those_announced(arch: str, return_idx: list[int], norm_output: bool) -> None:
    backbone = make(arch, return_idx=return_idx, norm_output=norm_output)
    backbone.eval()
    outputs = backbone({"image": images(), "im_id": None})
    announced = [(shape.channels, shape.stride) for shape in backbone.out_shape]
    assert announced == [(CHANNELS[arch][index], 4 * 2**index) for index in return_idx]
    assert [output.shape for output in outputs] == [
        [2, channels, 32 // stride, 64 // stride] for channels, stride in announced
    ]
    assert len(backbone.norms) == (len(return_idx) if norm_output else 0)


def test_each_output_has_its_own_norm() -> None:
    plain, normed = make(norm_output=False), make()
    for backbone in (plain, normed):
        backbone.eval()
    for output, norm, expected in zip(plain(images()), normed.norms, normed(images()), strict=True):
        state = {name: value.numpy()[None, :, None, None] for name, value in norm.state_dict().items()}
        scaled = (output.numpy() - state["_mean"]) / np.sqrt(state["_variance"] + 1e-5)
        np.testing.assert_allclose(scaled * state["weight"] + state["bias"], expected.numpy(), rtol=1e-4, atol=1e-4)


class Detector(nn.Layer):
    """What a detector does to its backbone: only ``train`` of the whole sets the mode."""

    def __init__(self, backbone: nn.Layer) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, batch: dict[str, Any]) -> paddle.Tensor:
        return paddle.add_n([output.square().mean() for output in self.backbone(batch)])


def place_of(name: str) -> int:
    """The lowest ``freeze_at`` that freezes a weight: 0 the stem, k stage k; 5 for the norms of the outputs."""
    part, number, *_ = name.split(".")
    return {"stem": 0, "stages": int(number) + 1, "norms": 5}[part]


@pytest.mark.parametrize("freeze_at", [2, 4])
def test_frozen_parts_neither_learn_nor_move(freeze_at: int) -> None:
    backbone = make(freeze_at=freeze_at, drop_path_rate=0.5)
    detector = Detector(backbone)
    detector.train()
    before = {name: value.numpy().copy() for name, value in backbone.state_dict().items()}
    detector({"image": images()}).backward()
    for name, value in backbone.state_dict().items():
        if name.endswith(("_mean", "_variance")):
            moved = bool((value.numpy() != before[name]).any())
            assert moved == (place_of(name) > freeze_at), name
    for name, parameter in backbone.named_parameters():
        if not name.endswith(("_mean", "_variance")):
            assert parameter.stop_gradient == (place_of(name) <= freeze_at), name
            assert (parameter.grad is not None) == (place_of(name) > freeze_at), name


def test_frozen_stages_draw_no_random_numbers() -> None:
    backbone = make(freeze_at=4, drop_path_rate=0.9, norm_output=False)
    Detector(backbone).train()
    for one, other in zip(backbone(images()), backbone(images()), strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"return_idx": [1, 4]}, r"^return_idx: must be rising stage numbers from 0 to 3, got \[1, 4\]"),
        ({"freeze_at": 5}, r"^freeze_at: must be -1 \(nothing\) to 4 \(everything\), got 5"),
        ({"pretrained": True}, "^pretrained: must be the path of a weight file or checkpoint folder, got True"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    toolkit.register()
    from detection.backbone import EConvNeXt

    with pytest.raises(ValueError, match=message):
        EConvNeXt(**arguments)
