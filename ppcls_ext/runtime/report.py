"""Shows predictions, classes or boxes, to people: a table, JSON, and annotated pictures."""

from __future__ import annotations

import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ppcls_ext.preprocess import read_image
from ppcls_ext.runtime.predictor import DetectionPrediction, DetectionPredictor, Prediction, Predictor
from ppcls_ext.utils.drawing import Card, draw_boxes, draw_card, draw_sheet
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_path
from ppcls_ext.utils.fonts import drawable
from ppcls_ext.utils.names import class_of_folder, unused_name
from ppcls_ext.utils.outputs import record_outputs
from ppcls_ext.utils.tables import aligned
from ppcls_ext.utils.texts import shown_name

logger = logging.getLogger(__name__)
NAME_WIDTH = 48
SHEET_LIMIT = 60
DETECTION_SIDE = 420
SHOWN_CLASSES = 4
AnyPredictor = Predictor | DetectionPredictor
Predictions = Sequence[Prediction] | Sequence[DetectionPrediction]


def above(predictions: Sequence[DetectionPrediction], threshold: float) -> list[DetectionPrediction]:
    """Returns the predictions without the boxes whose score is below ``threshold``."""
    return [prediction.where(prediction.scores >= threshold) for prediction in predictions]


def true_class(name: str, classes: Sequence[str] | None) -> str | None:
    """Returns the class that the folder of the file ``name`` is called after, or None.

    Class names with characters that a folder cannot have stand there with underscores in their place.
    """
    folder = class_of_folder(Path(name).parent.name)
    for label in classes or ():
        if folder in (label, re.sub(r"[^\w .+-]", "_", label)):
            return label
    return None


def as_table(predictions: Predictions, predictor: AnyPredictor) -> str:
    """Returns a table, empty without a readable image.

    Of classes: file, the best classes with their probabilities, and whether the first is right where known. Of boxes:
    file, number of objects, and for the commonest classes how many and the best score.
    """
    readable = [prediction for prediction in predictions if prediction.error is None]
    if not readable:
        return ""
    if isinstance(predictor, DetectionPredictor):
        rows = [["file", "objects", "classes (number, best score)"]]
        for found in readable:
            counts = Counter(found.labels.tolist()).most_common()
            texts = [
                f"{predictor.label(label)} ({count}, {100 * found.scores[found.labels == label].max():.0f} %)"
                for label, count in counts[:SHOWN_CLASSES]
            ]
            texts += ["..."] if len(counts) > SHOWN_CLASSES else []
            rows.append([_short(found.name), str(len(found.scores)), ", ".join(texts) or "-"])
    else:
        columns = max(len(prediction.labels) for prediction in readable)
        rows = [["file", *(f"top {number}" for number in range(1, columns + 1))]]
        for prediction in readable:
            ranking = zip(prediction.labels, prediction.scores, strict=True)
            rows.append([_short(prediction.name), *(f"{label} {100 * score:5.1f} %" for label, score in ranking)])
        truths = [true_class(prediction.name, predictor.classes) for prediction in readable]
        if any(truths):
            rows[0].append("true class")
            for row, truth, prediction in zip(rows[1:], truths, readable, strict=True):
                row.append("" if truth is None else f"{truth} {'yes' if truth == prediction.labels[0] else 'NO'}")
    return "\n".join(aligned(rows, left=len(rows[0])))


def _short(name: str) -> str:
    """Returns the end of a long path, which says more than its beginning."""
    name = shown_name(name)
    return name if len(name) <= NAME_WIDTH else f"...{name[-(NAME_WIDTH - 3) :]}"


def summary(predictions: Predictions, predictor: AnyPredictor) -> str:
    """Returns one line: how many images, what is in them (objects, or how many are right where known), unreadable."""
    readable = [prediction for prediction in predictions if prediction.error is None]
    plural = "s" * (len(readable) != 1)
    if isinstance(predictor, DetectionPredictor):
        objects = sum(len(found.scores) for found in readable)
        empty = sum(len(found.scores) == 0 for found in readable)
        text = f"{objects} object{'s' * (objects != 1)} in {len(readable)} image{plural}"
        text += f", {empty} without any" if empty else ""
    else:
        judged = [(true_class(one.name, predictor.classes), one.labels[0]) for one in readable]
        judged = [(truth, label) for truth, label in judged if truth is not None]
        text = f"{len(readable)} image{plural} predicted"
        if judged:
            text += f", {sum(truth == label for truth, label in judged)} of {len(judged)} right by their folder's name"
    skipped = len(predictions) - len(readable)
    return f"{text}, {skipped} unreadable and skipped" if skipped else text


def as_records(predictions: Predictions, predictor: AnyPredictor) -> list[dict[str, Any]]:
    """Returns the predictions as JSON holds them, see :func:`results_of`, with the names of the files."""
    records: list[dict[str, Any]] = []
    for one in predictions:
        record: dict[str, Any] = {"file": one.name, "error": one.error}
        if isinstance(one, Prediction):
            record["true_class"] = true_class(one.name, predictor.classes)
        records.append(record | results_of(one, predictor))
    return records


def results_of(one: Prediction | DetectionPrediction, predictor: AnyPredictor) -> dict[str, Any]:
    """Returns what was found in one image as JSON holds it; boxes are x1, y1, x2, y2 in pixels of the image."""
    if isinstance(one, DetectionPrediction):
        found = zip(one.labels.tolist(), one.scores.tolist(), one.boxes.tolist(), strict=True)
        detections: list[dict[str, Any]] = [
            {"class_id": label, "label": predictor.label(label), "score": score, "box": box}
            for label, score, box in found
        ]
        if one.identities is not None:
            for detection, identity in zip(detections, one.identities.tolist(), strict=True):
                detection["identity"] = identity or None
        return {"width": one.width, "height": one.height, "detections": detections}
    ranking = zip(one.class_ids, one.labels, one.scores, strict=True)
    return {"predictions": [{"class_id": index, "label": label, "score": score} for index, label, score in ranking]}


