"""A raw sonar folder: frames and VOC-like annotations, together or apart, in any nesting."""

from __future__ import annotations

import argparse

from detection.prepare.options import add_arguments, add_split_arguments
from detection.prepare.pairing import Pairing, pair_folder
from detection.prepare.pipeline import Reading, check_before, finish
from detection.prepare.records import Ledger


def add_sonar_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``prepare_data.py sonar`` takes."""
    add_arguments(parser, classes=None, output="dataset/sonar")
    add_split_arguments(parser)
    parser.add_argument(
        "--include-unlabelled",
        action="store_true",
        help="put frames without an annotation file into annotations/test.json (else they are left out and listed)",
    )


def prepare_sonar(arguments: argparse.Namespace) -> None:
    """Converts a raw sonar folder.

    Raises:
        UserError: the source, the classes, the split or the output cannot be used.
    """
    names = check_before(arguments)
    ledger = Ledger()
    pairing = pair_folder(arguments.source, ledger)
    reading = Reading(ledger, pairing.annotated)
    if arguments.include_unlabelled:
        reading.unlabelled = pairing.bare
    else:
        leave_out_bare(pairing, ledger)
    finish(reading, names, arguments)


def leave_out_bare(pairing: Pairing, ledger: Ledger) -> None:
    """Lists the images without an annotation file as left out."""
    for frame in pairing.bare:
        ledger.reject("no_annotation", frame.name, "has no annotation file")
        ledger.images["left_out"] += 1
