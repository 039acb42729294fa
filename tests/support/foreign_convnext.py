"""ConvNeXt checkpoints of other code bases with random weights, and an independent forward pass straight from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

DIMS, DEPTHS, CLASSES = (8, 12, 16, 24), (1, 2, 3, 1), 5
# Models of these sizes by version: `tests/ppcls_ext/weights/conftest.py` puts them into the tables.
MODELS = {1: "ConvNeXtV1_test", 2: "ConvNeXtV2_test"}


@dataclass(frozen=True)
class Names:
    """How a code base names the parts, written down here again so that tests do not lean on the code they check."""

    stem: Callable[[int], str]
    downsample: Callable[[int, int], str]
    block: Callable[[int, int], str]
    depthwise: str
    norm: str
    expand: str
    project: str
    scale: str
    response: tuple[str, str]
    last: str
    head: str


NAMES = {
    "facebook": Names(
        lambda layer: f"downsample_layers.0.{layer}",
        lambda stage, layer: f"downsample_layers.{stage}.{layer}",
        lambda stage, block: f"stages.{stage}.{block}",
        "dwconv", "norm", "pwconv1", "pwconv2", "gamma", ("grn.gamma", "grn.beta"), "norm", "head",
    ),
    "timm": Names(
        lambda layer: f"stem.{layer}",
        lambda stage, layer: f"stages.{stage}.downsample.{layer}",
        lambda stage, block: f"stages.{stage}.blocks.{block}",
        "conv_dw", "norm", "mlp.fc1", "mlp.fc2", "gamma", ("mlp.grn.weight", "mlp.grn.bias"), "head.norm", "head.fc",
    ),
    "torchvision": Names(
        lambda layer: f"features.0.{layer}",
        lambda stage, layer: f"features.{2 * stage}.{layer}",
        lambda stage, block: f"features.{2 * stage + 1}.{block}",
        "block.0", "block.2", "block.3", "block.5", "layer_scale", ("", ""), "classifier.0", "classifier.2",
    ),
}  # fmt: skip
RESPONSE_SHAPES = {"facebook": (1, 1, 1, -1), "timm": (-1,)}
SCALE_SHAPES = {"facebook": (-1,), "timm": (-1,), "torchvision": (-1, 1, 1)}


class ForeignConvNeXt:
    """Random weights of a ConvNeXt as ``layout`` names and shapes them.

    Args:
        layout: a key of ``NAMES``.
        version: 1 has a layer scale, 2 global response normalisation.
        pointwise: linear layers of blocks are stored as 1x1 convolutions.
    """

    def __init__(
        self, layout: str, version: int, dims=DIMS, depths=DEPTHS, classes: int = CLASSES, pointwise: bool = False
    ) -> None:
        self.names, self.layout, self.version, self.depths = NAMES[layout], layout, version, depths
        self.pointwise = pointwise
        self.generator = np.random.default_rng(11)
        self.weights: dict[str, np.ndarray] = {}
        self._layer(self.names.stem(0), (dims[0], 3, 4, 4))
        self._norm(self.names.stem(1), dims[0])
        for stage, channels in enumerate(dims):
            if stage:
                self._norm(self.names.downsample(stage, 0), dims[stage - 1])
                self._layer(self.names.downsample(stage, 1), (channels, dims[stage - 1], 2, 2))
            for block in range(depths[stage]):
                self._block(self.names.block(stage, block), channels)
        self._norm(self.names.last, dims[-1])
        self._layer(self.names.head, (classes, dims[-1]))

    def _random(self, name: str, shape: tuple[int, ...], deviation: float, mean: float = 0.0) -> None:
        self.weights[name] = (mean + deviation * self.generator.standard_normal(shape)).astype(np.float32)

    def _layer(self, name: str, shape: tuple[int, ...], as_convolution: bool = False) -> None:
        self._random(f"{name}.weight", shape, math.sqrt(1.8 / math.prod(shape[1:])))
        self._random(f"{name}.bias", shape[:1], 0.1)
        if as_convolution:
            self.weights[f"{name}.weight"] = self.weights[f"{name}.weight"][:, :, None, None]

    def _norm(self, name: str, channels: int) -> None:
        self._random(f"{name}.weight", (channels,), 0.2, mean=1.0)
        self._random(f"{name}.bias", (channels,), 0.1)

    def _block(self, name: str, channels: int) -> None:
        self._layer(f"{name}.{self.names.depthwise}", (channels, 1, 7, 7))
        self._norm(f"{name}.{self.names.norm}", channels)
        self._layer(f"{name}.{self.names.expand}", (4 * channels, channels), self.pointwise)
        self._layer(f"{name}.{self.names.project}", (channels, 4 * channels), self.pointwise)
        vectors = [(self.names.scale, channels, SCALE_SHAPES)]
        if self.version == 2:
            vectors = [(part, 4 * channels, RESPONSE_SHAPES) for part in self.names.response]
        for part, length, shapes in vectors:
            self._random(f"{name}.{part}", (length,), 0.5)
            self.weights[f"{name}.{part}"] = self.weights[f"{name}.{part}"].reshape(shapes[self.layout])

    def forward(self, images: np.ndarray) -> np.ndarray:
        """Images ``[N, 3, H, W]`` -> logits ``[N, classes]``, in float64."""
        x = self._run_norm(self.names.stem(1), self._patches(self.names.stem(0), images.astype(np.float64)))
        for stage, depth in enumerate(self.depths):
            if stage:
                x = self._run_norm(self.names.downsample(stage, 0), x)
                x = self._patches(self.names.downsample(stage, 1), x.transpose(0, 3, 1, 2))
            for block in range(depth):
                x = x + self._run_block(self.names.block(stage, block), x)
        return self._run_linear(self.names.head, self._run_norm(self.names.last, x.mean((1, 2))))

    def _get(self, name: str) -> np.ndarray:
        return self.weights[name].astype(np.float64)

    def _patches(self, name: str, x: np.ndarray) -> np.ndarray:
        """A convolution whose windows do not overlap: ``[N, C, H, W]`` -> ``[N, H / k, W / k, out]``."""
        kernel = self._get(f"{name}.weight")
        side = kernel.shape[-1]
        count, channels, height, width = x.shape
        windows = x.reshape(count, channels, height // side, side, width // side, side)
        return np.einsum("ncyixj,ocij->nyxo", windows, kernel) + self._get(f"{name}.bias")

    def _run_norm(self, name: str, x: np.ndarray) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        return x * self._get(f"{name}.weight") + self._get(f"{name}.bias")

    def _run_linear(self, name: str, x: np.ndarray) -> np.ndarray:
        weight = self._get(f"{name}.weight")
        return x @ weight.reshape(weight.shape[:2]).T + self._get(f"{name}.bias")

    def _run_block(self, name: str, x: np.ndarray) -> np.ndarray:
        padded = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), axis=(1, 2))
        kernel = self._get(f"{name}.{self.names.depthwise}.weight")[:, 0]
        y = np.einsum("nyxcij,cij->nyxc", windows, kernel) + self._get(f"{name}.{self.names.depthwise}.bias")
        y = self._run_linear(f"{name}.{self.names.expand}", self._run_norm(f"{name}.{self.names.norm}", y))
        y = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
        if self.version == 2:
            energy = np.sqrt((y**2).sum((1, 2), keepdims=True))
            response = energy / (energy.mean(-1, keepdims=True) + 1e-6)
            weight, bias = (self._get(f"{name}.{part}").reshape(-1) for part in self.names.response)
            y = y + weight * y * response + bias
        y = self._run_linear(f"{name}.{self.names.project}", y)
        return y if self.version == 2 else y * self._get(f"{name}.{self.names.scale}").reshape(-1)
