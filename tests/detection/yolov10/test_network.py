"""The networks of YOLOv10: published sizes and compute, shapes, contracts of PaddleDetection, merging."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from detection.yolov10.head import DetectionBranch
from tests.support.plain_layers import conv_norm, convolve
from tests.support.seeded import seed_weights, seeded_array
from tests.support.yolov10_networks import (
    CIB,
    Network,
    at_full_size,
    make_backbone,
    merge,
    multiply_adds,
    scale_network,
    trainable,
)

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "yolov10.json").read_text(encoding="utf-8"))
SCALES = sorted(GOLDEN["scales"])
CHANNELS = {
    "N": [64, 128, 256], "S": [128, 256, 512], "M": [192, 384, 576], "B": [256, 512, 512], "L": [256, 512, 512],
    "X": [320, 640, 640],
}  # fmt: skip


@pytest.mark.parametrize("scale", SCALES)
def test_parameters_and_gflops_of_a_scale_are_the_published_ones(scale: str) -> None:
    published = GOLDEN["scales"][scale]
    network = scale_network(scale)
    assert [shape.channels for shape in network.backbone.out_shape] == CHANNELS[scale]
    assert (trainable(network) + trainable(network.branch)) / 1e6 == pytest.approx(published["both"], abs=5.01e-4)
    assert trainable(network) / 1e6 == pytest.approx(published["one_to_one"], abs=5.01e-4)
    gflops = 2 * at_full_size(lambda side: multiply_adds(network, side)) / 1e9
    assert gflops == pytest.approx(published["gflops"], abs=5.01e-3)
    merge(network)
    assert trainable(network) / 1e6 == pytest.approx(published["deployed"], abs=5.01e-4)


@pytest.mark.parametrize(("backbone", "arguments", "settings"), [
    ("EConvNeXt", {"arch": "mini"}, {"depth_mult": 0.33, "cib": ["N5"], "large_kernel": ["N5"]}),
    ("ConvNeXt", {"arch": "tiny"}, {"depth_mult": 0.67, "cib": CIB}),
    ("CSPResNet", {"layers": [1, 1, 1, 1], "return_idx": [1, 2, 3], "width_mult": 0.25}, {"depth_mult": 1, "cib": []}),
])  # fmt: skip
def test_maps_and_gradients_with_each_backbone(backbone: str, arguments: dict, settings: dict) -> None:
    network = Network(make_backbone(backbone, **arguments), 3, **settings)
    network.train()
    image = paddle.to_tensor(seeded_array("image", (2, 3, 64, 96)))
    features = network.backbone({"image": image})
    channels = [shape.channels for shape in network.backbone.out_shape]
    sizes = [[8, 12], [4, 6], [2, 3]]
    expected = [[2, c, *size] for c, size in zip(channels, sizes, strict=True)]
    assert [list(feature.shape) for feature in features] == expected
    assert [list(feature.shape) for feature in network.neck(features)] == expected
    assert [shape.channels for shape in network.neck.out_shape] == channels
    # PaddleDetection's ConvNeXt announces no strides; its maps have the usual ones.
    assert [shape.stride for shape in network.neck.out_shape] == [8, 16, 32]
    boxes, classes = network(image)
    assert [list(part.shape) for part in boxes] == [[2, 64, *size] for size in sizes]
    assert [list(part.shape) for part in classes] == [[2, 3, *size] for size in sizes]
    sum(part.square().sum() for part in boxes + classes).backward()
    parameters = {name: value for name, value in network.named_parameters() if not value.stop_gradient}
    assert [name for name, value in parameters.items() if value.grad is None] == []
    assert all(np.isfinite(value.grad.numpy()).all() for value in parameters.values())


def test_a_merged_network_gives_the_same() -> None:
    network = scale_network("N", 5)
    seed_weights(network)
    image = paddle.to_tensor(seeded_array("image", (2, 3, 64, 64)))
    before = [part.numpy() for part in sum(network(image), [])]
    assert all(part.std() > 1e-3 for part in before), "outputs depend on the picture"
    merge(network)
    for one, other in zip(sum(network(image), []), before, strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=2e-4, atol=2e-4 * np.abs(other).max())


MAP_CHANNELS = [16, 24, 32]


def maps() -> list[np.ndarray]:
    sizes = zip(MAP_CHANNELS, (8, 4, 2), strict=True)
    return [seeded_array(f"f{channels}", (2, channels, side, side)).astype(np.float64) for channels, side in sizes]


def test_each_map_goes_through_its_two_stacks() -> None:
    branch = DetectionBranch(MAP_CHANNELS, 5)
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


@pytest.mark.parametrize("classes", [5, 365])
def test_first_biases(classes: int) -> None:
    branch = DetectionBranch(MAP_CHANNELS, classes)
    for layers in branch.boxes:
        np.testing.assert_array_equal(layers[-1].bias.numpy(), 1.0)
    # One of five objects in a picture of 640 pixels.
    for layers, stride in zip(branch.classes, (8, 16, 32), strict=True):
        expected = np.log(5 / classes / (640 / stride) ** 2)
        np.testing.assert_allclose(layers[-1].bias.numpy(), expected, rtol=1e-5)
