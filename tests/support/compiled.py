"""A compiled network beside the same network in eager mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def check_static_equals_eager(model: Any, inputs: Sequence[Any]) -> None:
    """Compiles ``model``, images of any size ``[N, 3, H, W]`` -> a tensor, and compares its outputs with eager ones."""
    import paddle

    model.eval()
    with paddle.no_grad():
        eager = [model(x).numpy() for x in inputs]
        specification = [paddle.static.InputSpec([None, 3, None, None], "float32")]
        static_model = paddle.jit.to_static(model, input_spec=specification, full_graph=True)
        static = [static_model(x).numpy() for x in inputs]
    for one, other in zip(static, eager, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())
