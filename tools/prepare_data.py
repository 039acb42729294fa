"""Prepares data: python tools/prepare_data.py {samples,cifar100,sonar,duo,imagefolder,synthetic} ... --output PATH."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import add_config_arguments, run
from ppcls_ext.utils.errors import UserError


class Command(NamedTuple):
    """One row of the table of subcommands: what it says of itself, what it takes and what it does."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def add_samples_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``samples`` takes."""
    add_config_arguments(parser)
    parser.add_argument("--part", choices=("Eval", "Train"), default="Eval", help="section of DataLoader (Eval)")
    parser.add_argument("--count", type=int, default=30, help="how many images, spread over the classes; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="chooses the images")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")


def prepare_samples(arguments: argparse.Namespace) -> None:
    """Writes images of a classification data set as files."""
    for option, value in (("--count", arguments.count), ("--seed", arguments.seed)):
        if value < 0:
            raise UserError(f"{option} must not be negative, got {value}")
    from classification.config import load_config
    from classification.sample_files import write_samples

    config = load_config(arguments.config, arguments.override)
    count = write_samples(config, arguments.part, arguments.count, arguments.output, arguments.seed)
    print(f"wrote {count} images to {arguments.output}")


def commands() -> dict[str, Command]:
    """Returns the table of subcommands; their packages are imported here, where one that is missing gets its line."""
    from classification.data.cifar_subset import add_cifar100_arguments, prepare_cifar100
    from detection.prepare.optical import (
        add_duo_arguments,
        add_imagefolder_arguments,
        prepare_duo,
        prepare_imagefolder,
    )
    from detection.prepare.sonar import add_sonar_arguments, prepare_sonar
    from detection.synthetic.dataset import add_synthetic_arguments, prepare_synthetic

    return {
        "samples": Command(
            "write images of a configuration's data set as files, one folder for each class",
            add_samples_arguments,
            prepare_samples,
        ),
        "cifar100": Command(
            "write every N-th class of CIFAR-100 to a smaller archive of the same layout",
            add_cifar100_arguments,
            prepare_cifar100,
        ),
        "sonar": Command(
            "turn a raw sonar folder (images and VOC-like XML) into COCO JSON", add_sonar_arguments, prepare_sonar
        ),
        "duo": Command("turn DUO into the form that the detectors read", add_duo_arguments, prepare_duo),
        "imagefolder": Command(
            "turn a folder in VOC or COCO form into COCO JSON with an explicit order of classes",
            add_imagefolder_arguments,
            prepare_imagefolder,
        ),
        "synthetic": Command(
            "write synthetic sonar frames with exact boxes, as a prepared data set",
            add_synthetic_arguments,
            prepare_synthetic,
        ),
    }


def parse_arguments(table: dict[str, Command]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Prepare data.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in table.items():
        command.add_arguments(subparsers.add_parser(name, help=command.help, description=command.help))
    return parser.parse_args()


def main() -> None:
    """Prepares what the command asks for."""
    table = commands()
    arguments = parse_arguments(table)
    from ppcls_ext.utils.log import set_up_logging

    set_up_logging()
    table[arguments.command].run(arguments)


if __name__ == "__main__":
    run(main)
