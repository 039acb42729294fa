"""E-ConvNeXt in plain NumPy, float64, by the names of the paper's repository: what our network is checked against.

`Reference("mini")` draws random weights while a first batch of pictures passes through, and settles each batch norm on
what arrives there, so that rounding is not amplified; `Reference("mini", weights=...)` computes with given ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import erf

# Sizes from the paper, written down here again so that tests do not lean on the code they check.
DIMS = {"mini": (48, 96, 192, 384, 768), "tiny": (64, 128, 256, 512, 1024), "small": (64, 128, 256, 512, 1024)}
DEPTHS = {"mini": (3, 3, 9, 3), "tiny": (3, 3, 9, 3), "small": (3, 3, 27, 3)}
CLASSES = 10


class Reference:
    """The paper's network.

    Args:
        variant: ``mini``, ``tiny`` or ``small``.
        classes: width of the classifier that is drawn.
        weights: float32 arrays by the names of the paper's repository; None draws them.
    """

    def __init__(
        self, variant: str, classes: int = CLASSES, weights: Mapping[str, np.ndarray] | None = None
    ) -> None:
        self.variant, self.classes = variant, classes
        self.weights = dict(weights or {})
        self.generator = None if weights else np.random.default_rng(7)
        if self.generator:
            pictures = self.generator.normal(size=(8, 3, 64, 64)) + self.generator.normal(size=(8, 3, 1, 1))
            self.forward(pictures)
            self.features(pictures)
            self.generator = None

    def forward(self, images: np.ndarray) -> np.ndarray:
        """Images ``[N, 3, H, W]`` -> logits ``[N, classes]``."""
        x = self.stages(images)[-1].mean((2, 3))
        x = self.norm("norm", x)
        weight = self.weight("head.fc_cls.weight", (x.shape[1], self.classes), fan_in=x.shape[1])
        return x @ weight + self.weight("head.fc_cls.bias", (self.classes,), fan_in=100)

    def features(self, images: np.ndarray) -> list[np.ndarray]:
        """Images ``[N, 3, H, W]`` -> what a detector gets: the last three stages, each through its batch norm."""
        return [self.norm(f"norms.{index}", x) for index, x in enumerate(self.stages(images)[1:])]

    def stages(self, x: np.ndarray) -> list[np.ndarray]:
        """Images ``[N, 3, H, W]`` -> the outputs of the four stages."""
        dims = DIMS[self.variant]
        x = x.astype(np.float64)
        if self.variant == "mini":
            x = self.conv_norm_act("Down_Conv.conv1", x, (dims[0] + dims[1]) // 2, kernel=4, stride=4)
        else:
            x = self.conv_norm_act("Down_Conv.conv1", x, dims[0] // 2, kernel=2, stride=2)
            x = self.conv_norm_act("Down_Conv.conv2", x, dims[0] // 2, kernel=3, padding=1)
            x = self.conv_norm_act("Down_Conv.conv3", x, dims[0], kernel=3, padding=1)
        outputs = []
        for i in range(4):
            x = self.stage(f"stages.{i}", x, (dims[i] + dims[i + 1]) // 2, dims[i + 1], DEPTHS[self.variant][i])
            outputs.append(x)
        return outputs

    def stage(self, name: str, x: np.ndarray, middle: int, channels: int, depth: int) -> np.ndarray:
        if x.shape[1] != middle:
            x = self.conv_norm_act(f"{name}.down.0", x, middle, kernel=2, stride=2)
        shortcut = self.conv_norm_act(f"{name}.conv1", x, middle // 2)
        x = self.conv_norm_act(f"{name}.conv2", x, middle // 2)
        for block in range(depth):
            x = self.block(f"{name}.blocks.{block}", x)
        x = np.concatenate([shortcut, x], axis=1)
        return self.conv_norm_act(f"{name}.conv3", self.attention(f"{name}.attn.fc", x), channels)

    def block(self, name: str, x: np.ndarray) -> np.ndarray:
        channels = x.shape[1]
        y = self.norm(f"{name}.norm", self.depthwise(f"{name}.dwconv", x))
        y = gelu(self.convolution(f"{name}.pwconv1", y, 4 * channels))
        y = self.norm(f"{name}.norm2", self.convolution(f"{name}.pwconv2", y, channels))
        if self.generator:
            self.weight(f"{name}.gamma", (channels,), fan_in=1)  # the paper's files hold it, and do not use it
        return x + self.attention(f"{name}.ese.fc", y)

    def attention(self, name: str, x: np.ndarray) -> np.ndarray:
        gate = self.convolution(name, x.mean((2, 3), keepdims=True), x.shape[1])
        return x * np.clip(gate / 6 + 0.5, 0, 1)

    def conv_norm_act(self, name: str, x: np.ndarray, channels: int, **shape: int) -> np.ndarray:
        return gelu(self.norm(f"{name}.bn", self.convolution(f"{name}.conv", x, channels, **shape)))

    def convolution(
        self, name: str, x: np.ndarray, channels: int, kernel: int = 1, stride: int = 1, padding: int = 0
    ) -> np.ndarray:
        inputs = x.shape[1]
        weight = self.weight(f"{name}.weight", (channels, inputs, kernel, kernel), fan_in=inputs * kernel**2)
        x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        height, width = ((side - kernel) // stride + 1 for side in x.shape[2:])
        y = 0.0
        for i, j in np.ndindex(kernel, kernel):
            y = y + np.einsum(
                "nchw,oc->nohw",
                x[:, :, i : i + stride * height : stride, j : j + stride * width : stride],
                weight[:, :, i, j],
                optimize=True,
            )
        return y + self.weight(f"{name}.bias", (channels,), fan_in=100)[:, None, None]

    def depthwise(self, name: str, x: np.ndarray) -> np.ndarray:
        _, channels, height, width = x.shape
        weight = self.weight(f"{name}.weight", (channels, 1, 7, 7), fan_in=49)
        x = np.pad(x, ((0, 0), (0, 0), (3, 3), (3, 3)))
        y = 0.0
        for i, j in np.ndindex(7, 7):
            y = y + x[:, :, i : i + height, j : j + width] * weight[:, :, i, j, None]
        return y + self.weight(f"{name}.bias", (channels,), fan_in=100)[:, None, None]

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        channels = x.shape[1]
        if self.generator and f"{name}._mean" not in self.weights:
            axes = tuple(axis for axis in range(x.ndim) if axis != 1)
            self.weights[f"{name}._mean"] = x.mean(axes).astype(np.float32)
            self.weights[f"{name}._variance"] = x.var(axes).astype(np.float32)
            self.weights[f"{name}.weight"] = self.generator.uniform(0.8, 1.2, channels).astype(np.float32)
        mean, variance, gain, bias = (
            array.reshape(-1, *[1] * (x.ndim - 2))
            for array in (
                self.weight(f"{name}._mean"),
                self.weight(f"{name}._variance"),
                self.weight(f"{name}.weight"),
                self.weight(f"{name}.bias", (channels,), fan_in=25),
            )
        )
        return (x - mean) / np.sqrt(variance + 1e-5) * gain + bias

    def weight(self, name: str, shape: tuple[int, ...] = (), fan_in: int = 1) -> np.ndarray:
        """Returns the array ``name`` in float64; drawn with variance ``1 / fan_in`` where it is to be made up."""
        if self.generator and name not in self.weights:
            self.weights[name] = (self.generator.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)
        return self.weights[name].astype(np.float64)


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))
