"""The steps that follow once the frames of a source were read: clean, split, write, report."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from detection.prepare.classes import ClassMatcher, class_order, without_classes
from detection.prepare.clean import clean_frames
from detection.prepare.looks import alike_across
from detection.prepare.options import DEFAULT_FRACTION, check_arguments, split_files_of
from detection.prepare.records import Action, CleanFrame, Frame, Ledger
from detection.prepare.report import lines_of, report_of
from detection.prepare.split import Parts, split_by_lists, split_by_seed, split_by_source
from detection.prepare.writing import check_output, name_images, write_output
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)
# One for training, one for validation.
FEWEST_FRAMES = 2
# Share of boxes with swapped corners above which the tags are doubted.
MANY_SWAPPED = 0.1
# Share of boxes beyond pictures of another size than stated above which their scale is doubted.
MANY_BEYOND = 0.1


@dataclass
class Reading:
    """What was read of a source.

    Attributes:
        ledger: what was met so far.
        frames: frames with annotations.
        unlabelled: frames for a test part without annotations.
        lists: the source's own split files by part.
    """

    ledger: Ledger
    frames: list[Frame] = field(default_factory=list)
    unlabelled: list[Frame] = field(default_factory=list)
    lists: dict[str, Path] | None = None


def check_before(arguments: argparse.Namespace) -> tuple[str, ...] | None:
    """Checks options and output before anything is read; returns the classes, ``None`` if they are not given.

    Raises:
        UserError: an option or the output cannot be used.
    """
    check_arguments(arguments)
    names = None if arguments.classes is None else class_order(arguments.classes)
    check_output(arguments.output, arguments.overwrite)
    return names


def finish(reading: Reading, names: Sequence[str] | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """Cleans, splits, writes and reports; returns the report.

    Raises:
        UserError: there are no classes, no usable frame or no possible split.
    """
    if names is None:
        raise without_classes((box.name for frame in reading.frames for box in frame.boxes), arguments.source)
    ledger, matcher = reading.ledger, ClassMatcher(names)
    logger.info("checking %d frames", len(reading.frames) + len(reading.unlabelled))
    frames = clean_frames(reading.frames, matcher, ledger)
    if sum(bool(frame.boxes) for frame in frames) < FEWEST_FRAMES:
        raise UserError(f"{arguments.source}: {_why_so_few(ledger)}")
    parts, split = _split(frames, reading, len(names), arguments)
    if reading.unlabelled:
        parts["test"] = parts.get("test", []) + clean_frames(reading.unlabelled, matcher, ledger)
    _note_suspicions(parts, ledger)
    everything = [frame for members in parts.values() for frame in members]
    name_images(everything, ledger)
    ledger.images["kept"] = len(everything)
    split["parts"] = {part: [frame.frame.name for frame in members] for part, members in parts.items()}
    report = report_of(parts, matcher, ledger, arguments.source.name)
    report["split"] = {key: value for key, value in split.items() if key not in ("parts", "group_of")}
    placed = write_output(arguments.output, parts, matcher.names, split, report, arguments.images)
    for line in lines_of(report):
        logger.info(line)
    ways = " and ".join(f"{count} {'linked' if way == 'link' else 'copied'}" for way, count in placed.items())
    logger.info("wrote %s (images: %s)", arguments.output, ways)
    return report


def _split(
    frames: list[CleanFrame], reading: Reading, classes: int, arguments: argparse.Namespace
) -> tuple[Parts, dict[str, Any]]:
    """Splits as the command line says, else as the source does, else by the seed."""
    lists = split_files_of(arguments)
    if lists is None and arguments.val_fraction is None:
        if {frame.frame.part for frame in frames} >= {"train", "val"}:
            return split_by_source(frames, reading.ledger), {"method": "source"}
        lists = reading.lists
    if lists is not None:
        usable = {frame.frame.name for frame in frames}
        absent = {frame.name for frame in reading.frames} - usable
        parts = split_by_lists(frames, lists, absent, reading.ledger)
        return parts, {"method": "files", "files": {part: path.name for part, path in lists.items()}}
    fraction = DEFAULT_FRACTION if arguments.val_fraction is None else arguments.val_fraction
    return split_by_seed(frames, classes, fraction, arguments.seed)


def _note_suspicions(parts: Parts, ledger: Ledger) -> None:
    """Lists what is no fault of a single frame, but makes the whole doubtful."""
    swapped = ledger.kinds(Action.REPAIRED).get("swapped_corners", 0)
    if swapped > MANY_SWAPPED * ledger.boxes["input"]:
        reason = f"{swapped} of {ledger.boxes['input']} boxes had swapped corners: do the tags hold x y w h after all?"
        ledger.note("corners_may_be_sizes", "all", reason)
    resized = {entry.file for entry in ledger.entries if entry.kind == "size_disagrees"}
    beyond = sum(entry.kind in ("clipped_box", "box_outside") and entry.file in resized for entry in ledger.entries)
    if beyond > MANY_BEYOND * ledger.boxes["input"]:
        reason = (
            f"{beyond} of {ledger.boxes['input']} boxes reach beyond pictures of another size than stated: were they "
            "drawn on larger pictures? Then those that were kept are wrong, too"
        )
        ledger.note("boxes_may_be_scaled", "all", reason)
    looks = {part: np.stack([frame.look for frame in frames]) for part, frames in parts.items() if frames}
    if {"train", "val"} <= looks.keys():
        count = alike_across(looks["train"], looks["val"])
        if count:
            reason = f"{count} of {len(looks['val'])} validation frames look nearly the same as a training frame"
            ledger.note("alike_across_the_split", "all", reason)


def _why_so_few(ledger: Ledger) -> str:
    rejected = [entry for entry in ledger.entries if entry.action is Action.REJECTED]
    few = f"fewer than {FEWEST_FRAMES} frames with a usable box"
    if not rejected:
        return few
    return f"{few} ({rejected[0].file}: {rejected[0].reason}; {len(rejected)} entries rejected in all)"
