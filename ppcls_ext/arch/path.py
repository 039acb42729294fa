"""The path from ConvNeXt to E-ConvNeXt: one design choice at each step. Loads no Paddle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Step:
    """A network on the path.

    Attributes:
        change: what differs from the step before.
        model: its name.
        arguments: of its constructor, as they stand in ``Arch``.
    """

    change: str
    model: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """The network as ``Arch`` names it, in one line of YAML."""
        words = [f"{name}: {_yaml(value)}" for name, value in {"name": self.model, **self.arguments}.items()]
        return f"{{{', '.join(words)}}}"


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


NORM = {"norm": "batch_norm"}
DOWNSAMPLING = {**NORM, "downsampling": "conv_norm_activation"}
CSP = {**DOWNSAMPLING, "csp": True}
ATTENTION = {**CSP, "branch_scale": "channel_attention"}
# What makes a ConvNeXt-T of E-ConvNeXt-mini, parameter by parameter, and the other way round.
TO_ECONVNEXT = {**ATTENTION, "branch_norm": True}
TO_CONVNEXT = {
    "norm": "layer_norm", "downsampling": "norm_conv", "csp": False, "branch_scale": "layer_scale",
    "branch_norm": False,
}  # fmt: skip

PATH: tuple[Step, ...] = (
    Step("ConvNeXt-T", "ConvNeXtV1_tiny"),
    Step("batch norm in the place of every layer norm, the classifier's too", "ConvNeXtV1_tiny", NORM),
    Step("stem and downsampling: convolution, norm, GELU", "ConvNeXtV1_tiny", DOWNSAMPLING),
    Step("cross-stage partial stages, and the narrower stem that goes with them", "ConvNeXtV1_tiny", CSP),
    Step("channel attention in the place of the layer scale", "ConvNeXtV1_tiny", ATTENTION),
    Step("a second norm in each block: this is E-ConvNeXt-mini", "EConvNeXt_mini"),
    Step("a stem of three small convolutions", "EConvNeXt_tiny", {"width_multiplier": 0.75}),
    Step("a third wider: this is E-ConvNeXt-tiny", "EConvNeXt_tiny"),
)
# What the path changes.
CHOICES = {name for step in PATH for name in step.arguments} | set(TO_CONVNEXT)
