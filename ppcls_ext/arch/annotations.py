"""Annotations and defaults of parameters as values, read from a syntax tree without evaluating code."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, Literal, Union

from ppcls_ext.arch.sources import import_source, parse
from ppcls_ext.utils.signature import REQUIRED

_TYPES: dict[str, Any] = {
    "int": int, "float": float, "bool": bool, "str": str, "list": list, "tuple": tuple, "dict": dict,
    "List": list, "Tuple": tuple, "Dict": dict,
}  # fmt: skip


def default_of(node: ast.expr) -> Any:
    """Returns a default that is a literal; ``...`` for one that only running the code would tell."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ...


def annotation_of(argument: ast.arg, default: Any, file: Path) -> Any:
    """Returns the annotation of ``argument`` as `check_arguments` takes it; ``Any`` where the source does not tell.

    Without an annotation a number as default admits numbers, so that YAML's text ``1e-6`` is converted.
    """
    if argument.annotation is not None:
        return _convert(argument.annotation, file)
    if isinstance(default, bool) or default is REQUIRED or not isinstance(default, int | float):
        return Any
    if argument.arg == "class_num":
        return int
    # Many take None for "not used", and an integer default (drop_rate=0) says nothing about fractions.
    return int | float | None


def _convert(node: ast.expr, file: Path) -> Any:
    if isinstance(node, ast.Constant):
        return type(None) if node.value is None else Any
    if isinstance(node, ast.Name):
        return _TYPES[node.id] if node.id in _TYPES else _alias(node.id, file)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        members = (_convert(node.left, file), _convert(node.right, file))
        return Any if Any in members else Union[members]  # noqa: UP007 - members are known only at run time
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        return _convert_subscript(node.value.id, node.slice, file)
    return Any


def _convert_subscript(name: str, inside: ast.expr, file: Path) -> Any:
    entries = inside.elts if isinstance(inside, ast.Tuple) else [inside]
    if name == "Literal":
        return Literal[tuple(ast.literal_eval(entry) for entry in entries)]
    members = tuple(_convert(entry, file) for entry in entries)
    if name in ("Optional", "Union"):
        members += (type(None),) if name == "Optional" else ()
        return Any if Any in members else Union[members]  # noqa: UP007 - members are known only at run time
    return _TYPES.get(name, Any)


def _alias(name: str, file: Path, seen: frozenset[tuple[Path, str]] = frozenset()) -> Any:
    """Follows ``Name = Literal[...]`` at the top level of the same file, or of the file that it is imported from."""
    for node in parse(file).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return _convert(node.value, file)
    source = import_source(file, name)
    if source is None or source in seen:
        return Any
    return _alias(source[1], source[0], seen | {source})
