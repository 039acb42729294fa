"""Command-line options that the kinds of sources share, and their checks."""

from __future__ import annotations

import argparse
from pathlib import Path

from ppcls_ext.utils.errors import UserError

DEFAULT_FRACTION = 0.2


def add_arguments(parser: argparse.ArgumentParser, classes: str | None, output: str) -> None:
    """Adds the options that all sources share."""
    parser.add_argument("source", type=Path, metavar="SRC", help="folder to read")
    shown = f" ({classes})" if classes else "; must be given"
    parser.add_argument(
        "--classes",
        metavar="LIST",
        default=classes,
        help=f"the classes in their order: sonar, duo, marine_debris, a,b,c or a file with one name a line{shown}",
    )
    parser.add_argument("--output", type=Path, default=Path(output), metavar="OUT", help=f"folder to write ({output})")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if this tool wrote it")
    parser.add_argument("--images", choices=("link", "copy"), default="link", help="hard links (default) or copies")
    parser.set_defaults(split_files=None, val_fraction=None, seed=0)


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the choice of a split."""
    parser.add_argument(
        "--split-files",
        nargs=2,
        type=Path,
        metavar=("TRAIN", "VAL"),
        help="text files with one name a line, looked up here and in SRC",
    )
    parser.add_argument(
        "--val-fraction", type=float, metavar="F", help=f"share of validation in a seeded split ({DEFAULT_FRACTION})"
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses the seeded split (0)")


def check_arguments(arguments: argparse.Namespace) -> None:
    """Checks what can be checked before anything is read.

    Raises:
        UserError: an option is out of range, two contradict each other, or source and output overlap.
    """
    if not arguments.source.is_dir():
        raise UserError(f"{arguments.source}: no such folder")
    if arguments.seed < 0:
        raise UserError(f"--seed must not be negative, got {arguments.seed}")
    fraction = arguments.val_fraction
    if fraction is not None and not 0 < fraction < 1:
        raise UserError(f"--val-fraction must be above 0 and below 1, got {fraction:g}")
    if fraction is not None and arguments.split_files is not None:
        raise UserError("--split-files and --val-fraction exclude each other")
    source, output = arguments.source.resolve(), arguments.output.resolve()
    if source == output or source in output.parents or output in source.parents:
        raise UserError(f"--output {arguments.output}: must lie apart from the source {arguments.source}")
    split_files_of(arguments)


def split_files_of(arguments: argparse.Namespace) -> dict[str, Path] | None:
    """Returns the two split files, looked up from here and from the source folder; ``None`` if none are given.

    Raises:
        UserError: a file is in neither place.
    """
    if arguments.split_files is None:
        return None
    found = {}
    for part, path in zip(("train", "val"), arguments.split_files, strict=True):
        inside = arguments.source / path
        if not path.is_file() and not inside.is_file():
            raise UserError(f"--split-files {path}: no such file, neither here nor in {arguments.source}")
        found[part] = path if path.is_file() else inside
    return found
