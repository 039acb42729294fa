"""Writes model cards: what a model is, how it was trained, what was measured; from code and results alone.

python tools/model_card.py --model EConvNeXt_mini --output CARD.md
python tools/model_card.py --run output/quickstart [--export output/quickstart/export] [--benchmark output/bench.json]
python tools/model_card.py -c configs/detection/quickstart.yml --output CARD.md
python tools/model_card.py --all --output docs/models/README.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import add_config_arguments, add_overwrite_argument, run
from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    from ppcls_ext.deploy.cards import CardFacts


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Write a model card (Markdown with a head as Hugging Face reads it) of a classifier or a detector. "
        "Whatever is not known is said to be so; paths of this machine do not get into the card."
    )
    add = parser.add_argument
    add("--model", metavar="NAME", help="a classifier by name; with --run it must be that of the run")
    add("--run", metavar="FOLDER", type=Path, help="folder of a training run, of a checkpoint, or of a pruning")
    add("--export", metavar="DIR", type=Path, help="what tools/export_model.py wrote of it")
    add("--benchmark", metavar="FILE.json", type=Path, help="what tools/benchmark.py models wrote: adds latencies")
    add("--all", action="store_true", help="a table of all our models instead of a card")
    add("--output", metavar="PATH", type=Path, help="page to write (CARD.md)")
    add_config_arguments(parser, required=False)
    add_overwrite_argument(parser)
    arguments = parser.parse_args()
    sources = {"--model": arguments.model, "--run": arguments.run, "--export": arguments.export, "-c": arguments.config}
    named = [option for option, value in sources.items() if value is not None]
    if arguments.all:
        if named or arguments.benchmark is not None or arguments.output is None:
            raise UserError("--all goes with --output FILE.md and nothing else")
    elif not named:
        raise UserError("name what the card is of: --model NAME, --run FOLDER, --export DIR or -c CONFIG (or --all)")
    if arguments.config is not None and len(named) > 1:
        raise UserError(f"-c goes without {', '.join(named[:-1])}: a run has its own configuration")
    if arguments.override and arguments.config is None:
        raise UserError("-o goes with -c")
    if arguments.output is not None and arguments.output.suffix != ".md":
        raise UserError(f"--output must end in .md, got {arguments.output}")
    return arguments


def gather(arguments: argparse.Namespace) -> CardFacts:
    """Collects the facts of one model; a detector is counted at the size of its deployment."""
    from ppcls_ext.deploy.cards import DETECTION, CardFacts, detector_name, gather_facts, read_run
    from ppcls_ext.utils.config import is_detection_config

    path: Any = arguments.config
    source = counts = None
    if arguments.run is not None:
        source = read_run(arguments.run)
    elif path is not None and is_detection_config(path):
        from detection.configuration import load_config

        data = load_config(path, arguments.override).data
        source = CardFacts(detector_name(data), DETECTION, config=data, config_file=Path(path))
    elif path is not None:
        from classification.config import load_config

        config: Any = load_config(path, arguments.override)
        source = CardFacts(config.arch.name, arguments=config.arch.arguments, config=config.document.data,
                           config_file=Path(path))  # fmt: skip
    if source is not None and source.detects and source.config_file is not None:
        from detection.configuration import load_config
        from detection.counting import IMAGE_SIZE, raw_network
        from detection.toolkit import build_model
        from ppcls_ext.deploy.profile import Subject, count_network

        loaded = load_config(source.config_file, arguments.override)
        height, width = source.size or (IMAGE_SIZE, IMAGE_SIZE)
        network = raw_network(build_model(loaded, pretrained=False))
        counts = count_network(Subject(loaded.path.stem, network, (3, height, width)))
    return gather_facts(
        source, model=arguments.model, counts=counts, export=arguments.export, benchmark=arguments.benchmark
    )


def main() -> None:
    """Writes the card, or the table of all models."""
    arguments = parse_arguments()
    from ppcls_ext.arch.flops import count_model
    from ppcls_ext.deploy.cards import models_page, write_card
    from ppcls_ext.utils.files import write_text
    from ppcls_ext.utils.outputs import Output, claim_outputs, record_outputs

    output = arguments.output or Path("CARD.md")
    # Of the folders of runs and exports no page is read.
    reads = [path for path in (arguments.benchmark, arguments.config) if path is not None]
    claim_outputs([Output("--output", output)], reads, overwrite=arguments.overwrite)
    if arguments.all:
        write_text(output, models_page(lambda model: count_model(model, {}, 224)))
        words = "the table of all models"
    else:
        try:
            facts = gather(arguments)
            write_card(facts, output)
        except (AttributeError, KeyError, TypeError) as error:
            if arguments.run is None:
                raise
            # A run's files are plain JSON and YAML: a value of another kind shows where it is used.
            raise UserError(
                f"--run {arguments.run}: report.json, config.yaml or state.json holds what no training writes "
                f"({type(error).__name__}: {error})"
            ) from error
        words = f"the card of {facts.model}"
    record_outputs([output])
    print(f"written: {output}, {words}")


if __name__ == "__main__":
    run(main)
