"""Finds functions and classes in Python source files without importing them."""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Definition:
    """A function or class, and the file in which it stands."""

    node: ast.FunctionDef | ast.ClassDef
    file: Path


@functools.cache
def parse(file: Path) -> ast.Module:
    """Returns the syntax tree of ``file``; read once in a process."""
    return ast.parse(file.read_bytes(), filename=str(file))


def relative_imports(file: Path) -> dict[str, tuple[Path, str]]:
    """Returns what ``file`` imports relatively at its top level: name here -> (file it comes from, name there)."""
    names: dict[str, tuple[Path, str]] = {}
    for node in parse(file).body:
        if not isinstance(node, ast.ImportFrom) or not node.level or not node.module:
            continue
        module = file.parents[node.level - 1].joinpath(*node.module.split("."))
        source = module.with_suffix(".py") if module.with_suffix(".py").is_file() else module / "__init__.py"
        for alias in node.names:
            names[alias.asname or alias.name] = (source, alias.name)
    return names


def absolute_imports(file: Path) -> dict[str, tuple[Path, str]]:
    """Returns what ``file`` imports by full name from its own package and from packages beside it, as above."""
    root = file.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    names: dict[str, tuple[Path, str]] = {}
    for node in parse(file).body:
        if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
            continue
        module = root.joinpath(*node.module.split("."))
        source = module.with_suffix(".py") if module.with_suffix(".py").is_file() else module / "__init__.py"
        if source.is_file():
            for alias in node.names:
                names[alias.asname or alias.name] = (source, alias.name)
    return names


def import_source(file: Path, name: str) -> tuple[Path, str] | None:
    """Returns the file that ``file`` imports ``name`` from and its name there, if both can be looked at."""
    source = relative_imports(file).get(name) or absolute_imports(file).get(name)
    return source if source is not None and source[0].is_file() else None


def find_definition(file: Path, name: str, _seen: frozenset[tuple[Path, str]] = frozenset()) -> Definition | None:
    """Returns the top-level function or class ``name`` of ``file``, followed through imports and aliases."""
    if (file, name) in _seen:  # Two files import the name from each other.
        return None
    seen = _seen | {(file, name)}
    for node in reversed(parse(file).body):  # The last definition of a name is the one that counts.
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return Definition(node, file)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            targets = {target.id for target in node.targets if isinstance(target, ast.Name)}
            if name in targets and node.value.id != name:
                return find_definition(file, node.value.id, seen)
    source = import_source(file, name)
    return find_definition(*source, seen) if source else None


def find_method(owner: Definition, name: str, skip_own: bool = False) -> tuple[Definition, Definition] | None:
    """Returns the method ``name`` of a class and the class in which it stands; looks through its base classes.

    Args:
        owner: the class.
        name: the method.
        skip_own: begin with the base classes, as ``super()`` does.
    """
    assert isinstance(owner.node, ast.ClassDef)
    if not skip_own:
        for node in owner.node.body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return Definition(node, owner.file), owner
    for base in owner.node.bases:
        parent = find_definition(owner.file, base.id) if isinstance(base, ast.Name) else None
        if parent is not None and isinstance(parent.node, ast.ClassDef):
            found = find_method(parent, name)
            if found is not None:
                return found
    return None
