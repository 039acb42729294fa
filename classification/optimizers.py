"""Optimizers by PaddleClas's names: what YAML may say of them, and which parameters decay."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import paddle


class WeightDecayRules:
    """Decides which parameters weight decay acts on.

    Args:
        one_dim_param_no_weight_decay: spare biases, norms and every other parameter of at most one dimension
            (ConvNeXt's recipe, arXiv 2201.03545, appendix A.1; E-ConvNeXt keeps it).
        no_weight_decay_name: parts of parameter names, separated by spaces; parameters whose name holds one are spared.
    """

    def __init__(self, one_dim_param_no_weight_decay: bool = False, no_weight_decay_name: str | None = None) -> None:
        self.spare_one_dimensional = one_dim_param_no_weight_decay
        self.spared_parts = no_weight_decay_name.split() if no_weight_decay_name else []

    def decays(self, name: str, parameter: paddle.Tensor) -> bool:
        """Tells whether the parameter with the structured name ``name`` (``stages.0.blocks.1...``) decays."""
        if self.spare_one_dimensional and len(parameter.shape) <= 1:
            return False
        return not any(part in name for part in self.spared_parts)


class OptimizerSettings(ABC):
    """What every optimizer shares.

    Args:
        weight_decay: strength of the decay; decoupled for AdamW, an L2 term in the gradient for the others.
        rules: which parameters decay.
        clip_norm: limit of the global gradient norm.
        clip_value: limit of each gradient entry.
        multi_precision: keep float32 copies of float16 or bfloat16 weights.

    Raises:
        ValueError: a value is out of range; the message begins with the argument's name.
    """

    def __init__(
        self,
        weight_decay: float,
        rules: WeightDecayRules,
        clip_norm: float | None,
        clip_value: float | None,
        multi_precision: bool,
    ) -> None:
        if weight_decay < 0:
            raise ValueError(f"weight_decay: must not be negative, got {weight_decay}")
        for name, limit in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            if limit is not None and limit <= 0:
                raise ValueError(f"{name}: must be positive, got {limit}")
        if clip_norm is not None and clip_value is not None:
            raise ValueError("clip_value: cannot stand beside clip_norm; choose one")
        self.weight_decay = weight_decay
        self.rules = rules
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.multi_precision = multi_precision

    def build(self, named_parameters: list[tuple[str, paddle.Tensor]]) -> paddle.optimizer.Optimizer:
        """Returns the optimizer over the trainable ones of ``named_parameters``; its rate is set before each step."""
        trainable = [(name, parameter) for name, parameter in named_parameters if not parameter.stop_gradient]
        decayed = {parameter.name for name, parameter in trainable if self.rules.decays(name, parameter)}
        return self._create([parameter for _, parameter in trainable], decayed, self._clip())

    def _clip(self) -> Any:
        import paddle

        if self.clip_norm is not None:
            return paddle.nn.ClipGradByGlobalNorm(self.clip_norm)
        if self.clip_value is not None:
            return paddle.nn.ClipGradByValue(self.clip_value)
        return None

    @abstractmethod
    def _create(self, parameters: list[paddle.Tensor], decayed: set[str], clip: Any) -> paddle.optimizer.Optimizer: ...

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


class AdamW(OptimizerSettings):
    """Adam with decoupled weight decay (arXiv 1711.05101)."""

    def __init__(
        self,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
        one_dim_param_no_weight_decay: bool = False,
        no_weight_decay_name: str | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        multi_precision: bool = True,
    ) -> None:
        rules = WeightDecayRules(one_dim_param_no_weight_decay, no_weight_decay_name)
        super().__init__(weight_decay, rules, clip_norm, clip_value, multi_precision)
        _check_between("beta1", beta1, 0, 1)
        _check_between("beta2", beta2, 0, 1)
        if epsilon <= 0:
            raise ValueError(f"epsilon: must be positive, got {epsilon}")
        self.betas = (beta1, beta2)
        self.epsilon = epsilon

    def _create(self, parameters: list[paddle.Tensor], decayed: set[str], clip: Any) -> paddle.optimizer.Optimizer:
        import paddle

        return paddle.optimizer.AdamW(
            learning_rate=0.0,
            beta1=self.betas[0],
            beta2=self.betas[1],
            epsilon=self.epsilon,
            parameters=parameters,
            weight_decay=self.weight_decay,
            apply_decay_param_fun=decayed.__contains__,
            grad_clip=clip,
            multi_precision=self.multi_precision,
        )


class Adam(AdamW):
    """Adam (arXiv 1412.6980); weight decay is an L2 term in the gradient."""

    def __init__(
        self,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        one_dim_param_no_weight_decay: bool = False,
        no_weight_decay_name: str | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        multi_precision: bool = True,
    ) -> None:
        super().__init__(
            beta1, beta2, epsilon, weight_decay, one_dim_param_no_weight_decay, no_weight_decay_name,
            clip_norm, clip_value, multi_precision,
        )  # fmt: skip

    def _create(self, parameters: list[paddle.Tensor], decayed: set[str], clip: Any) -> paddle.optimizer.Optimizer:
        import paddle

        return paddle.optimizer.Adam(
            learning_rate=0.0,
            beta1=self.betas[0],
            beta2=self.betas[1],
            epsilon=self.epsilon,
            parameters=parameters,
            weight_decay=self._regularize(parameters, decayed),
            grad_clip=clip,
            multi_precision=self.multi_precision,
        )


class Momentum(OptimizerSettings):
    """Stochastic gradient descent with momentum."""

    def __init__(
        self,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        use_nesterov: bool = False,
        one_dim_param_no_weight_decay: bool = False,
        no_weight_decay_name: str | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        multi_precision: bool = True,
    ) -> None:
        rules = WeightDecayRules(one_dim_param_no_weight_decay, no_weight_decay_name)
        super().__init__(weight_decay, rules, clip_norm, clip_value, multi_precision)
        _check_between("momentum", momentum, 0, 1)
        self.momentum = momentum
        self.use_nesterov = use_nesterov

    def _create(self, parameters: list[paddle.Tensor], decayed: set[str], clip: Any) -> paddle.optimizer.Optimizer:
        import paddle

        return paddle.optimizer.Momentum(
            learning_rate=0.0,
            momentum=self.momentum,
            use_nesterov=self.use_nesterov,
            parameters=parameters,
            weight_decay=self._regularize(parameters, decayed),
            grad_clip=clip,
            multi_precision=self.multi_precision,
        )


class SGD(OptimizerSettings):
    """Plain stochastic gradient descent."""

    def __init__(
        self,
        weight_decay: float = 0.0,
        one_dim_param_no_weight_decay: bool = False,
        no_weight_decay_name: str | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        multi_precision: bool = True,
    ) -> None:
        rules = WeightDecayRules(one_dim_param_no_weight_decay, no_weight_decay_name)
        super().__init__(weight_decay, rules, clip_norm, clip_value, multi_precision)

    def _create(self, parameters: list[paddle.Tensor], decayed: set[str], clip: Any) -> paddle.optimizer.Optimizer:
        import paddle

        return paddle.optimizer.SGD(
            learning_rate=0.0,
            parameters=parameters,
            weight_decay=self._regularize(parameters, decayed),
            grad_clip=clip,
            multi_precision=self.multi_precision,
        )


class RMSProp(OptimizerSettings):
    """RMSProp with momentum (Hinton's lecture 6e; the optimizer of MobileNet and EfficientNet recipes)."""

    def __init__(
        self,
        momentum: float = 0.0,
        rho: float = 0.95,
        epsilon: float = 1e-6,
        weight_decay: float = 0.0,
        one_dim_param_no_weight_decay: bool = False,
        no_weight_decay_name: str | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        multi_precision: bool = False,
    ) -> None:
        rules = WeightDecayRules(one_dim_param_no_weight_decay, no_weight_decay_name)
        super().__init__(weight_decay, rules, clip_norm, clip_value, multi_precision)
        _check_between("momentum", momentum, 0, 1)
        _check_between("rho", rho, 0, 1)
        if epsilon <= 0:
            raise ValueError(f"epsilon: must be positive, got {epsilon}")
        self.momentum = momentum
        self.rho = rho
        self.epsilon = epsilon

    def _create(self, parameters: list[paddle.Tensor], decayed: set[str], clip: Any) -> paddle.optimizer.Optimizer:
        import paddle

        return paddle.optimizer.RMSProp(
            learning_rate=0.0,
            rho=self.rho,
            epsilon=self.epsilon,
            momentum=self.momentum,
            parameters=parameters,
            weight_decay=self._regularize(parameters, decayed),
            grad_clip=clip,
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


def _check_between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value < high:
        raise ValueError(f"{name}: must be at least {low} and below {high}, got {value}")
