"""The command that predicts: ``tools/infer.py`` of a checkout, ``econvnext-predict`` of an installed package.

Both take the same options. What needs the training packages, which nothing here imports (the weights of a run, COCO
files that number the results), ``tools/infer.py`` hands to :func:`predict`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ppcls_ext.runtime.backends import load
from ppcls_ext.runtime.coco_results import coco_results, numbering_of
from ppcls_ext.runtime.predictor import DetectionPredictor, Predictor, threshold_of
from ppcls_ext.runtime.report import above, as_records, as_table, is_folder, picture_files, save_pictures, summary
from ppcls_ext.utils.command_line import add_config_arguments, add_overwrite_argument, run
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import write_json
from ppcls_ext.utils.image_files import find_images, left_out
from ppcls_ext.utils.log import set_up_logging
from ppcls_ext.utils.outputs import Output, claim_outputs, record_outputs

NO_INPUT = "name images with --input: files, folders or patterns"
DRAWN_THRESHOLD = 0.3
EXPORT_ONLY = ("backend", "precision", "threads", "bits")
DETECTION_ONLY = ("coco", "annotations", "threshold", "class_agnostic")
# The predictor, the inputs and the batch size.
Opened = tuple[Predictor | DetectionPredictor, list[str], int]


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Predict images with an export (--model DIR) or with the weights of a run "
        "(-c CONFIG -o Global.pretrained_model=PATH; of a detector -o weights=PATH)."
    )
    add_config_arguments(parser, required=False)
    parser.add_argument("--model", metavar="DIR", help="export folder of tools/export_model.py, instead of -c")
    parser.add_argument("--input", nargs="+", metavar="PATH", help="images, folders, or patterns such as 'a/*.png'")
    parser.add_argument(
        "--save", type=Path, metavar="FILE|FOLDER", help="FILE.png: one sheet of all images; FOLDER: one picture each"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the predictions to FILE")
    parser.add_argument("--topk", type=int, metavar="K", help="classifier: classes to show for each image")
    parser.add_argument("--threshold", metavar="SCORE", help="detector: leave out boxes below this score (default "
                        f"{DRAWN_THRESHOLD}; --coco leaves out none unless told), or 'recommended': below the best one "
                        "of each class, which tools/eval.py found")  # fmt: skip
    parser.add_argument("--class-agnostic", action="store_true", default=None,
                        help="detector: of boxes that overlap keep the best alone, whatever their classes")
    parser.add_argument("--coco", type=Path, metavar="FILE", help="detector: also write COCO results to FILE")
    parser.add_argument("--annotations", type=Path, metavar="FILE",
                        help="COCO file that numbers images and classes for --coco (default: from 1)")  # fmt: skip
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at a time (default 8, or Infer.batch_size)")
    parser.add_argument("--max-resized-megapixels", type=float, metavar="MP",
                        help="refuse images that would be resized to more (default 64, or as the operators say)")
    parser.add_argument("--backend", metavar="NAME", help="engine for --model: paddle, onnxruntime or openvino "
                        "(default: the first in the export that is installed)")  # fmt: skip
    parser.add_argument("--precision", metavar="NAME", help="which files of --model, where it holds several precisions")
    parser.add_argument("--threads", type=int, metavar="N", help="threads for --model (default: all cores)")
    add_overwrite_argument(parser)
    parser.add_argument("--bits", type=int, metavar="N", help="bits in use where --model gets images with more than 8 "
                        "bits a sample (default: as in its training; see docs/data.md)")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="show warnings and errors only")
    return parser.parse_args()


def check_arguments(arguments: argparse.Namespace) -> None:
    """Checks what can be told without loading a model.

    Raises:
        UserError: the command line names no model, two models, no images, or a value out of range.
    """
    if (arguments.model is None) == (arguments.config is None):
        raise UserError("give either --model DIR (an export) or -c CONFIG (weights of a run)")
    if arguments.model is not None and arguments.override:
        raise UserError("-o changes a configuration: it goes with -c, not with --model")
    for option, value in (("--topk", arguments.topk), ("--batch-size", arguments.batch_size)):
        if value is not None and value < 1:
            raise UserError(f"{option} must be at least 1, got {value}")
    for option in EXPORT_ONLY:
        if arguments.config is not None and getattr(arguments, option) is not None:
            raise UserError(f"--{option} chooses how an export is run: it goes with --model, not with -c")
    if arguments.threshold is not None:
        arguments.threshold = threshold_of(arguments.threshold, "--threshold")
    if arguments.annotations is not None and arguments.coco is None:
        raise UserError("--annotations numbers the results of --coco FILE, which is missing")
    if arguments.input:
        find_images(arguments.input)  # a misspelt path is told before the model is loaded
    elif arguments.model is not None:
        raise UserError(NO_INPUT)


def claim(arguments: argparse.Namespace, inputs: list[str], reads: list[Path]) -> None:
    """Makes sure that nothing is written onto an image or whatever else is read; ``reads`` are those other files."""
    images = find_images(inputs)
    outputs = [Output("--json", arguments.json), Output("--coco", arguments.coco)]
    if arguments.save is not None and is_folder(arguments.save):
        outputs.append(Output("--save", arguments.save, "pictures"))
        outputs += [Output("--save", file) for file in picture_files(images, arguments.save)]
    else:
        outputs.append(Output("--save", arguments.save))
    folders = [given for given in inputs if Path(given).is_dir()]
    claim_outputs(outputs, [*images, *reads, *filter(None, [arguments.annotations])], folders, arguments.overwrite)


def open_export(arguments: argparse.Namespace) -> Opened:
    """Opens the export that ``--model`` names."""
    claim(arguments, arguments.input, [Path(arguments.model)])
    predictor = load(
        arguments.model, backend=arguments.backend, threads=arguments.threads, precision=arguments.precision,
        max_resized_megapixels=arguments.max_resized_megapixels, bits=arguments.bits,
    )  # fmt: skip
    return predictor, arguments.input, arguments.batch_size or 8


def predict(
    open_run: Callable[[argparse.Namespace], Opened] | None = None,
    read_listing: Callable[[Path], Any] | None = None,
) -> None:
    """Predicts what the command line names, shows the table, and writes what was asked for.

    Args:
        open_run: opens the weights of a run for ``-c``, and claims the outputs.
        read_listing: reads the images and classes of a COCO file for ``--annotations``.

    Raises:
        UserError: a mistake on the command line, or one of the options that need these functions without them.
    """
    arguments = parse_arguments()
    set_up_logging(arguments.quiet)
    check_arguments(arguments)
    for option, value, function in (("-c", arguments.config, open_run), ("--annotations", arguments.annotations,
                                                                         read_listing)):  # fmt: skip
        if value is not None and function is None:
            raise UserError(f"{option} needs the training packages: run tools/infer.py, with the same options, in a "
                            "checkout after make setup")  # fmt: skip
    predictor, inputs, batch_size = open_run(arguments) if arguments.config and open_run else open_export(arguments)
    predict_images(arguments, predictor, inputs, batch_size, read_listing)


def predict_images(
    arguments: argparse.Namespace,
    predictor: Predictor | DetectionPredictor,
    inputs: list[str],
    batch_size: int,
    read_listing: Callable[[Path], Any] | None,
) -> None:
    """Predicts image files."""
    images, others = find_images(inputs), left_out(inputs)
    if others:
        say(arguments, others)
    if isinstance(predictor, DetectionPredictor):
        if arguments.topk is not None:
            raise UserError(f"--topk is for classifiers; {predictor.model_name} is a detector (see --threshold)")
        listing = read_listing(arguments.annotations) if arguments.annotations and read_listing else None
        numbering = None
        if listing is not None:
            listing.spell_classes_as(predictor.classes or ())
            numbering = numbering_of(listing, images, predictor)
        found = predictor(
            images, batch_size=batch_size, threshold=arguments.threshold or 0.0,
            class_agnostic=bool(arguments.class_agnostic),
        )  # fmt: skip
        predictions: Any = above(found, DRAWN_THRESHOLD) if arguments.threshold is None else found
        if arguments.coco:
            write_json(arguments.coco, coco_results(found, predictor, numbering))
            record_outputs([arguments.coco])
    else:
        for option in DETECTION_ONLY:
            if getattr(arguments, option) is not None:
                name = option.replace("_", "-")
                raise UserError(f"--{name} is for detectors; {predictor.model_name} is a classifier")
        predictions = predictor(images, batch_size=batch_size, topk=arguments.topk)
    counts = summary(predictions, predictor)
    say(arguments, as_table(predictions, predictor))
    say(arguments, counts)
    if arguments.json:
        write_json(arguments.json, as_records(predictions, predictor))
        record_outputs([arguments.json])
    if arguments.save:
        written = save_pictures(predictions, predictor, arguments.save, f"{predictor.model_name}: {counts}")
        drawn = written[0] if len(written) == 1 else f"{len(written)} pictures in {arguments.save}"
        say(arguments, f"drawn: {drawn}")
    if all(prediction.error is not None for prediction in predictions):
        first = predictions[0]
        raise UserError(f"none of the {len(images)} images could be read: {first.name}: {first.error}")


def say(arguments: argparse.Namespace, text: str) -> None:
    """Shows a line or a table, unless ``--quiet`` was given."""
    if not arguments.quiet:
        sys.stdout.write(f"{text}\n")


def main() -> None:
    """The console command ``econvnext-predict``."""
    run(predict)
