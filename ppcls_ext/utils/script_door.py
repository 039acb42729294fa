"""Runs an unmodified script of a toolkit's checkout with our models registered: what ``python -m PACKAGE`` shares."""

from __future__ import annotations

import ast
import importlib.util
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ppcls_ext.utils.errors import UserError


@dataclass(frozen=True)
class Door:
    """A toolkit and how its scripts are run.

    Attributes:
        toolkit: its name in messages, such as ``PaddleClas``.
        package: what its scripts import, such as ``ppcls``.
        marker: a package inside, by which the root of a checkout is known, such as ``ppcls/arch``.
        command: our package that is run, for the usage line.
        register: puts our models into the toolkit. Called with the checkout at the head of ``sys.path``.
        wheel: the distribution whose ``package`` a script outside any checkout may use; None admits no such script.
    """

    toolkit: str
    package: str
    marker: str
    command: str
    register: Callable[[], object]
    wheel: str | None = None

    @property
    def usage(self) -> str:
        """The command in one line."""
        return f"usage: python -m {self.command} PATH/TO/{self.toolkit}/tools/SCRIPT.py [arguments of the script]"


def run_script(door: Door, arguments: Sequence[str]) -> int:
    """Registers our models and runs the script ``arguments[0]`` with the other arguments; returns the exit status.

    A status with which the script itself leaves goes on as ``SystemExit``.

    Raises:
        UserError: there is no such script, it belongs to something else, or it needs what is not installed.
    """
    if not arguments:
        raise UserError(f"no script given; {door.usage}")
    if arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"{door.usage}\n")
        return 0
    script = Path(arguments[0])
    checkout = find_checkout(door, script)
    beside = script.resolve().parent
    _put_first([checkout, beside] if checkout else [beside])
    sys.argv = list(arguments)
    try:
        door.register()
        runpy.run_path(str(script), run_name="__main__")
    except (ImportError, AttributeError) as error:
        fault = import_fault(error, door, script, checkout)
        if fault is None:
            raise
        raise UserError(fault) from error
    return 0


def _put_first(folders: Sequence[Path]) -> None:
    """Puts ``folders`` at the head of ``sys.path``, before any toolkit is imported."""
    others = [entry for entry in sys.path if Path(entry).resolve() not in folders]
    sys.path[:] = [*map(str, folders), *others]


def find_checkout(door: Door, script: Path) -> Path | None:
    """Returns the root of the checkout in which ``script`` lies; ``None`` if it is to use the installed toolkit.

    Raises:
        UserError: the script does not exist, or is none of the toolkit.
    """
    if not script.is_file():
        raise UserError(f"script '{script}' does not exist")
    for folder in script.resolve().parents:
        if (folder / door.marker / "__init__.py").is_file():
            return folder
    if door.wheel and door.package in _imported_packages(script):
        return None
    which = f"script '{script}' is not in a {door.toolkit} checkout: no folder above it holds {door.marker}"
    raise UserError(f"{which}, and it does not import {door.package}" if door.wheel else which)


def _imported_packages(script: Path) -> set[str]:
    """Returns the first parts of the names of all modules that ``script`` imports."""
    try:
        tree = ast.parse(script.read_bytes(), filename=str(script))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"script '{script}' is not Python: {error}") from error
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.append(node.module or "")
    return {name.partition(".")[0] for name in names}


def import_fault(error: Exception, door: Door, script: Path, checkout: Path | None) -> str | None:
    """Returns in one line what a script or its toolkit lacks on this machine, ``None`` for other errors."""
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing == door.package and checkout is None:
        return f"script '{script}' needs {door.toolkit}, which is not installed: pip install {door.wheel}"
    roots = {checkout: f"the checkout {checkout}"} if checkout else _roots_of_wheel(door, script)
    found = _place(error, roots)
    if found is None:
        return None
    root, place = found
    owner = roots[root]
    if missing:
        if (root / missing).exists() or (root / f"{missing}.py").exists():
            return f"{owner} is incomplete: it has no module '{error.name}' ({place})"
        return f"{owner} needs the package '{missing}', which is not installed ({place})"
    if isinstance(error, ImportError):
        return f"{owner} does not load on this machine: {error} ({place})"
    if isinstance(error, AttributeError) and str(error).startswith("module '"):
        reason = str(error).partition("\n")[0]
        return f"{owner} does not fit a package of this machine: {reason} ({place})"
    return None


def _roots_of_wheel(door: Door, script: Path) -> dict[Path, str]:
    """Folders in which an import may fail when the script uses the installed toolkit, with their owners in messages."""
    roots = {script.resolve().parent: f"the script {script}"}
    if specification := importlib.util.find_spec(door.package):
        folders = specification.submodule_search_locations or ()
        roots |= {Path(folder).resolve().parent: f"the installed {door.toolkit}" for folder in folders}
    return roots


def _place(error: Exception, roots: dict[Path, str]) -> tuple[Path, str] | None:
    """Returns the root in which ``error`` arose, and the file and line there; the innermost of them."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        for root in roots:
            if Path(frame.filename).is_relative_to(root):
                return root, f"{Path(frame.filename).relative_to(root)}, line {frame.lineno}"
    return None
