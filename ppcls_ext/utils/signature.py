"""The constructor is the schema: arguments from YAML are checked against annotations before anything is built.

Operators of exported models are checked by it as well, on machines that have neither Paddle nor pydantic.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import inspect
import math
import operator
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

from ppcls_ext.utils.errors import suggestion

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_FRACTION = re.compile(rf"^\s*({_NUMBER})\s*(?:/\s*({_NUMBER})\s*)?$")
REQUIRED = inspect.Parameter.empty


def parse_number(text: str) -> float:
    """Reads ``4e-3`` or ``1.0/255.0``, the two spellings of PaddleClas's YAML that YAML itself leaves as strings.

    Raises ``ValueError`` where there is no such number, or a division by zero.
    """
    match = _FRACTION.match(text)
    if match is None:
        raise ValueError(f"'{text}' is not a number")
    numerator, denominator = float(match[1]), float(match[2] or 1)
    if denominator == 0:
        raise ValueError(f"'{text}' divides by zero")
    return numerator / denominator


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One named parameter: its annotation (``Any`` where there is none) and default (``REQUIRED`` where none)."""

    name: str
    annotation: Any = Any
    default: Any = REQUIRED


@dataclasses.dataclass(frozen=True)
class Limits:
    """Range of a number, in ``Annotated[float, Limits(gt=0, le=1)]``: above, at least, below, at most."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def check(self, number: float) -> None:
        """Raises:
        ValueError: ``number`` lies outside; the message names the range.
        """
        limits = (
            ("above", self.gt, operator.gt), ("at least", self.ge, operator.ge),
            ("below", self.lt, operator.lt), ("at most", self.le, operator.le),
        )  # fmt: skip
        # No comparison with NaN is true.
        if not all(limit is None or compare(number, limit) for _, limit, compare in limits):
            words = " and ".join(f"{word} {limit:g}" for word, limit, _ in limits if limit is not None)
            raise ValueError(f"must be {words}, got {number}")


Probability = Annotated[float, Limits(ge=0, le=1)]
PositiveNumber = Annotated[float, Limits(gt=0)]


def parameters_of(factory: Callable[..., Any]) -> dict[str, Parameter]:
    """Returns the named parameters of a class or function, with their annotations resolved."""
    function = factory.__init__ if inspect.isclass(factory) else factory
    hints = typing.get_type_hints(function, include_extras=True)
    return {
        each.name: Parameter(each.name, hints.get(each.name, Any), each.default)
        for each in inspect.signature(factory).parameters.values()
        if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    }


def check_arguments(
    parameters: Mapping[str, Parameter], arguments: Mapping[str, Any], supplied: Iterable[str] = ()
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Checks ``arguments`` from YAML against ``parameters``; it may not name those that are ``supplied``.

    Returns:
        The arguments converted by their annotations (``"4e-3"`` becomes 0.004 for a float), and the problems as
        pairs of argument name (empty for a missing argument) and message.
    """
    allowed = [name for name in parameters if name not in set(supplied)]
    converted: dict[str, Any] = {}
    problems: list[tuple[str, str]] = []
    for name, value in arguments.items():
        if name not in allowed:
            expected = ", ".join(allowed) if allowed else "none"
            problems.append(("", f"unknown argument '{name}'{suggestion(str(name), allowed)}; allowed: {expected}"))
            continue
        try:
            converted[name] = convert(value, parameters[name].annotation)
        except ValueError as error:
            problems.append((name, str(error)))
    missing = [name for name in allowed if parameters[name].default is REQUIRED and name not in arguments]
    problems.extend(("", f"missing argument '{name}'") for name in missing)
    return converted, problems


def convert(value: Any, annotation: Any) -> Any:
    """Returns ``value`` as ``annotation`` wants it: ``"4e-3"`` and ``"1.0/255.0"`` are numbers where one is wanted.

    Raises:
        ValueError: it does not fit; the message says what is expected.
    """
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any or annotation is REQUIRED:
        return value
    if origin is Annotated:
        number = convert(value, members[0])
        members[1].check(number)
        return number
    if origin is typing.Literal:
        # By type too: True equals 1, and 4.0 equals 4, but a constructor may not take one for the other.
        if any(type(value) is type(name) and value == name for name in members):
            return value
        names = [str(name) for name in members]
        raise ValueError(f"must be one of {', '.join(names)}, got {value!r}{suggestion(str(value), names)}")
    if origin in (typing.Union, types.UnionType):
        # An exact fit goes first, so that `int | float` keeps 3 an integer and `str | float` keeps "1/2" a text.
        if type(value) in members:
            return convert(value, type(value))
        for member in members:
            try:
                return convert(value, member)
            except ValueError:
                continue
        narrow = [member for member in members if typing.get_origin(member) in (typing.Literal, Annotated)]
        if len(narrow) == 1 and isinstance(value, str | int | float):
            return convert(value, narrow[0])
    elif origin in (list, tuple, collections.abc.Sequence):
        fixed = origin is tuple and members[-1:] != (Ellipsis,)
        if isinstance(value, list | tuple) and not (fixed and len(value) != len(members)):
            each = members if fixed else (members[0] if members else Any,) * len(value)
            entries = []
            for index, pair in enumerate(zip(value, each, strict=True)):
                try:
                    entries.append(convert(*pair))
                except ValueError as error:
                    raise ValueError(f"entry {index}: {error}") from error
            return tuple(entries) if origin is tuple else entries
    elif annotation is float:
        return _finite(value)
    elif annotation is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif origin in (dict, collections.abc.Mapping):
        if isinstance(value, dict):
            return value
    elif not isinstance(annotation, type) or isinstance(value, annotation):
        return value
    raise ValueError(f"must be {describe(annotation)}, got {value!r} ({type(value).__name__})")


def _finite(value: Any) -> float:
    number = value
    with contextlib.suppress(ValueError):
        number = parse_number(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(f"must be {describe(float)}, got {value!r} ({type(value).__name__})")
    # Every comparison with NaN is false, so that no later check of a range would stop it. A whole number may be beyond
    # the largest float.
    with contextlib.suppress(OverflowError):
        if math.isfinite(number):
            return float(number)
    raise ValueError(f"must be a finite number, got {number!r}")


_NAMES = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a text", dict: "a mapping",
    list: "a list", type(None): "null",
}  # fmt: skip


def describe(annotation: Any) -> str:
    """Returns an annotation in the words of a YAML author: ``a list of a number``, ``a whole number or null``."""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return describe(members[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(member) for member in members)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(member) for member in members)
    if origin is tuple and members and members[-1] is not Ellipsis:
        return f"a list of {len(members)} entries ({', '.join(describe(member) for member in members)})"
    if origin in (list, tuple, collections.abc.Sequence):
        return f"a list, each entry {describe(members[0])}" if members else "a list"
    if origin in (dict, collections.abc.Mapping):
        return "a mapping"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))
