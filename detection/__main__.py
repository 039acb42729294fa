"""Runs an unmodified script of PaddleDetection with our backbones, operators and NMS registered.

python -m detection PaddleDetection/tools/train.py -c configs/detection/quickstart.yml --eval
python -m paddle.distributed.launch --nproc_per_node 2 detection/__main__.py PaddleDetection/tools/train.py -c ...

Only scripts of a checkout are run, with the ``ppdet`` of that checkout: the installed paddledet 2.6.0 has no tools.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):
    # Run as a file, Python has put this folder first: its `profile` must not hide the standard library's, and our
    # packages cannot be found from there. The project goes last because its `tools` must not hide those of a checkout.
    FOLDER = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != FOLDER] + [str(FOLDER.parent)]

from ppcls_ext.utils.command_line import run
from ppcls_ext.utils.toolkit_scripts import Toolkit, run_script


def register() -> None:
    """Puts what is ours into the workspace of the ``ppdet`` that the script will import."""
    from detection import patches
    from detection.registration import put_into_workspace

    put_into_workspace()
    patches.apply()


PADDLEDETECTION = Toolkit("PaddleDetection", marker="ppdet/core", command="detection", register=register)

if __name__ == "__main__":
    run(lambda: run_script(PADDLEDETECTION, sys.argv[1:]))
