"""Runs an unmodified script of a toolkit's checkout with our models registered: what ``python -m PACKAGE`` shares."""

from __future__ import annotations

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
        marker: a package inside, by which the root of a checkout is known, such as ``ppcls/arch``.
        command: our package that is run, for the usage line.
        register: puts our models into the toolkit. Called with the checkout at the head of ``sys.path``.
    """

    name: str
    marker: str
    command: str
    register: Callable[[], object]


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
    # Before any toolkit is imported: an installed one must not hide the checkout's.
    first = [checkout, script.resolve().parent]
    sys.path[:] = [*map(str, first), *(entry for entry in sys.path if Path(entry).resolve() not in first)]
    sys.argv = list(arguments)
    try:
        toolkit.register()
        runpy.run_path(str(script.resolve()), run_name="__main__")
    except (ImportError, AttributeError) as error:
        fault = import_fault(error, checkout)
        if fault is None:
            raise
        raise UserError(fault) from error
    return 0


def find_checkout(toolkit: Toolkit, script: Path) -> Path:
    """Returns the root of the checkout in which ``script`` lies.

    Raises:
        UserError: the script does not exist, or is none of the toolkit.
    """
    if not script.is_file():
        raise UserError(f"script '{script}' does not exist")
    for folder in script.resolve().parents:
        if (folder / toolkit.marker / "__init__.py").is_file():
            return folder
    raise UserError(f"script '{script}' is not in a {toolkit.name} checkout: no folder above it holds {toolkit.marker}")


def import_fault(error: Exception, checkout: Path) -> str | None:
    """Returns in one line what a checkout lacks on this machine, ``None`` for other errors."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    frame = next((frame for frame in frames if Path(frame.filename).is_relative_to(checkout)), None)  # the innermost
    if frame is None:
        return None
    place = f"{Path(frame.filename).relative_to(checkout)}, line {frame.lineno}"
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing and not (checkout / missing).exists() and not (checkout / f"{missing}.py").exists():
        # Packages such as imgaug would bring a NumPy and an OpenCV that Paddle cannot use.
        advice = "install it with pip's --no-deps, which keeps the other packages as they are"
        return f"the checkout {checkout} needs the package '{missing}', which is not installed; {advice} ({place})"
    if isinstance(error, ImportError) or str(error).startswith("module '"):
        return f"the checkout {checkout} does not load on this machine: {str(error).splitlines()[0]} ({place})"
    return None
