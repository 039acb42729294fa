"""Checks the pieces that configurations are made of: mappings, choices, constructors and lists of operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ppcls_ext.utils.config import Document, Problems
from ppcls_ext.utils.errors import ConfigError, suggestion
from ppcls_ext.utils.signature import REQUIRED, Parameter, check_arguments, parameters_of


class Reader:
    """Reads parts of one document; problems are collected, never raised, so that a user sees all of them."""

    def __init__(self, document: Document) -> None:
        self.problems = Problems(document)

    def known_keys(self, key: str, section: Mapping[str, Any], allowed: Sequence[str]) -> None:
        """Notes every key of ``section`` that is not ``allowed``."""
        for name in section:
            if name not in allowed:
                hint = suggestion(str(name), allowed)
                self.problems.add(key, f"unknown key '{name}'{hint}; allowed: {', '.join(allowed)}")

    def mapping(self, section: Any, key: str, allowed: Sequence[str]) -> dict[str, Any]:
        """Returns ``section``, or an empty mapping where it is null or (noted) no mapping."""
        if section is None:
            return {}
        if not isinstance(section, dict):
            self.problems.add(key, f"must be a mapping with the keys {', '.join(allowed)}, got {section!r}")
            return {}
        self.known_keys(key, section, allowed)
        return section

    def choice(self, name: Any, key: str, allowed: Iterable[str]) -> str | None:
        """Returns ``name`` if it is allowed; otherwise notes the problem and returns ``None``."""
        names = sorted(allowed)
        if name in names:
            return name
        got = "is missing" if name is None else f"unknown name {name!r}{suggestion(str(name), names)}"
        self.problems.add(key, f"{got}; allowed: {', '.join(names)}")
        return None

    def arguments(
        self, parameters: Mapping[str, Parameter], arguments: Any, key: str, supplied: Iterable[str] = ()
    ) -> dict[str, Any]:
        """Returns the arguments that fit, converted; notes the others."""
        if not isinstance(arguments, dict):
            self.problems.add(key, f"must be a mapping of arguments, got {arguments!r}")
            return {}
        converted, problems = check_arguments(parameters, arguments, supplied)
        for name, message in problems:
            self.problems.add(f"{key}.{name}" if name else key, message)
        return converted

    def checked(
        self, factory: Callable[..., Any], arguments: Any, key: str, supplied: Iterable[str] = ()
    ) -> dict[str, Any] | None:
        """Returns the converted arguments of ``factory``, or ``None`` where at least one does not fit."""
        if not isinstance(arguments, dict):
            self.problems.add(key, f"must be a mapping of arguments, got {arguments!r}")
            return None
        converted, problems = check_arguments(parameters_of(factory), arguments, supplied)
        for name, message in problems:
            self.problems.add(f"{key}.{name}" if name else key, message)
        return None if problems else converted

    def construct(self, factory: Callable[..., Any], arguments: dict[str, Any], key: str) -> Any:
        """Returns ``factory(**arguments)``; each line ``name: ...`` of a ``ValueError`` is noted under ``key.name``."""
        try:
            return factory(**arguments)
        except ValueError as error:
            for line in str(error).splitlines():
                name, separator, message = line.partition(": ")
                known = separator and name in arguments | dict.fromkeys(parameters_of(factory))
                self.problems.add(f"{key}.{name}" if known else key, message if known else line)
            return None

    def build(self, factory: Callable[..., Any], arguments: Any, key: str) -> Any:
        """Checks the arguments and builds; ``None`` where anything was noted."""
        parameters = parameters_of(factory)
        fitting = self.arguments(parameters, arguments, key)
        if any(name not in fitting for name, parameter in parameters.items() if parameter.default is REQUIRED):
            return None
        # Built even if some arguments do not fit, because the others may be out of range.
        built = self.construct(factory, fitting, key)
        return built if isinstance(arguments, dict) and fitting.keys() == arguments.keys() else None

    def named_list(self, section: Any, key: str, allowed: Iterable[str]) -> list[tuple[str, dict[str, Any], str]]:
        """Reads PaddleClas's lists of ``- Name: {argument: value}``.

        Returns:
            Name, arguments and dotted key of each entry that has the right shape and an allowed name.
        """
        if section is None:
            return []
        if not isinstance(section, list):
            self.problems.add(key, f"must be a list of '- Name: {{arguments}}' entries, got {section!r}")
            return []
        entries = []
        for index, entry in enumerate(section):
            place = f"{key}[{index}]"
            if isinstance(entry, str):
                entry = {entry: None}
            if not isinstance(entry, dict) or len(entry) != 1:
                self.problems.add(place, "must hold one name with its arguments; is an indentation wrong?")
                continue
            name, arguments = next(iter(entry.items()))
            if self.choice(name, place, allowed) is not None:
                entries.append((name, arguments or {}, f"{place}.{name}"))
        return entries

    def collected(self, build: Callable[..., Any], *arguments: Any) -> Any:
        """Returns ``build(*arguments)``, or ``None`` where it raised a :class:`ConfigError`; its problems are noted."""
        try:
            return build(*arguments)
        except ConfigError as error:
            for problem in error.problems:
                key, _, message = problem.partition(": ")
                # What a constructor refused begins with the argument's name.
                argument, separator, rest = message.partition(": ")
                if separator and argument.isidentifier():
                    key, message = f"{key}.{argument}", rest
                self.problems.add(key, message)
            return None

    def metrics(self, section: Any, key: str, table: Mapping[str, type]) -> list[Any]:
        """Builds a list of metrics, each by its constructor."""
        built = [self.build(table[name], arguments, place) for name, arguments, place in
                 self.named_list(section, key, table)]  # fmt: skip
        return [metric for metric in built if metric is not None]
