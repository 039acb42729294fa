"""Adds an int8 network to an export with OpenVINO or ONNX files, and tells what it gains and costs.

python tools/quantize_model.py --model EXPORT -c CONFIG [--max-drop 0.5]   calibrated and judged on CONFIG's data
python tools/quantize_model.py --model EXPORT --images FOLDER              calibrated on a folder, not judged
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import add_config_arguments, add_overwrite_argument, run
from ppcls_ext.utils.errors import UserError


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Quantise the float32 network of an export to int8 after training (OpenVINO: with NNCF; ONNX: "
        "with ONNX Runtime). Scales come from images that are prepared as at deployment. Past --max-drop nothing is "
        "written, and the exit status is 1."
    )
    add = parser.add_argument
    add("--model", metavar="EXPORT", type=Path, required=True, help="what tools/export_model.py wrote")
    add("--format", choices=("openvino", "onnx"),
        help="which network is quantised (default: openvino if EXPORT holds it in float32, else onnx)")
    add_config_arguments(parser, required=False)
    add("--output", metavar="DIR", type=Path, help="folder to write: a copy of EXPORT with int8 (default: EXPORT)")
    add("--images", metavar="FOLDER", type=Path,
        help="calibrate on the images of this folder instead of the training images of CONFIG")
    add("--count", type=int, default=300, metavar="N", help="images to calibrate on, at most (300)")
    add("--max-drop", type=float, metavar="POINTS", help="largest loss of top-1 or AP, in points, that is accepted")
    add("--threads", type=int, default=2, metavar="N", help="threads of the measurements (2)")
    add_overwrite_argument(parser)
    return parser.parse_args()  # fmt: skip


def print_report(description: Any, quantized: str) -> None:
    """Prints what was measured of a format."""
    from ppcls_ext.deploy.cards import int8_table

    found = (one for one in description.artefacts if (one.format, one.precision) == (quantized, "int8"))
    measured = next(found).verification
    print(f"{description.folder}: {description.model_name}, int8 of format {quantized}, calibrated on "
          f"{measured['calibration_images']} images; {measured['threads']} threads, one image\n")  # fmt: skip
    print(f"{int8_table(measured)}\n")
    if "metric" in measured:
        print(f"loses {measured['drop_points']:.2f} points on {measured['images']} images")
    if "logits" in measured:
        logits = measured["logits"]
        print(f"calibration images: same best class {logits['same_best_class']:.1%}, median error of logits "
              f"{logits['median_relative_error']:.1e}")  # fmt: skip


def main() -> None:
    """Quantises and prints what was measured."""
    arguments = parse_arguments()
    if arguments.count < 1 or arguments.threads < 1:
        raise UserError("--count and --threads must be at least 1")
    if arguments.config is None and arguments.images is None:
        raise UserError("nothing to calibrate on is named: -c CONFIG, or --images FOLDER")
    if arguments.override and arguments.config is None:
        raise UserError("-o goes with -c")
    import numpy as np

    from ppcls_ext.deploy.quantize import check_request, format_to_quantize, quantize_export
    from ppcls_ext.utils.config import is_detection_config
    from ppcls_ext.utils.image_files import images_in
    from ppcls_ext.utils.log import set_up_logging
    from ppcls_ext.utils.outputs import Output, claim_outputs, inputs_of

    set_up_logging()
    evaluation, reads, searched = None, [], []
    if arguments.config is not None:
        if is_detection_config(arguments.config):
            from detection import compression
        else:
            from classification import compression
        config: Any = compression.load_config(arguments.config, arguments.override)
        reads, searched = inputs_of(config.document)
    output = arguments.output or arguments.model
    if arguments.images is not None:
        reads.append(arguments.images)
    extends = os.path.realpath(output) == os.path.realpath(arguments.model)
    if not extends:
        reads.append(arguments.model)
    kind = "extended export" if extends else "export"
    claim_outputs([Output("--output", output, kind)], reads, searched, arguments.overwrite)
    quantized = arguments.format or format_to_quantize(arguments.model)
    check_request(arguments.max_drop, arguments.config is not None, quantized)
    if arguments.config is not None:
        evaluation = compression.evaluation_of(config)
    if arguments.images is not None:
        folder = arguments.images
        files = images_in(folder) if folder.is_dir() else []
        if not files:
            raise UserError(f"--images {folder}: {'no image there' if folder.is_dir() else 'no such folder'}")
        # Spread over the folder.
        chosen = np.linspace(0, len(files) - 1, min(arguments.count, len(files))).astype(int)
        images: Any = [(str(files[index]), files[index]) for index in chosen]
    else:
        images = compression.calibration_images(config, arguments.count)
    description = quantize_export(
        arguments.model, output, images, evaluation, arguments.max_drop, arguments.threads, format_name=quantized
    )
    print_report(description, quantized)


if __name__ == "__main__":
    run(main)
