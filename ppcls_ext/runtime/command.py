"""The command that predicts: ``tools/infer.py`` of a checkout, ``econvnext-predict`` of an installed package.

Both take the same options. What needs the training packages, which nothing here imports (the weights of a run, COCO
files that number the results), ``tools/infer.py`` hands to :func:`predict`.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.runtime.backends import load
from ppcls_ext.runtime.coco_results import coco_results, numbering_of
from ppcls_ext.runtime.predictor import BATCH_SIZE, TRACKED_THRESHOLD, DetectionPredictor, Predictor, threshold_of
from ppcls_ext.runtime.report import (
    above,
    as_records,
    as_table,
    check_picture_target,
    draw_prediction,
    is_folder,
    picture_files,
    results_of,
    save_pictures,
    summary,
)
from ppcls_ext.runtime.tiles import OVERLAP, windows
from ppcls_ext.runtime.video import CODECS, Frame, Video, VideoFile, file_of, only_video, shown
from ppcls_ext.utils.command_line import add_config_arguments, add_overwrite_argument, run
from ppcls_ext.utils.display import clock
from ppcls_ext.utils.errors import Interrupted, UserError
from ppcls_ext.utils.files import atomic_path, write_json, write_text
from ppcls_ext.utils.image_files import find_images, left_out
from ppcls_ext.utils.log import set_up_logging
from ppcls_ext.utils.names import meant_path
from ppcls_ext.utils.outputs import Output, claim_outputs, record_outputs

NO_INPUT = "name images with --input (files, folders or patterns), or a video, camera:0 or a stream (rtsp://...)"
DRAWN_THRESHOLD = TRACKED_THRESHOLD
# These look into a model in memory.
INSIDE = ("explain", "embeddings", "neighbours")
EXPORT_ONLY = ("backend", "precision", "threads", "bits")
DETECTION_ONLY = ("coco", "annotations", "threshold", "class_agnostic", "track", "tile", "overlap")
IMAGES_ONLY = ("coco", "annotations", *INSIDE)
# Seconds between two looks at the progress of a video.
SHOWN_EVERY = 0.2
# Brings a terminal back to the beginning of the line and empties it.
CLEARED = "\r\033[K"
# The predictor, the inputs and the batch size.
Opened = tuple[Predictor | DetectionPredictor, list[str], int]


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Predict images with an export (--model DIR) or with the weights of a run "
        "(-c CONFIG -o Global.pretrained_model=PATH; of a detector -o weights=PATH)."
    )
    add_config_arguments(parser, required=False)
    for option, kind, metavar, words in (
        ("model", str, "DIR", "export folder of tools/export_model.py, instead of -c"),
        ("save", Path, "FILE|FOLDER", "FILE.png: one sheet of all images; FOLDER: one picture each; FILE.mp4 or "
         "FILE.avi: the frames of a video"),
        ("json", Path, "FILE", "also write the predictions to FILE (FILE.jsonl: a line for each image, or frame "
         "of a video)"),
        ("embeddings", Path, "FILE.npz", "with -c: write the images' features"),
        ("neighbours", Path, "FILE.png", "with -c: draw each image beside those with the most similar features"),
        ("topk", int, "K", "classifier: classes to show for each image"),
        ("threshold", str, "SCORE", f"detector: leave out boxes below this score (default {DRAWN_THRESHOLD}; --coco "
         "leaves out none unless told), or 'recommended': below the best one of each class, which tools/eval.py found"),
        ("tile", int, "PIXELS", "detector: cut pictures into tiles of this side, for pictures much larger than the "
         "network's input"),
        ("overlap", float, "F", f"share of a tile's side that neighbours have in common ({OVERLAP})"),
        ("coco", Path, "FILE", "detector: also write COCO results to FILE"),
        ("annotations", Path, "FILE", "COCO file that numbers images and classes for --coco (default: from 1)"),
        ("batch-size", int, "N", "images at a time (default 8, or Infer.batch_size)"),
        ("max-resized-megapixels", float, "MP", "refuse images that would be resized to more (default 64, or as the "
         "operators say)"),
        ("backend", str, "NAME", "engine for --model: paddle, onnxruntime or openvino (default: the first in the "
         "export that is installed)"),
        ("precision", str, "NAME", "which files of --model, where it holds several precisions"),
        ("threads", int, "N", "threads for --model (default: all cores)"),
        ("bits", int, "N", "bits in use where --model gets images with more than 8 bits a sample (default: as in its "
         "training; see docs/data.md)"),
        ("every", int, "N", "video: predict every N-th frame (default 1)"),
    ):  # fmt: skip
        parser.add_argument(f"--{option}", type=kind, metavar=metavar, help=words)
    parser.add_argument("--input", nargs="+", metavar="PATH", help="images, folders, or patterns such as 'a/*.png'; or "
                        "a video file, a camera (camera:0) or a stream (rtsp://...)")  # fmt: skip
    parser.add_argument("--explain", nargs="?", const="", metavar="CLASS", help="with -c: let --save draw what speaks "
                        "for the predicted class or for CLASS; of a detector, for each box (of CLASS)")  # fmt: skip
    for option, words in (
        ("class-agnostic", "detector: of boxes that overlap keep the best alone, whatever their classes"),
        ("track", "detector: number the objects, and keep their numbers from frame to frame of a video or of a folder "
         "of frames"),
    ):  # fmt: skip
        parser.add_argument(f"--{option}", action="store_true", default=None, help=words)
    add_overwrite_argument(parser)
    parser.add_argument("--quiet", action="store_true", help="show warnings and errors only")
    return parser.parse_args()


def check_arguments(arguments: argparse.Namespace) -> None:
    """Checks what can be told without loading a model; a ``UserError`` names the mistake."""
    model, config, tile = arguments.model, arguments.config, arguments.tile
    for is_wrong, message in (
        ((model is None) == (config is None), "give either --model DIR (an export) or -c CONFIG (weights of a run)"),
        (model is not None and arguments.override, "-o changes a configuration: it goes with -c, not with --model"),
        (arguments.explain is not None and arguments.save is None,
         "--explain draws pictures: say where with --save FILE.png or --save FOLDER"),
        (arguments.overlap is not None and tile is None, "--overlap is that of tiles: give --tile PIXELS"),
        (arguments.annotations is not None and arguments.coco is None,
         "--annotations numbers the results of --coco FILE, which is missing"),
    ):  # fmt: skip
        if is_wrong:
            raise UserError(message)
    for option, value in (("--topk", arguments.topk), ("--batch-size", arguments.batch_size),
                          ("--every", arguments.every)):  # fmt: skip
        if value is not None and value < 1:
            raise UserError(f"{option} must be at least 1, got {value}")
    for option in EXPORT_ONLY:
        if arguments.config is not None and getattr(arguments, option) is not None:
            raise UserError(f"--{option} chooses how an export is run: it goes with --model, not with -c")
    for option in (option for option in INSIDE if getattr(arguments, option) is not None):
        if tile is not None:
            raise UserError(f"--{option} looks at whole pictures: leave out --tile")
        if model is not None:
            raise UserError(f"--{option} needs weights (-c CONFIG -o ...): an export has no gradients or features")
    for option, suffixes in (("embeddings", [".npz"]), ("neighbours", [".png", ".jpg"])):
        if (file := getattr(arguments, option)) is not None and file.suffix.lower() not in suffixes:
            raise UserError(f"--{option} {file}: must end in {' or '.join(suffixes)}")
    if arguments.threshold is not None:
        arguments.threshold = threshold_of(arguments.threshold, "--threshold")
    if arguments.tile is not None:
        windows(1, 1, **_tiling(arguments))  # what is out of range is told before the model is loaded
    if arguments.input:
        check_inputs(arguments, arguments.input)  # a misspelt path is told before the model is loaded
    elif arguments.model is not None:
        raise UserError(NO_INPUT)


def check_inputs(arguments: argparse.Namespace, inputs: list[str]) -> str | None:
    """Returns the video among the inputs, or None for images; a ``UserError`` if an option does not go with them."""
    source = only_video(inputs)
    if source is None:
        find_images(inputs)
        if arguments.every is not None:
            raise UserError("--every is for videos, cameras and streams; the input is images")
        if arguments.save is not None and arguments.save.suffix.lower() in CODECS:
            raise UserError(f"--save {arguments.save}: images are drawn into a FOLDER or a FILE.png, not into a video")
        if arguments.save is not None:
            check_picture_target(arguments.save)
        if arguments.coco is not None and arguments.track:
            raise UserError("--coco holds boxes without numbers of objects: leave out --track, or take --json")
        return None
    for option in IMAGES_ONLY:
        if getattr(arguments, option) is not None:
            raise UserError(f"--{option} is for images; {shown(source)} is a video, camera or stream (see --json)")
    if arguments.save is not None and arguments.save.suffix.lower() not in CODECS:
        raise UserError(f"--save {arguments.save}: frames are drawn into a video: FILE.mp4 or FILE.avi")
    if arguments.json is not None and arguments.json.suffix.lower() != ".jsonl":
        raise UserError(f"--json {arguments.json}: each frame gets a line of its own: name it FILE.jsonl")
    return source


def claim(arguments: argparse.Namespace, inputs: list[str] | None, reads: list[Path]) -> None:
    """Makes sure that nothing is written onto an image or whatever else is read; ``reads`` are those other files."""
    if not inputs:
        raise UserError(NO_INPUT)
    outputs = [Output(f"--{name}", getattr(arguments, name)) for name in ("json", "coco", "embeddings", "neighbours")]
    source = check_inputs(arguments, inputs)
    images = list(filter(None, [file_of(source)])) if source else find_images(inputs)
    if arguments.save is not None and not source and is_folder(arguments.save):
        outputs.append(Output("--save", arguments.save, "pictures"))
        outputs += [Output("--save", file) for file in picture_files(images, arguments.save)]
    else:
        outputs.append(Output("--save", arguments.save))
    folders = [] if source else [path for path in map(meant_path, inputs) if path.is_dir()]
    claim_outputs(outputs, [*images, *reads, *filter(None, [arguments.annotations])], folders, arguments.overwrite)


def open_export(arguments: argparse.Namespace) -> Opened:
    """Opens the export that ``--model`` names."""
    claim(arguments, arguments.input, [Path(arguments.model)])
    predictor = load(
        arguments.model, backend=arguments.backend, threads=arguments.threads, precision=arguments.precision,
        max_resized_megapixels=arguments.max_resized_megapixels, bits=arguments.bits,
    )  # fmt: skip
    return predictor, arguments.input, arguments.batch_size or 8


def predict(
    open_run: Callable[[argparse.Namespace], Opened] | None = None,
    read_listing: Callable[[Path], Any] | None = None,
    look_inside: Callable[..., Any] | None = None,
) -> None:
    """Predicts what the command line names, shows the table, and writes what was asked for.

    Args:
        open_run: opens the weights of a run for ``-c``, and claims the outputs.
        read_listing: reads the images and classes of a COCO file for ``--annotations``.
        look_inside: of the arguments and the predictor: returns what draws an explanation (``--explain``), and what
            gathers features while images are predicted and writes them (``--embeddings``, ``--neighbours``), or None.
    """
    arguments = parse_arguments()
    set_up_logging(arguments.quiet)
    check_arguments(arguments)
    for option, value, function in (("-c", arguments.config, open_run), ("--annotations", arguments.annotations,
                                                                         read_listing)):  # fmt: skip
        if value is not None and function is None:
            raise UserError(f"{option} needs the training packages: run tools/infer.py, with the same options, in a "
                            "checkout after make setup")  # fmt: skip
    predictor, inputs, batch_size = open_run(arguments) if arguments.config and open_run else open_export(arguments)
    for option in () if isinstance(predictor, DetectionPredictor) else DETECTION_ONLY:
        if getattr(arguments, option) is not None:
            name = option.replace("_", "-")
            raise UserError(f"--{name} is for detectors; {predictor.model_name} is a classifier")
    if arguments.topk is not None and isinstance(predictor, DetectionPredictor):
        raise UserError(f"--topk is for classifiers; {predictor.model_name} is a detector (see --threshold)")
    if source := only_video(inputs):
        predict_video(arguments, predictor, source)
    else:
        predict_images(arguments, predictor, inputs, batch_size, read_listing, look_inside)


def predict_images(
    arguments: argparse.Namespace,
    predictor: Predictor | DetectionPredictor,
    inputs: list[str],
    batch_size: int,
    read_listing: Callable[[Path], Any] | None,
    look_inside: Callable[..., Any] | None,
) -> None:
    """Predicts image files."""
    explain, features = look_inside(arguments, predictor) if look_inside and arguments.config else (None, None)
    images, others = find_images(inputs), left_out(inputs)
    if others:
        say(arguments, others)
    if isinstance(predictor, DetectionPredictor):
        listing = read_listing(arguments.annotations) if arguments.annotations and read_listing else None
        numbering = None
        if listing is not None:
            listing.spell_classes_as(predictor.classes or ())
            numbering = numbering_of(listing, images, predictor)
        found = predictor(images, batch_size=batch_size, **_detecting(arguments, arguments.threshold))
        is_final = arguments.track or arguments.threshold is not None
        predictions: Any = found if is_final else above(found, DRAWN_THRESHOLD)
        if arguments.coco:
            write_json(arguments.coco, coco_results(found, predictor, numbering))
            record_outputs([arguments.coco])
    else:
        predictions = predictor(images, batch_size=batch_size, topk=arguments.topk)
    counts = summary(predictions, predictor)
    say(arguments, as_table(predictions, predictor))
    say(arguments, counts)
    if arguments.track:
        seen = {number: label for one in predictions for number, label in _objects(one)}
        say(arguments, _counted("objects seen", Counter(map(predictor.label, seen.values()))))
    if arguments.json:
        records = as_records(predictions, predictor)
        if arguments.json.suffix.lower() == ".jsonl":
            write_text(arguments.json, "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in records))
        else:
            write_json(arguments.json, records)
        record_outputs([arguments.json])
    # First, because explanations run the network once more.
    for file in features.write(predictions, predictor, arguments.embeddings, arguments.neighbours) if features else ():
        say(arguments, f"wrote: {file}")
    if arguments.save:
        written = save_pictures(predictions, predictor, arguments.save, f"{predictor.model_name}: {counts}", explain)
        drawn = written[0] if len(written) == 1 else f"{len(written)} pictures in {arguments.save}"
        say(arguments, f"drawn: {drawn}")
    if all(prediction.error is not None for prediction in predictions):
        first = predictions[0]
        raise UserError(f"none of the {len(images)} images could be read: {first.name}: {first.error}")


def predict_video(arguments: argparse.Namespace, predictor: Predictor | DetectionPredictor, source: str) -> None:
    """Predicts the frames of a video, camera or stream until it ends or Ctrl-C (or SIGTERM) ends it.

    Raises:
        Interrupted: after Ctrl-C; what was drawn and found until then is written.
        UserError: the source cannot be opened, or has no frame.
    """
    every, batch_size = arguments.every or 1, arguments.batch_size or (BATCH_SIZE if arguments.tile else 1)
    if isinstance(predictor, DetectionPredictor):
        threshold = DRAWN_THRESHOLD if arguments.threshold is None else arguments.threshold
        options = _detecting(arguments, threshold)
    else:
        options = {"topk": arguments.topk}
    waiting: deque[Frame] = deque()
    counts: Counter[str] = Counter()
    seen: dict[int, int] = {}
    done = with_objects = 0
    stopped = False
    with ExitStack() as opened:
        opened.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, signal.default_int_handler))
        video = opened.enter_context(closing(Video(source)))
        drawn = lines = None
        if arguments.save is not None:
            video_file = opened.enter_context(atomic_path(arguments.save))
            drawn = opened.enter_context(closing(VideoFile(video_file, video.rate / every)))
        if arguments.json is not None:
            line_file = opened.enter_context(atomic_path(arguments.json))
            lines = opened.enter_context(open(line_file, "w", encoding="utf-8"))

        def frames() -> Iterator[Any]:
            for frame in video.frames(every):
                waiting.append(frame)
                yield frame.pixels

        begin = last = time.monotonic()
        try:
            for prediction in predictor(frames(), batch_size=batch_size, **options):
                frame = waiting.popleft()
                if drawn is not None:
                    picture = draw_prediction(frame.pixels, prediction, predictor)
                    drawn.write(np.asarray(picture), frame.seconds)
                results = results_of(prediction, predictor)
                if lines is not None:
                    record = {"frame": frame.number, "seconds": round(frame.seconds, 3), **results}
                    lines.write(json.dumps(record, ensure_ascii=False) + "\n")
                found = results.get("detections", results.get("predictions", [])[:1])
                counts.update(one["label"] for one in found)
                seen.update(_objects(prediction))
                with_objects += bool(found)
                done += 1
                now = time.monotonic()
                if sys.stdout.isatty() and now - last >= SHOWN_EVERY:
                    last = now
                    say(arguments, _progress(frame.number + 1, video.total, done, now - begin), end="")
        except KeyboardInterrupt:
            if not done:
                raise
            stopped = True
        seconds = time.monotonic() - begin
    record_outputs([file for file in (arguments.save, arguments.json) if file is not None])
    of_all = f" of {video.total}" if video.total else ""
    over = f", {video.passed_over} that came meanwhile passed over" if video.passed_over else ""
    say(arguments, f"{CLEARED if sys.stdout.isatty() else ''}{done}{of_all} frames predicted in {seconds:.1f} s "
        f"({done / seconds:.1f} frames/s){over}")  # fmt: skip
    if isinstance(predictor, DetectionPredictor):
        say(arguments, _counted(f"boxes in {with_objects} of {done} frames", counts))
    else:
        say(arguments, _counted("frames by their best class", counts))
    if arguments.track:
        say(arguments, _counted("objects seen", Counter(map(predictor.label, seen.values()))))
    for word, place in (("drawn", arguments.save), ("lines", arguments.json)):
        if place is not None:
            say(arguments, f"{word}: {place}")
    if stopped:
        raise Interrupted


def _objects(prediction: Any) -> list[tuple[int, int]]:
    """Returns number and class of each object in a tracked prediction."""
    identities = getattr(prediction, "identities", None)
    if identities is None:
        return []
    pairs = zip(identities.tolist(), prediction.labels.tolist(), strict=True)
    return [(number, label) for number, label in pairs if number]


def _counted(title: str, counts: Counter[str]) -> str:
    return f"{title}: {', '.join(f'{count} {label}' for label, count in counts.most_common()) or 'none'}"


def _progress(number: int, total: int, done: int, seconds: float) -> str:
    """Returns the line that stands for the progress of a video, and lets the next one overwrite it."""
    of_all = f"/{total}  left {clock(seconds / number * (total - number))}" if total else ""
    return f"{CLEARED}frame {number}{of_all}  {done / seconds:.1f} frames/s"


def _tiling(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of a detector that tell how pictures are cut."""
    overlap = OVERLAP if arguments.overlap is None else arguments.overlap
    return {} if arguments.tile is None else {"tile": arguments.tile, "overlap": overlap}


def _detecting(arguments: argparse.Namespace, threshold: float | str | None) -> dict[str, Any]:
    """Returns the arguments of a detector, for images and for videos."""
    flags = {"track": bool(arguments.track), "class_agnostic": bool(arguments.class_agnostic)}
    return {"threshold": threshold, **flags, **_tiling(arguments)}


def say(arguments: argparse.Namespace, text: str, end: str = "\n") -> None:
    """Shows a line or a table, unless ``--quiet`` was given."""
    if not arguments.quiet:
        sys.stdout.write(f"{text}{end}")
        sys.stdout.flush()


def main() -> None:
    """The console command ``econvnext-predict``."""
    run(predict)
