"""Side-by-side panels of what is annotated and what was detected, worst images first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from detection.evaluation.ground_truth import NO_BOXES, Boxes, GroundTruth
from detection.evaluation.matching import FREE, IGNORED, IOU_THRESHOLD, Matches, match_boxes
from ppcls_ext.preprocess.decode import ImageError, read_image
from ppcls_ext.utils.boxes import draw_boxes
from ppcls_ext.utils.pictures import DESK, INK, PADDING, PAPER, RIGHT, SUBTLE, WRONG, font_of, line_height, shortened

logger = logging.getLogger(__name__)

Enhance = Callable[[np.ndarray], np.ndarray]
# The longer side of each picture, and the widest sheet, in pixels.
PICTURE_SIDE = 480
SHEET_WIDTH = 2100
GAP = 6


@dataclass(frozen=True)
class Judged:
    """One image with what was detected in it.

    Attributes:
        image_id: which image.
        boxes: what is annotated.
        found: detections at or above the score threshold.
        matches: which of them belong together.
        penalty: how wrong it is: 1 for each missed box, and the score of each detection that is a false alarm or
            names the wrong class. So a confident mistake weighs as much as a miss, and a doubtful one less.
    """

    image_id: int
    boxes: Boxes
    found: Boxes
    matches: Matches
    penalty: float

    @property
    def missed(self) -> np.ndarray:
        """Marks annotated boxes that no detection found, ``bool`` ``[boxes]``."""
        return self.matches.detection_of == FREE

    @property
    def false_alarms(self) -> np.ndarray:
        """Marks detections where nothing is, ``bool`` ``[detections]``."""
        return self.matches.box_of == FREE

    @property
    def wrong_class(self) -> np.ndarray:
        """Marks detections on a box of another class, ``bool`` ``[detections]``."""
        return _wrong_class(self.boxes, self.found, self.matches)


def _wrong_class(boxes: Boxes, found: Boxes, matches: Matches) -> np.ndarray:
    hit = matches.box_of >= 0
    wrong = np.zeros(len(found), bool)
    wrong[hit] = boxes.category_ids[matches.box_of[hit]] != found.category_ids[hit]
    return wrong


def judge_images(
    truth: GroundTruth, detections: Mapping[int, Boxes], score_threshold: float, iou_threshold: float = IOU_THRESHOLD
) -> list[Judged]:
    """Returns all images, worst first (``Judged.penalty``), equal ones by id."""
    judged = []
    for image_id in truth.images:
        boxes, found = truth.of(image_id), detections.get(image_id, NO_BOXES)
        found = found.part(found.weights >= score_threshold)
        matches = match_boxes(found, boxes, iou_threshold)
        wrong = (matches.box_of == FREE) | _wrong_class(boxes, found, matches)
        penalty = float((matches.detection_of == FREE).sum() + np.clip(found.weights[wrong], 0, 1).sum())
        judged.append(Judged(image_id, boxes, found, matches, penalty))
    return sorted(judged, key=lambda image: (-image.penalty, image.image_id))


def draw_panels(
    judged: Sequence[Judged],
    truth: GroundTruth,
    image_folder: str | Path,
    title: str,
    subtitle: str = "",
    enhance: Enhance | None = None,
) -> Image.Image:
    """Draws one sheet: for each image the annotation on the left and the detections on the right.

    Broken lines mark mistakes: on the left what was missed, on the right false alarms and wrong classes.

    Args:
        judged: the images to draw, at least one.
        truth: names of classes and files.
        image_folder: what ``file_name`` is relative to. An image that cannot be read is drawn black, with a warning.
        title, subtitle: stand above.
        enhance: turns ``uint8`` RGB ``[H, W, 3]`` into the same with more contrast; for nearly black sonar frames.

    Raises:
        ValueError: nothing to draw.
    """
    if not judged:
        raise ValueError("judged: need at least one image")
    panels = [_panel(image, truth, Path(image_folder), enhance) for image in judged]
    width, height = max(panel.width for panel in panels), max(panel.height for panel in panels)
    columns = min(max(1, (SHEET_WIDTH - PADDING) // (width + PADDING)), len(panels))
    rows = -(-len(panels) // columns)
    heading, small = font_of(22), font_of(15)
    top = PADDING + line_height(heading) + (line_height(small) + 4 if subtitle else 0) + PADDING
    sheet = Image.new("RGB", (PADDING + columns * (width + PADDING), top + rows * (height + PADDING)), DESK)
    pen, room = ImageDraw.Draw(sheet), sheet.width - 2 * PADDING
    pen.text((PADDING, PADDING), shortened(title, heading, room), fill=INK, font=heading)
    subtitle_place = (PADDING, PADDING + line_height(heading) + 4)
    pen.text(subtitle_place, shortened(subtitle, small, room), fill=SUBTLE, font=small)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        sheet.paste(panel, (PADDING + column * (width + PADDING), top + row * (height + PADDING)))
    return sheet


def _panel(judged: Judged, truth: GroundTruth, folder: Path, enhance: Enhance | None) -> Image.Image:
    record = truth.images[judged.image_id]
    picture, factor = _picture(record, folder, enhance)
    numbers = {category_id: index for index, category_id in enumerate(truth.classes)}
    missed = judged.missed
    ground = _with_boxes(
        picture, judged.boxes, factor, (truth.classes, numbers), dashed=missed,
        notes=["missed" if lost else ("crowd" if crowd else "")
               for lost, crowd in zip(missed, judged.boxes.crowd, strict=True)],
        scores=False,
    )  # fmt: skip
    wrong, alarms = judged.wrong_class, judged.false_alarms
    found = _with_boxes(picture, judged.found, factor, (truth.classes, numbers), dashed=wrong | alarms)
    font, small = font_of(15), font_of(13)
    # A heading of two lines above two pictures.
    top = PADDING + line_height(font) + line_height(small) + 10
    panel = Image.new("RGB", (2 * picture.width + GAP + 2 * PADDING, top + picture.height + PADDING), PAPER)
    pen = ImageDraw.Draw(panel)
    text, bad = _verdict(judged)
    verdict = shortened(text, font, panel.width * 0.62)
    verdict_width = font.getlength(verdict)
    name = str(record.get("file_name", f"image {judged.image_id}"))
    room = panel.width - 3 * PADDING - verdict_width
    pen.text((PADDING, PADDING - 2), shortened(name, font, room, keep_end=True), fill=INK, font=font)
    pen.text((panel.width - PADDING - verdict_width, PADDING - 2), verdict, fill=WRONG if bad else RIGHT, font=font)
    y = PADDING + line_height(font) + 4
    right = PADDING + picture.width + GAP
    pen.text((PADDING, y), shortened("annotated", small, picture.width), fill=SUBTLE, font=small)
    pen.text((right, y), shortened("detected", small, picture.width), fill=SUBTLE, font=small)
    panel.paste(ground, (PADDING, top))
    panel.paste(found, (right, top))
    return panel


def _picture(record: Mapping[str, Any], folder: Path, enhance: Enhance | None) -> tuple[Image.Image, float]:
    """Returns the picture with its longer side scaled to ``PICTURE_SIDE``, and the factor."""
    path = folder / str(record.get("file_name", ""))
    try:
        pixels = read_image(path)
    except ImageError as error:
        logger.warning("panels: %s; drawn black", error)
        size = [record.get(side) for side in ("height", "width")]
        height, width = (value if isinstance(value, int) and value > 0 else PICTURE_SIDE for value in size)
        pixels = np.zeros((height, width, 3), np.uint8)
    else:
        if enhance is not None:
            pixels = np.ascontiguousarray(enhance(pixels), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    factor = PICTURE_SIDE / max(picture.size)
    method = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, method), factor


def _with_boxes(
    picture: Image.Image,
    boxes: Boxes,
    factor: float,
    names: tuple[Mapping[int, str], Mapping[int, int]],
    dashed: np.ndarray,
    notes: Sequence[str] | None = None,
    scores: bool = True,
) -> Image.Image:
    """Draws boxes; ``names`` are category id -> name and category id -> number of the colour."""
    low = boxes.boxes[:, :2]
    corners = np.concatenate([low, low + boxes.boxes[:, 2:]], axis=1) * factor
    ids = boxes.category_ids.tolist()
    labels = [names[0][category_id] for category_id in ids]
    if notes is not None:
        labels = [f"{label} {note}".strip() for label, note in zip(labels, notes, strict=True)]
    return draw_boxes(
        picture,
        corners,
        labels,
        scores=boxes.weights.tolist() if scores else None,
        classes=[names[1][category_id] for category_id in ids],
        dashed=dashed.tolist(),
        smallest=0,
    )


def _verdict(judged: Judged) -> tuple[str, bool]:
    """Returns what went wrong in a few words, and whether anything did."""
    counts = (
        (int(judged.missed.sum()), "missed"),
        (int(judged.wrong_class.sum()), "wrong class"),
        (int(judged.false_alarms.sum()), "false"),
    )
    mistakes = ", ".join(f"{count} {word}" for count, word in counts if count)
    if mistakes:
        return mistakes, True
    correct = int((judged.matches.box_of >= 0).sum())
    ignored = int((judged.matches.box_of == IGNORED).sum())
    if correct or ignored:
        return f"all {correct} correct" if correct else "only crowds", False
    return "empty, nothing detected", False
