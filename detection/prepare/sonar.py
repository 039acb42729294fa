"""A raw sonar folder: frames and VOC-like annotations, together or apart, in any nesting."""

from __future__ import annotations

import argparse

from detection.prepare.classes import ClassMatcher, class_order, without_classes
from detection.prepare.options import add_arguments, add_split_arguments, finish, split_files_of
from detection.prepare.pairing import pair_folder
from detection.prepare.records import Ledger
from detection.prepare.writing import check_output


def add_sonar_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``prepare_data.py sonar`` takes."""
    add_arguments(parser, classes=None, output="dataset/sonar")
    add_split_arguments(parser)


def prepare_sonar(arguments: argparse.Namespace) -> None:
    """Converts a raw sonar folder.

    Raises:
        UserError: the source, the classes, the split or the output cannot be used.
    """
    names = None if arguments.classes is None else class_order(arguments.classes)
    check_output(arguments.output, arguments.overwrite)
    split_files_of(arguments)
    ledger = Ledger()
    pairing = pair_folder(arguments.source, ledger)
    if names is None:
        raise without_classes(
            (box.name for frame in pairing.annotated for box in frame.boxes), str(arguments.source)
        )
    for frame in pairing.bare:
        ledger.reject("no_annotation", frame.name, "has no annotation file")
        ledger.images["left_out"] += 1
    finish(pairing.annotated, ClassMatcher(names), ledger, arguments)
