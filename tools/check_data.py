"""Looks for faults in the data before training: python tools/check_data.py -c CONFIG [-o KEY=VALUE ...]."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.common.command_line import add_config_arguments, run

ERRORS_FOUND_STATUS = 1


def whole_number(text: str) -> int:
    """Reads 0, 1, 2, ..."""
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Look for faults in the data of a configuration before training. "
        "Leaves with 0 if there are no errors, 1 if there are, 2 if it could not look.",
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--output", type=Path, help="folder for check.json and overview.png (output/check/NAME OF THE CONFIGURATION)"
    )
    parser.add_argument("--limit", type=whole_number, default=0, metavar="N", help="read N images of each set (all)")
    parser.add_argument("--workers", type=whole_number, metavar="N", help="processes that read images (one a core)")
    return parser.parse_args()


def main() -> int:
    """Checks; returns the exit status."""
    arguments = parse_arguments()
    from ppcls_ext.common.config import load_config_file
    from ppcls_ext.common.errors import UserError
    from ppcls_ext.common.log import set_up_logging
    from ppcls_ext.common.machine import available_cores

    set_up_logging()
    document = load_config_file(arguments.config, arguments.override)
    folder = arguments.output or Path("output") / "check" / Path(arguments.config).stem
    # Detection joins here: a configuration with `architecture` is one of its.
    if "architecture" in document.data:
        raise UserError(f"{document.path}: is a detection configuration; only classification data are checked so far")
    from classification.check.run import check_config_data, write_check
    from classification.config import check_config

    workers = available_cores() if arguments.workers is None else arguments.workers
    check = check_config_data(check_config(document), arguments.limit, workers)
    write_check(check, folder)
    return ERRORS_FOUND_STATUS if check.has_errors else 0


if __name__ == "__main__":
    run(main)
