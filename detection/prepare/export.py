"""Writes a prepared data set in the forms of other tools: YOLO's text files with ``data.yaml``, or Pascal VOC."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import yaml

from detection.annotations import Frame, Ledger
from detection.prepare.readers import parts_of
from detection.prepare.stored import open_prepared
from detection.prepare.write import place_image
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_folder, write_text
from ppcls_ext.utils.names import unused_name
from ppcls_ext.utils.outputs import EXPORTED

logger = logging.getLogger(__name__)


class Layout(NamedTuple):
    """Where a form keeps images and annotations (with the part in place of ``{}``) and its suffix; what writes the
    annotation of an image, called by its file name, and what describes the set (folder, classes, file names by part);
    whether it has a mark for boxes of which nothing is learnt."""

    images: str
    annotations: str
    suffix: str
    text: Callable[[Frame, str, Sequence[str]], str]
    finish: Callable[[Path, Sequence[str], dict[str, list[str]]], None]
    crowds: bool


def _yolo_text(frame: Frame, name: str, classes: Sequence[str]) -> str:
    """Returns a line ``class x y w h`` for each box: centre and size as fractions of the picture."""
    lines = []
    for box in frame.boxes:
        (x, y, width, height), across, down = box.xywh, frame.width, frame.height
        values = (x + width / 2) / across, (y + height / 2) / down, width / across, height / down
        lines.append(" ".join([str(box.category), *(f"{value:.8f}" for value in values)]))
    return "".join(f"{line}\n" for line in lines)


def _finish_yolo(folder: Path, classes: Sequence[str], names: dict[str, list[str]]) -> None:
    # Without `path`, the folder that the file lies in counts.
    data = {**{part: f"images/{part}" for part in names}, "nc": len(classes), "names": dict(enumerate(classes))}
    write_text(folder / "data.yaml", yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


def _voc_text(frame: Frame, name: str, classes: Sequence[str]) -> str:
    """Returns Pascal VOC's XML; corners are counted from 0, with fractions of a pixel."""
    lines = [f"<filename>{escape(name)}</filename>"]
    lines.append(f"<size><width>{frame.width}</width><height>{frame.height}</height><depth>3</depth></size>")
    for box in frame.boxes:
        x, y, width, height = box.xywh
        flags = {flag: int(bool(box.extra.get(flag))) for flag in ("difficult", "truncated")}
        flags["ignore"] = int(box.crowd)
        corners = {"xmin": f"{x:.3f}", "ymin": f"{y:.3f}", "xmax": f"{x + width:.3f}", "ymax": f"{y + height:.3f}"}
        marks, numbers = ("".join(f"<{tag}>{text}</{tag}>" for tag, text in part.items()) for part in (flags, corners))
        lines.append(f"<object><name>{escape(classes[box.category])}</name>{marks}<bndbox>{numbers}</bndbox></object>")
    return "\n  ".join(["<annotation>", *lines]) + "\n</annotation>\n"


def _finish_voc(folder: Path, classes: Sequence[str], names: dict[str, list[str]]) -> None:
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for part, members in names.items():
        write_text(lists / f"{part}.txt", "".join(f"{Path(name).stem}\n" for name in members))
    # Pascal VOC has no order of classes.
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))


LAYOUTS = {
    "yolo": Layout("images/{}", "labels/{}", ".txt", _yolo_text, _finish_yolo, crowds=False),
    "voc": Layout("JPEGImages", "Annotations", ".xml", _voc_text, _finish_voc, crowds=True),
}


def export_set(source: Path, form: str, output: Path, images: str = "link", overwrite: bool = False) -> None:
    """Writes a prepared data set in another form, a key of :data:`LAYOUTS`; order of classes and parts stay, names of
    images unless two differ in their suffix only. ``images``: ``link`` or ``copy``.

    Raises:
        UserError: ``source`` is no prepared set, or ``output`` may not be written.
    """
    layout, ledger, lost = LAYOUTS[form], Ledger(), Counter[str]()
    found, classes = open_prepared(source, output, "exported", overwrite, ledger)
    files = {coco.path: coco for coco in found.values()}
    sets = {part: files[path] for part, path in parts_of(source, list(files)).items()}
    names: dict[str, list[str]] = {part: [] for part in sets}
    taken: set[str] = set()
    with atomic_folder(output) as folder:
        for part, coco in sets.items():
            pictures, texts = (folder / place.format(part) for place in (layout.images, layout.annotations))
            for place in (pictures, texts):
                place.mkdir(parents=True, exist_ok=True)
            for frame in coco.frames:
                path = Path(frame.name.replace("/", "__"))
                name = unused_name(path.stem, taken) + path.suffix
                lost["images that got another name, for two differ in their suffix only"] += name != path.name
                kept = [box for box in frame.boxes if layout.crowds or not box.crowd]
                lost["boxes of crowds, for which the form has no mark"] += len(frame.boxes) - len(kept)
                frame.boxes = kept
                if not frame.image.is_file():
                    raise UserError(f"{coco.path}: {frame.name} is not in {source / 'images'}")
                place_image(frame.image, pictures / name, images)
                write_text(texts / f"{Path(name).stem}{layout.suffix}", layout.text(frame, name, classes))
                names[part].append(name)
        layout.finish(folder, classes, names)
        write_text(folder / EXPORTED, "written by tools/prepare_data.py\n")
    for line in ledger.summary():
        logger.warning("%s", line)
    for words, count in lost.items():
        if count:
            logger.warning("%d %s", count, words)
    counts = ", ".join(f"{len(members)} images for {part}" for part, members in names.items())
    logger.info("wrote %s: %s, %d classes (%s)", output, counts, len(classes), ", ".join(classes))
