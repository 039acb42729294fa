"""Converts weight files: names of another code base to ours and back, PyTorch's files to Paddle's, and file formats.

python tools/convert_weights.py paper.pdparams mini.safetensors --model EConvNeXt_mini --from reference
python tools/convert_weights.py convnext_tiny.pth tiny.safetensors --model ConvNeXtV1_tiny --from torchvision
python tools/convert_weights.py tiny.safetensors timm.safetensors --model ConvNeXtV1_tiny --from ours --to timm
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppcls_ext.utils.command_line import add_overwrite_argument, run

ORIGINS = (
    "whose names and shapes the source has: 'facebook' is the official repositories of ConvNeXt and ConvNeXt V2, "
    "'timm' and 'torchvision' those packages (ConvNeXtV1_*, timm's V2 too), 'paddleclas' its ConvNeXt_* (for "
    "ConvNeXtV1_*), 'reference' the repository of the E-ConvNeXt paper, 'ours' this project"
)


def main() -> None:
    """Parses the command line, converts, and prints what was kept, what was dropped and what begins anew."""
    from ppcls_ext.utils.outputs import WEIGHT_SUFFIXES, Output, claim_outputs, record_outputs
    from ppcls_ext.weights.convert import LAYOUTS, TARGETS, convert_weights

    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=text)
    add = parser.add_argument
    add("source", metavar="SRC", help="weight file (.pth, .pt, .safetensors, .pdparams) or checkpoint folder")
    add("destination", metavar="DST", help="file to write (.pdparams, .safetensors)")
    add("--model", required=True, metavar="NAME", help="model of ours that the weights belong to")
    add("--from", dest="origin", required=True, choices=sorted(LAYOUTS), help=ORIGINS)
    add("--to", dest="target", default="ours", choices=TARGETS, help="whose to write (default: ours)")
    add("--class-num", type=int, metavar="N", help="number of classes (default: as in the source)")
    add("--drop-head", action="store_true", help="leave the classifier out, to fine-tune with other classes")
    add("--entry", metavar="NAME", help="which weights of a .pth that holds several, such as model_ema")
    add_overwrite_argument(parser)
    arguments = parser.parse_args()
    source, destination = arguments.source, Path(arguments.destination)
    reads = [source, *(f"{source}{suffix}" for suffix in WEIGHT_SUFFIXES)]
    claim_outputs([Output("DST", destination)], reads, overwrite=arguments.overwrite)
    conversion = convert_weights(
        source, destination, arguments.model, arguments.origin, arguments.target,
        arguments.class_num, arguments.drop_head, arguments.entry,
    )  # fmt: skip
    record_outputs([destination])
    numbers = sum(array.size for array in conversion.weights.values())
    fit = arguments.model if arguments.target == "ours" else f"{arguments.model}, in the form of {arguments.target}"
    print(f"{destination}: {len(conversion.weights)} weights, {numbers:,} numbers, fit {fit}")
    show("dropped {} weights that the model does not use:", conversion.dropped)
    show("{} weights are not in the source and begin anew:", conversion.fresh)


def show(title: str, names: list[str]) -> None:
    """Prints a list of names, if there are any, under a title with their number."""
    if not names:
        return
    # One pattern for all weights that differ only in their position: 18 gammas are one piece of news.
    patterns = Counter(re.sub(r"\d+", "*", name) for name in names)
    print(title.format(len(names)))
    for pattern, count in patterns.items():
        print(f"  {count:3d} x {pattern}")


if __name__ == "__main__":
    run(main)
