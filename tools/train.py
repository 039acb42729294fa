"""Trains the model of a configuration: python tools/train.py -c CONFIG [-o KEY=VALUE ...] [--resume auto|PATH]."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import INTERRUPTED_STATUS, add_config_arguments, add_overwrite_argument, run


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Train the model of a configuration.")
    add_config_arguments(parser)
    words = ("continue: 'auto' from the newest whole checkpoint of the run (a fresh start if there is none), or from "
             "the checkpoint folder PATH")  # fmt: skip
    parser.add_argument("--resume", metavar="auto|PATH", help=words)
    add_overwrite_argument(parser)
    return parser.parse_args()


def main() -> int:
    """Trains the classifier (`Arch`) or detector (`architecture`) of a configuration; returns the exit status."""
    arguments = parse_arguments()
    from ppcls_ext.utils.config import is_detection_config
    from ppcls_ext.utils.errors import Interrupted
    from ppcls_ext.utils.log import set_up_logging
    from ppcls_ext.utils.machine import rank_from_environment

    set_up_logging(quiet=rank_from_environment()[0] != 0)
    if is_detection_config(arguments.config):
        from detection import train
    else:
        from classification import train
    try:
        train(arguments.config, arguments.override, arguments.resume, arguments.overwrite)
    except Interrupted as stop:
        sys.stdout.write(f"{stop}\n")
        return INTERRUPTED_STATUS
    return 0


if __name__ == "__main__":
    run(main)
