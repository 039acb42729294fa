"""Evaluates weights.

python tools/eval.py -c CONFIG -o Global.pretrained_model=CHECKPOINT     a classifier
python tools/eval.py -c CONFIG -o weights=CHECKPOINT                     a detector
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import add_config_arguments, add_overwrite_argument, run


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Evaluate weights on the evaluation data of a configuration: -o Global.pretrained_model=PATH for "
        "a classifier (DataLoader.Eval), -o weights=PATH for a detector (EvalDataset)."
    )
    add_config_arguments(parser)
    add = parser.add_argument
    add("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    words = "folder for figures, tables, charts and pictures (the folder of the run, with /evaluation)"
    add("--output", metavar="FOLDER", type=Path, help=words)
    words = "images to show, the worst first (12 of a detector, 30 of a classifier)"
    add("--panels", metavar="N", type=int, help=words)
    add_overwrite_argument(parser)
    return parser.parse_args()


def main() -> None:
    """Evaluates a classifier (`Arch`) or detector (`architecture`) and shows the figures."""
    arguments = parse_arguments()
    from ppcls_ext.utils.config import is_detection_config
    from ppcls_ext.utils.log import set_up_logging
    from ppcls_ext.utils.machine import rank_from_environment

    set_up_logging(quiet=rank_from_environment()[0] != 0)
    if is_detection_config(arguments.config):
        from detection import evaluate
    else:
        from classification import evaluate
    evaluate(arguments.config, arguments.override, arguments.output, arguments.panels, arguments.json,
             arguments.overwrite)  # fmt: skip


if __name__ == "__main__":
    run(main)
