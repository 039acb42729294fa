"""What PaddleDetection's classes and ours take, and which of their arguments name another class; read from source."""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ppcls_ext.arch.signatures import Parameters, keys_read, parameters_of_source
from ppcls_ext.arch.sources import Definition, find_definition, find_method
from ppcls_ext.utils.signature import REQUIRED, Parameter


@dataclasses.dataclass(frozen=True)
class Signature:
    """How one class is built from a section.

    Attributes:
        parameters: its named arguments; those that PaddleDetection fills in have a default here.
        modules: arguments that name another class, or hold its section with the key ``name``.
    """

    parameters: Parameters
    modules: frozenset[str]


@functools.cache
def signature_of(file: Path, name: str, annotated: bool) -> Signature | None:
    """Returns the signature of class ``name`` in ``file``, or ``None`` if the source does not tell.

    Args:
        file: where the class, or an import of it, stands.
        name: the class or function.
        annotated: the annotations are ours, and hold.
    """
    definition = find_definition(file, name)
    if definition is None:
        return None
    parameters = parameters_of_source(definition)
    filled: set[str] = set()
    created: set[str] = set()
    if isinstance(definition.node, ast.ClassDef):
        created = set(_class_list(definition, "__inject__"))
        filled = set(_class_list(definition, "__shared__"))
        maker = find_method(definition, "from_config")
        if maker is not None:
            assert isinstance(maker[0].node, ast.FunctionDef)
            created |= set(_created(maker[0].node))
            filled |= set(_returned(maker[0].node)) - created
    return Signature(
        {key: _loosened(parameter, key in filled, annotated) for key, parameter in parameters.items()},
        frozenset(created),
    )


def _loosened(parameter: Parameter, filled: bool, annotated: bool) -> Parameter:
    default = None if filled and parameter.default is REQUIRED else parameter.default
    if annotated:
        return dataclasses.replace(parameter, default=default)
    return Parameter(parameter.name, Any, default)


def _class_list(definition: Definition, name: str) -> Iterator[str]:
    """Yields the texts of a class attribute ``name = ['a', 'b']``, also of the base classes."""
    assert isinstance(definition.node, ast.ClassDef)
    for node in definition.node.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            yield from _texts(node.value)
            return
    for base in definition.node.bases:
        parent = find_definition(definition.file, base.id) if isinstance(base, ast.Name) else None
        if parent is not None and isinstance(parent.node, ast.ClassDef):
            yield from _class_list(parent, name)


def _texts(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def _created(maker: ast.FunctionDef) -> Iterator[str]:
    """Yields ``x`` for each ``create(cfg['x'], ...)`` in a ``from_config``."""
    for part in ast.walk(maker):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == "create" and part.args:
            argument = part.args[0]
            if isinstance(argument, ast.Subscript) and isinstance(argument.slice, ast.Constant):
                yield str(argument.slice.value)


def _returned(maker: ast.FunctionDef) -> Iterator[str]:
    """Yields the keys of the dictionaries that a ``from_config`` makes."""
    for part in ast.walk(maker):
        if isinstance(part, ast.Dict):
            yield from (key.value for key in part.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


@functools.cache
def keyword_keys(file: Path, owner: str, method: str) -> frozenset[str]:
    """Returns the keys that ``owner.method(**kwargs)`` reads from its keyword arguments."""
    definition = find_definition(file, owner)
    found = find_method(definition, method) if definition and isinstance(definition.node, ast.ClassDef) else None
    if found is None or not isinstance(found[0].node, ast.FunctionDef) or found[0].node.args.kwarg is None:
        return frozenset()
    names = {found[0].node.args.kwarg.arg}
    return frozenset(key for part in ast.walk(found[0].node) for key in keys_read(part, names))
