"""A trained model behind the interface of an exported one, to predict without an export and to compare with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppcls_ext.arch.outputs import logits_of

if TYPE_CHECKING:
    import paddle


class EagerBackend:
    """Runs a ``paddle.nn.Layer`` in evaluation mode.

    Args:
        model: images ``[N, 3, H, W]`` -> logits ``[N, class_num]``, or what holds them (see ``logits_of``); is put into
            evaluation mode.

    Attributes:
        computed_in: the type of its weights as trained.
    """

    computed_in = "float32"

    def __init__(self, model: paddle.nn.Layer) -> None:
        self.model = model
        model.eval()

    def run(self, images: np.ndarray) -> np.ndarray:
        """``float32`` ``[N, 3, H, W]`` -> logits ``float32`` ``[N, class_num]``."""
        import paddle

        with paddle.no_grad():
            return logits_of(self.model(paddle.to_tensor(images))).astype("float32").numpy()
