"""What a person sees of detections: a table, JSON, COCO results, and pictures with boxes."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from ppcls_ext.preprocess import read_image
from ppcls_ext.runtime.detector import DetectionPrediction, DetectionPredictor
from ppcls_ext.runtime.report import SHEET_LIMIT, file_names, short_name, write_picture
from ppcls_ext.utils.boxes import draw_boxes
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.pictures import DESK, INK, PADDING, font_of, line_height, shortened

logger = logging.getLogger(__name__)
SHEET_SIDE = 420
SHOWN_CLASSES = 4


def above(predictions: Sequence[DetectionPrediction], threshold: float) -> list[DetectionPrediction]:
    """Returns the predictions without the boxes whose score is below ``threshold``."""
    kept = [prediction.scores >= threshold for prediction in predictions]
    return [
        replace(
            prediction, boxes=prediction.boxes[best], scores=prediction.scores[best], labels=prediction.labels[best]
        )
        for prediction, best in zip(predictions, kept, strict=True)
    ]


def as_table(predictions: Sequence[DetectionPrediction], predictor: DetectionPredictor) -> str:
    """Returns a table: file, number of objects, and for the commonest classes how many and the best score."""
    rows = [["file", "objects", "classes (number, best score)"]]
    for prediction in predictions:
        if prediction.error is not None:
            continue
        counts = Counter(prediction.labels.tolist()).most_common()
        texts = [
            f"{predictor.label(label)} ({count}, {100 * prediction.scores[prediction.labels == label].max():.0f} %)"
            for label, count in counts[:SHOWN_CLASSES]
        ]
        texts += ["..."] if len(counts) > SHOWN_CLASSES else []
        rows.append([short_name(prediction.name), str(len(prediction.scores)), ", ".join(texts) or "-"])
    if len(rows) == 1:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def summary(predictions: Sequence[DetectionPrediction]) -> str:
    """Returns one line: how many images, objects, images without any, and unreadable files."""
    readable = [prediction for prediction in predictions if prediction.error is None]
    objects = sum(len(prediction.scores) for prediction in readable)
    empty = sum(len(prediction.scores) == 0 for prediction in readable)
    text = f"{objects} object{'s' * (objects != 1)} in {len(readable)} image{'s' * (len(readable) != 1)}"
    text += f", {empty} without any" if empty else ""
    skipped = len(predictions) - len(readable)
    return f"{text}, {skipped} unreadable and skipped" if skipped else text


def as_records(predictions: Sequence[DetectionPrediction], predictor: DetectionPredictor) -> list[dict[str, Any]]:
    """Returns the predictions as JSON holds them; boxes are x1, y1, x2, y2 in pixels of the image."""
    return [
        {
            "file": prediction.name,
            "error": prediction.error,
            "width": prediction.width,
            "height": prediction.height,
            "detections": [
                {"class_id": label, "label": predictor.label(label), "score": score, "box": box}
                for label, score, box in zip(
                    prediction.labels.tolist(), prediction.scores.tolist(), prediction.boxes.tolist(), strict=True
                )
            ],
        }
        for prediction in predictions
    ]


def save_pictures(
    predictions: Sequence[DetectionPrediction], predictor: DetectionPredictor, target: Path, title: str
) -> list[Path]:
    """Draws the boxes on the readable images; on sonar frames with the contrast that the detector is given.

    Args:
        predictions: their names are paths of image files.
        predictor: knows the names of the classes, and how frames are enhanced.
        target: a picture file (one image: that image; several: a sheet of at most ``SHEET_LIMIT``), or a folder for
            one file an image.
        title: heading of the sheet.

    Returns:
        The files that were written.

    Raises:
        UserError: there is nothing to draw, or the suffix is no picture format.
    """
    readable = [prediction for prediction in predictions if prediction.error is None]
    if not readable:
        raise UserError("none of the images could be read, there is nothing to draw")
    if not target.suffix or target.is_dir():
        files = file_names(predictions, target)
        return [write_picture(_drawn(one, predictor), file) for one, file in zip(readable, files, strict=True)]
    if len(readable) == 1:
        return [write_picture(_drawn(readable[0], predictor), target)]
    if len(readable) > SHEET_LIMIT:
        logger.info("%s shows the first %d of %d images; --save FOLDER draws all", target, SHEET_LIMIT, len(readable))
    shown = readable[:SHEET_LIMIT]
    pictures = [(Path(prediction.name).name, _drawn(prediction, predictor)) for prediction in shown]
    return [write_picture(_sheet(pictures, title), target)]


def _drawn(prediction: DetectionPrediction, predictor: DetectionPredictor) -> Image.Image:
    labels = prediction.labels.tolist()
    pixels = read_image(prediction.name)
    return draw_boxes(
        # Raw sonar frames are nearly black: a person must see what the detector saw.
        pixels if predictor.enhance is None else predictor.enhance(pixels),
        prediction.boxes,
        [predictor.label(label) for label in labels],
        prediction.scores.tolist(),
        classes=labels,
    )


def _sheet(pictures: Sequence[tuple[str, Image.Image]], title: str) -> Image.Image:
    """Puts pictures of one height in a grid, each under its caption, with ``title`` above."""
    columns = min(len(pictures), max(1, math.ceil(math.sqrt(1.3 * len(pictures)))))
    fitted = []
    for caption, picture in pictures:
        factor = min(SHEET_SIDE / picture.width, SHEET_SIDE / picture.height)
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        fitted.append((caption, picture.resize(size, Image.Resampling.LANCZOS)))
    font, heading = font_of(14), font_of(20)
    caption_height = line_height(font) + 6
    heights = [
        max(picture.height for _, picture in fitted[first : first + columns])
        for first in range(0, len(fitted), columns)
    ]
    top = 2 * PADDING + line_height(heading)
    sheet = Image.new(
        "RGB",
        (
            PADDING + columns * (SHEET_SIDE + PADDING),
            top + sum(height + caption_height + PADDING for height in heights),
        ),
        DESK,
    )
    pen = ImageDraw.Draw(sheet)
    pen.text((PADDING, PADDING), shortened(title, heading, sheet.width - 2 * PADDING), fill=INK, font=heading)
    for number, (caption, picture) in enumerate(fitted):
        row, column = divmod(number, columns)
        x = PADDING + column * (SHEET_SIDE + PADDING)
        y = top + sum(height + caption_height + PADDING for height in heights[:row])
        pen.text((x, y), shortened(caption, font, SHEET_SIDE, keep_end=True), fill=INK, font=font)
        sheet.paste(picture, (x + (SHEET_SIDE - picture.width) // 2, y + caption_height))
    return sheet
