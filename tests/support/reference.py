"""Checkpoints of the paper's repository with random weights, and an independent forward pass of theirs."""

from __future__ import annotations

import numpy as np
import paddle
from paddle.nn import functional

# Sizes from the paper, written down here again so that the test does not lean on the code it checks.
DIMS = {"mini": (48, 96, 192, 384, 768), "tiny": (64, 128, 256, 512, 1024), "small": (64, 128, 256, 512, 1024)}
DEPTHS = {"mini": (3, 3, 9, 3), "tiny": (3, 3, 9, 3), "small": (3, 3, 27, 3)}
CLASSES = 10


class Reference:
    """Random weights with the reference's names, and the network's forward pass straight from them."""

    def __init__(self, variant: str, classes: int = CLASSES) -> None:
        self.variant = variant
        self.generator = np.random.default_rng(7)
        self.weights: dict[str, np.ndarray] = {}
        dims = DIMS[variant]
        middles = [(dims[i] + dims[i + 1]) // 2 for i in range(4)]
        if variant == "mini":
            self.stem = [(3, middles[0], 4, 4, 0)]
        else:
            half = dims[0] // 2
            self.stem = [(3, half, 2, 2, 0), (half, half, 3, 1, 1), (half, dims[0], 3, 1, 1)]
        for index, (inputs, outputs, kernel, _, _) in enumerate(self.stem, start=1):
            self._conv_norm(f"Down_Conv.conv{index}", inputs, outputs, kernel)
        for stage in range(4):
            self._stage(f"stages.{stage}", stage, dims, middles[stage])
        self._norm("norm", dims[4])
        self._normal("head.fc_cls.weight", (dims[4], classes), dims[4])
        self._normal("head.fc_cls.bias", (classes,), 1)
        for index in range(3):
            self._norm(f"norms.{index}", dims[index + 2])

    def _normal(self, name, shape, fan_in):
        self.weights[name] = (self.generator.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)

    def _convolution(self, name, inputs, outputs, kernel, groups=1):
        self._normal(f"{name}.weight", (outputs, inputs // groups, kernel, kernel), inputs // groups * kernel**2)
        self._normal(f"{name}.bias", (outputs,), 10)

    def _norm(self, name, channels):
        uniform = self.generator.uniform
        self.weights[f"{name}.weight"] = uniform(0.8, 1.2, channels).astype(np.float32)
        self._normal(f"{name}.bias", (channels,), 25)
        self._normal(f"{name}._mean", (channels,), 25)
        self.weights[f"{name}._variance"] = uniform(0.5, 1.5, channels).astype(np.float32)

    def _conv_norm(self, name, inputs, outputs, kernel):
        self._convolution(f"{name}.conv", inputs, outputs, kernel)
        # GELU and the gates shrink the signal: without a gain the logits would hardly depend on the image.
        self.weights[f"{name}.conv.weight"] *= 1.5
        self._norm(f"{name}.bn", outputs)

    def _stage(self, name, stage, dims, middle):
        if self.variant != "mini" or stage > 0:
            self._conv_norm(f"{name}.down.0", dims[stage], middle, 2)
        half = middle // 2
        self._conv_norm(f"{name}.conv1", middle, half, 1)
        self._conv_norm(f"{name}.conv2", middle, half, 1)
        self._conv_norm(f"{name}.conv3", middle, dims[stage + 1], 1)
        self._convolution(f"{name}.attn.fc", middle, middle, 1)
        for block in range(DEPTHS[self.variant][stage]):
            prefix = f"{name}.blocks.{block}"
            self._convolution(f"{prefix}.dwconv", half, half, 7, groups=half)
            self._norm(f"{prefix}.norm", half)
            self._convolution(f"{prefix}.pwconv1", half, 4 * half, 1)
            self._convolution(f"{prefix}.pwconv2", 4 * half, half, 1)
            self._norm(f"{prefix}.norm2", half)
            self._convolution(f"{prefix}.ese.fc", half, half, 1)
            self._normal(f"{prefix}.gamma", (half,), 1)

    def forward(self, images: np.ndarray) -> np.ndarray:
        """Images [N, 3, H, W] -> logits [N, classes]."""
        x = self._run_norm("norm", self._stage_outputs(images)[-1].mean([2, 3]))
        return (x @ self.tensors["head.fc_cls.weight"] + self.tensors["head.fc_cls.bias"]).numpy()

    def features(self, images: np.ndarray) -> list[np.ndarray]:
        """Images [N, 3, H, W] -> what a detector gets: the last three stages, each through its batch norm."""
        stages = self._stage_outputs(images)[1:]
        return [self._run_norm(f"norms.{index}", x).numpy() for index, x in enumerate(stages)]

    def _stage_outputs(self, images):
        self.tensors = {name: paddle.to_tensor(array) for name, array in self.weights.items()}
        x = paddle.to_tensor(images)
        for index, (_, _, _, stride, padding) in enumerate(self.stem, start=1):
            x = self._run_conv_norm(f"Down_Conv.conv{index}", x, stride, padding)
        outputs = []
        for stage in range(4):
            x = self._run_stage(f"stages.{stage}", x, DEPTHS[self.variant][stage])
            outputs.append(x)
        return outputs

    def _run_norm(self, name, x):
        shape = [1, -1] + [1] * (x.ndim - 2)
        weight, bias, mean, variance = (
            self.tensors[f"{name}.{part}"].reshape(shape) for part in ("weight", "bias", "_mean", "_variance")
        )
        return (x - mean) / paddle.sqrt(variance + 1e-5) * weight + bias

    def _run_convolution(self, name, x, **arguments):
        return functional.conv2d(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], **arguments)

    def _run_conv_norm(self, name, x, stride=1, padding=0):
        x = self._run_convolution(f"{name}.conv", x, stride=stride, padding=padding)
        return functional.gelu(self._run_norm(f"{name}.bn", x))

    def _run_attention(self, name, x):
        gate = self._run_convolution(name, x.mean([2, 3], keepdim=True))
        return x * paddle.clip(gate / 6 + 0.5, 0, 1)

    def _run_stage(self, name, x, depth):
        if f"{name}.down.0.conv.weight" in self.tensors:
            x = self._run_conv_norm(f"{name}.down.0", x, stride=2)
        shortcut = self._run_conv_norm(f"{name}.conv1", x)
        x = self._run_conv_norm(f"{name}.conv2", x)
        for block in range(depth):
            prefix = f"{name}.blocks.{block}"
            branch = self._run_convolution(f"{prefix}.dwconv", x, padding=3, groups=x.shape[1])
            branch = self._run_convolution(f"{prefix}.pwconv1", self._run_norm(f"{prefix}.norm", branch))
            branch = self._run_convolution(f"{prefix}.pwconv2", functional.gelu(branch))
            x = x + self._run_attention(f"{prefix}.ese.fc", self._run_norm(f"{prefix}.norm2", branch))
        both = self._run_attention(f"{name}.attn.fc", paddle.concat([shortcut, x], axis=1))
        return self._run_conv_norm(f"{name}.conv3", both)
