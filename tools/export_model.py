"""Exports a trained model for Paddle Inference, a classifier or a detector, as its configuration says.

python tools/export_model.py -c CONFIG -o Global.pretrained_model=PATH --output DIR
python tools/export_model.py -c DETECTION_CONFIG -o weights=PATH --output DIR [--raw] [--size 320]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.common.command_line import add_config_arguments, run
from ppcls_ext.common.errors import UserError


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Export the model of a configuration for Paddle Inference. The export is reloaded and compared "
        "with the model; if they disagree, nothing is written."
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--output", metavar="DIR", type=Path, help="folder to write (default: Global.save_inference_dir; of a detector "
        "the folder 'export' of its run)"
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
    description = load_trained(config).export(Path(arguments.output or config.run.save_inference_dir))
    verification = description.verification
    print(f"{description.folder}: {description.model_name}, {description.class_num} classes, verified on "
          f"{len(verification['images'])} images")  # fmt: skip
    for name, error in verification["relative_error"].items():
        print(f"  {name}: relative error {error:.1e} (allowed {verification['tolerance']:.0e})")


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
        arguments.output or config.output_dir / "export", nms=not arguments.raw, size=size
    )
    verification = description.verification
    kind = f"suppression {description.form.suppression}" + ("" if description.form.final else " (raw outputs)")
    height, width = description.input_shape[2:]
    print(f"{description.folder}: {description.model_name}, {description.class_num} classes, {height} x {width} px, "
          f"{kind}, verified on {len(verification['images'])} images")  # fmt: skip
    allowed = verification["tolerance"]
    for name, figures in verification["engines"].items():
        print(f"  {name}: {figures['compared']} boxes compared, largest difference {figures['box_error_px']:.1e} px "
              f"(allowed {allowed['box_px']}), of scores {figures['score_error']:.1e} (allowed {allowed['score']:.0e})"
              + (f", {figures['ties']} ties" if figures["ties"] else ""))  # fmt: skip


def main() -> None:
    """Exports and prints what was measured."""
    arguments = parse_arguments()
    from ppcls_ext.common.config import is_detection_config
    from ppcls_ext.common.log import set_up_logging

    set_up_logging()
    (export_detector if is_detection_config(arguments.config) else export_classifier)(arguments)


if __name__ == "__main__":
    run(main)