def is_folder(target: Path) -> bool:
    """Tells whether ``--save`` means a folder with a picture for each image, and not one picture file."""
    return not target.suffix or target.is_dir()


def check_picture_target(target: Path) -> None:
    """Raises a ``UserError`` if ``--save`` means a picture file of a format that cannot be written."""
    if is_folder(target):
        return
    try:
        # Pillow only reads some of the formats that it knows, and cannot write colours in others.
        Image.new("RGB", (1, 1)).save(io.BytesIO(), Image.registered_extensions()[target.suffix.lower()])
    except (KeyError, OSError, ValueError) as error:
        raise UserError(
            f"--save {target}: unknown picture format '{target.suffix}'; use .png, .jpg or a folder (one with a dot in "
            "its name must be there already)"
        ) from error


def picture_files(names: Sequence[str | Path], folder: Path) -> list[Path]:
    """Returns the file that each image's picture gets in ``folder``, all of them different.

    Images of one name, from two folders or of two formats, get a number, also where the names differ in case only.
    """
    used: set[str] = set()
    return [folder / unused_name(f"{Path(name).stem}.png", used) for name in names]


def save_pictures(
    predictions: Predictions, predictor: AnyPredictor, target: Path, title: str,
    draw: Callable[[Any], Image.Image] | None = None,
) -> list[Path]:  # fmt: skip
    """Draws the readable images with their predictions; sonar frames with the contrast that the detector is given.

    Args:
        predictions: their names are paths of image files.
        predictor: knows the names of the classes, and how frames are enhanced.
        target: a picture file (one image of a detector: that image; else a sheet of at most ``SHEET_LIMIT``), or a
            folder for one file an image.
        title: heading of the sheet.
        draw: draws a prediction otherwise.

    Returns:
        The files that were written.

    Raises:
        UserError: there is nothing to draw, or the suffix is no picture format.
    """
    check_picture_target(target)
    readable = [prediction for prediction in predictions if prediction.error is None]
    if not readable:
        raise UserError("none of the images could be read, there is nothing to draw")
    if draw is None and isinstance(predictor, DetectionPredictor):

        def draw(prediction: DetectionPrediction) -> Image.Image:
            return draw_prediction(read_image(prediction.name, predictor.value_range), prediction, predictor)

    if is_folder(target):
        files, written = picture_files([prediction.name for prediction in predictions], target), []
        try:
            for prediction, file in zip(predictions, files, strict=True):
                if prediction.error is None:
                    picture = draw(prediction) if draw else draw_card(_card_of(prediction, predictor))
                    written.append(_write_picture(picture, file))
        finally:
            # Also of a command that is stopped: it may be given again.
            record_outputs(written, target)
        return written
    shown = readable[:SHEET_LIMIT]
    if len(readable) > SHEET_LIMIT:
        logger.info("%s shows the first %d of %d images; --save FOLDER draws all", target, SHEET_LIMIT, len(readable))
    if draw is None:
        picture = draw_sheet([_card_of(prediction, predictor) for prediction in shown], title)
    elif len(shown) == 1:
        picture = draw(shown[0])
    else:
        cards = [Card(np.asarray(draw(prediction)), Path(prediction.name).name) for prediction in shown]
        picture = draw_sheet(cards, title, DETECTION_SIDE)
    record_outputs([_write_picture(picture, target)])
    return [target]


def _card_of(prediction: Prediction, predictor: Predictor) -> Card:
    truth = true_class(prediction.name, predictor.classes)
    if truth is not None:
        truth = drawable(truth, list(predictor.classes or []).index(truth))
    labels = [drawable(label, number) for label, number in zip(prediction.labels, prediction.class_ids, strict=True)]
    picture = read_image(prediction.name, predictor.value_range)
    return Card(picture, Path(prediction.name).name, labels, prediction.scores, truth)


def draw_prediction(
    pixels: np.ndarray, prediction: Prediction | DetectionPrediction, predictor: AnyPredictor
) -> Image.Image:
    """Draws boxes with their classes and the objects' numbers, or around a classifier's picture its best class.

    ``pixels`` are ``uint8`` RGB ``[H, W, 3]``; a frame is drawn with the contrast that the detector is given. The
    result has the same size, or a whole number of times this size.
    """
    if isinstance(prediction, Prediction):
        height, width = pixels.shape[:2]
        labels, scores, boxes = prediction.class_ids[:1], prediction.scores[:1], [[0, 0, width, height]]
        texts = [drawable(label, number) for label, number in zip(prediction.labels, labels, strict=False)]
    else:
        labels, scores, boxes = prediction.labels.tolist(), prediction.scores.tolist(), prediction.boxes
        texts = [drawable(predictor.label(label), label) for label in labels]
        if prediction.identities is not None:
            identities = prediction.identities.tolist()
            texts = [f"{text} #{number}" if number else text for text, number in zip(texts, identities, strict=True)]
    enhance = getattr(predictor, "enhance", None)
    # Raw sonar frames are nearly black: a person must see what the detector saw.
    return draw_boxes(pixels if enhance is None else enhance(pixels), boxes, texts, scores, classes=labels)


def _write_picture(picture: Image.Image, file: Path) -> Path:
    """Writes a picture whole or not at all, in the format of the file's suffix; returns ``file``."""
    with atomic_path(file) as temporary:
        picture.save(temporary)
    return file
