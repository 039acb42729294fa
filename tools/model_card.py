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

from ppcls_ext.utils.command_line import add_config_arguments, run
from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    from ppcls_ext.deploy.cards import Counts, Source

DEFAULT_OUTPUT = Path("CARD.md")
PAGE_SUFFIX = ".md"


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Write a model card (Markdown with a head as Hugging Face reads it) of a classifier or a detector. "
        "Whatever is not known is said to be so; paths of this machine do not get into the card."
    )
    parser.add_argument("--model", metavar="NAME", help="a classifier by name; with --run it must be that of the run")
    parser.add_argument(
        "--run", metavar="FOLDER", type=Path, help="folder of a training run, of a checkpoint, or of a pruning"
    )
    parser.add_argument("--export", metavar="DIR", type=Path, help="what tools/export_model.py wrote of it")
    parser.add_argument(
        "--benchmark", metavar="FILE.json", type=Path, help="what tools/benchmark.py models wrote: adds latencies"
    )
    parser.add_argument("--all", action="store_true", help="a table of all our models instead of a card")
    parser.add_argument(
        "--output", metavar="PATH", type=Path, help=f"page to write ({DEFAULT_OUTPUT})"
    )
    add_config_arguments(parser, required=False)
    return parser.parse_args()


def check(arguments: argparse.Namespace) -> None:
    """Refuses what cannot be, before anything slow is loaded.

    Raises:
        UserError: options contradict each other, or nothing is named.
    """
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
    if arguments.output is not None and arguments.output.suffix != PAGE_SUFFIX:
        raise UserError(f"--output must end in {PAGE_SUFFIX}, got {arguments.output}")


def configured_source(path: str, overrides: list[str]) -> Source:
    """Returns what a configuration says of a model that nobody has trained yet."""
    from ppcls_ext.deploy.cards import DETECTION, Source, detector_name
    from ppcls_ext.utils.config import is_detection_config

    if is_detection_config(path):
        from detection.configuration import load_config

        config: Any = load_config(path, overrides)
        return Source(detector_name(config.data), DETECTION, config=config.data, config_file=Path(path))
    from classification.config import load_config

    config = load_config(path, overrides)
    return Source(
        config.arch.name, arguments=config.arch.arguments, config=config.document.data, config_file=Path(path)
    )


def detector_counts(source: Source, overrides: list[str]) -> Counts | None:
    """Builds a detector as its configuration says, and counts it at the size of its deployment."""
    from ppcls_ext.deploy.cards import DETECTION

    if source.task != DETECTION or source.config_file is None:
        return None
    from detection.configuration import load_config
    from ppcls_ext.deploy.cards import count_subject, input_size

    config = load_config(source.config_file, overrides)
    from detection.profile import detector_subject

    return count_subject(detector_subject(config, tuple(input_size(source) or ()) or None))


def main() -> None:
    """Writes the card, or all of them."""
    arguments = parse_arguments()
    check(arguments)
    if arguments.all:
        from ppcls_ext.deploy.cards import count_classifier, models_page
        from ppcls_ext.utils.files import write_text

        def count(model: str) -> tuple[int, int]:
            counts = count_classifier(model, {})
            return counts.parameters, counts.multiply_adds

        write_text(arguments.output, models_page(count))
        print(f"written: {arguments.output}, the table of all models")
        return
    from ppcls_ext.deploy.cards import gather_facts, read_run, write_card

    source = None
    if arguments.run is not None:
        source = read_run(arguments.run)
    elif arguments.config is not None:
        source = configured_source(arguments.config, arguments.override)
    if source is None and arguments.export is None:
        from ppcls_ext.deploy.cards import Source

        source = Source(arguments.model)
    facts = gather_facts(
        source,
        model=arguments.model,
        counts=None if source is None else detector_counts(source, arguments.override),
        export=arguments.export,
        benchmark=arguments.benchmark,
    )
    output = arguments.output or DEFAULT_OUTPUT
    write_card(facts, output)
    print(f"written: {output}, the card of {facts.source.model}")


if __name__ == "__main__":
    run(main)
