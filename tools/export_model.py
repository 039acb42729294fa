"""Exports a trained model, a classifier or a detector, as its configuration says, to one or several file formats.

python tools/export_model.py -c CONFIG -o Global.pretrained_model=PATH --output DIR
python tools/export_model.py -c CONFIG -o Global.pretrained_model=PATH --format paddle,onnx,openvino --precision fp32
python tools/export_model.py -c DETECTION_CONFIG -o weights=PATH --output DIR [--raw] [--size 320]
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
    from ppcls_ext.runtime import Description, DetectionDescription


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Export the model of a configuration for Paddle Inference, ONNX Runtime or OpenVINO. Every file is "
        "reloaded by its engine and compared with the model; if they disagree, nothing is written."
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--output", metavar="DIR", type=Path, help="folder to write (default: Global.save_inference_dir; of a detector "
        "the folder 'export' of its run)"
    )  # fmt: skip
    parser.add_argument(
        "--format", metavar="NAME[,NAME]", default="paddle",
        help="file formats: paddle (default), onnx, openvino",
    )  # fmt: skip
    parser.add_argument(
        "--precision", metavar="NAME[,NAME]", default="fp32", help="precisions: fp32 (default), fp16 (onnx, openvino), "
        "bf16 (paddle, openvino); every format is written in every precision named"
    )  # fmt: skip
    parser.add_argument(
        "--raw", action="store_true", help="detector: give the boxes and scores of all anchors, without any choice"
    )
    parser.add_argument(
        "--size", type=int, nargs="+", metavar="PIXELS", help="detector: side, or height and width, of the input "
        "(default: that of Resize or LetterResize in TestReader)"
    )  # fmt: skip
    return parser.parse_args()


def export_classifier(arguments: argparse.Namespace) -> None:
    """Exports the classifier of a configuration with ``Arch``."""
    from classification.config import load_config

    config = load_config(arguments.config, arguments.override)
    if arguments.raw or arguments.size:
        raise UserError("--raw and --size are for detectors; a classifier's size is Global.image_shape")

    from classification.trained import load_trained
    from ppcls_ext.training.environment import prepare_environment

    prepare_environment(config.run.device, config.run.seed)
    description = load_trained(config).export(
        Path(arguments.output or config.run.save_inference_dir), **requested(arguments)
    )
    print(f"{description.folder}: {description.model_name}, {description.class_num} classes, verified on "
          f"{compared_images(description)} images")  # fmt: skip
    for artefact in description.artefacts:
        verification = artefact.verification
        for name, error in verification["relative_error"].items():
            print(f"  {artefact.model_file}, {name}: relative error {error:.1e} (allowed "
                  f"{verification['tolerance']:.0e}), same best class {verification['top1_agreement'][name]:.0%}, "
                  f"computed in {artefact.computed_in}")  # fmt: skip


def export_detector(arguments: argparse.Namespace) -> None:
    """Exports the detector of a configuration with ``architecture``."""
    from detection.configuration import load_config
    from detection.weights import weights_file

    config = load_config(arguments.config, arguments.override)
    if arguments.size and len(arguments.size) > 2:
        raise UserError(f"--size takes one side, or height and width, got {len(arguments.size)} numbers")
    size = arguments.size * 2 if arguments.size and len(arguments.size) == 1 else arguments.size
    weights_file(config)  # weights that are not there are told before Paddle is loaded

    from detection.engine.run import open_environment
    from detection.trained import load_trained

    open_environment(config)
    description = load_trained(config).export(
        arguments.output or config.output_dir / "export", nms=not arguments.raw, size=size, **requested(arguments)
    )
    kind = f"suppression {description.form.suppression}" + ("" if description.form.final else " (raw outputs)")
    height, width = description.input_shape[2:]
    print(f"{description.folder}: {description.model_name}, {description.class_num} classes, {height} x {width} px, "
          f"{kind}, verified on {compared_images(description)} images")  # fmt: skip
    for artefact in description.artefacts:
        allowed = artefact.verification["tolerance"]
        for name, figures in artefact.verification["engines"].items():
            print(f"  {artefact.model_file}, {name}: {figures['compared']} boxes compared, largest difference "
                  f"{figures['box_error_px']:.1e} px (allowed {allowed['box_px']}), of scores "
                  f"{figures['score_error']:.1e} (allowed {allowed['score']:.0e})"
                  + (f", {figures['ties']} ties" if figures["ties"] else "")
                  + f", computed in {artefact.computed_in}")  # fmt: skip


def requested(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Returns the formats and precisions that were asked for.

    Raises:
        UserError: they cannot be written.
    """
    from ppcls_ext.export import plan

    formats = [name.strip() for name in arguments.format.split(",")]
    precisions = [name.strip() for name in arguments.precision.split(",")]
    plan(formats, precisions)
    return {"formats": formats, "precisions": precisions}


def compared_images(description: Description | DetectionDescription) -> int:
    """Returns on how many images every artefact was compared with the model."""
    return len(description.artefacts[0].verification["images"])


def main() -> None:
    """Exports and prints what was measured."""
    arguments = parse_arguments()
    from ppcls_ext.common.config import is_detection_config
    from ppcls_ext.common.log import set_up_logging

    set_up_logging()
    requested(arguments)  # what cannot be written is told before a configuration is read
    (export_detector if is_detection_config(arguments.config) else export_classifier)(arguments)


if __name__ == "__main__":
    run(main)
