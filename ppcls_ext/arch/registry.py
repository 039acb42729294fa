"""Models by name: ours, and every architecture of PaddleClas. Importing this module loads neither of them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ppcls_ext.utils.errors import nearest_names
from ppcls_ext.utils.signature import Parameter, check_arguments, parameters_of

if TYPE_CHECKING:
    from paddle import nn


@dataclass(frozen=True, eq=False)
class Family:
    """Models of one class, whose constructor takes a row of ``models``, a table by their names, and what a user sets.

    ``ablation`` is the same network with switches for studies, or None.
    """

    network: type[nn.Layer]
    models: Mapping[str, Mapping[str, Any]]
    ablation: type[nn.Layer] | None = None

    @functools.cached_property
    def switches(self) -> frozenset[str]:
        """Arguments that only ``ablation`` takes."""
        taken = parameters_of(self.ablation) if self.ablation else {}
        return frozenset(taken) - frozenset(parameters_of(self.network))

    def parameters(self) -> dict[str, Parameter]:
        """Returns what a user may set, the switches included."""
        row = next(iter(self.models.values()))
        parameters = parameters_of(self.ablation or self.network)
        return {name: parameter for name, parameter in parameters.items() if name not in row}

    def network_for(self, arguments: Mapping[str, Any]) -> type[nn.Layer]:
        """Returns the class that takes ``arguments``: with a switch among them the one with switches."""
        return self.ablation if self.ablation and self.switches & set(arguments) else self.network


@functools.cache
def families() -> tuple[Family, ...]:
    """Returns our families of models; loads Paddle."""
    from ppcls_ext.arch import ablation, convnext, econvnext

    return (
        Family(econvnext.EConvNeXt, econvnext.MODELS, ablation.AblatedEConvNeXt),
        Family(convnext.ConvNeXtV1, convnext.V1_MODELS, ablation.AblatedConvNeXt),
        Family(convnext.ConvNeXtV2, convnext.V2_MODELS),
    )


def family_of(name: str) -> Family | None:
    """Returns the family of one of our models, or ``None`` for any other name."""
    return next((family for family in families() if name in family.models), None)


def list_models() -> list[str]:
    """Returns the sorted names of our models (PaddleClas's are built by name too, but not listed)."""
    return sorted(name for family in families() for name in family.models)


def architecture_parameters(name: str) -> dict[str, Parameter]:
    """Returns what a model takes, for ours and for PaddleClas's; imports PaddleClas for the latter.

    Raises:
        ValueError: there is no such model; the message gives the nearest names.
    """
    family = family_of(name)
    if family is not None:
        return family.parameters()
    from ppcls_ext import plugin

    theirs = plugin.toolkit_architectures()
    if name not in theirs:
        near = nearest_names(str(name), [*list_models(), *theirs])
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; ours are {', '.join(list_models())}"
        missing = "" if theirs else " (PaddleClas, which has more, is not installed)"
        raise ValueError(f"unknown model '{name}'{hint}{missing}")
    return plugin.toolkit_parameters(name)


def checked_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of model ``name``, converted as its constructor wants them.

    Raises:
        ValueError: unknown model, or unknown, missing or ill-typed arguments, all in one line.
    """
    converted, problems = check_arguments(architecture_parameters(name), arguments)
    if problems:
        lines = [f"{argument}: {message}" if argument else message for argument, message in problems]
        raise ValueError(f"{name}: {'; '.join(lines)}")
    return converted


def build_model(name: str, **arguments: Any) -> nn.Layer:
    """Builds a model by its name: images ``[N, 3, H, W]`` -> logits ``[N, class_num]``.

    Args:
        name: one of `list_models`, or any architecture of PaddleClas ("ConvNeXt_tiny", "ResNet101", ...).
        **arguments: its constructor's, such as ``class_num`` and ``drop_path_rate``; for E-ConvNeXt and ConvNeXt also
            the switches of `ablation.Switches`.

    Raises:
        ValueError: the name or an argument is unknown (nearest names in the message) or has a wrong value.
    """
    checked = checked_arguments(name, arguments)
    family = family_of(name)
    if family is not None:
        return family.network_for(checked)(**family.models[name], **checked)
    from ppcls_ext import plugin

    with _parameter_names_of_its_own():
        return plugin.build_toolkit_network(name, checked)


@contextlib.contextmanager
def _parameter_names_of_its_own() -> Iterator[None]:
    """Lets parameters be called as those of another network are.

    Many of PaddleClas's networks (MobileNetV2, EfficientNet, DenseNet, ...) name their parameters themselves, and
    Paddle refuses a name that it has seen before in the process: there could be no teacher of the student's family, and
    no second row of it in a study. Names count within one network and its optimizer only.
    """
    from paddle.utils import unique_name

    generator, checker = unique_name.switch()
    unique_name.switch(generator)
    try:
        yield
    finally:
        unique_name.switch(generator, checker)


def register() -> list[str]:
    """Puts every model of ours into PaddleClas's architecture namespace under its own name.

    The namespace is that of a source checkout on ``sys.path`` (``ppcls.arch``), else that of the wheel
    (``paddleclas.ppcls.arch``). Registering twice does nothing the second time. Returns the names, sorted.

    Raises:
        UserError: PaddleClas is not there, or one of the names already means something else (then nothing is set).
        ImportError: PaddleClas is there but something that it needs is not.
    """
    from ppcls_ext import plugin

    owners = {name: family for family in families() for name in family.models}
    plugin.put_into_namespace(
        list_models(), network_of=lambda name, arguments: owners[name].network_for(arguments),
        arguments_of=lambda name, arguments: {**owners[name].models[name], **checked_arguments(name, arguments)},
    )  # fmt: skip
    return list_models()
