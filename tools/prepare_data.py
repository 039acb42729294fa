"""Prepares data: python tools/prepare_data.py {import,export,sonar,duo,imagefolder,tile,...} ... --output PATH."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import add_config_arguments, add_encoding_argument, add_overwrite_argument, run
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.outputs import Output, claim_outputs, inputs_of

if TYPE_CHECKING:
    from detection.prepare.projection import Projection


def samples(arguments: argparse.Namespace) -> None:
    """Writes images of a classification data set as files."""
    from classification.config import load_config
    from classification.prepare import write_samples

    config = load_config(arguments.config, arguments.override)
    claim_outputs([Output("--output", arguments.output, "samples")], *inputs_of(config.document), arguments.overwrite)
    count = write_samples(config, arguments.part, arguments.count, arguments.output, arguments.seed)
    print(f"wrote {count} images to {arguments.output}")


def cifar100(arguments: argparse.Namespace) -> None:
    """Writes CIFAR-100, or a part of its classes, in the official layout."""
    from classification.prepare import write_subset

    names = write_subset(arguments.source, arguments.every, arguments.output, arguments.overwrite)
    print(f"{arguments.output}: {len(names)} classes: {', '.join(names)}")


def detection_source(arguments: argparse.Namespace) -> None:
    """Converts a raw detection data set (``import``, ``sonar``, ``duo`` or ``imagefolder``)."""
    from detection.geometry import BoxReading
    from detection.prepare.commands import Options, prepare_source

    given = vars(arguments)
    chosen = {field.name: given[field.name] for field in dataclasses.fields(Options) if field.name in given}
    chosen |= {"reading": BoxReading.among(given), "projection": projection_of(arguments)}
    prepare_source(arguments.command, Options(**chosen))


def projection_of(arguments: argparse.Namespace) -> Projection | None:
    """Returns what the frames of a sonar are turned into, if anything."""
    from detection.prepare.projection import Projection

    given = {name: getattr(arguments, name, None) for name in ("opening_angle", "window", "nearest")}
    given = {name: value for name, value in given.items() if value is not None}
    form = getattr(arguments, "projection", None)
    if given and form is None:
        raise UserError("--opening-angle, --range and --nearest go with --projection polar or fan")
    return Projection(form, **given) if form else None


def tile(arguments: argparse.Namespace) -> None:
    """Cuts a prepared data set into tiles."""
    from detection.prepare.tile import cut_tiles

    names = ("source", "output", "tile", "overlap", "min_visible", "keep_empty", "seed", "overwrite")
    cut_tiles(**{name: getattr(arguments, name) for name in names})


def export(arguments: argparse.Namespace) -> None:
    """Writes a prepared data set in the form of other tools."""
    from detection.prepare.export import export_set

    export_set(arguments.source, arguments.to, arguments.output, arguments.images, arguments.overwrite)


def synthetic(arguments: argparse.Namespace) -> None:
    """Writes synthetic sonar frames."""
    from detection.synthetic import write_synthetic

    numbers = (arguments.train, arguments.val, arguments.size, arguments.seed)
    write_synthetic(arguments.output, *numbers, arguments.overwrite)


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line, or the arguments ``given``; ``run`` in the result is what does the work."""
    parser = argparse.ArgumentParser(description="Prepare data.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, words: str, work: object) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=words, description=words)
        parser.set_defaults(run=work)
        add_overwrite_argument(parser)
        return parser

    words = "write images of a configuration's data set as files, one folder for each class"
    parser_of_samples = command("samples", words, samples)
    add_config_arguments(parser_of_samples)
    add = parser_of_samples.add_argument
    add("--part", choices=("Eval", "Train"), default="Eval", help="section of DataLoader (Eval)")
    add("--count", type=int, default=30, help="how many images, spread over the classes; 0 for all")
    add("--seed", type=int, default=0, help="chooses the images")
    add("--output", type=Path, required=True, help="folder to write")

    words = "write CIFAR-100, or every N-th of its classes, to an archive of the official layout"
    add = command("cifar100", words, cifar100).add_argument
    words = "the official cifar-100-python.tar.gz, or a folder with train/CLASS/*.png and test/CLASS/*.png"
    add("source", metavar="SOURCE", help=words)
    add("--every", type=int, metavar="N", help="keep every N-th class by name (an archive: 5; a folder: 1, all)")
    add("--output", type=Path, required=True, metavar="FILE.tar.gz", help="archive to write")

    for name, words, classes in (
        ("import", "turn images with YOLO, Labelme, CVAT, COCO or Pascal VOC annotations into COCO JSON", None),
        ("sonar", "turn a raw sonar folder (images and VOC-like XML) into COCO JSON", None),
        ("duo", "turn DUO into the form that the detectors read", "duo"),
        ("imagefolder", "turn a folder in VOC or COCO form into COCO JSON with an explicit order of classes", None),
    ):
        add_detection_arguments(command(name, words, detection_source), name, classes)

    words = "cut a prepared data set of large pictures into tiles, as infer.py --tile does"
    add = command("tile", words, tile).add_argument
    add("source", type=Path, metavar="SRC", help="prepared data set: images/ and annotations/*.json")
    add("--output", type=Path, required=True, metavar="OUT", help="folder to write")
    add("--tile", type=int, default=640, metavar="PIXELS", help="side of a tile (640)")
    for option, default, words in (
        ("--overlap", 0.2, "share of a side that neighbouring tiles have in common (0.2)"),
        ("--min-visible", 0.3, "boxes of which a smaller share lies in a tile are regions to ignore there (0.3)"),
        ("--keep-empty", 1.0, "share of the training tiles without boxes that are kept (1)"),
    ):
        add(option, type=float, default=default, metavar="F", help=words)
    add("--seed", type=int, default=0, help="chooses these tiles (0)")

    add = command("export", "write a prepared data set as YOLO (with data.yaml) or Pascal VOC", export).add_argument
    add("source", type=Path, metavar="DATASET", help="a prepared data set")
    add("--to", choices=("yolo", "voc"), required=True, help="the form to write")
    add("--output", type=Path, required=True, metavar="OUT", help="folder to write")
    add("--images", choices=("link", "copy"), default="link", help="hard links (default) or copies")

    words, output = "write synthetic sonar frames with exact boxes, as a prepared data set", "dataset/synthetic_sonar"
    add = command("synthetic", words, synthetic).add_argument
    add("--output", type=Path, default=Path(output), metavar="OUT", help=f"folder to write ({output})")
    for option, default, words in (
        ("--train", 320, "frames for training"), ("--val", 64, "frames for validation"),
        ("--size", 160, "side of a frame in pixels"), ("--seed", 0, "chooses the frames"),
    ):  # fmt: skip
        add(option, type=int, default=default, metavar="N", help=f"{words} ({default})")
    return parser.parse_args(given)


def factor(text: str) -> float:
    """Reads a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got '{text}'")
    return value


def add_detection_arguments(parser: argparse.ArgumentParser, name: str, classes: str | None) -> None:
    """Adds the options of a raw detection data set; ``classes`` are the default of ``--classes``."""
    output, add = f"dataset/{name}", parser.add_argument
    add("source", type=Path, metavar="SRC", help="folder to read")
    words = "the classes in their order: sonar, duo, marine_debris, a,b,c or a file with one name a line"
    words += f" ({classes})" if classes else " (those of the annotations)" if name == "import" else "; must be given"
    add("--classes", metavar="LIST", default=classes, help=words)
    for option, metavar, words in (
        ("--rename", "A=B", "the class A is called B; may be given several times, and several classes may become one"),
        ("--drop", "A", "boxes of the class A are left out; may be given several times"),
    ):
        add(option, action="append", default=[], metavar=metavar, help=words)
    if name == "import":
        add("--output", type=Path, metavar="OUT", help="folder to write", required=True)
    else:
        add("--output", type=Path, metavar="OUT", help=f"folder to write ({output})", default=Path(output))
    add("--images", choices=("link", "copy"), default="link", help="hard links (default) or copies")
    words = ("what the four numbers of a box are: corners (xyxy), corner and size (xywh), centre and size (cxcywh), y "
             "before x (yxyx, yxhw); as-written: what the form of the annotations says, whatever looks doubtful")
    add("--boxes", choices=("xyxy", "xywh", "cxcywh", "yxyx", "yxhw", "as-written"), help=words)
    for option, words in (
        ("--scale-boxes", "boxes belong to the stated size of each picture, and are scaled to the picture as it is"),
        ("--turn-boxes", "boxes belong to the stored picture, and are turned with it as its EXIF data say"),
    ):
        add(option, action=argparse.BooleanOptionalAction, help=words)
    words = "boxes are fractions of the picture, or numbers from 0 to N of it (100: percent; 1000)"
    add("--normalised", nargs="?", const=True, type=factor, metavar="N", help=words)
    add("--no-normalised", dest="normalised", action="store_const", const=False, help="they are pixels")
    words = "boxes are multiplied by F (0.5 where the pictures are copies of half the size)"
    add("--scale-by", type=factor, metavar="F", help=words)
    add_encoding_argument(parser)
    if name != "duo":
        words = "text files with one name a line, looked up here and in SRC"
        add("--split-files", nargs=2, type=Path, metavar=("TRAIN", "VAL"), help=words)
        add("--val-fraction", type=float, metavar="F", help="share of validation in a seeded split (0.2)")
        add("--seed", type=int, default=0, help="chooses the seeded split (0)")
        words = "also write annotations/train_PERCENT.json: so much of the training part, in whole scenes, nested"
        add("--subsets", nargs="+", type=int, default=[], metavar="PERCENT", help=words)
    if name == "sonar":
        words = "put frames without an annotation file into annotations/test.json (else they are left out and listed)"
        add("--include-unlabelled", action="store_true", help=words)
        words = "turn fans (the sonar below) into polar frames (rows: ranges, columns: bearings), or these into fans"
        add("--projection", choices=("polar", "fan"), help=words)
        words = "of the fan, instead of what the annotations say"
        add("--opening-angle", type=factor, metavar="DEGREES", help=f"horizontal opening angle {words}")
        words = f"nearest and farthest range in metres {words}"
        add("--range", dest="window", nargs=2, type=float, metavar=("NEAR", "FAR"), help=words)
        words = "end of polar frames where the nearest range is (what a prepared set says, else bottom)"
        add("--nearest", choices=("top", "bottom"), help=words)
    else:
        words = "COCO files: one, or those for training and validation, looked up here and in SRC (found by names)"
        add("--annotations", nargs="+", type=Path, default=[], metavar="JSON", help=words)
    if name in ("imagefolder", "import"):
        choices = ("auto", "coco", "voc", *(("yolo", "labelme", "cvat") if name == "import" else ()))
        add("--from", "--format", dest="form", choices=choices, default="auto", help="format of the annotations (auto)")


def main() -> None:
    """Prepares what the command asks for."""
    arguments = parse_arguments()
    from ppcls_ext.utils.log import set_up_logging

    set_up_logging()
    arguments.run(arguments)


if __name__ == "__main__":
    run(main)
