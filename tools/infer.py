"""Predicts images, with an export or with the weights of a run.

python tools/infer.py --model output/quickstart/export --input photos/ --save predictions.png
python tools/infer.py -c CONFIG -o Global.pretrained_model=CHECKPOINT --input a.jpg "more/*.png" --json out.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.common.command_line import add_config_arguments, run
from ppcls_ext.common.errors import UserError

if TYPE_CHECKING:
    from ppcls_ext.runtime import Predictor

NO_INPUT = "name images with --input: files, folders or patterns"


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Predict images with an export (--model DIR) or with the weights of a run "
        "(-c CONFIG -o Global.pretrained_model=PATH)."
    )
    add_config_arguments(parser, required=False)
    parser.add_argument("--model", metavar="DIR", help="export folder of tools/export_model.py, instead of -c")
    parser.add_argument("--input", nargs="+", metavar="PATH", help="images, folders, or patterns such as 'a/*.png'")
    parser.add_argument(
        "--save", type=Path, metavar="FILE|FOLDER", help="FILE.png: one sheet of all images; FOLDER: one picture each"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the predictions to FILE")
    parser.add_argument("--topk", type=int, metavar="K", help="classes to show for each image")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at a time (default 8, or Infer.batch_size)")
    parser.add_argument("--backend", default="paddle", metavar="NAME", help="engine for --model (default: paddle)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads for --model (default: all cores)")
    return parser.parse_args()


def open_predictor(arguments: argparse.Namespace) -> tuple[Predictor, list[str], int]:
    """Returns the predictor, the inputs and the batch size.

    Raises:
        UserError: the command line names no model, two models, or no images.
    """
    if (arguments.model is None) == (arguments.config is None):
        raise UserError("give either --model DIR (an export) or -c CONFIG (weights of a run)")
    if arguments.model is not None:
        if arguments.override:
            raise UserError("-o changes a configuration: it goes with -c, not with --model")
        if not arguments.input:
            raise UserError(NO_INPUT)
        from ppcls_ext.runtime import load

        predictor = load(arguments.model, backend=arguments.backend, threads=arguments.threads)
        return predictor, arguments.input, arguments.batch_size or 8
    from classification.config import load_config

    config = load_config(arguments.config, arguments.override)
    inputs = arguments.input or ([config.infer.infer_imgs] if config.infer and config.infer.infer_imgs else [])

    from classification.trained import load_trained
    from ppcls_ext.training.environment import prepare_environment

    prepare_environment(config.run.device, config.run.seed)
    batch_size = arguments.batch_size or (config.infer.batch_size if config.infer else 8)
    return load_trained(config).predictor(), inputs, batch_size


def main() -> None:
    """Predicts, prints the table, and writes what was asked for."""
    arguments = parse_arguments()
    from ppcls_ext.common.files import write_json
    from ppcls_ext.common.image_files import find_images
    from ppcls_ext.common.log import set_up_logging
    from ppcls_ext.runtime.report import as_records, as_table, save_pictures, summary

    set_up_logging()
    for option, value in (("--topk", arguments.topk), ("--batch-size", arguments.batch_size)):
        if value is not None and value < 1:
            raise UserError(f"{option} must be at least 1, got {value}")
    if arguments.input:
        find_images(arguments.input)  # a misspelt path is told before the model is loaded
    predictor, inputs, batch_size = open_predictor(arguments)
    if not inputs:
        raise UserError(NO_INPUT)
    predictions = predictor(find_images(inputs), batch_size=batch_size, topk=arguments.topk)
    counts = summary(predictions, predictor.classes)
    print(as_table(predictions, predictor.classes))
    print(counts)
    if arguments.json:
        write_json(arguments.json, as_records(predictions, predictor.classes))
    if arguments.save:
        written = save_pictures(predictions, predictor.classes, arguments.save, f"{predictor.model_name}: {counts}")
        print(f"drawn: {written[0] if len(written) == 1 else f'{len(written)} pictures in {arguments.save}'}")
    if all(prediction.error is not None for prediction in predictions):
        raise UserError(f"none of the {len(predictions)} images could be read")


if __name__ == "__main__":
    run(main)
