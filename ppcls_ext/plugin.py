"""PaddleClas integration: the only file that imports it.

`register` puts our models among PaddleClas's architectures, so that its unmodified trainer builds them from YAML;
`toolkit_architecture` takes PaddleClas's architectures the other way, into our trainer.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ppcls_ext.arch.catalog import checked_arguments, list_models
from ppcls_ext.arch.registry import class_of
from ppcls_ext.arch.toolkit import Toolkit, find_toolkit
from ppcls_ext.arch.variants import family_of
from ppcls_ext.utils.errors import UserError

# What this module put into a namespace, so that it never takes the place of anything else.
_registered: dict[tuple[str, str], type] = {}


def register() -> list[str]:
    """Puts every model of ours into PaddleClas's architecture namespace under its own name.

    The namespace is that of a source checkout on ``sys.path`` (``ppcls.arch``), else that of the wheel
    (``paddleclas.ppcls.arch``). Registering twice does nothing the second time.

    Returns:
        The names, sorted.

    Raises:
        UserError: PaddleClas is not there, or one of the names already means something else (then nothing is set).
        ImportError: PaddleClas is there but something that it needs is not.
    """
    architectures = _import_toolkit()
    # PaddleClas looks names up in its architecture package, and in the package of backbones below it.
    namespaces = (architectures, architectures.backbone)
    names = list_models()
    for namespace in namespaces:
        for name in names:
            present = getattr(namespace, name, None)
            if present is not None and present is not _registered.get((namespace.__name__, name)):
                raise UserError(f"{namespace.__name__} already has a '{name}' that is not ours; it is left as it is")
    for name in names:
        if (architectures.__name__, name) in _registered:
            continue
        composed = _compose(name, architectures.TheseusLayer)
        for namespace in namespaces:
            setattr(namespace, name, composed)
            _registered[namespace.__name__, name] = composed
    return names


def toolkit_architecture(name: str) -> Any:
    """Returns PaddleClas's class or function that builds architecture ``name``."""
    return getattr(_import_toolkit().backbone, name)


def checkout_operators(checkout: str, operators: list[dict[str, dict[str, Any]]]) -> list[Any]:
    """Builds image operators of a PaddleClas checkout, to measure them beside ours; the wheel has none.

    The checkout goes first on ``sys.path`` and stays there: call it in a process of its own.

    Args:
        checkout: root of the checkout.
        operators: ``{name: arguments}`` for each, as in YAML.

    Raises:
        UserError: the folder is no checkout, or cannot be imported.
    """
    if not (Path(checkout) / "ppcls" / "data").is_dir():
        raise UserError(f"{checkout} is not a PaddleClas checkout (it has no ppcls/data)")
    sys.path.insert(0, checkout)
    try:
        data = importlib.import_module("ppcls.data")
    except ImportError as error:
        raise UserError(f"{checkout}: PaddleClas cannot be imported: {error}") from error
    return data.create_operators([{name: dict(arguments) for name, arguments in entry.items()} for entry in operators])


def _import_toolkit() -> ModuleType:
    toolkit: Toolkit | None = find_toolkit()
    if toolkit is None:
        raise UserError("PaddleClas is not there: install paddleclas, or put the root of a checkout on PYTHONPATH")
    return importlib.import_module(toolkit.package)


def _compose(name: str, theseus_layer: type) -> type:
    """Returns ``class name(OurModel, theseus_layer)``, whose constructor takes what PaddleClas gives its own models.

    Args:
        name: one of our models.
        theseus_layer: PaddleClas's base class; it cuts networks (``stop_after``) and taps them (``return_stages``).
    """
    family = family_of(name)
    assert family is not None
    model_class, variant = class_of(family), family.rows[name]
    pattern = [f"stages[{index}]" for index in range(len(variant.depths))]

    def construct(
        self: Any,
        pretrained: bool | str | None = False,
        use_ssld: bool = False,
        return_patterns: list[str] | str | None = None,
        return_stages: list[int] | int | bool | None = None,
        freeze_befor: str | None = None,
        stop_after: str | None = None,
        **arguments: Any,
    ) -> None:
        if pretrained or use_ssld:
            raise UserError(
                f"{name}: there are no pretrained weights to download; set Arch.pretrained to False and name a "
                "file in Global.pretrained_model"
            )
        # Runs the constructor of TheseusLayer too (without arguments): it is next after our class in the order of
        # base classes. Cutting and tapping need the sublayers, so they come after.
        try:
            model_class.__init__(self, **dataclasses.asdict(variant), **checked_arguments(name, arguments))
        except ValueError as error:
            raise UserError(f"Arch: {error}") from error
        self.init_net(
            stages_pattern=pattern,
            return_patterns=return_patterns,
            return_stages=return_stages,
            freeze_befor=freeze_befor,
            stop_after=stop_after,
        )

    body = {
        "__init__": construct,
        "__module__": __name__,
        "__doc__": f"{name} as an architecture of PaddleClas; see `{family.class_name}`.",
        "stages_pattern": pattern,
    }
    return type(name, (model_class, theseus_layer), body)
