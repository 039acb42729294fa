"""Command-line options that every kind of source has, and the steps that follow once frames were read."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from detection.prepare.classes import ClassMatcher
from detection.prepare.clean import clean_frames
from detection.prepare.records import Frame, Ledger
from detection.prepare.report import lines_of, report_of
from detection.prepare.split import split_by_lists
from detection.prepare.writing import name_images, write_output
from ppcls_ext.common.errors import UserError

logger = logging.getLogger(__name__)
PARTS = ("train", "val")


def add_arguments(parser: argparse.ArgumentParser, classes: str | None, output: str) -> None:
    """Adds the options that all sources share."""
    parser.add_argument("source", type=Path, metavar="SRC", help="folder to read")
    parser.add_argument("--classes", metavar="LIST", default=classes, help="sonar, duo, marine_debris, a,b,c or FILE")
    parser.add_argument("--output", type=Path, default=Path(output), metavar="OUT", help=f"folder to write ({output})")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if this tool wrote it")
    parser.add_argument("--images", choices=("link", "copy"), default="link", help="hard links (default) or copies")


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the choice of a split."""
    parser.add_argument(
        "--split-files", nargs=2, type=Path, metavar=("TRAIN", "VAL"), help="text files, one name a line"
    )
    parser.add_argument("--val-fraction", type=float, default=0.2, metavar="F", help="share of validation (0.2)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the split")


def split_files_of(arguments: argparse.Namespace) -> dict[str, Path] | None:
    """Returns the two split files, looked up from here and from the source folder."""
    if arguments.split_files is None:
        return None
    found = {}
    for part, path in zip(PARTS, arguments.split_files, strict=True):
        inside = arguments.source / path
        if not path.is_file() and not inside.is_file():
            raise UserError(f"--split-files {path}: no such file, neither here nor in {arguments.source}")
        found[part] = path if path.is_file() else inside
    return found


def finish(frames: Sequence[Frame], matcher: ClassMatcher, ledger: Ledger, arguments: argparse.Namespace) -> None:
    """Cleans, splits, writes and reports."""
    cleaned = clean_frames(frames, matcher, ledger)
    lists = split_files_of(arguments)
    usable = {frame.frame.name for frame in cleaned}
    absent = {frame.name for frame in frames} - usable
    if lists is None:
        raise UserError("give --split-files TRAIN VAL")
    parts = split_by_lists(cleaned, lists, absent, ledger)
    split = {"method": "files", "files": [path.name for path in lists.values()]}
    split.update({part: [frame.frame.name for frame in members] for part, members in parts.items()})
    everything = [frame for members in parts.values() for frame in members]
    name_images(everything, ledger)
    ledger.images["kept"] = len(everything)
    report = report_of(parts, matcher, ledger, arguments.source.name)
    placed = write_output(arguments.output, parts, matcher.names, split, report, arguments.images)
    for line in lines_of(report):
        logger.info(line)
    ways = " and ".join(f"{count} {'linked' if way == 'link' else 'copied'}" for way, count in placed.items())
    logger.info("wrote %s (images: %s)", arguments.output, ways)
