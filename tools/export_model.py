"""Exports a trained model, a classifier or a detector, as its configuration says, to one or several file formats.

python tools/export_model.py -c CONFIG -o Global.pretrained_model=PATH --output DIR
python tools/export_model.py -c CONFIG -o Global.pretrained_model=PATH --format paddle,onnx,openvino --precision fp32
python tools/export_model.py -c CONFIG -o Global.pretrained_model=PATH --format openvino --precision int8 --max-drop 0.5
python tools/export_model.py -c DETECTION_CONFIG -o weights=PATH [image_size=320] --output DIR [--raw]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import add_config_arguments, add_overwrite_argument, run
from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    from ppcls_ext.runtime import Description, DetectionDescription

INT8 = "int8"


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Export the model of a configuration for Paddle Inference, ONNX Runtime or OpenVINO. Every file is "
        "reloaded by its engine and compared with the model; if they disagree, nothing is written."
    )
    add_config_arguments(parser)
    add = parser.add_argument
    add("--output", metavar="DIR", type=Path, help="folder to write (default: Global.save_inference_dir; of a detector "
        "the folder 'export' of its run)")
    add("--format", metavar="NAME[,NAME]", default="paddle", help="file formats: paddle (default), onnx, openvino")
    add("--precision", metavar="NAME[,NAME]", default="fp32", help="precisions: fp32 (default), fp16 (onnx, openvino), "
        "bf16 (paddle, openvino), int8 (openvino, onnx); every format is written in every precision named")
    add("--max-drop", type=float, metavar="POINTS", help="int8: largest loss of top-1 or AP on the evaluation data of "
        "CONFIG, in points; past it nothing is written, and the exit status is 1")
    add("--calibration-images", type=int, default=300, metavar="N", help="int8: training images to calibrate on (300)")
    add("--raw", action="store_true", help="detector: give the boxes and scores of all anchors, without any choice")
    add_overwrite_argument(parser)
    return parser.parse_args()  # fmt: skip


def export(arguments: argparse.Namespace) -> Description | DetectionDescription:
    """Exports the model of a configuration; see ``classification.export`` and ``detection.export``."""
    from ppcls_ext.utils.config import is_detection_config

    options: dict[str, Any] = {
        "output": arguments.output,
        "formats": [name.strip() for name in arguments.format.split(",")],
        "precisions": [name.strip() for name in arguments.precision.split(",")],
        "max_drop": arguments.max_drop,
        "calibration_images": arguments.calibration_images,
        "overwrite": arguments.overwrite,
    }
    if is_detection_config(arguments.config):
        from detection import export

        options["raw"] = arguments.raw
    else:
        from classification import export

        if arguments.raw:
            raise UserError("--raw is for detectors")
    return export(arguments.config, arguments.override, **options)


def print_report(description: Description | DetectionDescription) -> None:
    """Prints what was measured of each file."""
    from ppcls_ext.deploy.cards import int8_table
    from ppcls_ext.deploy.formats import FORMATS
    from ppcls_ext.runtime import DetectionDescription

    images = next(len(one.verification["images"]) for one in description.artefacts if one.precision != INT8)
    kind = ""
    if isinstance(description, DetectionDescription):
        height, width = description.input_shape[2:]
        kind = f", {height} x {width} px, NMS: {description.form.suppression}"
        kind += "" if description.form.final else " (raw outputs)"
    print(f"{description.folder}: {description.model_name}, {description.class_num} classes{kind}, verified on "
          f"{images} images")  # fmt: skip
    for artefact in description.artefacts:
        found, name = artefact.verification, artefact.model_file
        if artefact.precision == INT8:
            print(f"  {name}, {FORMATS[artefact.format].engine}, on {found['images']} images\n\n{int8_table(found)}\n")
        for engine, error in found.get("relative_error", {}).items():
            same = found["top1_agreement"][engine]
            print(f"  {name}, {engine}: relative error {error:.1e} (allowed {found['tolerance']:.0e}), same best class "
                  f"{same:.0%}, computed in {artefact.computed_in}")  # fmt: skip
        for engine, figures in found.get("engines", {}).items():
            allowed = found["tolerance"]
            ties = f", boxes that rounding lets in or out: {figures['ties']}" if figures["ties"] else ""
            print(f"  {name}, {engine}: {figures['compared']} boxes compared, largest difference "
                  f"{figures['box_error_px']:.1e} px (allowed {allowed['box_px']}), of scores "
                  f"{figures['score_error']:.1e} (allowed {allowed['score']:.0e}){ties}, computed in "
                  f"{artefact.computed_in}")  # fmt: skip


def main() -> None:
    """Exports and prints what was measured."""
    arguments = parse_arguments()
    from ppcls_ext.utils.log import set_up_logging

    set_up_logging()
    print_report(export(arguments))


if __name__ == "__main__":
    run(main)
