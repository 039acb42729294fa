"""Shows where networks spend FLOPs, parameters, activations and time, by layer, by stage and by kind of operation.

python tools/profile_model.py --model EConvNeXt_mini ConvNeXt_tiny ConvNeXtV2_tiny --output profile.md
python tools/profile_model.py -c configs/detection/ppyoloe/ppyoloe_s_econvnext_mini_sonar.yml
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import add_overwrite_argument, run
from ppcls_ext.utils.errors import UserError

# The page and what lies beside it.
PAGE_SUFFIXES = (".md", ".csv", ".json", ".png")


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Profile networks in Paddle's eager mode on the CPU: FLOPs, parameters, activations and time of "
        "each layer, summed by stage and by kind of operation; several networks side by side."
    )
    add = parser.add_argument
    add("--model", nargs="+", default=[], metavar="NAME", help="models by name, ours and PaddleClas's (ConvNeXt_tiny)")
    add("-c", "--config", nargs="+", default=[], metavar="CONFIG", help="configurations of classifiers and detectors")
    add("-o", "--override", action="extend", nargs="+", default=[], metavar="KEY=VALUE",
        help="keys of each configuration to change")
    add("--size", nargs="+", type=int, metavar="PIXELS",
        help="side of the images, or height and width (224; of configurations their own; detectors 640)")
    add("--repeats", type=int, default=10, metavar="N", help="timed passes of each network (10)")
    add("--threads", type=int, default=1, metavar="N", help="threads of Paddle (1)")
    add("--output", type=Path, metavar="FILE.md",
        help="page to write; FILE.csv (every layer), .json and .png beside it")
    add_overwrite_argument(parser)
    arguments = parser.parse_args()
    if not arguments.model and not arguments.config:
        raise UserError("name networks with --model NAME ... or with -c CONFIG ...")
    if arguments.override and not arguments.config:
        raise UserError("-o changes configurations: it goes with -c")
    for option in ("repeats", "threads"):
        if getattr(arguments, option) < 1:
            raise UserError(f"--{option} must be at least 1, got {getattr(arguments, option)}")
    if arguments.size and (len(arguments.size) > 2 or min(arguments.size) < 1):
        raise UserError(f"--size must be one or two positive numbers, got {' '.join(map(str, arguments.size))}")
    if arguments.output and arguments.output.suffix != ".md":
        raise UserError(f"--output must end in .md, got {arguments.output}")
    return arguments  # fmt: skip


def main() -> None:
    """Profiles, prints the page and writes it."""
    arguments = parse_arguments()
    # Paddle reads it when it is loaded.
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    from ppcls_ext.arch.registry import build_model, checked_arguments
    from ppcls_ext.deploy.profile import Subject, markdown_page, profile_networks, write_report
    from ppcls_ext.engine.environment import prepare_environment
    from ppcls_ext.utils.config import is_detection_config
    from ppcls_ext.utils.log import set_up_logging
    from ppcls_ext.utils.outputs import Output, claim_outputs, inputs_of, record_outputs

    # Mistakes are told before anything is built.
    for name in arguments.model:
        try:
            checked_arguments(name, {})
        except ValueError as error:
            raise UserError(str(error)) from error
    configs: list[tuple[bool, Any]] = []
    for path in arguments.config:
        detects = is_detection_config(path)
        if detects:
            from detection.configuration import load_config
        else:
            from classification.config import load_config
        configs.append((detects, load_config(path, arguments.override)))
    if arguments.output:
        outputs = [Output("--output", arguments.output.with_suffix(suffix)) for suffix in PAGE_SUFFIXES]
        reads = [path for _, config in configs for path in inputs_of(config.document)[0]]
        claim_outputs(outputs, reads, overwrite=arguments.overwrite)
    set_up_logging()
    prepare_environment("cpu", 0)
    size = (arguments.size[0], arguments.size[-1]) if arguments.size else None
    subjects = [Subject(name, build_model(name), (3, *(size or (224, 224)))) for name in arguments.model]
    for detects, config in configs:
        if detects:
            from detection.counting import IMAGE_SIZE, raw_network
            from detection.toolkit import build_model as build_detector

            network = raw_network(build_detector(config, pretrained=False))
            subjects.append(Subject(config.path.stem, network, (3, *(size or (IMAGE_SIZE, IMAGE_SIZE)))))
        else:
            from classification.build import build_network

            shape = (config.run.image_shape[0], *(size or config.run.image_shape[1:]))
            subjects.append(Subject(config.document.path.stem, build_network(config), shape))
    profiles = profile_networks(subjects, arguments.repeats)
    page = markdown_page(profiles)
    print(f"\n{page}")
    if arguments.output:
        written = write_report(profiles, page, arguments.output)
        record_outputs(written)
        for path in written:
            print(f"written: {path}")


if __name__ == "__main__":
    run(main)
