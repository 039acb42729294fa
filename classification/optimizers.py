"""Optimizers by PaddleClas's names: their settings in YAML, and which parameters decay."""

from __future__ import annotations

from typing import Any, Literal

import paddle
from pydantic import model_validator

from ppcls_ext.utils.schema import NotNegative, Positive, Section, Share


class OptimizerSettings(Section):
    """Shared by all optimizers; weight decay is an L2 term in the gradient.

    Args:
        weight_decay: strength of the decay.
        one_dim_param_no_weight_decay: spare biases, norms and every other parameter of at most one dimension
            (ConvNeXt's recipe, arXiv 2201.03545, appendix A.1; E-ConvNeXt keeps it).
        no_weight_decay_name: parts of parameter names, separated by spaces; parameters whose name holds one are spared.
        clip_norm: limit of the global gradient norm.
        clip_value: limit of each gradient entry.
        multi_precision: keep float32 copies of float16 or bfloat16 weights.

    Raises:
        ValueError: a value is out of range.
    """

    weight_decay: NotNegative = 0.0
    one_dim_param_no_weight_decay: bool = False
    no_weight_decay_name: str | None = None
    clip_norm: Positive | None = None
    clip_value: Positive | None = None
    multi_precision: bool = True

    @model_validator(mode="after")
    def _check_clips(self) -> OptimizerSettings:
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError("clip_value: cannot stand beside clip_norm; choose one")
        return self

    def decays(self, name: str, parameter: paddle.Tensor) -> bool:
        """Tells whether the parameter with the structured name ``name`` (``stages.0.blocks.1...``) decays."""
        if self.one_dim_param_no_weight_decay and len(parameter.shape) <= 1:
            return False
        return not any(part in name for part in (self.no_weight_decay_name or "").split())

    def build(self, named_parameters: list[tuple[str, paddle.Tensor]]) -> paddle.optimizer.Optimizer:
        """Returns the optimizer over the trainable ones of ``named_parameters``; its rate is set before each step."""
        trainable = [(name, parameter) for name, parameter in named_parameters if not parameter.stop_gradient]
        clip = self.clip_norm and paddle.nn.ClipGradByGlobalNorm(self.clip_norm)
        clip = clip or (self.clip_value and paddle.nn.ClipGradByValue(self.clip_value))
        arguments = self.model_dump(exclude=set(OptimizerSettings.model_fields)) | self._decay_arguments(trainable)
        if self.multi_precision:
            arguments["multi_precision"] = True
        parameters = [parameter for _, parameter in trainable]
        make = getattr(paddle.optimizer, type(self).__name__)
        return make(learning_rate=0.0, parameters=parameters, grad_clip=clip, **arguments)

    def _decay_arguments(self, trainable: list[tuple[str, paddle.Tensor]]) -> dict[str, Any]:
        """Excepts the spared parameters from the L2 term.

        Two parameter groups would say the same, but Paddle clips the global norm of each group by itself.
        """
        if not self.weight_decay:
            return {}
        for name, parameter in trainable:
            if not self.decays(name, parameter):
                parameter.regularizer = paddle.regularizer.L2Decay(0.0)
        return {"weight_decay": self.weight_decay}


class Adam(OptimizerSettings):
    """Adam (arXiv 1412.6980)."""

    beta1: Share = 0.9
    beta2: Share = 0.999
    epsilon: Positive = 1e-8


class AdamW(Adam):
    """Adam with decoupled weight decay (arXiv 1711.05101)."""

    weight_decay: NotNegative = 0.01

    def _decay_arguments(self, trainable: list[tuple[str, paddle.Tensor]]) -> dict[str, Any]:
        decayed = {parameter.name for name, parameter in trainable if self.decays(name, parameter)}
        return {"weight_decay": self.weight_decay, "apply_decay_param_fun": decayed.__contains__}


class Momentum(OptimizerSettings):
    """Stochastic gradient descent with momentum."""

    momentum: Share = 0.9
    use_nesterov: bool = False


class SGD(OptimizerSettings):
    """Plain stochastic gradient descent."""


class RMSProp(OptimizerSettings):
    """RMSProp with momentum (Hinton's lecture 6e; the optimizer of MobileNet and EfficientNet recipes)."""

    momentum: Share = 0.0
    rho: Share = 0.95
    epsilon: Positive = 1e-6
    multi_precision: bool = False

    @model_validator(mode="after")
    def _check_precision(self) -> RMSProp:
        if self.multi_precision:
            raise ValueError("multi_precision: Paddle's RMSProp has no float32 copies of the weights; leave it false")
        return self


OPTIMIZERS: dict[str, type[OptimizerSettings]] = {
    optimizer.__name__: optimizer for optimizer in (AdamW, Adam, Momentum, RMSProp, SGD)
}


class Regularizer(Section):
    """PaddleClas's ``regularizer: {name: L2, coeff: 0.0001}``, another spelling of ``weight_decay``."""

    name: Literal["L2"]
    coeff: NotNegative
