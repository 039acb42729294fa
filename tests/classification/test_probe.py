"""Sizes that a model cannot take are told before a run begins, without a trace in the model or in its randomness."""

from __future__ import annotations

import random

import numpy as np
import paddle
import pytest

from classification.build import build_network, check_image_shape
from classification.config import load_config
from ppcls_ext.utils.errors import UserError
from tests.support.runs import tiny_config, write_config

TOO_SMALL = r": they are too small, \S+ leaves nothing of them$"


def config_of(folder, name="EConvNeXt_mini", **changes):
    settings = tiny_config(folder / "run", **changes)
    arguments = settings["Arch"] if name == "EConvNeXt_mini" else {"class_num": 10}
    settings["Arch"] = {**arguments, "name": name}
    return load_config(write_config(folder, settings))


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("EConvNeXt_mini", {"Arch__in_channels": 1}, r": its first convolution takes 1 channels, not 3$"),
        ("EConvNeXt_mini", {"Global__image_shape": [1, 32, 32]}, r": its first convolution takes 3 channels, not 1$"),
        ("ViT_small_patch16_224", {}, r": Input image size \(32\*32\) doesn't match model \(224\*224\)\.$"),
        ("GoogLeNet", {}, TOO_SMALL),
        ("VGG11", {}, "$"),
    ],
)
def test_an_impossible_shape_is_one_line(tmp_path, name, changes, reason):
    config = config_of(tmp_path, name, **changes)
    refusal = rf"Global\.image_shape: {name} cannot take images of shape \[.*\]{reason}"
    with pytest.raises(UserError, match=refusal) as told:
        build_network(config)
    assert "\n" not in str(told.value)


class _Drawing(paddle.nn.Layer):
    """Draws numbers in every mode, and has a part that its constructor put into evaluation mode."""

    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        self.norm = paddle.nn.BatchNorm2D(3)
        self.frozen = paddle.nn.BatchNorm2D(3)
        self.frozen.eval()
        self.linear = paddle.nn.Linear(3, outputs)

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        """``[N, 3, H, W]`` -> ``[N, 10]``."""
        shift = random.random() + float(np.random.random()) + paddle.rand([1])
        return self.linear(self.frozen(self.norm(images + shift)).mean([2, 3]))


def drawn() -> list[float]:
    return [random.random(), float(np.random.random()), *paddle.rand([3]).numpy().tolist()]


def test_neither_randomness_nor_statistics_nor_modes_change(tmp_path):
    config = config_of(tmp_path)
    paddle.seed(0)
    model = _Drawing()
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    numbers = []
    for checked in (False, True):
        random.seed(1), np.random.seed(2), paddle.seed(3)
        paddle.rand([5])
        if checked:
            check_image_shape(config, model)
        numbers.append(drawn())
    assert numbers[0] == numbers[1]
    assert (model.training, model.norm.training, model.frozen.training) == (True, True, False)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name], err_msg=name)
    assert model.linear.weight.grad is None


def test_another_number_of_outputs_than_classes_is_refused(tmp_path):
    told = r"Arch\.class_num: .*outputs of shape \[1, 7\] for one image, expected \[1, 10\]"
    with pytest.raises(UserError, match=told):
        check_image_shape(config_of(tmp_path), _Drawing(outputs=7))
