"""Runs an unmodified script of a PaddleClas checkout with our models registered.

python -m ppcls_ext PaddleClas/tools/train.py -c configs/econvnext_mini.yaml
python -m paddle.distributed.launch --nproc_per_node 2 ppcls_ext/__main__.py PaddleClas/tools/train.py -c ...
"""

from __future__ import annotations

import runpy
import sys
import traceback
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def _prepare_path(first: list[Path]) -> None:
    """Puts ``first`` at the head of ``sys.path``, our project at its end, and takes this package's own folder away.

    Run as a file, Python puts the folder of this file first; its ``models`` and ``common`` must not pass for packages.
    The project goes last because its ``tools`` must not hide those of a checkout.
    """
    own = Path(__file__).resolve().parent
    others = [entry for entry in sys.path if Path(entry).resolve() not in (own, *first)]
    sys.path[:] = [*map(str, first), *others]
    if PROJECT not in [Path(entry).resolve() for entry in sys.path]:
        sys.path.append(str(PROJECT))


_prepare_path([])

# Only now can the package be found when this is run as a file.
from ppcls_ext.common.command_line import run  # noqa: E402
from ppcls_ext.common.errors import UserError  # noqa: E402

USAGE = "usage: python -m ppcls_ext PATH/TO/PaddleClas/tools/SCRIPT.py [arguments of the script]"


def find_checkout(script: Path) -> Path:
    """Returns the root of the PaddleClas checkout in which ``script`` lies.

    Raises:
        UserError: the script does not exist, or no folder above it holds ``ppcls/arch``.
    """
    if not script.is_file():
        raise UserError(f"script '{script}' does not exist")
    for folder in script.resolve().parents:
        if (folder / "ppcls" / "arch" / "__init__.py").is_file():
            return folder
    raise UserError(f"script '{script}' is not in a PaddleClas checkout: no folder above it holds ppcls/arch")


def import_fault(error: Exception, checkout: Path) -> str | None:
    """Returns in one line what a checkout lacks on this machine, or ``None`` if ``error`` is of another kind."""
    frames = traceback.extract_tb(error.__traceback__)
    where = next((frame for frame in reversed(frames) if Path(frame.filename).is_relative_to(checkout)), None)
    if where is None:
        return None
    place = f"{Path(where.filename).relative_to(checkout)}, line {where.lineno}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if (checkout / package).exists() or (checkout / f"{package}.py").exists():
            return f"the checkout {checkout} is incomplete: it has no module '{error.name}' ({place})"
        return f"the checkout {checkout} needs the package '{package}', which is not installed ({place})"
    if isinstance(error, ImportError):
        return f"the checkout {checkout} does not load on this machine: {error} ({place})"
    if isinstance(error, AttributeError) and str(error).startswith("module '"):
        reason = str(error).partition("\n")[0]
        return f"the checkout {checkout} does not fit a package of this machine: {reason} ({place})"
    return None


def main(arguments: list[str]) -> int:
    """Registers our models and runs the script ``arguments[0]`` with the other arguments; returns the exit status."""
    if not arguments:
        raise UserError(f"no script given; {USAGE}")
    if arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"{USAGE}\n")
        return 0
    script = Path(arguments[0])
    checkout = find_checkout(script)
    _prepare_path([checkout, script.resolve().parent])
    sys.argv = list(arguments)
    try:
        import ppcls_ext

        ppcls_ext.register()
        runpy.run_path(str(script), run_name="__main__")
    except (ImportError, AttributeError) as error:
        fault = import_fault(error, checkout)
        if fault is None:
            raise
        raise UserError(fault) from error
    return 0


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
