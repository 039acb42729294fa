"""Exports a trained model, a classifier or a detector, as its configuration says, to one or several file formats.

python tools/export_model.py -c CONFIG -o Global.pretrained_model=PATH --output DIR
python tools/export_model.py -c CONFIG -o Global.pretrained_model=PATH --format paddle,onnx,openvino --precision fp32
python tools/export_model.py -c CONFIG -o Global.pretrained_model=PATH --format openvino --precision int8 --max-drop 0.5
python tools/export_model.py -c DETECTION_CONFIG -o weights=PATH --output DIR [--raw] [--size 320]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import add_config_arguments, run
from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    from ppcls_ext.runtime import Description, DetectionDescription

INT8 = "int8"
TOO_MUCH_STATUS = 1


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
        "bf16 (paddle, openvino), int8 (openvino); every format is written in every precision named"
    )  # fmt: skip
    parser.add_argument(
        "--max-drop", type=float, metavar="POINTS", help="int8: largest loss of top-1 or AP on the evaluation data of "
        "CONFIG, in points; past it nothing is written, and the exit status is 1"
    )  # fmt: skip
    parser.add_argument(
        "--calibration-images", type=int, default=300, metavar="N", help="int8: training images to calibrate on (300)"
    )
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

    import classification.quantization as quantization
    from classification.trained import load_trained
    from ppcls_ext.engine.environment import prepare_environment

    prepare_environment(config.run.device, config.run.seed)
    target = Path(arguments.output or config.run.save_inference_dir)
    data = (quantization, config)
    description = exported(arguments, data, target, lambda: load_trained(config).export, **requested(arguments))
    print(f"{description.folder}: {description.model_name}, {description.class_num} classes, verified on "
          f"{compared_images(description)} images")  # fmt: skip
    for artefact in description.artefacts:
        verification = artefact.verification
        print_int8(artefact)
        for name, error in verification.get("relative_error", {}).items():
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

    import detection.quantization as quantization
    from detection.task import open_environment
    from detection.trained import load_trained

    open_environment(config)
    target = arguments.output or config.output_dir / "export"
    data = (quantization, config)
    description = exported(
        arguments, data, target, lambda: load_trained(config).export, nms=not arguments.raw, size=size,
        **requested(arguments),
    )  # fmt: skip
    kind = f"suppression {description.form.suppression}" + ("" if description.form.final else " (raw outputs)")
    height, width = description.input_shape[2:]
    print(f"{description.folder}: {description.model_name}, {description.class_num} classes, {height} x {width} px, "
          f"{kind}, verified on {compared_images(description)} images")  # fmt: skip
    for artefact in description.artefacts:
        print_int8(artefact)
        allowed = artefact.verification.get("tolerance")
        for name, figures in artefact.verification.get("engines", {}).items():
            print(f"  {artefact.model_file}, {name}: {figures['compared']} boxes compared, largest difference "
                  f"{figures['box_error_px']:.1e} px (allowed {allowed['box_px']}), of scores "
                  f"{figures['score_error']:.1e} (allowed {allowed['score']:.0e})"
                  + (f", {figures['ties']} ties" if figures["ties"] else "")
                  + f", computed in {artefact.computed_in}")  # fmt: skip


def requested(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Returns the formats and precisions that are exported; int8 is made of the float32 network afterwards.

    Raises:
        UserError: they cannot be written.
    """
    from ppcls_ext.deploy.formats import plan

    formats = [name.strip() for name in arguments.format.split(",")]
    precisions = [name.strip() for name in arguments.precision.split(",")]
    if arguments.max_drop is not None and INT8 not in precisions:
        raise UserError("--max-drop limits what int8 may lose: add int8 to --precision")
    if arguments.calibration_images < 1:
        raise UserError(f"--calibration-images must be at least 1, got {arguments.calibration_images}")
    if INT8 in precisions:
        from ppcls_ext.deploy.compress.int8 import check_packages

        if "openvino" not in formats:
            raise UserError(f"int8 is written for openvino only, not for {', '.join(formats)}: add --format openvino")
        check_packages()
        # The float32 network is what int8 is made of and compared with.
        precisions = list(dict.fromkeys("fp32" if name == INT8 else name for name in precisions))
    plan(formats, precisions)
    return {"formats": formats, "precisions": precisions}


def exported(arguments: argparse.Namespace, data: Any, target: Path, exporter: Any, **keywords: Any) -> Any:
    """Exports, adds int8 if it was asked for, and returns the description.

    Args:
        arguments: the command line.
        data: the module that names calibration images and evaluation, and the configuration that it reads.
        target: folder to write, in one step and only if everything agrees.
        exporter: loads the weights and returns the ``export`` of the trained model.
        **keywords: its arguments.
    """
    wanted = [name.strip() for name in arguments.precision.split(",")]
    if INT8 not in wanted:
        return exporter()(target, **keywords)
    from ppcls_ext.deploy.compress.quantization import check_limit, quantize_export
    from ppcls_ext.deploy.formats import check_target

    quantization, config = data
    check_limit(arguments.max_drop, labelled=True)
    check_target(target, None, 0)
    # Data that are not there are told before the long work.
    evaluation = quantization.evaluation_of(config)
    images = quantization.calibration_images(config, "train", arguments.calibration_images)
    with tempfile.TemporaryDirectory(prefix="int8-") as scratch:
        folder = Path(scratch) / "export"
        exporter()(folder, **keywords)
        return quantize_export(
            folder, target, images, evaluation, arguments.max_drop, first="fp32" not in wanted
        ).description


def print_int8(artefact: Any) -> None:
    """Prints what was measured of an int8 network; nothing for any other."""
    measured = artefact.verification
    if artefact.precision != INT8:
        return
    latency, sizes = measured["latency_ms"], measured["bytes"]
    print(f"  {artefact.model_file}, OpenVINO, int8: {measured['metric']} {100 * measured['int8']:.2f} % (fp32 "
          f"{100 * measured['fp32']:.2f} %) on {measured['images']} images, {latency['int8']:.2f} ms (fp32 "
          f"{latency['fp32']:.2f}), {sizes['int8'] / 1e6:.2f} MB (fp32 {sizes['fp32'] / 1e6:.2f})")  # fmt: skip


def compared_images(description: Description | DetectionDescription) -> int:
    """Returns on how many images every artefact but int8 was compared with the model."""
    return next(len(one.verification["images"]) for one in description.artefacts if one.precision != INT8)


def main() -> int:
    """Exports and prints what was measured; returns the exit status."""
    arguments = parse_arguments()
    from ppcls_ext.utils.config import is_detection_config
    from ppcls_ext.utils.log import set_up_logging

    set_up_logging()
    requested(arguments)  # what cannot be written is told before a configuration is read
    from ppcls_ext.deploy.compress.quantization import LimitExceededError

    try:
        (export_detector if is_detection_config(arguments.config) else export_classifier)(arguments)
    except LimitExceededError as error:
        sys.stderr.write(f"error: {error}\n")
        return TOO_MUCH_STATUS
    return 0


if __name__ == "__main__":
    run(main)
