"""Counts parameters and FLOPs and prints them as Markdown.

python tools/count.py -c CONFIG [CONFIG ...]                 detectors at 640 px, as the published tables count them
python tools/count.py --model EConvNeXt_mini -o norm=layer_norm      a classifier, with arguments of `Arch`
python tools/count.py --path                                 the path from ConvNeXt to E-ConvNeXt, step by step
python tools/count.py --model EConvNeXt_mini --phi 0 1 2 3   compound scaling of depth, width and resolution
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import add_encoding_argument, run
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.tables import markdown_table

if TYPE_CHECKING:
    from ppcls_ext.arch.flops import Count

# EfficientNet's growth (arXiv 1905.11946, section 3.3) with each step of phi: the computation about doubles.
GROWTH = {"alpha": 1.2, "beta": 1.1, "gamma": 1.15}
FACTORS = ("depth", "width", "resolution")
MULTIPLIERS = ("depth_multiplier", "width_multiplier")
LOWEST_FACTOR, HIGHEST_FACTOR = 0.01, 16
DEFAULT_IMAGE, LARGEST_IMAGE = 224, 2048
# The coarsest map of our networks has 1/8 of the positions per side of the first stage's.
STAGE_STRIDES = 8
COUNTED = ["parameters, M", "FLOPs, G"]


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
    add_encoding_argument(parser)
    parser.add_argument("--image-size", type=int, metavar="PX", help=f"of classifiers (default {DEFAULT_IMAGE})")
    scaling = parser.add_argument_group("compound scaling of --model")
    scaling.add_argument("--phi", type=float, nargs="+", help="steps of the scaling; 0 is the model itself")
    for name, what_grows in zip(GROWTH, FACTORS, strict=True):
        scaling.add_argument(f"--{name}", type=float, help=f"growth of {what_grows} with each step of phi")
    for name in FACTORS:
        scaling.add_argument(f"--{name}", type=float, help=f"multiplies the {name}; in the place of --phi")
    return parser.parse_args()


def main() -> None:
    """Counts and prints."""
    arguments = parse_arguments()
    check_options(arguments)
    print(count_detectors(arguments) if arguments.config else count_classifiers(arguments))


def check_options(arguments: argparse.Namespace) -> None:
    """Refuses options that do not go together."""
    growth, factors = given(arguments, list(GROWTH)), given(arguments, FACTORS)
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
    """Returns the table of detectors; parameters in millions."""
    from detection.configuration import load_config

    configs = [load_config(path, arguments.override) for path in arguments.config]

    from detection.counting import PUBLISHED_GFLOPS, count_gflops, count_parts, published_form
    from detection.toolkit import build_model

    rows = []
    for config in configs:
        sys.stderr.write(f"counting {config.path}\n")
        name = config.path.stem
        millions = [f"{number / 1e6:.2f}" for number in count_parts(build_model(config, pretrained=False))]
        gflops, published = f"{count_gflops(config):.2f}", PUBLISHED_GFLOPS.get(name)
        rows.append([name, *millions, gflops, published_form(config), published and f"{published:g}"])
    columns = ["configuration", "backbone, M", "neck, M", "head, M", "total, M", "GFLOPs", "counted as"]
    return markdown_table([*columns, "paper's GFLOPs"], rows)


def count_classifiers(arguments: argparse.Namespace) -> str:
    """Returns the table of a classifier, of the path, or of a scaling."""
    from ppcls_ext.arch.ablation import CHOICES, PATH
    from ppcls_ext.arch.flops import count_model
    from ppcls_ext.arch.registry import checked_arguments
    from ppcls_ext.utils.config import Document, apply_override

    document = Document(Path("Arch"), {}, {})
    for change in arguments.override:
        apply_override(document, change)
    chosen: dict[str, Any] = document.data
    size = arguments.image_size or DEFAULT_IMAGE
    try:
        if arguments.path:
            walked = sorted(CHOICES & set(chosen))
            if walked:
                raise UserError(f"-o {walked[0]}: is what the path itself changes; leave it out")
            for step in PATH:
                checked_arguments(step.model, {**chosen, **step.arguments})
            return path_table(size, chosen)
        steps = scaling_steps(arguments, chosen)
        chosen = checked_arguments(arguments.model, chosen)
    except ValueError as error:
        raise UserError(str(error)) from error
    if steps:
        return scaling_table(arguments.model, chosen, size, steps)
    row = [architecture(arguments.model, chosen), size, *cells(count_model(arguments.model, chosen, size))]
    return markdown_table(["Arch", "image, px", *COUNTED], [row])


def cells(count: Count) -> list[str]:
    """Returns parameters in millions and FLOPs in billions."""
    return [f"{count.parameters / 1e6:.2f}", f"{count.flops / 1e9:.3f}"]


def architecture(name: str, arguments: dict[str, Any]) -> str:
    """Returns a model as ``Arch`` names it, in one line of YAML."""
    texts = [f"{key}: {str(value).lower() if isinstance(value, bool) else value}" for key, value in arguments.items()]
    return f"{{{', '.join([f'name: {name}', *texts])}}}"


def path_table(image_size: int, arguments: dict[str, Any]) -> str:
    """Returns the table of the path from ConvNeXt to E-ConvNeXt; every network takes ``arguments`` besides its own."""
    from ppcls_ext.arch.ablation import PATH
    from ppcls_ext.arch.flops import count_model

    rows = []
    for number, step in enumerate(PATH):
        counted = count_model(step.model, {**arguments, **step.arguments}, image_size)
        rows.append([number, step.change, f"`{architecture(step.model, dict(step.arguments))}`", *cells(counted)])
    return markdown_table(["step", "change", "Arch", *COUNTED], rows)


def scaling_steps(arguments: argparse.Namespace, chosen: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    """Returns the scaled forms that were asked for: a label, and the factors of depth, width and resolution."""
    from ppcls_ext.arch.registry import architecture_parameters, list_models

    growth, factors = {**GROWTH, **given(arguments, list(GROWTH))}, given(arguments, FACTORS)
    if not (factors or arguments.phi):
        return []
    name = arguments.model
    if not set(MULTIPLIERS) <= set(architecture_parameters(name)):
        able = ", ".join(list_models())
        raise UserError(f"{name}: cannot be scaled, it takes no {' and no '.join(MULTIPLIERS)}; {able} do")
    twice = [key for key in MULTIPLIERS if key in chosen]
    if twice:
        raise UserError(f"-o {twice[0]}: the scaling chooses it; leave it out")
    for key, value in growth.items():
        if not 1 <= value <= 4:
            raise UserError(f"{key}: must be from 1 (does not grow) to 4, got {value:g}")
    steps = [("as given", {**dict.fromkeys(FACTORS, 1.0), **factors})] if factors else []
    for phi in arguments.phi or ():
        if not math.isfinite(phi) or abs(phi) > 100:
            raise UserError(f"phi: must be a number from -100 to 100, got {phi:g}")
        grown = {key: round(base**phi, 4) for key, base in zip(FACTORS, growth.values(), strict=True)}
        steps.append((f"phi {phi:g}", grown))
    for label, scaled in steps:
        for key, value in scaled.items():
            if not LOWEST_FACTOR <= value <= HIGHEST_FACTOR:
                raise UserError(f"{label}: {key}: must be from {LOWEST_FACTOR} to {HIGHEST_FACTOR}, got {value:g}")
    return steps


def scaling_table(
    name: str, arguments: dict[str, Any], image_size: int, steps: Sequence[tuple[str, dict[str, float]]]
) -> str:
    """Returns the table of a model's scaled forms, and below it what a configuration says for each.

    Images have ``image_size`` times the resolution, rounded to whole positions of the network's last map.
    """
    from ppcls_ext.arch.flops import count_model

    unit, channels = STAGE_STRIDES * arguments.get("stem_stride", 4), arguments.get("in_channels", 3)
    base = count_model(name, arguments, image_size).flops
    rows = []
    keys = ["# In a configuration; the sizes of crops and resizes in its transforms go with the images'."]
    for label, factors in steps:
        depth, width, resolution = (factors[key] for key in FACTORS)
        size = image_size if resolution == 1 else max(int(image_size * resolution / unit + 0.5), 1) * unit
        if size > LARGEST_IMAGE:
            raise UserError(f"resolution: images of {size} px are too large, at most {LARGEST_IMAGE}")
        multipliers = {key: value for key, value in zip(MULTIPLIERS, (depth, width), strict=True) if value != 1}
        counted = count_model(name, {**arguments, **multipliers}, size)
        times = f"{counted.flops / base:.2f}"
        rows.append([label.removeprefix("phi "), f"{depth:g}", f"{width:g}", size, *cells(counted), times])
        keys += [f"# {label}", f"Arch: {architecture(name, {**arguments, **multipliers})}",
                 f"Global: {{image_shape: [{channels}, {size}, {size}]}}"]  # fmt: skip
    table = markdown_table(["phi", "depth", "width", "image, px", *COUNTED, "times the FLOPs"], rows)
    return "\n".join([table, "", *keys])


if __name__ == "__main__":
    run(main)
