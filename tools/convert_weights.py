"""Converts weight files: names of another code base to ours, ``.pdparams`` to ``.safetensors`` and back.

python tools/convert_weights.py paper.pdparams mini.safetensors --model EConvNeXt_mini --from reference
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppcls_ext.common.command_line import run


def main() -> int:
    """Parses the command line, converts, and prints what was kept and what was dropped."""
    from ppcls_ext.weights.convert import CONVERTERS, convert_weights

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="SRC", help="weight file (.pdparams, .safetensors) or checkpoint folder")
    parser.add_argument("destination", metavar="DST", help="file to write (.pdparams, .safetensors)")
    parser.add_argument("--model", required=True, metavar="NAME", help="model that the weights belong to")
    parser.add_argument(
        "--from",
        dest="origin",
        required=True,
        choices=sorted(CONVERTERS),
        help="whose names the source uses: 'reference' is the paper's repository, 'paddleclas' its ConvNeXt_* (for "
        "ConvNeXtV1_*), 'ours' changes the format only",
    )
    parser.add_argument("--class-num", type=int, metavar="N", help="number of classes (default: as in the source)")
    arguments = parser.parse_args()
    conversion = convert_weights(
        arguments.source, arguments.destination, arguments.model, arguments.origin, arguments.class_num
    )
    numbers = sum(array.size for array in conversion.weights.values())
    print(f"{arguments.destination}: {len(conversion.weights)} weights, {numbers:,} numbers, fit {arguments.model}")
    if conversion.dropped:
        # One pattern for all weights that differ only in their position: 18 gammas are one piece of news.
        patterns = Counter(re.sub(r"\d+", "*", name) for name in conversion.dropped)
        print(f"dropped {len(conversion.dropped)} weights that the model does not use:")
        for pattern, count in patterns.items():
            print(f"  {count:3d} x {pattern}")
    return 0


if __name__ == "__main__":
    run(main)
