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

from ppcls_ext.utils.command_line import INTERRUPTED_STATUS, add_config_arguments, add_overwrite_argument, run


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Remove the least important channels inside the blocks of a trained E-ConvNeXt or ConvNeXt "
        "classifier, or of a detector with E-ConvNeXt as its backbone. DIR receives pruned weights, report.json and a "
        "configuration for tools/train.py that fine-tunes them."
    )
    add_config_arguments(parser)
    add = parser.add_argument
    add("--output", metavar="DIR", type=Path, required=True, help="folder to write")
    add("--ratio", type=float, nargs="+", required=True, metavar="R",
        help="share of the channels to remove, 0 to 1: one number for the whole network, or one for each stage")
    add("--criterion", default="taylor", choices=("taylor", "magnitude"),
        help="importance of a channel: first-order change of the loss on training images (taylor), or norms of weights")
    add("--multiple", type=int, default=8, metavar="N", help="round widths to multiples of N, which kernels like (8)")
    add("--batches", type=int, default=16, metavar="N", help="training batches to look at (16)")
    add("--fine-tune", action="store_true", help="train the pruned network at once, and report again")
    add("--epochs", type=int, metavar="N", help="of the fine-tuning (those of CONFIG)")
    add("--learning-rate", type=float, metavar="R", help="of the fine-tuning (a tenth of that of CONFIG)")
    add("--threads", type=int, default=2, metavar="N", help="threads of the latency measurement (2)")
    add_overwrite_argument(parser)
    return parser.parse_args()  # fmt: skip


def print_report(report: dict[str, Any]) -> None:
    """Prints the figures as a table."""
    from ppcls_ext.deploy.cards import pruning_table

    print(f"removed {100 * report['removed']:.1f} % of the channels inside the blocks ({report['criterion']}, "
          f"{report['batches']} batches): {report['expansion_channels']}\n")  # fmt: skip
    print(pruning_table(report["figures"]))
    print(f"\nfine-tune with: python tools/train.py -c {report['config']}")


def main() -> int:
    """Prunes and prints; returns the exit status."""
    arguments = parse_arguments()
    from ppcls_ext.deploy.prune import PruningRequest
    from ppcls_ext.utils.config import is_detection_config
    from ppcls_ext.utils.errors import Interrupted
    from ppcls_ext.utils.log import set_up_logging
    from ppcls_ext.utils.outputs import Output, claim_outputs, inputs_of

    own = ("config", "override", "encoding", "overwrite")
    options = {name: value for name, value in vars(arguments).items() if name not in own}
    request = PruningRequest(**options | {"ratio": tuple(arguments.ratio)})
    set_up_logging()
    detects = is_detection_config(arguments.config)
    if detects:
        from detection.configuration import check_annotations, load_config
    else:
        from classification.config import load_config
    config: Any = load_config(arguments.config, arguments.override)
    claim_outputs([Output("--output", request.output, "pruning")], *inputs_of(config.document), arguments.overwrite)
    try:
        if detects:
            check_annotations(config)
            from detection.compression import prune_detector
            from detection.task import open_environment

            report = prune_detector(config, request, open_environment(config))
        else:
            from classification.compression import prune_classifier
            from ppcls_ext.engine.environment import prepare_environment

            report = prune_classifier(config, request, prepare_environment(config.run.device, config.run.seed))
    except Interrupted as stop:
        print(stop)
        return INTERRUPTED_STATUS
    print_report(report)
    return 0


if __name__ == "__main__":
    run(main)
