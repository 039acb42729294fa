"""Evaluates weights: python tools/eval.py -c CONFIG -o Global.pretrained_model=CHECKPOINT."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.common.command_line import add_config_arguments, run


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Evaluate weights (-o Global.pretrained_model=PATH) on DataLoader.Eval of a configuration."
    )
    add_config_arguments(parser)
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    return parser.parse_args()


def main() -> None:
    """Evaluates and prints the figures."""
    arguments = parse_arguments()
    from classification.config import load_config

    config = load_config(arguments.config, arguments.override)

    from classification.evaluation import evaluate_config
    from ppcls_ext.common.files import write_json
    from ppcls_ext.common.log import set_up_logging
    from ppcls_ext.training.environment import prepare_environment, rank_from_environment

    set_up_logging(quiet=rank_from_environment()[0] != 0)
    environment = prepare_environment(config.run.device, config.run.seed)
    result = evaluate_config(config, environment)
    if arguments.json and environment.is_main:
        write_json(arguments.json, result)


if __name__ == "__main__":
    run(main)
