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
    parser.add_argument(
        "--resume",
        metavar="auto|PATH",
        help="continue: 'auto' from the newest whole checkpoint of the run (a fresh start if there is none), "
        "or from the checkpoint folder PATH",
    )
    add_overwrite_argument(parser)
    return parser.parse_args()


def train(arguments: argparse.Namespace) -> None:
    """Trains the classifier of a configuration with ``Arch``, or the detector of one with ``architecture``."""
    from ppcls_ext.utils.config import is_detection_config
    from ppcls_ext.utils.outputs import Output, claim_outputs, inputs_of

    if is_detection_config(arguments.config):
        from detection.configuration import check_annotations, load_config

        config = load_config(arguments.config, arguments.override)
        claim_outputs([Output("save_dir", config.output_dir, "run")], *inputs_of(config.document), arguments.overwrite)
        check_annotations(config)
        from detection.task import train_config
    else:
        from classification.config import load_config

        config = load_config(arguments.config, arguments.override)
        run_folder = Output("Global.output_dir", config.output_dir, "run")
        claim_outputs([run_folder], *inputs_of(config.document), arguments.overwrite)
        from classification.task import train_config
    train_config(config, resume=arguments.resume)


def main() -> int:
    """Trains; returns the exit status."""
    arguments = parse_arguments()
    from ppcls_ext.utils.errors import Interrupted, UserError
    from ppcls_ext.utils.log import note_in_files, set_up_logging
    from ppcls_ext.utils.machine import rank_from_environment

    set_up_logging(quiet=rank_from_environment()[0] != 0)
    try:
        train(arguments)
    except Interrupted as stop:
        sys.stdout.write(f"{stop}\n")
        return INTERRUPTED_STATUS
    except UserError as error:
        note_in_files(str(error))
        raise
    return 0


if __name__ == "__main__":
    run(main)
