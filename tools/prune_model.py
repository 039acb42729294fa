"""Removes channels from the blocks of a trained classifier or detector, and reports what that costs and gains.

python tools/prune_model.py -c CONFIG -o Global.pretrained_model=PATH --ratio 0.3 --output DIR [--fine-tune]
python tools/prune_model.py -c DETECTION_CONFIG -o weights=PATH --ratio 0.2 0.3 0.4 0.3 --output DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import INTERRUPTED_STATUS, add_config_arguments, run


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Remove the least important channels inside the blocks of a trained E-ConvNeXt or ConvNeXt "
        "classifier, or of a detector with E-ConvNeXt as its backbone. DIR receives pruned weights, report.json and a "
        "configuration for tools/train.py that fine-tunes them."
    )
    add_config_arguments(parser)
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="a new folder")
    parser.add_argument(
        "--ratio", type=float, nargs="+", required=True, metavar="R",
        help="share of the channels to remove, 0 to 1: one number for the whole network, or one for each stage",
    )  # fmt: skip
    parser.add_argument(
        "--criterion", default="taylor", metavar="taylor|magnitude",
        help="importance of a channel: first-order change of the loss on training images (taylor), or norms of weights",
    )  # fmt: skip
    parser.add_argument(
        "--multiple", type=int, default=8, metavar="N", help="round widths to multiples of N, which kernels like (8)"
    )
    parser.add_argument("--batches", type=int, default=16, metavar="N", help="training batches to look at (16)")
    parser.add_argument("--fine-tune", action="store_true", help="train the pruned network at once, and report again")
    parser.add_argument("--epochs", type=int, metavar="N", help="of the fine-tuning (those of CONFIG)")
    parser.add_argument(
        "--learning-rate", type=float, metavar="R", help="of the fine-tuning (a tenth of that of CONFIG)"
    )
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads of the latency measurement (2)")
    return parser.parse_args()


def prune_classifier(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prunes the classifier of a configuration with ``Arch``."""
    from classification.config import load_config

    config = load_config(arguments.config, arguments.override)

    from classification.pruning import prune_classifier as prune
    from ppcls_ext.engine.environment import prepare_environment

    return prune(config, request_of(arguments), prepare_environment(config.run.device, config.run.seed))


def prune_detector(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prunes the backbone of the detector of a configuration with ``architecture``."""
    from detection.configuration import check_annotations, load_config
    from detection.weights import weights_file

    config = load_config(arguments.config, arguments.override)
    check_annotations(config)
    weights_file(config)  # weights that are not there are told before Paddle is loaded

    from detection.pruning import prune_detector as prune
    from detection.task import open_environment

    return prune(config, request_of(arguments), open_environment(config))


def request_of(arguments: argparse.Namespace) -> Any:
    """Returns the checked request of a command line."""
    from ppcls_ext.deploy.compress.request import PruningRequest

    names = ("output", "criterion", "multiple", "batches", "epochs", "learning_rate", "fine_tune", "threads")
    request = PruningRequest(
        ratio=tuple(arguments.ratio), **{name: getattr(arguments, name) for name in names}
    )
    request.check()
    return request


def print_report(report: dict[str, Any]) -> None:
    """Prints the figures as a table."""
    print(f"removed {100 * report['removed']:.1f} % of the channels inside the blocks ({report['criterion']}, "
          f"{report['batches']} batches): {report['expansion_channels']}")  # fmt: skip
    figures = report["figures"]
    names = list(figures)
    width = max(map(len, names)) + 2
    print(f"{'':22}" + "".join(f"{name:>{max(width, 12)}}" for name in names))
    for key in figures[names[0]]:
        cells = "".join(f"{shown(key, figures[name].get(key)):>{max(width, 12)}}" for name in names)
        print(f"{LABELS.get(key, key):22}{cells}")
    print(f"fine-tune with: python tools/train.py -c {report['config']}")


LABELS = {"parameters": "parameters, M", "flops": "FLOPs, G", "median_ms": "median, ms", "p90_ms": "p90, ms"}
SCALES = {"parameters": 1e6, "flops": 1e9}


def shown(key: str, value: float | None) -> str:
    """Returns a figure as the table shows it."""
    if value is None:
        return "-"
    return f"{value / SCALES.get(key, 1):.4f}" if key not in ("median_ms", "p90_ms") else f"{value:.2f}"


def main() -> int:
    """Prunes and prints; returns the exit status."""
    arguments = parse_arguments()
    # A wrong number is told before anything is read.
    request_of(arguments)
    from ppcls_ext.utils.config import is_detection_config
    from ppcls_ext.utils.errors import Interrupted
    from ppcls_ext.utils.log import set_up_logging

    set_up_logging()
    try:
        report = (prune_detector if is_detection_config(arguments.config) else prune_classifier)(arguments)
    except Interrupted as stop:
        print(stop)
        return INTERRUPTED_STATUS
    print_report(report)
    return 0


if __name__ == "__main__":
    run(main)
