"""Stages of layers, by name and by stride."""

from __future__ import annotations

import pytest

from ppcls_ext.deploy.profile.stages import assign_stages


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
