"""What the constructor of an architecture takes, read from source text: a misspelt name in a configuration is
reported without the seconds that Paddle and PaddleClas need to load.

PaddleClas's architectures are mostly functions ``Name(pretrained=False, use_ssld=False, **kwargs)`` that hand
``**kwargs`` to a model class, and some of those classes swallow whatever they do not know. What such a function
really takes is therefore the union of its own named parameters and of those of every callable that its ``**kwargs``
reach, less what the function itself fills in.
"""

from __future__ import annotations

import ast
import functools
from typing import Any

from ppcls_ext.arch.annotations import annotation_of, default_of
from ppcls_ext.arch.sources import Definition, find_definition, find_method, relative_imports
from ppcls_ext.arch.toolkit import Toolkit
from ppcls_ext.utils.signature import REQUIRED, Parameter

Parameters = dict[str, Parameter]


def toolkit_architectures(toolkit: Toolkit) -> list[str]:
    """Returns the sorted names of the architectures that PaddleClas offers."""
    return sorted(relative_imports(toolkit.folder / "backbone" / "__init__.py"))


@functools.cache
def toolkit_parameters(toolkit: Toolkit, name: str) -> Parameters:
    """Returns what PaddleClas's architecture ``name`` takes.

    Where PaddleClas does not annotate (it rarely does), a parameter whose default is a number takes numbers.

    Raises:
        KeyError: PaddleClas has no architecture of that name.
    """
    definition = find_definition(toolkit.folder / "backbone" / "__init__.py", name)
    if definition is None:
        raise KeyError(name)
    return parameters_of_source(definition)


def parameters_of_source(definition: Definition) -> Parameters:
    """Returns what a function or the constructor of a class takes, with what its ``**kwargs`` reach."""
    if isinstance(definition.node, ast.FunctionDef):
        return _reached(definition, None, frozenset())
    constructor = find_method(definition, "__init__")
    return _reached(*constructor, frozenset()) if constructor else {}


def _reached(function: Definition, owner: Definition | None, seen: frozenset[int]) -> Parameters:
    """Returns the named parameters of ``function`` and of everything that its ``**kwargs`` reach.

    Args:
        function: a function, or a method without its first parameter.
        owner: the class of a method.
        seen: functions on the way here, against endless recursion.
    """
    node = function.node
    assert isinstance(node, ast.FunctionDef)
    result, keyword_only = _own_parameters(function, skip_first=owner is not None)
    if node.args.kwarg is not None and id(node) not in seen:
        names = _aliases(node, node.args.kwarg.arg)
        for part in ast.walk(node):
            for name, default in keys_read(part, names).items():
                result.setdefault(name, Parameter(name, Any, default))
            forwards = isinstance(part, ast.Call) and any(
                word.arg is None and _is_name(word.value, names) for word in part.keywords
            )
            if forwards:
                for name, parameter in _parameters_left(part, function, owner, seen | {id(node)}).items():
                    result.setdefault(name, parameter)
    # Keyword-only ones go last, because the caller counts positions from the front, through *args too.
    for name in keyword_only:
        result.pop(name, None)
    return {**result, **keyword_only}


def _own_parameters(function: Definition, skip_first: bool) -> tuple[Parameters, Parameters]:
    """Returns the named parameters of a function itself: those that may be given by position, and keyword-only ones."""
    node = function.node
    assert isinstance(node, ast.FunctionDef)
    positional = [*node.args.posonlyargs, *node.args.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(node.args.defaults))
    groups = (
        list(zip(positional, [*defaults, *node.args.defaults], strict=True))[1 if skip_first else 0 :],
        list(zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)),
    )
    results: tuple[Parameters, Parameters] = ({}, {})
    for group, result in zip(groups, results, strict=True):
        for argument, default_node in group:
            default = REQUIRED if default_node is None else default_of(default_node)
            annotation = annotation_of(argument, default, function.file)
            result[argument.arg] = Parameter(argument.arg, annotation, default)
    return results


def _parameters_left(call: ast.Call, caller: Definition, owner: Definition | None, seen: frozenset[int]) -> Parameters:
    """Returns the parameters of what ``call`` calls that the call does not fill in itself."""
    target = _resolve(call.func, caller, owner)
    if target is None:
        return {}
    reached = _reached(*target, seen)
    caller_varargs = caller.node.args.vararg if isinstance(caller.node, ast.FunctionDef) else None
    unknown_count = False
    filled = {word.arg for word in call.keywords if word.arg}
    plain = 0
    for value in call.args:
        if not isinstance(value, ast.Starred):
            plain += 1
        elif caller_varargs is None or not _is_name(value.value, {caller_varargs.arg}):
            unknown_count = True
    left = {name: reached[name] for name in list(reached)[plain:] if name not in filled}
    if unknown_count:  # A table row spread over the call: it fills at least what has no default.
        left = {name: parameter for name, parameter in left.items() if parameter.default is not REQUIRED}
    return left


def _resolve(
    callee: ast.expr, caller: Definition, owner: Definition | None
) -> tuple[Definition, Definition | None] | None:
    """Returns the function that ``callee`` names (for a class its constructor) and the class it belongs to."""
    if isinstance(callee, ast.Attribute) and owner is not None:
        above = isinstance(callee.value, ast.Call) and _is_name(callee.value.func, {"super"})
        if above or _is_name(callee.value, {"self"}):
            return find_method(owner, callee.attr, skip_own=above)
    if not isinstance(callee, ast.Name):
        return None
    found = find_definition(caller.file, callee.id)
    if found is not None and isinstance(found.node, ast.ClassDef):
        return find_method(found, "__init__")
    return (found, None) if found else None


def _aliases(node: ast.FunctionDef, keywords: str) -> set[str]:
    """Returns the names under which ``**keywords`` goes on: itself, its copies, and dictionaries made with it."""
    names = {keywords}
    for part in ast.walk(node):
        if not isinstance(part, ast.Assign) or not isinstance(part.value, ast.Call):
            continue
        call = part.value
        copied = isinstance(call.func, ast.Attribute) and call.func.attr == "copy" and _is_name(call.func.value, names)
        spread = _is_name(call.func, {"dict"}) and any(
            _is_name(word.value, names) for word in call.keywords if not word.arg
        )
        if copied or spread:
            names |= {target.id for target in part.targets if isinstance(target, ast.Name)}
    return names


def keys_read(part: ast.AST, names: set[str]) -> dict[str, Any]:
    """Returns the key that an expression reads from ``**kwargs``, by ``get``, ``pop`` or index, and its default."""
    key: ast.expr | None = None
    default: Any = ...
    if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and _is_name(part.func.value, names):
        if part.func.attr in ("get", "pop") and part.args:
            key = part.args[0]
            default = default_of(part.args[1]) if len(part.args) > 1 else None
    elif isinstance(part, ast.Subscript) and isinstance(part.ctx, ast.Load) and _is_name(part.value, names):
        key = part.slice
    return {str(key.value): default} if isinstance(key, ast.Constant) else {}


def _is_name(node: ast.AST, names: set[str]) -> bool:
    return isinstance(node, ast.Name) and node.id in names
