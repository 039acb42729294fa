"""Configuration sections as pydantic models, and their faults as lines with file, line and dotted key.

What the deployment runtime shares (operators of ``preprocess``) is checked by ``utils.signature`` alone, which needs no
pydantic.
"""

from __future__ import annotations

import contextlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ppcls_ext.utils.config import Problems, is_empty, parse_text, parse_value
from ppcls_ext.utils.errors import ConfigError, suggestion
from ppcls_ext.utils.signature import Parameter, check_arguments, convert, parse_number


class Section(BaseModel):
    """Base of the models: a field is a key. Unknown keys, other types (``1`` for ``true``) and NaN are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _number(value: Any) -> Any:
    """Reads ``4e-3`` and ``1.0/255.0``, which YAML leaves as texts."""
    try:
        return parse_number(value) if isinstance(value, str) else value
    except ValueError:
        return value


Number = Annotated[float, BeforeValidator(_number)]
NotNegative = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]

_TYPES = {
    "int_type": "a whole number", "float_type": "a number", "finite_number": "a finite number",
    "bool_type": "true or false", "string_type": "a text", "list_type": "a list", "dict_type": "a mapping",
    "model_type": "a mapping",
}  # fmt: skip
_LIMITS = {
    "greater_than_equal": ("ge", "at least"), "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "at most"), "less_than": ("lt", "below"),
}  # fmt: skip


def explain(error: ValidationError, values: Mapping[str, Any], allowed: Iterable[str]) -> list[tuple[str, str]]:
    """Returns each fault of a section as the dotted key below it (empty for the section itself) and a message.

    Args:
        error: what validating ``values``, the section as the file has it, raised.
        values, allowed: the section, and keys that it may have, for messages about unknown ones.
    """
    allowed = list(allowed)
    found: dict[str, str] = {}
    lines: list[tuple[str, str]] = []
    for fault in error.errors(include_url=False):
        kind, name = fault["type"], str(fault["loc"][-1]) if fault["loc"] else ""
        if kind in ("extra_forbidden", "invalid_key"):
            message = f"unknown argument '{name}'{suggestion(name, allowed)}; allowed: {', '.join(allowed)}"
            lines.append(("", message))
        elif kind == "missing":
            lines.append(("", f"missing argument '{name}'"))
        elif kind == "value_error":
            # Checks of several keys begin with the one that is to blame.
            key, separator, message = str(fault["ctx"]["error"]).partition(": ")
            known = separator and key in allowed
            lines.append((key, message) if known else (_dotted(fault["loc"], values), str(fault["ctx"]["error"])))
        else:
            # Each member of a union has its own fault at the same key.
            key, (wanted, got) = _dotted(fault["loc"], values), _wanted(fault)
            found[key] = f"{found[key]} or {wanted}" if key in found else wanted
            lines = [line for line in lines if line[0] != key or not key]
            lines.append((key, f"must be {found[key]}, {got}"))
    # A misspelt key is the cause of a missing one.
    return sorted(lines, key=lambda line: line[1].startswith("missing"))


def _members(annotation: Any) -> tuple[Any, ...]:
    """Returns the types of a union, or the one type."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def _is_text(annotation: Any) -> bool:
    """Tells whether a type is text, any or one of several."""
    words = typing.get_args(annotation) if typing.get_origin(annotation) is Literal else ()
    return annotation is str or (bool(words) and all(isinstance(word, str) for word in words))


def read_override(text: str, annotation: Any) -> Any:
    """Returns what ``-o KEY=TEXT`` means for a key that takes text, perhaps beside other types.

    That is the whole text as it stands (see ``config.parse_text``), unless it is ``null`` or nothing for a key that may
    be left out, or is YAML of another type that the key takes as well, such as ``false`` where a path or false is.
    """
    members = _members(annotation)
    if type(None) in members and is_empty(text):
        return None
    for member in members:
        if not _is_text(member) and member is not type(None):
            with contextlib.suppress(ValueError):
                return convert(parse_value(text), member)
    return parse_text(text)


