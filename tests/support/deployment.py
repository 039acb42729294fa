"""Marks for tests that need packages of requirements-deploy.txt, and small networks to export."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skips a test where a package is missing; the packages are not imported to find out."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    reason = f"{', '.join(missing)} missing: pip install -r requirements-deploy.txt"
    return pytest.mark.skipif(bool(missing), reason=reason)


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str, present: tuple[str, ...] = ()) -> None:
    """Makes packages look as if they were not installed, and those of ``present`` as if they were."""
    find = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> Any:
        if name in present:
            return find("json")
        return None if name in packages else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)


NEEDS_ONNX = needs("paddle2onnx", "onnx", "onnxruntime")
NEEDS_OPENVINO = needs("paddle2onnx", "onnx", "openvino")


def small_classifier(class_num: int = 4) -> Any:
    """Builds a classifier with batch norms that have seen data, and one normalisation that is written out."""
    import paddle
    from paddle import nn

    class WrittenOut(nn.Layer):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            """``[N, C, H, W]`` -> the same shape, each place with mean 0 and deviation 1 over its channels."""
            centred = x - x.mean(axis=1, keepdim=True)
            return centred / (centred.square().mean(axis=1, keepdim=True) + 1e-6).sqrt()

    paddle.seed(0)
    model = nn.Sequential(
        nn.Conv2D(3, 24, 4, 4), nn.BatchNorm2D(24), nn.GELU(), WrittenOut(), nn.Conv2D(24, 32, 3, 2, 1),
        nn.BatchNorm2D(32, epsilon=1e-3), nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(32, class_num),
    )  # fmt: skip
    generator = np.random.default_rng(3)
    for name, tensor in model.state_dict().items():
        if name.endswith("_mean"):
            tensor.set_value(generator.normal(scale=0.1, size=tensor.shape).astype(np.float32))
        if name.endswith("_variance"):
            tensor.set_value(generator.uniform(0.2, 2.0, size=tensor.shape).astype(np.float32))
    model[-1].weight.set_value(model[-1].weight * 10)
    model.eval()
    return model


def export_small(folder: Path, **changes: Any) -> Path:
    """Exports `small_classifier` for images of 32 pixels, with other arguments as told; returns the folder."""
    from ppcls_ext.deploy.export import export_classifier

    preprocess = [{"ResizeImage": {"size": 32}}, {"NormalizeImage": {"order": ""}}]
    settings = {"model_name": "small", "class_num": 4, "image_shape": [3, 32, 32], "preprocess": preprocess, **changes}
    return export_classifier(small_classifier(), folder, **settings).folder
