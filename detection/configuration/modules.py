"""Sections of a detection configuration that stand for one object: their arguments against the class's signature."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detection.configuration.catalog import Catalog, is_ours
from detection.configuration.signatures import Signature, signature_of
from ppcls_ext.utils.config import Problems
from ppcls_ext.utils.errors import suggestion
from ppcls_ext.utils.signature import Parameter, check_arguments

# Our backbones, which take the size of E-ConvNeXt as `arch`.
_BACKBONES = ("EConvNeXt", "CSPConvNeXt")
_ARCHS = ("mini", "tiny", "small")


@dataclass(frozen=True)
class Checker:
    """Notes in ``problems`` what is wrong with sections; ``catalog`` says what there is."""

    catalog: Catalog
    problems: Problems

    def check_section(self, key: str, name: str, arguments: Any) -> None:
        """Checks the section ``key``, from which PaddleDetection makes an object of the registered class ``name``."""
        file = self.catalog.modules[name]
        signature = signature_of(file, name, is_ours(file))
        if not self.is_mapping(key, arguments) or signature is None:
            return
        self.check_call(key, signature, arguments)
        for argument in signature.modules & arguments.keys():
            self._check_module(f"{key}.{argument}", arguments[argument])
        arch = arguments.get("arch", _ARCHS[0])
        if name in _BACKBONES and arch not in _ARCHS:
            near = suggestion(str(arch), _ARCHS)
            self.problems.add(f"{key}.arch", f"must be one of {', '.join(_ARCHS)}, got {arch!r}{near}")

    def _check_module(self, key: str, value: Any) -> None:
        """Checks an argument that names a class (``neck: CustomCSPPAN``), or holds a section with its ``name``."""
        name = value.get("name") if isinstance(value, dict) else value
        if name is None or name == "None":
            return
        if not isinstance(name, str):
            self.problems.add(key, f"must be the name of a class, got {name!r}")
        elif name not in self.catalog.modules:
            self.problems.add(key, f"unknown class '{name}'{suggestion(name, self.catalog.modules)}")
        elif isinstance(value, dict):
            self.check_section(key, name, {word: part for word, part in value.items() if word != "name"})

    def check_call(
        self, key: str, signature: Signature, arguments: Mapping[str, Any], extra: Iterable[str] = ()
    ) -> None:
        """Checks ``arguments`` against ``signature`` and the names ``extra``, which take anything."""
        parameters = {**signature.parameters, **{name: Parameter(name, Any, None) for name in extra}}
        _, found = check_arguments(parameters, arguments)
        for argument, message in found:
            self.problems.add(f"{key}.{argument}" if argument else key, message)
        for argument, value in arguments.items():
            expected = _text_refused(parameters.get(argument), value)
            if expected:
                self.problems.add(f"{key}.{argument}", f"must be {expected}, got {value!r} (str)")

    def is_mapping(self, key: str, value: Any) -> bool:
        """Notes it if ``value`` is no mapping."""
        if not isinstance(value, dict):
            self.problems.add(key, f"must be a mapping of arguments (none: {{}}), got {value!r}")
        return isinstance(value, dict)

    def check_named(self, key: str, entry: Any, kind: str, files: Mapping[str, Path]) -> None:
        """Checks ``{name: X, ...}``, where X must be one of ``files``."""
        if not self.is_mapping(key, entry):
            return
        name = entry.get("name")
        if not isinstance(name, str):
            self.problems.add(key, "missing argument 'name'" if name is None else f"name must be a text, got {name!r}")
            return
        if name not in files:
            allowed = ", ".join(sorted(files))
            self.problems.add(f"{key}.name", f"unknown {kind} '{name}'{suggestion(name, files)}; allowed: {allowed}")
            return
        signature = signature_of(files[name], name, is_ours(files[name]))
        if signature is not None:
            self.check_call(key, signature, {word: value for word, value in entry.items() if word != "name"})


def _text_refused(parameter: Parameter | None, value: Any) -> str | None:
    """Says what a toolkit's parameter wants in place of a text; it has no annotation, but perhaps a default."""
    if parameter is None or parameter.annotation is not Any or not isinstance(value, str):
        return None
    if isinstance(parameter.default, bool):
        return "true or false"
    return "a number" if isinstance(parameter.default, int | float) else None
