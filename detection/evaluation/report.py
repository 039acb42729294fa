"""Writes an evaluation into a folder: metrics, detections, charts, and panels of the worst images."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from detection.evaluation.coco import NO_BOXES, Boxes, Detection, GroundTruth
from detection.evaluation.metrics import (
    FREE,
    IGNORED,
    IOU_THRESHOLD,
    SIZES,
    DetectionMetrics,
    figure_text,
    match_boxes,
)
from ppcls_ext.preprocess.decode import ImageError, read_image
from ppcls_ext.preprocess.samples import Range
from ppcls_ext.utils.drawing import (
    INK,
    PADDING,
    PAPER,
    RIGHT,
    SUBTLE,
    WRONG,
    contact_sheet,
    draw_boxes,
    line_height,
    shortened,
)
from ppcls_ext.utils.files import atomic_path, write_json, write_text
from ppcls_ext.utils.fonts import drawable, font_of, text_width, write
from ppcls_ext.utils.names import match_names
from ppcls_ext.utils.plots import draw_class_bars, draw_confusion, draw_losses, draw_precision_recall

logger = logging.getLogger(__name__)

Enhance = Callable[[np.ndarray], np.ndarray]
PANELS = 12
# The longer side of each picture, and the widest sheet, in pixels.
PICTURE_SIDE = 480
SHEET_WIDTH = 2100
GAP = 6


def write_evaluation(
    folder: str | Path,
    image_folder: str | Path,
    detections: Sequence[Detection],
    metrics: DetectionMetrics,
    title: str = "Evaluation",
    panels: int = PANELS,
    enhance: Enhance | None = None,
    value_range: Range | None = None,
    weights: Mapping[str, str] | None = None,
) -> list[Path]:
    """Writes ``figures.json``, ``detections.json``, four charts and ``panels.png``.

    Args:
        image_folder: what ``file_name`` in the annotation file is relative to.
        detections: what ``metrics`` were computed from.
        title: heading of the charts, for instance the name of the configuration and of the checkpoint.
        panels: how many images to show, the worst first (see :class:`ImageErrors`); 0 leaves the sheet out.
        enhance: what the detector does to the contrast of a picture (``uint8`` RGB in and out), so that dark sonar
            frames are shown as it sees them.
        weights: ``file`` and ``sha256`` of what was evaluated: an export of the same takes the thresholds over.
        value_range: what the detector made of samples of more than 8 bits, see ``decode_image``; for the same reason.

    Returns:
        The files written.
    """
    folder = Path(folder)
    names = ("figures.json", "detections.json", "precision_recall.png", "confusion.png", "per_class_ap.png",
             "errors.png")  # fmt: skip
    written = [folder / name for name in names]
    write_json(written[0], {"annotation_file": metrics.truth.source, "weights": weights, **metrics.as_json()})
    # One record a line: small, and still readable. NumPy's numbers become Python's own.
    lines = ",\n".join(
        json.dumps({
            "image_id": int(record["image_id"]),
            "category_id": int(record["category_id"]),
            "bbox": [float(value) for value in record["bbox"]],
            "score": float(record["score"]),
        })
        for record in detections
    )  # fmt: skip
    write_text(written[1], f"[\n{lines}\n]\n" if lines else "[]\n")
    summary = f"{title}: AP {figure_text(metrics.ap)}, AP50 {figure_text(metrics.ap50)}"
    draw_precision_recall(metrics, written[2], summary)
    limits = f"score at least {metrics.score_threshold:.2f}, IoU at least {IOU_THRESHOLD:.2f}"
    shown = [drawable(row.name, row.number, in_chart=True) for row in metrics.classes]
    draw_confusion(metrics.confusion, shown, written[3], f"{summary}\n{limits}")
    draw_class_bars(metrics, SIZES, written[4], summary)
    draw_losses(metrics, written[5], summary)
    if panels > 0:
        worst = worst_images(metrics.truth, metrics.found, metrics.score_threshold)[:panels]
        subtitle = (
            f"the {len(worst)} worst of {metrics.images:,} images; {limits}; "
            "broken lines: missed (left), false or wrong class (right)"
        )
        sheet = draw_panels(worst, metrics.truth, image_folder, summary, subtitle, enhance, value_range)
        written.append(folder / "panels.png")
        with atomic_path(written[-1]) as temporary:
            sheet.save(temporary)
    return written


@dataclass(frozen=True)
class ImageErrors:
    """One image with what was detected in it at or above the score threshold, and what is wrong with that.

    Attributes:
        missed: ``bool`` ``[boxes]``: annotated boxes that no detection found.
        false_alarms, wrong_class, ignored: ``bool`` ``[detections]``: where nothing is, on a box of another class, and
            in a crowd.
        penalty: 1 for each missed box, and the score of each false alarm or wrong class. So a confident mistake weighs
            as much as a miss, and a doubtful one less.
    """

    image_id: int
    boxes: Boxes
    found: Boxes
    missed: np.ndarray
    false_alarms: np.ndarray
    wrong_class: np.ndarray
    ignored: np.ndarray
    penalty: float


def worst_images(
    truth: GroundTruth, detections: Mapping[int, Boxes], score_threshold: float
) -> list[ImageErrors]:
    """Returns all images, worst first (by their penalty), equal ones by id."""
    images = []
    for image_id in truth.images:
        boxes, found = truth.of(image_id), detections.get(image_id, NO_BOXES)
        found = found.part(found.weights >= score_threshold)
        box_of, detection_of = match_boxes(found, boxes)
        missed, false_alarms, hit = detection_of == FREE, box_of == FREE, box_of >= 0
        wrong_class = np.zeros(len(found), bool)
        wrong_class[hit] = boxes.category_ids[box_of[hit]] != found.category_ids[hit]
        penalty = float(missed.sum() + np.clip(found.weights[false_alarms | wrong_class], 0, 1).sum())
        marks = (missed, false_alarms, wrong_class, box_of == IGNORED)
        images.append(ImageErrors(image_id, boxes, found, *marks, penalty))
    return sorted(images, key=lambda image: (-image.penalty, image.image_id))


def draw_panels(
    images: Sequence[ImageErrors],
    truth: GroundTruth,
    image_folder: str | Path,
    title: str,
    subtitle: str = "",
    enhance: Enhance | None = None,
    value_range: Range | None = None,
) -> Image.Image:
    """Draws one sheet: for each image the annotation on the left and the detections on the right.

    Broken lines mark mistakes: on the left what was missed, on the right false alarms and wrong classes. An image that
    cannot be read is drawn black, with a warning. Arguments are those of :func:`write_evaluation`.

    Raises:
        ValueError: nothing to draw.
    """
    if not images:
        raise ValueError("images: need at least one image")
    stated = [str(truth.images[image.image_id].get("file_name", "")) for image in images]
    files = [Path(image_folder) / name for name in match_names(Path(image_folder), stated, "")]
    panels = [_panel(image, truth, file, enhance, value_range) for image, file in zip(images, files, strict=True)]
    columns = max(1, (SHEET_WIDTH - PADDING) // (max(panel.width for panel in panels) + PADDING))
    return contact_sheet(panels, columns, title, subtitle, title_size=22)


def _panel(
    image: ImageErrors, truth: GroundTruth, file: Path, enhance: Enhance | None, value_range: Range | None
) -> Image.Image:
    record = truth.images[image.image_id]
    picture, factor = _picture(record, file, enhance, value_range)

    def with_boxes(boxes: Boxes, dashed: np.ndarray, notes: Sequence[str], scores: list[float] | None) -> Image.Image:
        low, size = boxes.boxes[:, :2], boxes.boxes[:, 2:]
        ids = boxes.category_ids.tolist()
        names = [drawable(truth.classes[number], truth.numbers[number]) for number in ids]
        labels = [f"{name} {note}".strip() for name, note in zip(names, notes, strict=True)]
        return draw_boxes(
            picture, np.concatenate([low, low + size], axis=1) * factor, labels, scores,
            classes=[truth.numbers[number] for number in ids], dashed=dashed.tolist(), smallest=0,
        )  # fmt: skip

    notes = ["missed" if missed else "crowd" if crowd else ""
             for missed, crowd in zip(image.missed, image.boxes.crowd, strict=True)]  # fmt: skip
    annotated = with_boxes(image.boxes, image.missed, notes, None)
    wrong = image.wrong_class | image.false_alarms
    detected = with_boxes(image.found, wrong, [""] * len(image.found), image.found.weights.tolist())

    counts = ((image.missed, "missed"), (image.wrong_class, "wrong class"), (image.false_alarms, "false"))
    mistakes = ", ".join(f"{int(marks.sum())} {word}" for marks, word in counts if marks.any())
    correct = len(image.found) - int(image.ignored.sum())
    if mistakes or correct:
        verdict = mistakes or f"all {correct} correct"
    else:
        verdict = "only crowds" if image.ignored.any() else "empty, nothing detected"

    # A heading of two lines above two pictures.
    font, small = font_of(15), font_of(13)
    top = PADDING + line_height(font) + line_height(small) + 10
    panel = Image.new("RGB", (2 * picture.width + GAP + 2 * PADDING, top + picture.height + PADDING), PAPER)
    pen = ImageDraw.Draw(panel)
    verdict = shortened(verdict, font, panel.width * 0.62)
    verdict_width = text_width(verdict, font)
    name = str(record.get("file_name", f"image {image.image_id}"))
    name = shortened(name, font, panel.width - 3 * PADDING - verdict_width, keep_end=True)
    write(pen, (PADDING, PADDING - 2), name, font, INK)
    ink = WRONG if mistakes else RIGHT
    write(pen, (panel.width - PADDING - verdict_width, PADDING - 2), verdict, font, ink)
    for x, word, part in ((PADDING, "annotated", annotated), (PADDING + picture.width + GAP, "detected", detected)):
        write(pen, (x, PADDING + line_height(font) + 4), shortened(word, small, picture.width), small, SUBTLE)
        panel.paste(part, (x, top))
    return panel


def _picture(
    record: Mapping[str, Any], file: Path, enhance: Enhance | None, value_range: Range | None
) -> tuple[Image.Image, float]:
    """Returns the picture with its longer side scaled to ``PICTURE_SIDE``, and the factor."""
    try:
        pixels = read_image(file, value_range)
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
