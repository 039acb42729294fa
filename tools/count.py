"""Counts parameters and GFLOPs of detectors as a table: python tools/count.py -c CONFIG [CONFIG ...]."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.common.command_line import run


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Count trainable parameters and GFLOPs (640 x 640) of detectors, by the rules of the published "
        "table: E-ConvNeXt and YOLOv10 rows as trained, with their own classes; others as deployed, with 80 classes. "
        "YOLOv10's head: both branches in the parameters, the one that predicts in the GFLOPs."
    )
    parser.add_argument("-c", "--config", required=True, nargs="+", metavar="CONFIG", help="detection configurations")
    parser.add_argument(
        "-o", "--override", action="extend", nargs="+", default=[], metavar="KEY.SUB=VALUE", help="change keys of each"
    )
    return parser.parse_args()


def main() -> int:
    """Counts and prints; returns the exit status."""
    arguments = parse_arguments()
    from detection.configuration import load_config

    configs = [load_config(path, arguments.override) for path in arguments.config]

    from detection.counting import count, markdown_table

    rows = []
    for config in configs:
        sys.stderr.write(f"counting {config.path}\n")
        rows.append(count(config))
    print(markdown_table(rows))
    return 0


if __name__ == "__main__":
    run(main)
