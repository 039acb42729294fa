"""Where PaddleClas lies: a source checkout on ``sys.path``, else the installed wheel. Imports neither."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Toolkit:
    """One copy of PaddleClas.

    Attributes:
        package: dotted name of its architecture package, "ppcls.arch" or "paddleclas.ppcls.arch".
        folder: folder of that package.
    """

    package: str
    folder: Path


def find_toolkit() -> Toolkit | None:
    """Returns the copy of PaddleClas that Python would import, or ``None`` if there is none.

    A checkout goes first: with its root on ``sys.path``, ``paddleclas`` is no longer the wheel but the file
    ``paddleclas.py`` of the checkout.
    """
    wheel = package_folder("paddleclas")
    checkout = package_folder("ppcls")
    if checkout and (checkout / "arch" / "__init__.py").is_file() and (wheel is None or checkout.parent != wheel):
        return Toolkit("ppcls.arch", checkout / "arch")
    if wheel and (wheel / "ppcls" / "arch" / "__init__.py").is_file():
        return Toolkit("paddleclas.ppcls.arch", wheel / "ppcls" / "arch")
    return None


def package_folder(name: str) -> Path | None:
    """Returns the folder of the package that Python would import under ``name``, without importing it."""
    try:
        specification = importlib.util.find_spec(name)
    except ValueError:  # A module of that name stands in sys.modules without a specification.
        return None
    locations = specification.submodule_search_locations if specification else None
    return Path(next(iter(locations))).resolve() if locations else None
