"""Automatic mixed precision (O1, O2; float16 with loss scaling, bfloat16 without); float32 where there is no GPU."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import paddle

from ppcls_ext.engine.shared_keys import AmpSettings

logger = logging.getLogger(__name__)


class Precision:
    """How numbers are computed: with ``settings`` in ``float16`` or ``bfloat16``, else in float32.

    On the CPU Paddle's ``auto_cast`` computes in float32 whatever it is asked for, so nothing is cast. ``white_list``
    and ``black_list`` name further operators that are always and never cast.
    """

    def __init__(
        self,
        settings: AmpSettings | None,
        dtype: str,
        on_gpu: bool,
        white_list: Sequence[str] | None = None,
        black_list: Sequence[str] | None = None,
    ) -> None:
        if settings is not None and not on_gpu:
            logger.info("AMP needs a GPU: computing in float32 on the CPU")
        self.settings = settings if on_gpu else None
        self.dtype, self.white_list, self.black_list = dtype, white_list, black_list
        self.scaler: paddle.amp.GradScaler | None = None
        if self.settings is not None and dtype == "float16":
            self.scaler = paddle.amp.GradScaler(
                init_loss_scaling=self.settings.scale_loss,
                use_dynamic_loss_scaling=self.settings.use_dynamic_loss_scaling,
            )

    @property
    def weights(self) -> str:
        """Data type of the weights: ``float32``, or for O2 the low precision beside float32 copies."""
        return self.dtype if self.settings is not None and self.settings.level == "O2" else "float32"

    def decorate(
        self, model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer
    ) -> tuple[paddle.nn.Layer, paddle.optimizer.Optimizer]:
        """Returns model and optimizer, for O2 with low-precision weights and float32 copies in the optimizer."""
        if self.settings is None or self.settings.level != "O2":
            return model, optimizer
        # No `save_dtype`: with it, state_dict() returns converted copies, and whatever is loaded into them is lost.
        return paddle.amp.decorate(models=model, optimizers=optimizer, level="O2", dtype=self.dtype, master_weight=True)

    def autocast(self, training: bool = True) -> AbstractContextManager[Any]:
        """Returns the context in which the forward pass runs."""
        if self.settings is None:
            return contextlib.nullcontext()
        # With O2 the weights themselves are of low precision, so evaluation has no choice.
        if not (training or self.settings.use_fp16_test or self.settings.level == "O2"):
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(
            custom_white_list=self.white_list, custom_black_list=self.black_list, level=self.settings.level,
            dtype=self.dtype, use_promote=self.settings.use_promote,
        )  # fmt: skip

    def backward(self, loss: paddle.Tensor) -> None:
        """Runs the backward pass of a scalar ``loss``, scaled where float16 needs it."""
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    def step(self, optimizer: paddle.optimizer.Optimizer) -> None:
        """Does one optimizer step; with loss scaling a step with infinite gradients is left out."""
        if self.scaler:
            self.scaler.step(optimizer)
            self.scaler.update()
        else:
            optimizer.step()

    def state(self) -> dict[str, float]:
        """Returns the loss scaler's state as plain numbers; empty without a scaler."""
        if self.scaler is None:
            return {}
        return {key: float(value) for key, value in self.scaler.state_dict().items() if not isinstance(value, bool)}

    def restore(self, state: dict[str, float]) -> None:
        """Takes the state of :meth:`state` over."""
        if self.scaler is None or not state:
            return
        current = self.scaler.state_dict()
        for key, value in state.items():
            current[key] = np.array([value], "float32") if key == "scale" else type(current[key])(value)
        self.scaler.load_state_dict(current)
