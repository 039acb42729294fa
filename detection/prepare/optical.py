"""Folders in common layouts: DUO, and VOC or COCO in general."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from detection.prepare.coco import frames_of
from detection.prepare.layout import ImageIndex, find_coco_files, parts_of, read_coco
from detection.prepare.options import add_arguments, add_split_arguments
from detection.prepare.pairing import annotation_files, pair_folder
from detection.prepare.pipeline import Reading, check_before, finish
from detection.prepare.records import Frame, Ledger, shown_path
from detection.prepare.sonar import leave_out_bare
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.image_files import images_in

# Images of DUO; its test set is our validation.
PUBLISHED = {"train": 6671, "val": 1111}


def add_duo_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``prepare_data.py duo`` takes."""
    add_arguments(parser, classes="duo", output="dataset/duo")
    _add_annotations_argument(parser)


def add_imagefolder_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``prepare_data.py imagefolder`` takes."""
    add_arguments(parser, classes=None, output="dataset/imagefolder")
    add_split_arguments(parser)
    _add_annotations_argument(parser)
    parser.add_argument("--format", choices=("auto", "voc", "coco"), default="auto", help="form of the annotations")


def _add_annotations_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--annotations",
        nargs="+",
        type=Path,
        metavar="JSON",
        help="COCO files: one, or those for training and validation, looked up here and in SRC (found by their names)",
    )


def prepare_duo(arguments: argparse.Namespace) -> None:
    """Converts DUO: its training set is ``train``, its test set ``val``.

    Raises:
        UserError: the source or the output cannot be used, or one of the two parts is missing.
    """
    names = check_before(arguments)
    reading = _read_coco_folder(arguments)
    missing = [part for part in ("train", "val") if not any(frame.part == part for frame in reading.frames)]
    if missing:
        wanted = "test" if missing == ["val"] else "train"
        raise UserError(
            f"{arguments.source}: no usable annotation file for {wanted}; known layouts: images/{{train,test}} with "
            "annotations/instances_{train,test}.json, and DUO_pic with DUO_ANN"
        )
    for part, count in PUBLISHED.items():
        found = sum(frame.part == part for frame in reading.frames)
        if found != count:
            reading.ledger.note("other_count", part, f"{found} images; DUO as published has {count}")
    finish(reading, names, arguments)


def prepare_imagefolder(arguments: argparse.Namespace) -> None:
    """Converts a folder in VOC or COCO form.

    Raises:
        UserError: the source, the classes, the split or the output cannot be used.
    """
    names = check_before(arguments)
    form = _form_of(arguments)
    reading = _read_coco_folder(arguments) if form == "coco" else _read_voc_folder(arguments.source)
    finish(reading, names, arguments)


def _form_of(arguments: argparse.Namespace) -> str:
    if arguments.annotations:
        return "coco"
    if arguments.format != "auto":
        return arguments.format
    if not annotation_files(arguments.source):
        return "coco"
    if find_coco_files(arguments.source):
        raise UserError(f"{arguments.source}: holds both XML and COCO annotations; choose with --format voc or coco")
    return "voc"


def _read_voc_folder(source: Path) -> Reading:
    ledger = Ledger()
    pairing = pair_folder(source, ledger)
    leave_out_bare(pairing, ledger)
    return Reading(ledger, pairing.annotated, lists=_voc_lists(source))


def _voc_lists(source: Path) -> dict[str, Path] | None:
    """Returns ``ImageSets/Main/{train,val}.txt``; without ``val.txt`` the test list takes its place."""
    folders = sorted(path for path in source.rglob("Main") if path.parent.name == "ImageSets" and path.is_dir())
    if len(folders) != 1:
        return None
    lists = {name: folders[0] / f"{name}.txt" for name in ("train", "val", "trainval", "test")}
    lists = {name: path for name, path in lists.items() if path.is_file() and path.stat().st_size}
    if "train" in lists and "val" in lists:
        return {part: lists[part] for part in ("train", "val")}
    training = lists.get("train") or lists.get("trainval")
    return {"train": training, "val": lists["test"]} if training and "test" in lists else None


def _read_coco_folder(arguments: argparse.Namespace) -> Reading:
    """Reads the COCO files of a folder and finds their images."""
    source = arguments.source
    images = images_in(source)
    if not images:
        raise UserError(f"{source}: no image below this folder")
    if arguments.annotations:
        parts = _named_parts(arguments)
        contents = {path: read_coco(path) for path in parts.values()}
        wrong = [path for path, content in contents.items() if content is None]
        if wrong:
            raise UserError(f"{wrong[0]}: no COCO file (it needs the lists images, annotations and categories)")
    else:
        contents = find_coco_files(source)
        if not contents:
            raise UserError(f"{source}: no annotations below this folder, neither COCO JSON nor (for imagefolder) XML")
        parts = parts_of(source, contents)
    ledger = Ledger()
    ledger.images["input"] = len(images)
    index = ImageIndex(source, images)
    frames: list[Frame] = []
    for part, path in parts.items():
        frames += frames_of(source, path, contents[path], None if part == "all" else part, index, ledger)
    frames = _without_repeats(frames, ledger)
    used = {frame.image for frame in frames}
    for image in images:
        if image not in used:
            ledger.reject("no_annotation", shown_path(image, source), "no annotation file lists it")
            ledger.images["left_out"] += 1
    return Reading(ledger, frames)


def _named_parts(arguments: argparse.Namespace) -> dict[str, Path]:
    if len(arguments.annotations) > 2:
        raise UserError(f"--annotations takes one or two files, got {len(arguments.annotations)}")
    found = []
    for path in arguments.annotations:
        choices = [choice for choice in (path, arguments.source / path) if choice.is_file()]
        if not choices:
            raise UserError(f"--annotations {path}: no such file, neither here nor in {arguments.source}")
        file, source = choices[0], arguments.source
        # From the source folder on, as everything else is named; the file may lie beside that folder.
        outside = not file.is_relative_to(source)
        found.append(source / os.path.relpath(file.resolve(), source.resolve()) if outside else file)
    return {"all": found[0]} if len(found) == 1 else dict(zip(("train", "val"), found, strict=True))


def _without_repeats(frames: list[Frame], ledger: Ledger) -> list[Frame]:
    """Keeps of an image that several parts list the last, so that validation stays whole and training unseen by it."""
    last = {frame.image: frame for frame in frames}
    for frame in frames:
        if last[frame.image] is not frame:
            reason = f"is in {frame.part} and in {last[frame.image].part}; kept in {last[frame.image].part} only"
            ledger.reject("in_two_parts", frame.name, reason, len(frame.boxes))
    return [frame for frame in frames if last[frame.image] is frame]
