"""Looks for faults in the data before training: python tools/check_data.py -c CONFIG [-o KEY=VALUE ...]."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import add_config_arguments, add_overwrite_argument, run

ERRORS_FOUND_STATUS = 1


def whole_number(text: str) -> int:
    """Reads 0, 1, 2, ..."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be 0, 1, 2, ..., got '{text}'")
    return int(text)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Look for faults in the data of a configuration before training. "
        "Leaves with 0 if there are no errors, 1 if there are, 2 if it could not look."
    )
    add_config_arguments(parser)
    add = parser.add_argument
    add("--output", type=Path, help="folder for check.json and overview.png (output/check/NAME OF THE CONFIGURATION)")
    add("--limit", type=whole_number, default=0, metavar="N", help="read N images of each set (all)")
    add("--workers", type=whole_number, metavar="N", help="threads that read images (one a core)")
    words = "only draw a sheet of training samples as the network gets them, after all operators: augmented.png"
    add("--augmented", action="store_true", help=words)
    add_overwrite_argument(parser)
    return parser.parse_args()


def main() -> int:
    """Checks; returns the exit status."""
    arguments = parse_arguments()
    from ppcls_ext.check.report import write_check
    from ppcls_ext.engine.augmented import write_augmented
    from ppcls_ext.utils.config import is_detection_config
    from ppcls_ext.utils.log import set_up_logging
    from ppcls_ext.utils.machine import available_cores
    from ppcls_ext.utils.outputs import Output, claim_outputs, inputs_of

    set_up_logging()
    folder = arguments.output or Path("output") / "check" / Path(arguments.config).stem
    detects = is_detection_config(arguments.config)
    if detects:
        from detection.check.overview import draw_overview
        from detection.check.run import check_detection_data as check_data
        from detection.configuration import load_config
    else:
        from classification.check import check_config_data as check_data
        from classification.check import draw_overview
        from classification.config import load_config
    config: Any = load_config(arguments.config, arguments.override)
    claim_outputs([Output("--output", folder, "check")], *inputs_of(config.document), arguments.overwrite)
    if arguments.augmented:
        # Only now: the loaders of a detector bring Paddle.
        augmented = importlib.import_module("detection.augmented" if detects else "classification.augmented")
        write_augmented(augmented.draw_augmented(config), folder)
        return 0
    workers = available_cores() if arguments.workers is None else arguments.workers
    check = check_data(config, arguments.limit, workers)
    write_check(check, folder, draw_overview)
    return ERRORS_FOUND_STATUS if check.has_errors else 0


if __name__ == "__main__":
    run(main)
