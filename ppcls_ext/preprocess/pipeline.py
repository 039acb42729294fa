"""Operator lists from YAML: checked, built and applied in order."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppcls_ext.preprocess.decode import ImageError
from ppcls_ext.preprocess.operators import OPERATORS, DecodeImage, ToCHWImage
from ppcls_ext.utils.errors import ConfigError, suggestion
from ppcls_ext.utils.signature import check_arguments, parameters_of


class Pipeline:
    """Deterministic operators in a row.

    Args:
        operators: callables ``op(image) -> image``.
    """

    def __init__(self, operators: Sequence[Any]) -> None:
        self.operators = list(operators)
        if not self.operators or not isinstance(self.operators[0], DecodeImage):
            self.operators.insert(0, DecodeImage())

    def __call__(self, image: bytes | str | os.PathLike[str] | np.ndarray, name: str | None = None) -> np.ndarray:
        """Applies the operators.

        Args:
            image: a path, an encoded file's bytes, or ``uint8`` RGB ``[H, W, 3]``.
            name: what errors call the picture; its path when absent.

        Returns:
            ``float32`` ``[3, H, W]`` or ``[H, W, 3]``, as the operators say.

        Raises:
            ImageError: the picture cannot be decoded or does not fit an operator.
        """
        if name is None:
            name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else "image"
        try:
            for operator in self.operators:
                image = operator(image)
        except ImageError as error:
            raise ImageError(name, error.cause) from error
        return image

    @property
    def channel_first(self) -> bool:
        """Whether the result is ``[3, H, W]``."""
        return any(isinstance(op, ToCHWImage) or getattr(op, "channel_first", False) for op in self.operators)


def split_entry(entry: Any, where: str) -> tuple[str, dict[str, Any]]:
    """Splits one entry of an operator list, ``{Name: {argument: value}}``, ``{Name: null}`` or ``Name``.

    Raises:
        ConfigError: the entry has another form.
    """
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, arguments),) = entry.items()
        if isinstance(name, str) and (arguments is None or isinstance(arguments, Mapping)):
            return name, dict(arguments or {})
    raise ConfigError([f"{where}: expected one entry as 'Name: {{arguments}}', got {entry!r}"])


def build_named(
    name: str, arguments: Mapping[str, Any], where: str, table: Mapping[str, Any], kind: str = "operator"
) -> Any:
    """Builds one operator, its arguments checked against the annotations of its constructor.

    Args:
        name: key of ``table``.
        arguments: what the file says.
        where: dotted path of the operator without its name, for messages.
        table: name -> class.
        kind: what an entry of the table is called in messages.

    Raises:
        ConfigError: the name is unknown, or with all problems of the arguments.
    """
    if name not in table:
        hint = suggestion(name, table) or f"; known: {', '.join(sorted(table))}"
        raise ConfigError([f"{where}: unknown {kind} '{name}'{hint}"])
    converted, problems = check_arguments(parameters_of(table[name]), arguments)
    if not problems:
        try:
            return table[name](**converted)
        except ValueError as error:
            problems = [("", str(error))]
    raise ConfigError([f"{where}.{name}{'.' if argument else ''}{argument}: {text}" for argument, text in problems])


def entries_of(operations: Any, where: str) -> list[Any]:
    """Returns a YAML list of operators; None is an empty one.

    Raises:
        ConfigError: it is not a list.
    """
    if operations is None:
        return []
    if not isinstance(operations, Sequence) or isinstance(operations, str):
        raise ConfigError([f"{where}: expected a list of 'Name: {{arguments}}', got {operations!r}"])
    return list(operations)


def build_operators(
    operations: Any, where: str, table: Mapping[str, Any] = OPERATORS, kind: str = "operator"
) -> list[Any]:
    """Builds the operators (losses, metrics) of a YAML list.

    Args:
        operations: list of ``{Name: {argument: value}}``; None is an empty list.
        where: dotted path of the list, for messages.
        table: name -> class.
        kind: what an entry of the table is called in messages.

    Raises:
        ConfigError: with all problems of the list.
    """
    built: list[Any] = []
    problems: list[str] = []
    for number, entry in enumerate(entries_of(operations, where)):
        place = f"{where}[{number}]"
        try:
            name, arguments = split_entry(entry, place)
            built.append(build_named(name, arguments, place, table, kind))
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return built


def build_pipeline(operations: Any, where: str) -> Pipeline:
    """Builds the deterministic pipeline of evaluation, inference and export.

    Raises:
        ConfigError: with all problems of the list.
    """
    return Pipeline(build_operators(operations, where))
