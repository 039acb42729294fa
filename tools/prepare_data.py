"""Prepares data: python tools/prepare_data.py samples -c CONFIG --output FOLDER."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.common.command_line import add_config_arguments, run
from ppcls_ext.common.errors import UserError


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Prepare data.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    samples = commands.add_parser(
        "samples", help="write images of a configuration's data set as files, one folder for each class"
    )
    add_config_arguments(samples)
    samples.add_argument("--part", choices=("Eval", "Train"), default="Eval", help="section of DataLoader (Eval)")
    samples.add_argument("--count", type=int, default=30, help="how many images, spread over the classes; 0 for all")
    samples.add_argument("--seed", type=int, default=0, help="chooses the images")
    samples.add_argument("--output", type=Path, required=True, help="folder to write")
    return parser.parse_args()


def main() -> None:
    """Prepares what the command asks for."""
    arguments = parse_arguments()
    for option, value in (("--count", arguments.count), ("--seed", arguments.seed)):
        if value < 0:
            raise UserError(f"{option} must not be negative, got {value}")
    from classification.config import load_config
    from classification.sample_files import write_samples

    config = load_config(arguments.config, arguments.override)
    count = write_samples(config, arguments.part, arguments.count, arguments.output, arguments.seed)
    print(f"wrote {count} images to {arguments.output}")


if __name__ == "__main__":
    run(main)