def _dotted(location: tuple[Any, ...], values: Any) -> str:
    """Returns ``a.b[0]``, without what pydantic adds to tell the members of a union apart."""
    key = ""
    for part in location:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            break
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    return key


def _wanted(fault: Any) -> tuple[str, str]:
    """Returns what pydantic wants and what it got, in words."""
    kind, context, got = fault["type"], fault.get("ctx", {}), f"got {fault['input']!r}"
    if kind in _LIMITS:
        name, word = _LIMITS[kind]
        return f"{word} {context[name]:g}", got
    if kind == "literal_error":
        names = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
        return f"one of {', '.join(names)}", f"{got}{suggestion(str(fault['input']), names)}"
    if kind in _TYPES:
        return _TYPES[kind], f"{got} ({type(fault['input']).__name__})"
    return fault["msg"].removeprefix("Input should be "), got


Model = TypeVar("Model", bound=Section)


class Checker(Problems):
    """Checks the parts of one document. Problems are noted, never raised, so that a user sees all of them at once."""

    def choice(self, name: Any, key: str, allowed: Iterable[str]) -> str | None:
        """Returns ``name`` if it is allowed, else (noted) ``None``."""
        names = sorted(allowed)
        if name in names:
            return name
        got = "is missing" if name is None else f"unknown name {name!r}{suggestion(str(name), names)}"
        self.add(key, f"{got}; allowed: {', '.join(names)}")
        return None

    def section(self, model: type[Model], values: Any, key: str) -> Model | None:
        """Returns the section at ``key`` as a ``model``, or (noted) ``None``."""
        if not isinstance(values, dict):
            self.add(key, f"must be a mapping of arguments, got {values!r}")
            return None
        values = self._with_texts(values, key, {name: field.annotation for name, field in model.model_fields.items()})
        for name, field in model.model_fields.items():
            members = _members(field.annotation)
            parts = [part for part in members if isinstance(part, type) and issubclass(part, Section)]
            if parts and isinstance(values.get(name), dict):
                values[name] = self.section(parts[0], values[name], f"{key}.{name}" if key else name)
        try:
            return model.model_validate(values)
        except ValidationError as error:
            for name, message in explain(error, values, model.model_fields):
                self.add(".".join(filter(None, (key, name))), message)
            return None

    def arguments(
        self, parameters: Mapping[str, Parameter], values: Any, key: str, supplied: Iterable[str] = ()
    ) -> dict[str, Any] | None:
        """Returns the arguments of a constructor at ``key``, converted by its annotations, or (noted) ``None``.

        The file may not name those that are ``supplied``.
        """
        if not isinstance(values, dict):
            self.add(key, f"must be a mapping of arguments, got {values!r}")
            return None
        values = self._with_texts(values, key, {name: one.annotation for name, one in parameters.items()})
        converted, problems = check_arguments(parameters, values, supplied)
        for name, message in problems:
            self.add(f"{key}.{name}" if name else key, message)
        return None if problems else converted

    def _with_texts(self, values: Mapping[str, Any], key: str, annotations: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a section in which keys that take text have what ``-o`` said, as it stands; so has the document."""
        found = dict(values)
        for name, annotation in annotations.items():
            dotted = f"{key}.{name}" if key else name
            if name in values and dotted in self.document.texts and any(map(_is_text, _members(annotation))):
                # Taken once: a copy of the document with other values may be checked again.
                found[name] = read_override(self.document.texts.pop(dotted), annotation)
                self.document.put(dotted, found[name])
                self.document.refused.pop(dotted, None)
        return found

    def collected(self, build: Callable[..., Any], *arguments: Any) -> Any:
        """Returns ``build(*arguments)``, or ``None`` where it raised a :class:`ConfigError`; its lines are noted."""
        try:
            return build(*arguments)
        except ConfigError as error:
            for problem in error.problems:
                key, _, message = problem.partition(": ")
                # What a constructor refused begins with the argument's name.
                argument, separator, rest = message.partition(": ")
                if separator and argument.isidentifier():
                    key, message = f"{key}.{argument}", rest
                self.add(key, message)
            return None
