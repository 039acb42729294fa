"""The names of models, ours and PaddleClas's, and what each takes. Loads neither Paddle nor PaddleClas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppcls_ext.arch.signatures import our_parameters, toolkit_architectures, toolkit_parameters
from ppcls_ext.arch.toolkit import find_toolkit
from ppcls_ext.arch.variants import FAMILIES, family_of
from ppcls_ext.utils.errors import nearest_names
from ppcls_ext.utils.signature import Parameter, check_arguments


def list_models() -> list[str]:
    """Returns the sorted names of our models (PaddleClas's are built by name too, but not listed)."""
    return sorted(name for family in FAMILIES for name in family.rows)


def is_ours(name: str) -> bool:
    """Whether ``name`` is one of our models."""
    return family_of(name) is not None


def architecture_parameters(name: str) -> dict[str, Parameter]:
    """Returns what a model takes, for ours and for PaddleClas's; read from sources, so it answers at once.

    A default of ``...`` stands for one that the source does not state as a literal.

    Raises:
        ValueError: there is no such model; the message gives the nearest names.
    """
    family = family_of(name)
    if family is not None:
        return dict(our_parameters(family))
    toolkit = find_toolkit()
    known = list_models() + (toolkit_architectures(toolkit) if toolkit else [])
    if toolkit is None or name not in known:
        near = nearest_names(str(name), known)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; ours are {', '.join(list_models())}"
        missing = "" if toolkit else " (PaddleClas, which has more, is not installed)"
        raise ValueError(f"unknown model '{name}'{hint}{missing}")
    return dict(toolkit_parameters(toolkit, name))


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
