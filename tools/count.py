"""Counts parameters and FLOPs and prints them as Markdown.

python tools/count.py -c CONFIG [CONFIG ...]                 detectors at 640 px, as the published tables count them
python tools/count.py --model EConvNeXt_mini -o norm=layer_norm      a classifier, with arguments of `Arch`
python tools/count.py --path                                 the path from ConvNeXt to E-ConvNeXt, step by step
python tools/count.py --model EConvNeXt_mini --phi 0 1 2 3   compound scaling of depth, width and resolution
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import run

if TYPE_CHECKING:
    from ppcls_ext.arch.scaling import Multipliers

GROWTH = ("alpha", "beta", "gamma")
FACTORS = ("depth", "width", "resolution")
DEFAULT_IMAGE, LARGEST_IMAGE = 224, 2048


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Count trainable parameters and FLOPs. Detectors (-c): GFLOPs at 640 x 640 by the rules of the "
        "published table: E-ConvNeXt and YOLOv10 rows as trained, with their own classes; others as deployed, with 80 "
        "classes. YOLOv10's head: both branches in the parameters, the one that predicts in the GFLOPs. Classifiers "
        "(--model, --path): multiply-adds as paddle.flops counts them."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-c", "--config", nargs="+", metavar="CONFIG", help="detection configurations")
    what.add_argument("--model", metavar="NAME", help="a classifier by its name in Arch")
    what.add_argument("--path", action="store_true", help="the path from ConvNeXt to E-ConvNeXt, one choice a step")
    parser.add_argument(
        "-o", "--override", action="extend", nargs="+", default=[], metavar="KEY.SUB=VALUE",
        help="change keys of each configuration; with --model and --path arguments of Arch, such as class_num=100",
    )  # fmt: skip
    parser.add_argument("--image-size", type=int, metavar="PX", help=f"of classifiers (default {DEFAULT_IMAGE})")
    scaling = parser.add_argument_group("compound scaling of --model")
    scaling.add_argument("--phi", type=float, nargs="+", help="steps of the scaling; 0 is the model itself")
    for name, what_grows in zip(GROWTH, FACTORS, strict=True):
        scaling.add_argument(f"--{name}", type=float, help=f"growth of {what_grows} with each step of phi")
    for name in FACTORS:
        scaling.add_argument(f"--{name}", type=float, help=f"multiplies the {name}; in the place of --phi")
    return parser.parse_args()


def main() -> int:
    """Counts and prints; returns the exit status."""
    arguments = parse_arguments()
    check_options(arguments)
    print(count_detectors(arguments) if arguments.config else count_classifiers(arguments))
    return 0


def check_options(arguments: argparse.Namespace) -> None:
    """Refuses options that do not go together.

    Raises:
        UserError: always one line.
    """
    from ppcls_ext.utils.errors import UserError

    growth, factors = given(arguments, GROWTH), given(arguments, FACTORS)
    if (growth or factors or arguments.phi) and not arguments.model:
        raise UserError("scaling needs --model NAME")
    if growth and not arguments.phi:
        raise UserError(f"--{next(iter(growth))}: needs --phi, the steps of the scaling")
    if factors and arguments.phi:
        raise UserError(f"--{next(iter(factors))}: does not go with --phi; it gives the multipliers themselves")
    if arguments.image_size is not None and arguments.config:
        raise UserError("--image-size: detectors (-c) are counted at 640 px, as published")
    if arguments.image_size is not None and not 1 <= arguments.image_size <= LARGEST_IMAGE:
        raise UserError(f"--image-size: must be from 1 to {LARGEST_IMAGE}, got {arguments.image_size}")


def given(arguments: argparse.Namespace, names: Sequence[str]) -> dict[str, float]:
    """Returns those of the options ``names`` that were given."""
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def count_detectors(arguments: argparse.Namespace) -> str:
    """Returns the table of detectors."""
    from detection.configuration import load_config

    configs = [load_config(path, arguments.override) for path in arguments.config]

    from detection.counting import count, markdown_table

    rows = []
    for config in configs:
        sys.stderr.write(f"counting {config.path}\n")
        rows.append(count(config))
    return markdown_table(rows)


def count_classifiers(arguments: argparse.Namespace) -> str:
    """Returns the table of a classifier, of the path, or of a scaling.

    Raises:
        UserError: a model, argument or number is wrong.
    """
    from ppcls_ext.arch.catalog import checked_arguments
    from ppcls_ext.arch.path import CHOICES, PATH
    from ppcls_ext.utils.config import Document, apply_override
    from ppcls_ext.utils.errors import UserError

    document = Document(Path("Arch"), {}, {})
    for change in arguments.override:
        apply_override(document, change)
    chosen: dict[str, Any] = document.data
    walked = sorted(CHOICES & set(chosen)) if arguments.path else []
    if walked:
        raise UserError(f"-o {walked[0]}: is what the path itself changes; leave it out")
    steps = scaling_steps(arguments, chosen)
    try:
        if arguments.model:
            chosen = checked_arguments(arguments.model, chosen)
        for step in PATH if arguments.path else ():
            checked_arguments(step.model, {**chosen, **step.arguments})
    except ValueError as error:
        raise UserError(str(error)) from error

    from ppcls_ext.arch.tables import model_table, path_table, scaling_table

    size = arguments.image_size or DEFAULT_IMAGE
    if arguments.path:
        return path_table(size, chosen)
    if steps:
        return scaling_table(arguments.model, chosen, size, steps)
    return model_table(arguments.model, chosen, size)


def scaling_steps(arguments: argparse.Namespace, chosen: dict[str, Any]) -> list[tuple[str, Multipliers]]:
    """Returns the scaled forms that were asked for, each with its label; none if no scaling was.

    Raises:
        UserError: numbers are out of range, or the model cannot be scaled.
    """
    from ppcls_ext.arch.scaling import Coefficients, Multipliers, check_scalable

    growth, factors = given(arguments, GROWTH), given(arguments, FACTORS)
    if not (factors or arguments.phi):
        return []
    check_scalable(arguments.model, chosen)
    if factors:
        return [("as given", Multipliers(**factors))]
    coefficients = Coefficients(**growth)
    return [(f"phi {phi:g}", coefficients.at(phi)) for phi in arguments.phi]


if __name__ == "__main__":
    run(main)
