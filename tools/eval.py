"""Evaluates weights.

python tools/eval.py -c CONFIG -o Global.pretrained_model=CHECKPOINT     a classifier
python tools/eval.py -c CONFIG -o weights=CHECKPOINT                     a detector
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import add_config_arguments, add_overwrite_argument, run


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Evaluate weights on the evaluation data of a configuration: -o Global.pretrained_model=PATH for "
        "a classifier (DataLoader.Eval), -o weights=PATH for a detector (EvalDataset)."
    )
    add_config_arguments(parser)
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    parser.add_argument(
        "--output", metavar="FOLDER", type=Path,
        help="folder for figures, tables, charts and pictures (the folder of the run, with /evaluation)",
    )  # fmt: skip
    parser.add_argument("--panels", metavar="N", type=int, help="images to show, the worst first (12 of a detector, 30 "
                        "of a classifier)")  # fmt: skip
    add_overwrite_argument(parser)
    return parser.parse_args()


def evaluate(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Evaluates a classifier (``Arch``) or detector (``architecture``); prints and returns the metrics of rank 0."""
    from ppcls_ext.utils.config import is_detection_config
    from ppcls_ext.utils.errors import UserError
    from ppcls_ext.utils.outputs import Output, claim_outputs, inputs_of

    figures = Output("--json", arguments.json)
    if arguments.panels is not None and arguments.panels < 0:
        raise UserError(f"--panels must not be negative, got {arguments.panels}")
    if is_detection_config(arguments.config):
        from detection.configuration import check_annotations, load_config
        from detection.weights import weights_file

        config = load_config(arguments.config, arguments.override)
        folder = arguments.output or config.output_dir / "evaluation"
        outputs = [Output("--output", folder, "evaluation"), figures]
        claim_outputs(outputs, *inputs_of(config.document), arguments.overwrite)
        weights_file(config)
        # Weights can be evaluated where nobody has the training data.
        check_annotations(config, ["Eval"])

        from detection.evaluator import evaluate_config
        from detection.task import open_environment

        return evaluate_config(config, open_environment(config), folder, arguments.panels)

    from classification.config import load_config

    config = load_config(arguments.config, arguments.override)
    folder = arguments.output or config.output_dir / "evaluation"
    claim_outputs([Output("--output", folder, "evaluation"), figures], *inputs_of(config.document), arguments.overwrite)

    from classification.evaluation import MISTAKES, evaluate_config
    from ppcls_ext.engine.environment import prepare_environment

    environment = prepare_environment(config.run.device, config.run.seed)
    mistakes = MISTAKES if arguments.panels is None else arguments.panels
    result = evaluate_config(config, environment, folder, mistakes)
    return result if environment.is_main else None


def main() -> None:
    """Evaluates and prints the figures."""
    arguments = parse_arguments()
    from ppcls_ext.utils.files import write_json
    from ppcls_ext.utils.log import set_up_logging
    from ppcls_ext.utils.machine import rank_from_environment
    from ppcls_ext.utils.outputs import record_outputs

    set_up_logging(quiet=rank_from_environment()[0] != 0)
    result = evaluate(arguments)
    if arguments.json and result is not None:
        write_json(arguments.json, result)
        record_outputs([arguments.json])


if __name__ == "__main__":
    run(main)
