"""Runs an unmodified script of a PaddleClas checkout with our models registered.

python -m ppcls_ext PaddleClas/tools/train.py -c configs/econvnext_mini.yaml
python -m paddle.distributed.launch --nproc_per_node 2 ppcls_ext/__main__.py PaddleClas/tools/train.py -c ...
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):
    # Run as a file, Python has put this folder first: its `utils` and `runtime` must not pass for packages, and
    # ours cannot be found from there. The project goes last because its `tools` must not hide those of a checkout.
    FOLDER = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != FOLDER] + [str(FOLDER.parent)]

from ppcls_ext.utils.command_line import run
from ppcls_ext.utils.toolkit_scripts import Toolkit, run_script


def register() -> None:
    """Puts our models among PaddleClas's architectures."""
    import ppcls_ext

    ppcls_ext.register()


PADDLECLAS = Toolkit("PaddleClas", marker="ppcls/arch", command="ppcls_ext", register=register)

if __name__ == "__main__":
    run(lambda: run_script(PADDLECLAS, sys.argv[1:]))
