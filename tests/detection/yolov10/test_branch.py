"""One branch of YOLOv10's head: shapes, first predictions, what it refuses."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from detection.yolov10.branch import DetectionBranch
from ppcls_ext.arch.seeded import seed_weights, seeded_array
from tests.support.plain_layers import conv_norm, convolve

CHANNELS = [16, 24, 32]


def maps() -> list[np.ndarray]:
    return [seeded_array(f"f{c}", (2, c, s, s)).astype(np.float64) for c, s in zip(CHANNELS, (8, 4, 2), strict=True)]


def test_each_map_goes_through_its_two_stacks() -> None:
    branch = DetectionBranch(CHANNELS, 5)
    seed_weights(branch)
    branch.eval()
    features = maps()
    outputs = branch([paddle.to_tensor(feature.astype(np.float32)) for feature in features])
    for stacks, results, channels in ((branch.boxes, outputs[0], 64), (branch.classes, outputs[1], 5)):
        for layers, feature, result in zip(stacks, features, results, strict=True):
            *hidden, last = layers
            expected = feature
            for layer in hidden:
                expected = conv_norm(layer, expected)
            bias = last.bias.numpy().astype(np.float64)[None, :, None, None]
            expected = convolve(expected, last.weight.numpy().astype(np.float64)) + bias
            assert result.shape == [2, channels, *feature.shape[2:]]
            np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "classes", "reg_max", "widths"), [
    # max(16, first / 4, 4 reg_max) and max(first, min(classes, 100))
    ([16, 24, 32], 5, 16, (64, 16)),
    ([320, 640, 640], 80, 16, (80, 320)),
    ([64, 128, 256], 80, 16, (64, 80)),
    ([64, 128, 256], 365, 2, (16, 100)),
])  # fmt: skip
def test_widths(channels: list[int], classes: int, reg_max: int, widths: tuple[int, int]) -> None:
    branch = DetectionBranch(channels, classes, reg_max)
    for stacks, width, outputs in ((branch.boxes, widths[0], 4 * reg_max), (branch.classes, widths[1], classes)):
        for layers in stacks:
            assert layers[-1].weight.shape == [outputs, width, 1, 1]
    # Each box stack is two full 3x3 convolutions, each class stack two separable ones.
    assert [layer.conv.weight.shape[1:] for layer in list(branch.classes[1])[:-1]] == [
        [1, 3, 3], [channels[1], 1, 1], [1, 3, 3], [widths[1], 1, 1],
    ]  # fmt: skip
    assert [layer.conv.weight.shape[1:] for layer in list(branch.boxes[1])[:-1]] == [
        [channels[1], 3, 3], [widths[0], 3, 3],
    ]  # fmt: skip


def test_first_biases() -> None:
    branch = DetectionBranch(CHANNELS, 80)
    for layers in branch.boxes:
        np.testing.assert_array_equal(layers[-1].bias.numpy(), 1.0)
    # The logarithm of 5 / 80 / 80^2, 5 / 80 / 40^2 and 5 / 80 / 20^2.
    for layers, expected in zip(branch.classes, (-11.5366, -10.1503, -8.7641), strict=True):
        np.testing.assert_allclose(layers[-1].bias.numpy(), expected, rtol=1e-5)


def test_first_scores_are_rare_events() -> None:
    paddle.seed(1)
    branch = DetectionBranch(CHANNELS, 4)
    branch.eval()
    classes = branch([paddle.to_tensor(feature.astype(np.float32)) for feature in maps()])[1]
    scores = np.concatenate([nn.functional.sigmoid(part).numpy().ravel() for part in classes])
    assert scores.min() > 0 and scores.max() < 0.05


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "8", None])
def test_a_wrong_number_of_classes_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="num_classes: must be a whole number of at least 1, got "):
        DetectionBranch(CHANNELS, value)


def test_each_map_needs_its_stride() -> None:
    with pytest.raises(ValueError, match="strides: there are 2 feature maps, but 3 strides"):
        DetectionBranch([16, 24], 3)
