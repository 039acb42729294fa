"""What a person sees of predictions: a table, JSON, and annotated pictures."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from ppcls_ext.preprocess import read_image
from ppcls_ext.runtime.predictor import Prediction
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_path
from ppcls_ext.utils.pictures import Card, draw_card, draw_sheet

logger = logging.getLogger(__name__)
NAME_WIDTH = 48
SHEET_LIMIT = 60


class Named(Protocol):
    """A prediction of either task."""

    name: str
    error: str | None


def true_class(name: str, classes: Sequence[str] | None) -> str | None:
    """Returns the class that the folder of the file ``name`` is called after, or None.

    Class names with characters that a folder cannot have stand there with underscores in their place.
    """
    folder = Path(name).parent.name
    for label in classes or ():
        if folder in (label, re.sub(r"[^\w .+-]", "_", label)):
            return label
    return None


def as_table(predictions: Sequence[Prediction], classes: Sequence[str] | None) -> str:
    """Returns a table: file, the best classes with their probabilities, and whether the first is right where known."""
    readable = [prediction for prediction in predictions if prediction.error is None]
    if not readable:
        return ""
    columns = max(len(prediction.labels) for prediction in readable)
    truths = [true_class(prediction.name, classes) for prediction in readable]
    header = ["file", *(f"top {number}" for number in range(1, columns + 1))]
    rows = []
    for prediction in readable:
        ranking = zip(prediction.labels, prediction.scores, strict=True)
        cells = [f"{label} {100 * score:5.1f} %" for label, score in ranking]
        rows.append([short_name(prediction.name), *cells])
    if any(truths):
        header.append("true class")
        for row, truth, prediction in zip(rows, truths, readable, strict=True):
            row.append("" if truth is None else f"{truth} {'yes' if truth == prediction.labels[0] else 'NO'}")
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def summary(predictions: Sequence[Prediction], classes: Sequence[str] | None) -> str:
    """Returns one line: how many images were predicted, how many of those with a known class were right, skipped."""
    readable = [prediction for prediction in predictions if prediction.error is None]
    judged = [(true_class(p.name, classes), p.labels[0]) for p in readable]
    judged = [(truth, label) for truth, label in judged if truth is not None]
    text = f"{len(readable)} image{'s' if len(readable) != 1 else ''} predicted"
    if judged:
        text += f", {sum(truth == label for truth, label in judged)} of {len(judged)} right by their folder's name"
    skipped = len(predictions) - len(readable)
    return f"{text}, {skipped} unreadable and skipped" if skipped else text


def as_records(predictions: Sequence[Prediction], classes: Sequence[str] | None) -> list[dict[str, Any]]:
    """Returns the predictions as JSON holds them."""
    records = []
    for prediction in predictions:
        ranking = zip(prediction.class_ids, prediction.labels, prediction.scores, strict=True)
        records.append(
            {
                "file": prediction.name,
                "error": prediction.error,
                "true_class": true_class(prediction.name, classes),
                "predictions": [{"class_id": index, "label": label, "score": score} for index, label, score in ranking],
            }
        )
    return records


def save_pictures(
    predictions: Sequence[Prediction], classes: Sequence[str] | None, target: Path, title: str
) -> list[Path]:
    """Draws the readable images with their predictions.

    Args:
        predictions: their names are paths of image files.
        classes: class names, to recognise the true class in a folder's name.
        target: a picture file for one sheet (of at most ``SHEET_LIMIT`` images), or a folder for one file an image.
        title: heading of the sheet.

    Returns:
        The files that were written.

    Raises:
        UserError: there is nothing to draw, or the suffix is no picture format.
    """
    cards = [_card_of(prediction, classes) for prediction in predictions if prediction.error is None]
    if not cards:
        raise UserError("none of the images could be read, there is nothing to draw")
    if not target.suffix or target.is_dir():
        files = file_names(predictions, target)
        return [write_picture(draw_card(card), file) for card, file in zip(cards, files, strict=True)]
    if len(cards) > SHEET_LIMIT:
        logger.info("%s shows the first %d of %d images; --save FOLDER draws all", target, SHEET_LIMIT, len(cards))
    return [write_picture(draw_sheet(cards[:SHEET_LIMIT], title), target)]


def _card_of(prediction: Prediction, classes: Sequence[str] | None) -> Card:
    return Card(
        image=read_image(prediction.name),
        caption=Path(prediction.name).name,
        labels=prediction.labels,
        scores=prediction.scores,
        truth=true_class(prediction.name, classes),
    )


def file_names(predictions: Sequence[Named], folder: Path) -> list[Path]:
    """Gives each readable image a name of its own in ``folder``; files of one name from two folders get a number."""
    used: set[str] = set()
    files = []
    for prediction in predictions:
        if prediction.error is not None:
            continue
        stem = Path(prediction.name).stem
        name, number = stem, 1
        while name in used:
            number += 1
            name = f"{stem}_{number}"
        used.add(name)
        files.append(folder / f"{name}.png")
    return files


def write_picture(picture: Image.Image, file: Path) -> Path:
    """Writes a picture whole or not at all, in the format of the file's suffix; returns ``file``.

    Raises:
        UserError: the suffix is no picture format.
    """
    if file.suffix.lower() not in Image.registered_extensions():
        raise UserError(f"--save {file}: unknown picture format '{file.suffix}'; use .png, .jpg or a folder")
    with atomic_path(file) as temporary:
        picture.save(temporary)
    return file


def short_name(name: str) -> str:
    """Returns the end of a long path, which says more than its beginning."""
    return name if len(name) <= NAME_WIDTH else f"...{name[-(NAME_WIDTH - 3) :]}"
