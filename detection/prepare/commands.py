"""``tools/prepare_data.py {import,sonar,duo,imagefolder}``: read a source, clean, split, write and report."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detection.annotations import CLASS_SETS, Frame, Ledger, class_order, clean_frame, folded
from detection.geometry import OVERHANG, UNSAID, BoxReading, place_boxes
from detection.prepare.formats import FORMATS, LOOK, change_classes, find_format, read_format
from detection.prepare.projection import Projection, project_frames
from detection.prepare.readers import find_file, read_coco_folder, read_voc_folder, voc_lists
from detection.prepare.split import (
    Parts,
    alike_across,
    look_of,
    nested_subsets,
    split_by_lists,
    split_by_seed,
    split_by_source,
)
from detection.prepare.write import lines_of, write_output
from ppcls_ext.preprocess.decode import ImageError, decode_image
from ppcls_ext.preprocess.depth import own_range
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.image_files import files_in
from ppcls_ext.utils.machine import available_cores
from ppcls_ext.utils.outputs import Output, claim_outputs
from ppcls_ext.utils.texts import belong_together

logger = logging.getLogger(__name__)
DEFAULT_FRACTION = 0.2
# The formats that each command reads.
READ = {"import": tuple(FORMATS), "sonar": ("voc",), "duo": ("coco",), "imagefolder": ("voc", "coco")}
# Images of DUO; its test set is our validation.
PUBLISHED_DUO = {"train": 6671, "val": 1111}
# One for training, one for validation.
FEWEST_FRAMES = 2
# Decoders release the interpreter; each thread holds a picture.
MOST_THREADS = 8
# Frames between two lines of progress.
PROGRESS = 1000


@dataclass(frozen=True)
class Options:
    """Options of ``tools/prepare_data.py`` by their names.

    Attributes:
        annotations: COCO files; empty finds them by their names.
        reading: what the numbers of boxes are.
        form: of an image folder: ``voc``, ``coco`` or ``auto``; of an import one of :data:`FORMATS` or ``auto``.
        include_unlabelled: frames without an annotation file become the part ``test`` (else they are left out).
        projection: what the frames of a sonar are turned into; ``None`` leaves them as they are.
    """

    source: Path
    output: Path
    classes: str | None = None
    overwrite: bool = False
    images: str = "link"
    split_files: Sequence[Path] | None = None
    val_fraction: float | None = None
    seed: int = 0
    subsets: Sequence[int] = ()
    reading: BoxReading = UNSAID
    rename: Sequence[str] = ()
    drop: Sequence[str] = ()
    annotations: Sequence[Path] = ()
    form: str = "auto"
    include_unlabelled: bool = False
    projection: Projection | None = None

    def check(self) -> None:
        """Checks what can be checked before anything is read.

        Raises:
            UserError: an option is out of range, two contradict each other, or the output may not be written.
        """
        if not self.source.is_dir():
            raise UserError(f"{self.source}: no such folder")
        if self.seed < 0:
            raise UserError(f"--seed must not be negative, got {self.seed}")
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise UserError(f"--val-fraction must be above 0 and below 1, got {self.val_fraction:g}")
        if self.val_fraction is not None and self.split_files is not None:
            raise UserError("--split-files and --val-fraction exclude each other")
        if wrong := [percent for percent in self.subsets if not 0 < percent < 100]:
            raise UserError(f"--subsets takes percentages from 1 to 99, got {wrong[0]}")
        if names := self.reading.contradiction():
            raise UserError(" and ".join(f"--{name.replace('_', '-')}" for name in names) + " exclude each other")
        lists: Sequence[Path] = list((self.lists() or {}).values())
        if self.annotations and self.form not in ("auto", "coco"):
            raise UserError(f"--from {self.form} and --annotations exclude each other: --annotations names COCO files")
        if self.classes is not None:
            class_order(self.classes)
        # The lists of the set that is replaced may give its split again: they are written with the same names.
        own = (self.output / "split").resolve()
        lists = [file for file in lists if file.resolve().parent != own]
        # These may lie beside the source, or in it.
        reads = [*lists, *self.annotations, *(self.source / file for file in self.annotations)]
        if self.classes is not None and os.path.isfile(self.classes):
            reads.append(Path(self.classes))
        claim_outputs([Output("--output", self.output, "prepared")], reads, [self.source], self.overwrite)

    def lists(self) -> dict[str, Path] | None:
        """Returns the split files by part, looked up from here and from the source; ``None`` if none are given."""
        if self.split_files is None:
            return None
        files = [find_file("--split-files", path, self.source) for path in self.split_files]
        return dict(zip(("train", "val"), files, strict=True))


def prepare_source(kind: str, options: Options) -> dict[str, Any]:
    """Reads a raw data set, cleans, splits, writes and reports.

    Args:
        kind: ``import``, ``sonar`` (VOC-like annotations in any nesting), ``duo`` or ``imagefolder``.
        options: source, output, classes, split and so on.

    Returns:
        The content of ``report.json``.

    Raises:
        UserError: the source, the classes, the split or the output cannot be used, or the boxes do not fit the
            pictures and ``options.reading`` does not say how they are meant.
    """
    options.check()
    source, ledger = options.source, Ledger()
    belong_together(files_in(source, set(LOOK)))
    reading, names, unlabelled = options.reading, [], []
    form = "coco" if options.annotations else _form_of(kind, source, options.form)
    if kind == "import":
        read, unlabelled, names = read_format(form, source, ledger, options.classes, options.annotations)
    elif form == "coco":
        read, _ = read_coco_folder(source, options.annotations, ledger)
    else:
        read, unlabelled = read_voc_folder(source, ledger)
    if form == "yolo" and reading.normalised is None:
        reading = _fractions(source, read, reading)
    # The source's own split files, if it has any.
    lists = voc_lists(source, test=kind == "import") if form == "voc" and kind != "sonar" else None
    has_order = bool(names)
    stated = class_order(options.classes) if options.classes is not None else ()
    names = change_classes(read, names, options.rename, options.drop, ledger, stated)
    if not options.include_unlabelled:
        for frame in unlabelled:
            ledger.reject("no_annotation", frame.name, "has no annotation file", image="left_out")
        unlabelled = []
    for frame in [*read, *unlabelled] if options.projection else ():
        options.projection.settings(frame)  # what is missing is told before the long work
    # Links in the source may lead into the output.
    frames_read = [frame.image for frame in [*read, *unlabelled]]
    claim_outputs([Output("--output", options.output, "prepared")], frames_read, overwrite=options.overwrite)
    if kind == "duo":
        _compare_with_published(source, read, ledger)

    if not stated and kind != "import":
        raise _without_classes(read, source)
    if not names:
        raise UserError(f"{source}: no class is left{_first_rejected(ledger)}")
    classes = tuple(names)
    if not stated:
        order = "as the source has them" if has_order else "by name, for the source has no order"
        logger.info("classes: %s (%s)", ", ".join(classes), order)
    for part in dict.fromkeys(frame.part for frame in read):
        doubt, words = place_boxes([frame for frame in read if frame.part == part], reading)
        if doubt:
            raise UserError(f"{source}{f' ({part})' if part else ''}: {doubt}")
        if words:
            ledger.note("box_reading", part or "all", words)
    logger.info("checking %d frames", len(read) + len(unlabelled))
    frames = clean_frames(read, classes, ledger)
    if sum(bool(frame.boxes) for frame in frames) < FEWEST_FRAMES:
        raise UserError(f"{source}: fewer than {FEWEST_FRAMES} frames with a usable box{_first_rejected(ledger)}")

    # As the options say, else as the source does, else by the seed.
    own = options.lists() is None and options.val_fraction is None
    lists = lists if own else options.lists()
    if own and {frame.part for frame in frames} >= {"train", "val"}:
        parts, split = split_by_source(frames, ledger), {"method": "source"}
    elif lists is not None:
        absent = {frame.name for frame in read} - {frame.name for frame in frames}
        parts = split_by_lists(frames, lists, absent, ledger)
        split = {"method": "files", "files": {part: path.name for part, path in lists.items()}}
    else:
        fraction = DEFAULT_FRACTION if options.val_fraction is None else options.val_fraction
        parts, split = split_by_seed(frames, len(classes), fraction, options.seed)
    if unlabelled:
        parts["test"] = parts.get("test", []) + clean_frames(unlabelled, classes, ledger)

    subsets = nested_subsets(parts["train"], len(classes), set(options.subsets), options.seed)
    _note_alike(parts, ledger)
    with contextlib.ExitStack() as stack:
        if options.projection:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix=".fans-", dir=options.output.parent))
            written = [frame for part in parts.values() for frame in part]
            project_frames(written, options.projection, Path(scratch), ledger)
        report = write_output(options.output, source.name, parts, subsets, classes, split, ledger, options.images)
    for line in lines_of(report):
        logger.info(line)
    ways = {"link": "linked", "copy": "copied"}
    placed = " and ".join(f"{count} {ways[way]}" for way, count in report["placed"].items())
    logger.info("wrote %s (images: %s)", options.output, placed)
    return report


def _form_of(kind: str, source: Path, form: str) -> str:
    """Returns the format that a folder is read in: ``form`` unless that is ``auto``, else the one that is found."""
    if kind == "sonar" and not files_in(source, {".xml"}):
        form = "coco"  # a set that was prepared before
    allowed = READ[kind] if form == "auto" else (form,)
    found = find_format(source, allowed)
    if found:
        logger.info("%s: read as %s", source, FORMATS[found].words)
    # Where there are no annotations, the reader says what is wrong, of COCO with any JSON file.
    return found or (allowed[0] if len(allowed) == 1 else "coco")


def _compare_with_published(source: Path, frames: Sequence[Frame], ledger: Ledger) -> None:
    """Lists how many images a copy of DUO has more or less; a ``UserError`` if it lacks a part."""
    counts = Counter(frame.part for frame in frames)
    for part, published in PUBLISHED_DUO.items():
        if not counts[part]:
            raise UserError(
                f"{source}: no usable annotation file for {'test' if part == 'val' else part}; known layouts: "
                "images/{train,test} with annotations/instances_{train,test}.json, and DUO_pic with DUO_ANN"
            )
        if counts[part] != published:
            ledger.note("other_count", part, f"{counts[part]} images; DUO as published has {published}")


def _first_rejected(ledger: Ledger) -> str:
    rejected = [entry for entry in ledger.entries if entry["action"] == "rejected"]
    words = " ({file}: {reason}; {count} entries rejected in all)"
    return words.format(count=len(rejected), **rejected[0]) if rejected else ""


def _fractions(source: Path, frames: Sequence[Frame], reading: BoxReading) -> BoxReading:
    """Returns the reading of YOLO's numbers, which are fractions of the picture; a ``UserError`` if most are none."""
    boxes = [box for frame in frames for box in frame.raw if box.corners]
    beyond = sum(max(box.numbers or box.corners) > 1 + OVERHANG for box in boxes)
    if beyond > len(boxes) / 2:
        raise UserError(
            f"{source}: {beyond} of {len(boxes)} boxes hold numbers above 1, and YOLO's are fractions of the picture: "
            "--no-normalised reads them as pixels, --normalised 100 as percent"
        )
    return dataclasses.replace(reading, normalised=True)


