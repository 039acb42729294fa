"""Learning rates by depth and frozen stages, of every kind of network that knows its stages."""

from __future__ import annotations

import paddle
import pytest

from ppcls_ext import build_model
from ppcls_ext.engine.finetuning import FrozenStages, fine_tune, trunk_of
from ppcls_ext.engine.shared_keys import SharedKeys
from ppcls_ext.utils.errors import UserError


def rates(model: paddle.nn.Layer) -> dict[str, float]:
    return {name: parameter.optimize_attr["learning_rate"] for name, parameter in model.named_parameters()}


def refuse(key: str, message: str) -> str:
    return f"{key}: {message}"


@pytest.mark.parametrize("name", ["EConvNeXt_mini", "ConvNeXtV1_tiny", "ConvNeXtV2_tiny"])
def test_layer_decay_by_groups_of_three_blocks(name: str) -> None:
    model = build_model(name, class_num=3, width_multiplier=0.0625)
    keys = SharedKeys(layer_decay=0.5, backbone_lr_mult=0.1)
    assert fine_tune(model, trunk_of(model), "", keys, refuse) is None
    found = rates(model)
    # Blocks 3, 3, 9, 3: stem, 1, 1, 3 and 1 groups; then the classifier.
    expected = {
        "stem.0": 7, "stages.0.blocks.0": 6, "stages.0.blocks.2": 6, "stages.1.downsample": 5, "stages.1.blocks.0": 5,
        "stages.2.downsample": 4, "stages.2.blocks.2": 4, "stages.2.blocks.3": 3, "stages.2.blocks.5": 3,
        "stages.2.blocks.6": 2, "stages.2.blocks.8": 2, "stages.3.downsample": 1, "stages.3.blocks.2": 1,
    }  # fmt: skip
    if name == "EConvNeXt_mini":
        expected |= {"stages.2.entry": 4, "stages.2.shortcut": 4, "stages.2.attention": 2, "stages.2.merge": 2}
    for place, steps in expected.items():
        values = [rate for parameter, rate in found.items() if parameter.startswith(f"{place}.")]
        assert values == pytest.approx([0.1 * 0.5**steps] * len(values)) and values, place
    assert {found["head.weight"], found["norm.weight"]} == {1.0}
    assert sum(rate == 1.0 for rate in found.values()) <= 6  # classifier and norm before it, nothing else


def test_frozen_stages_neither_learn_nor_count_and_are_freed_by_the_epoch() -> None:
    model = build_model("EConvNeXt_mini", class_num=3, depth_multiplier=0.1, width_multiplier=0.0625)
    frozen = FrozenStages(model, trunk_of(model), SharedKeys(freeze_stages=2, freeze_epochs=3))
    held = {name for name in model.state_dict() if name.startswith(("stem.", "stages.0.", "stages.1."))}
    for epoch, is_held in ((0, True), (2, True), (3, False), (1, True)):
        model.train()
        assert set(frozen.hold(epoch)) == (held if is_held else set())
        assert model.stages[1].blocks[0].drop_path.training is not is_held
        assert model.stages[2].training and model.training
        model(paddle.ones([2, 3, 32, 32])).sum().backward()
        learnt = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert "stages.2.entry.conv.weight" in learnt and bool(learnt & held) is not is_held
        assert not [name for name in learnt if name.endswith(("_mean", "_variance"))]
        model.clear_gradients()
        for parameter in model.parameters():
            parameter.clear_gradient(False)


def test_a_network_without_known_stages_and_too_many_stages_are_refused() -> None:
    with pytest.raises(UserError, match="layer_decay: needs a network whose stem and stages are known: A, B"):
        fine_tune(paddle.nn.Linear(2, 2), None, "A, B", SharedKeys(layer_decay=0.9), refuse)
    model = build_model("EConvNeXt_mini", class_num=3, depth_multiplier=0.1, width_multiplier=0.0625)
    with pytest.raises(UserError, match=r"Global.freeze_stages: must be 0 .the stem alone. to 4, got 5"):
        fine_tune(model, trunk_of(model), "", SharedKeys(freeze_stages=5), refuse, "Global.")
