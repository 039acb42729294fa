"""Predicts images, with an export or with the weights of a run: classes, or boxes if it is a detector.

python tools/infer.py --model output/quickstart/export --input photos/ --save predictions.png
python tools/infer.py -c CONFIG -o Global.pretrained_model=CHECKPOINT --input a.jpg "more/*.png" --json out.json
python tools/infer.py -c DETECTION_CONFIG -o weights=CHECKPOINT --input frames/ --save drawn/ --coco found.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import add_config_arguments, run
from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    from ppcls_ext.runtime import DetectionPredictor, Predictor

NO_INPUT = "name images with --input: files, folders or patterns"
DRAWN_THRESHOLD = 0.3
EXPORT_ONLY = ("backend", "precision", "threads")
DETECTION_ONLY = ("coco", "annotations", "threshold")


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
    parser.add_argument("--threshold", type=float, metavar="SCORE",
                        help=f"detector: leave out boxes below this score (default {DRAWN_THRESHOLD}; "
                        "--coco leaves out none unless told)")  # fmt: skip
    parser.add_argument("--coco", type=Path, metavar="FILE", help="detector: also write COCO results to FILE")
    parser.add_argument("--annotations", type=Path, metavar="FILE",
                        help="COCO file that numbers images and classes for --coco (default: from 1)")  # fmt: skip
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at a time (default 8, or Infer.batch_size)")
    parser.add_argument("--backend", metavar="NAME", help="engine for --model: paddle, onnxruntime or openvino "
                        "(default: the first in the export that is installed)")  # fmt: skip
    parser.add_argument("--precision", metavar="NAME", help="which files of --model, where it holds several precisions")
    parser.add_argument("--threads", type=int, metavar="N", help="threads for --model (default: all cores)")
    return parser.parse_args()


def check_arguments(arguments: argparse.Namespace) -> None:
    """Checks what can be told without loading a model.

    Raises:
        UserError: the command line names no model, two models, no images, or a value out of range.
    """
    from ppcls_ext.utils.image_files import find_images

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
    if arguments.threshold is not None and not 0 <= arguments.threshold <= 1:
        raise UserError(f"--threshold must be from 0 to 1, got {arguments.threshold}")
    if arguments.annotations is not None and arguments.coco is None:
        raise UserError("--annotations numbers the results of --coco FILE, which is missing")
    if arguments.input:
        find_images(arguments.input)  # a misspelt path is told before the model is loaded
    elif arguments.model is not None:
        raise UserError(NO_INPUT)


def open_classifier(arguments: argparse.Namespace) -> tuple[Predictor, list[str], int]:
    """Returns the predictor of a configuration, the inputs and the batch size."""
    from classification.config import load_config

    config = load_config(arguments.config, arguments.override)
    inputs = arguments.input or ([config.infer.infer_imgs] if config.infer and config.infer.infer_imgs else [])

    from classification.trained import load_trained
    from ppcls_ext.engine.environment import prepare_environment

    prepare_environment(config.run.device, config.run.seed)
    batch_size = arguments.batch_size or (config.infer.batch_size if config.infer else 8)
    return load_trained(config).predictor(), inputs, batch_size


def open_detector(arguments: argparse.Namespace) -> tuple[DetectionPredictor, list[str], int]:
    """Returns the predictor of a detection configuration, the inputs and the batch size."""
    from detection.configuration import load_config
    from detection.weights import weights_file

    config = load_config(arguments.config, arguments.override)
    if not arguments.input:
        raise UserError(NO_INPUT)
    weights_file(config)  # weights that are not there are told before Paddle is loaded

    from detection.task import open_environment
    from detection.trained import load_trained

    open_environment(config)
    return load_trained(config).predictor(), arguments.input, arguments.batch_size or 8


def open_predictor(arguments: argparse.Namespace) -> tuple[Predictor | DetectionPredictor, list[str], int]:
    """Returns the predictor, the inputs and the batch size."""
    from ppcls_ext.runtime import load
    from ppcls_ext.utils.config import is_detection_config

    if arguments.model is not None:
        predictor = load(
            arguments.model, backend=arguments.backend, threads=arguments.threads, precision=arguments.precision
        )
        return predictor, arguments.input, arguments.batch_size or 8
    return open_detector(arguments) if is_detection_config(arguments.config) else open_classifier(arguments)


def classify(arguments: argparse.Namespace, predictor: Predictor, images: list[Path], batch_size: int) -> list[str]:
    """Predicts classes and writes what was asked for; returns the reason of each unreadable image."""
    from ppcls_ext.runtime.report import as_records, as_table, save_pictures, summary
    from ppcls_ext.utils.files import write_json

    for option in DETECTION_ONLY:
        if getattr(arguments, option) is not None:
            raise UserError(f"--{option} is for detectors; {predictor.model_name} is a classifier")
    predictions = predictor(images, batch_size=batch_size, topk=arguments.topk)
    counts = summary(predictions, predictor)
    print(as_table(predictions, predictor))
    print(counts)
    if arguments.json:
        write_json(arguments.json, as_records(predictions, predictor))
    if arguments.save:
        written = save_pictures(predictions, predictor, arguments.save, f"{predictor.model_name}: {counts}")
        announce(written, arguments.save)
    return [prediction.error for prediction in predictions if prediction.error is not None]


def detect(
    arguments: argparse.Namespace, predictor: DetectionPredictor, images: list[Path], batch_size: int
) -> list[str]:
    """Finds boxes and writes what was asked for; returns the reason of each unreadable image."""
    from ppcls_ext.runtime.coco_results import coco_results, numbering_of
    from ppcls_ext.runtime.report import above, as_records, as_table, save_pictures, summary
    from ppcls_ext.utils.files import write_json

    if arguments.topk is not None:
        raise UserError(f"--topk is for classifiers; {predictor.model_name} is a detector (see --threshold)")
    numbering = numbering_of(arguments.annotations, images, predictor) if arguments.annotations else None
    found = predictor(images, batch_size=batch_size, threshold=arguments.threshold or 0.0)
    predictions = above(found, DRAWN_THRESHOLD) if arguments.threshold is None else found
    counts = summary(predictions, predictor)
    print(as_table(predictions, predictor))
    print(counts)
    if arguments.json:
        write_json(arguments.json, as_records(predictions, predictor))
    if arguments.coco:
        write_json(arguments.coco, coco_results(found, predictor, numbering))
    if arguments.save:
        written = save_pictures(predictions, predictor, arguments.save, f"{predictor.model_name}: {counts}")
        announce(written, arguments.save)
    return [prediction.error for prediction in predictions if prediction.error is not None]


def announce(written: list[Path], target: Path) -> None:
    """Says what was drawn."""
    print(f"drawn: {written[0] if len(written) == 1 else f'{len(written)} pictures in {target}'}")


def main() -> None:
    """Predicts, prints the table, and writes what was asked for."""
    arguments = parse_arguments()
    from ppcls_ext.runtime import DetectionPredictor
    from ppcls_ext.utils.image_files import find_images, left_out
    from ppcls_ext.utils.log import set_up_logging

    set_up_logging()
    check_arguments(arguments)
    predictor, inputs, batch_size = open_predictor(arguments)
    if not inputs:
        raise UserError(NO_INPUT)
    images = find_images(inputs)
    others = left_out(inputs)
    if others:
        print(others)
    work = detect if isinstance(predictor, DetectionPredictor) else classify
    unreadable = work(arguments, predictor, images, batch_size)
    if len(unreadable) == len(images):
        raise UserError(f"none of the {len(images)} images could be read")


if __name__ == "__main__":
    run(main)
