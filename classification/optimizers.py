"""Optimizers by PaddleClas's names: what YAML may say of them, and which parameters decay."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import paddle


@dataclasses.dataclass(frozen=True)
class WeightDecayRules:
    """Decides which parameters weight decay acts on.

    Args:
        one_dim_param_no_weight_decay: spare biases, norms and every other parameter of at most one dimension
            (ConvNeXt's recipe, arXiv 2201.03545, appendix A.1; E-ConvNeXt keeps it).
        no_weight_decay_name: parts of parameter names, separated by spaces; parameters whose name holds one are spared.
    """

    one_dim_param_no_weight_decay: bool = False
    no_weight_decay_name: str | None = None

    def decays(self, name: str, parameter: paddle.Tensor) -> bool:
        """Tells whether the parameter with the structured name ``name`` (``stages.0.blocks.1...``) decays."""
        if self.one_dim_param_no_weight_decay and len(parameter.shape) <= 1:
            return False
        return not any(part in name for part in (self.no_weight_decay_name or "").split())


@dataclasses.dataclass(kw_only=True)
class OptimizerSettings(ABC):
    """What every optimizer shares; the fields are the keys of YAML.

    Args:
        weight_decay: strength of the decay; decoupled for AdamW, an L2 term in the gradient for the others.
        one_dim_param_no_weight_decay, no_weight_decay_name: what does not decay, see :class:`WeightDecayRules`.
        clip_norm: limit of the global gradient norm.
        clip_value: limit of each gradient entry.
        multi_precision: keep float32 copies of float16 or bfloat16 weights.

    Raises:
        ValueError: a value is out of range; the message begins with the argument's name.
    """

    weight_decay: float = 0.0
    one_dim_param_no_weight_decay: bool = False
    no_weight_decay_name: str | None = None
    clip_norm: float | None = None
    clip_value: float | None = None
    multi_precision: bool = True

    def __post_init__(self) -> None:
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay: must not be negative, got {self.weight_decay}")
        for name, limit in (("clip_norm", self.clip_norm), ("clip_value", self.clip_value)):
            if limit is not None and limit <= 0:
                raise ValueError(f"{name}: must be positive, got {limit}")
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError("clip_value: cannot stand beside clip_norm; choose one")

    @property
    def rules(self) -> WeightDecayRules:
        """Which parameters decay."""
        return WeightDecayRules(self.one_dim_param_no_weight_decay, self.no_weight_decay_name)

    def build(self, named_parameters: list[tuple[str, paddle.Tensor]]) -> paddle.optimizer.Optimizer:
        """Returns the optimizer over the trainable ones of ``named_parameters``; its rate is set before each step."""
        trainable = [(name, parameter) for name, parameter in named_parameters if not parameter.stop_gradient]
        decayed = {parameter.name for name, parameter in trainable if self.rules.decays(name, parameter)}
        parameters = [parameter for _, parameter in trainable]
        return self._create(decayed, learning_rate=0.0, parameters=parameters, grad_clip=self._clip())

    def _clip(self) -> Any:
        import paddle

        if self.clip_norm is not None:
            return paddle.nn.ClipGradByGlobalNorm(self.clip_norm)
        if self.clip_value is not None:
            return paddle.nn.ClipGradByValue(self.clip_value)
        return None

    @abstractmethod
    def _create(self, decayed: set[str], **shared: Any) -> paddle.optimizer.Optimizer:
        """Returns Paddle's optimizer with the arguments ``shared`` by all; ``decayed`` names what decays."""

    def _regularize(self, parameters: list[paddle.Tensor], decayed: set[str]) -> float | None:
        """Excepts the spared parameters from the L2 term; returns its strength for Paddle's ``weight_decay``.

        Two parameter groups would say the same, but Paddle clips the global norm of each group by itself.
        """
        import paddle

        if not self.weight_decay:
            return None
        for parameter in parameters:
            if parameter.name not in decayed:
                parameter.regularizer = paddle.regularizer.L2Decay(0.0)
        return self.weight_decay


@dataclasses.dataclass(kw_only=True)
class Adam(OptimizerSettings):
    """Adam (arXiv 1412.6980); weight decay is an L2 term in the gradient."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shares(beta1=self.beta1, beta2=self.beta2)
        _check_positive(epsilon=self.epsilon)

    def _create(self, decayed: set[str], **shared: Any) -> paddle.optimizer.Optimizer:
        import paddle

        decay = self._regularize(shared["parameters"], decayed)
        return paddle.optimizer.Adam(**shared, **self._numbers(), weight_decay=decay)

    def _numbers(self) -> dict[str, Any]:
        names = ("beta1", "beta2", "epsilon", "multi_precision")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (arXiv 1711.05101)."""

    weight_decay: float = 0.01

    def _create(self, decayed: set[str], **shared: Any) -> paddle.optimizer.Optimizer:
        import paddle

        return paddle.optimizer.AdamW(
            **shared,
            **self._numbers(),
            weight_decay=self.weight_decay,
            apply_decay_param_fun=decayed.__contains__,
        )


@dataclasses.dataclass(kw_only=True)
class Momentum(OptimizerSettings):
    """Stochastic gradient descent with momentum."""

    momentum: float = 0.9
    use_nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shares(momentum=self.momentum)

    def _create(self, decayed: set[str], **shared: Any) -> paddle.optimizer.Optimizer:
        import paddle

        return paddle.optimizer.Momentum(
            **shared,
            momentum=self.momentum,
            use_nesterov=self.use_nesterov,
            weight_decay=self._regularize(shared["parameters"], decayed),
            multi_precision=self.multi_precision,
        )


@dataclasses.dataclass(kw_only=True)
class SGD(OptimizerSettings):
    """Plain stochastic gradient descent."""

    def _create(self, decayed: set[str], **shared: Any) -> paddle.optimizer.Optimizer:
        import paddle

        decay = self._regularize(shared["parameters"], decayed)
        return paddle.optimizer.SGD(**shared, weight_decay=decay, multi_precision=self.multi_precision)


@dataclasses.dataclass(kw_only=True)
class RMSProp(OptimizerSettings):
    """RMSProp with momentum (Hinton's lecture 6e; the optimizer of MobileNet and EfficientNet recipes)."""

    momentum: float = 0.0
    rho: float = 0.95
    epsilon: float = 1e-6
    multi_precision: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shares(momentum=self.momentum, rho=self.rho)
        _check_positive(epsilon=self.epsilon)
        if self.multi_precision:
            raise ValueError("multi_precision: Paddle's RMSProp has no float32 copies of the weights; leave it false")

    def _create(self, decayed: set[str], **shared: Any) -> paddle.optimizer.Optimizer:
        import paddle

        decay = self._regularize(shared["parameters"], decayed)
        return paddle.optimizer.RMSProp(
            **shared, momentum=self.momentum, rho=self.rho, epsilon=self.epsilon, weight_decay=decay
        )


OPTIMIZERS: dict[str, type[OptimizerSettings]] = {
    optimizer.__name__: optimizer for optimizer in (AdamW, Adam, Momentum, RMSProp, SGD)
}


class L2:
    """PaddleClas's ``regularizer: {name: L2, coeff: 0.0001}``, another spelling of ``weight_decay``."""

    def __init__(self, coeff: float) -> None:
        if coeff < 0:
            raise ValueError(f"coeff: must not be negative, got {coeff}")
        self.weight_decay = coeff


REGULARIZERS: dict[str, type] = {"L2": L2}


def _check_shares(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}: must be at least 0 and below 1, got {value}")


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name}: must be positive, got {value}")
