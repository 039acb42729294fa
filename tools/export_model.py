"""Exports a trained model: python tools/export_model.py -c CONFIG -o Global.pretrained_model=PATH --output DIR."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.common.command_line import add_config_arguments, run


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Export the model of a configuration for Paddle Inference. The export is reloaded and compared "
        "with the model; if they disagree, nothing is written."
    )
    add_config_arguments(parser)
    parser.add_argument("--output", metavar="DIR", help="folder to write (default: Global.save_inference_dir)")
    return parser.parse_args()


def main() -> None:
    """Exports and prints what was measured."""
    arguments = parse_arguments()
    from classification.config import load_config

    config = load_config(arguments.config, arguments.override)

    from classification.trained import load_trained
    from ppcls_ext.common.log import set_up_logging
    from ppcls_ext.training.environment import prepare_environment

    set_up_logging()
    prepare_environment(config.run.device, config.run.seed)
    description = load_trained(config).export(Path(arguments.output or config.run.save_inference_dir))
    verification = description.verification
    print(f"{description.folder}: {description.model_name}, {description.class_num} classes, verified on "
          f"{len(verification['images'])} images")  # fmt: skip
    for name, error in verification["relative_error"].items():
        print(f"  {name}: relative error {error:.1e} (allowed {verification['tolerance']:.0e})")


if __name__ == "__main__":
    run(main)
