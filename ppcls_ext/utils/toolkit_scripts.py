"""Runs an unmodified script of a toolkit's checkout with our models registered: what ``python -m PACKAGE`` shares."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ppcls_ext.utils.errors import UserError


@dataclass(frozen=True)
class Toolkit:
    """A toolkit and how its scripts are run.

    Attributes:
        name: in messages, such as ``PaddleClas``.
        package: what its scripts import, such as ``ppcls``.
        marker: a package inside, by which the root of a checkout is known, such as ``ppcls/arch``.
        command: our package that is run, for the usage line.
        register: puts our models into the toolkit. Called with the checkout at the head of ``sys.path``.
        wheel: the distribution whose ``package`` a script outside any checkout may use; None admits no such script.
    """

    name: str
    package: str
    marker: str
    command: str
    register: Callable[[], object]
    wheel: str | None = None


def run_script(toolkit: Toolkit, arguments: Sequence[str]) -> int:
    """Registers our models and runs the script ``arguments[0]`` with the other arguments; returns the exit status.

    A status with which the script itself leaves goes on as ``SystemExit``.

    Raises:
        UserError: there is no such script, it belongs to something else, or it needs what is not installed.
    """
    usage = f"usage: python -m {toolkit.command} PATH/TO/{toolkit.name}/tools/SCRIPT.py [arguments of the script]"
    if not arguments:
        raise UserError(f"no script given; {usage}")
    if arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"{usage}\n")
        return 0
    script = Path(arguments[0])
    checkout = find_checkout(toolkit, script)
    beside = script.resolve().parent
    # Before any toolkit is imported: an installed one must not hide the checkout's.
    first = [checkout, beside] if checkout else [beside]
    sys.path[:] = [*map(str, first), *(entry for entry in sys.path if Path(entry).resolve() not in first)]
    sys.argv = list(arguments)
    try:
        toolkit.register()
        runpy.run_path(str(script), run_name="__main__")
    except (ImportError, AttributeError) as error:
        fault = import_fault(error, toolkit, script, checkout)
        if fault is None:
            raise
        raise UserError(fault) from error
    return 0


def find_checkout(toolkit: Toolkit, script: Path) -> Path | None:
    """Returns the root of the checkout in which ``script`` lies; ``None`` if it is to use the installed toolkit.

    Raises:
        UserError: the script does not exist, or is none of the toolkit.
    """
    if not script.is_file():
        raise UserError(f"script '{script}' does not exist")
    for folder in script.resolve().parents:
        if (folder / toolkit.marker / "__init__.py").is_file():
            return folder
    text = script.read_text(encoding="utf-8", errors="replace")
    if toolkit.wheel and re.search(rf"^\s*(?:import|from)\s+{toolkit.package}\b", text, re.MULTILINE):
        return None
    which = f"script '{script}' is not in a {toolkit.name} checkout: no folder above it holds {toolkit.marker}"
    raise UserError(f"{which}, and it does not import {toolkit.package}" if toolkit.wheel else which)


def import_fault(error: Exception, toolkit: Toolkit, script: Path, checkout: Path | None) -> str | None:
    """Returns in one line what a script or its toolkit lacks on this machine, ``None`` for other errors."""
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing == toolkit.package and checkout is None:
        return f"script '{script}' needs {toolkit.name}, which is not installed: pip install {toolkit.wheel}"
    # Folders in which an import may fail, with their owners in messages.
    roots = {checkout: f"the checkout {checkout}"} if checkout else {script.resolve().parent: f"the script {script}"}
    if checkout is None and (specification := importlib.util.find_spec(toolkit.package)):
        folders = specification.submodule_search_locations or ()
        roots |= {Path(folder).resolve().parent: f"the installed {toolkit.name}" for folder in folders}
    frames = reversed(traceback.extract_tb(error.__traceback__))
    places = ((root, frame) for frame in frames for root in roots if Path(frame.filename).is_relative_to(root))
    root, frame = next(places, (None, None))  # the innermost
    if root is None or frame is None:
        return None
    place, owner = f"{Path(frame.filename).relative_to(root)}, line {frame.lineno}", roots[root]
    if missing and not (root / missing).exists() and not (root / f"{missing}.py").exists():
        # Packages such as imgaug would bring a NumPy and an OpenCV that Paddle cannot use.
        advice = "install it with pip's --no-deps, which keeps the other packages as they are"
        return f"{owner} needs the package '{missing}', which is not installed; {advice} ({place})"
    if isinstance(error, ImportError) or str(error).startswith("module '"):
        return f"{owner} does not load on this machine: {str(error).splitlines()[0]} ({place})"
    return None