def _without_classes(frames: Sequence[Frame], source: Path) -> UserError:
    """Returns the error for a missing ``--classes``: names what was found and the set or the list that would fit."""
    counts = Counter(box.name for frame in frames for box in frame.raw)
    if not counts:
        return UserError("--classes is missing, and the annotations name no class")
    found = sorted(counts, key=str.casefold)
    folds = set(map(folded, found))
    fits = [key for key, names in CLASS_SETS.items() if folds <= set(map(folded, names))]
    listing = ", ".join(f"{name} ({counts[name]})" for name in found)
    return UserError(
        f"--classes is missing: the order of the classes must be explicit; {source} holds {listing}; "
        f"try --classes {fits[0] if fits else repr(','.join(found))}"
    )


def clean_frames(frames: Sequence[Frame], classes: Sequence[str], ledger: Ledger) -> list[Frame]:
    """Decodes the image of each frame and checks its boxes; what is changed or left out is listed. The frames get their
    size, look and boxes."""

    def look(frame: Frame) -> tuple[int, int, np.ndarray] | str:
        """Returns width, height and a small version of the image, or why it cannot be decoded."""
        try:
            data = frame.image.read_bytes()
            pixels = decode_image(data, frame.name, own_range(data))
        except (ImageError, OSError) as error:
            return str(error).removeprefix(frame.name).lstrip(": ")
        return pixels.shape[1], pixels.shape[0], look_of(pixels)

    cleaned = []
    with ThreadPoolExecutor(max_workers=min(available_cores(), MOST_THREADS)) as threads:
        for number, (frame, seen) in enumerate(zip(frames, threads.map(look, frames), strict=True), start=1):
            if number % PROGRESS == 0:
                logger.info("checked %d of %d frames", number, len(frames))
            if isinstance(seen, str):
                ledger.reject("undecodable_image", frame.name, seen, len(frame.raw), "rejected")
                continue
            frame.width, frame.height, frame.look = seen
            if frame.stated_size not in (None, (0, 0), seen[:2]):
                words = "states {}x{}, the picture has {}x{}; boxes are those of the picture"
                ledger.note("size_disagrees", frame.source, words.format(*frame.stated_size, *seen[:2]))
            if clean_frame(frame, classes, ledger):
                cleaned.append(frame)
    return cleaned


def _note_alike(parts: Parts, ledger: Ledger) -> None:
    """Lists how many frames of validation look like one of training, which is no fault of a single frame."""
    looks = {part: np.stack([frame.look for frame in frames]) for part, frames in parts.items() if frames}
    if {"train", "val"} <= looks.keys():
        count = alike_across(looks["train"], looks["val"])
        if count:
            reason = f"{count} of {len(looks['val'])} validation frames look nearly the same as a training frame"
            ledger.note("alike_across_the_split", "all", reason)
