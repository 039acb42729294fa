"""Writes an evaluation into a folder: metrics, detections, charts, and panels of the worst images."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from detection.annotations import Frame
from detection.evaluation.boxes import FREE, IGNORED, IOU_THRESHOLD, Boxes, missed_boxes
from detection.evaluation.metrics import SIZES, DetectionMetrics, figure_text
from ppcls_ext.preprocess.decode import ImageError, read_image
from ppcls_ext.preprocess.samples import Range
from ppcls_ext.utils.drawing import PADDING, RIGHT, WRONG, contact_sheet, draw_boxes
from ppcls_ext.utils.files import atomic_path, write_json, write_text
from ppcls_ext.utils.fonts import drawable
from ppcls_ext.utils.plots import draw_class_bars, draw_confusion, draw_losses, draw_precision_recall

logger = logging.getLogger(__name__)

Enhance = Callable[[np.ndarray], np.ndarray]
PANELS = 12
# The longer side of each picture, and the widest sheet, in pixels.
PICTURE_SIDE = 480
SHEET_WIDTH = 2100


def write_evaluation(
    folder: str | Path,
    metrics: DetectionMetrics,
    title: str = "Evaluation",
    panels: int = PANELS,
    enhance: Enhance | None = None,
    value_range: Range | None = None,
    weights: Mapping[str, str] | None = None,
) -> list[Path]:
    """Writes ``figures.json``, ``detections.json``, four charts and ``panels.png``; returns the files.

    Args:
        title: heading of the charts, for instance the name of the configuration and of the checkpoint.
        panels: how many images to show, the worst first (see :func:`judge_images`); 0 leaves the sheet out.
        enhance: what the detector does to the contrast of a picture (``uint8`` RGB in and out), so that dark sonar
            frames are shown as it sees them.
        value_range: what the detector made of samples of more than 8 bits, see ``decode_image``; for the same reason.
        weights: ``file`` and ``sha256`` of what was evaluated: an export of the same takes the thresholds over.
    """
    folder = Path(folder)
    names = ("figures.json", "detections.json", "precision_recall.png", "confusion.png", "per_class_ap.png",
             "errors.png")  # fmt: skip
    written = [folder / name for name in names]
    truth, found = metrics.truth, metrics.found
    write_json(written[0], {"annotation_file": truth.source, "weights": weights, **metrics.as_json()})
    # One record a line: small, and still readable.
    columns = (column.tolist() for column in (found.rows, found.labels, found.boxes, found.weights))
    lines = ",\n".join(
        json.dumps({"image_id": truth.frames[row].image_id, "category_id": truth.category_ids[label], "bbox": box,
                    "score": score})
        for row, label, box, score in zip(*columns, strict=True)
    )  # fmt: skip
    write_text(written[1], f"[\n{lines}\n]\n" if lines else "[]\n")
    summary = f"{title}: AP {figure_text(metrics.ap)}, AP50 {figure_text(metrics.ap50)}"
    limits = f"score at least {metrics.score_threshold:.2f}, IoU at least {IOU_THRESHOLD:.2f}"
    shown = [drawable(*each) for each in zip(truth.names, truth.numbers, strict=True)]
    draw_precision_recall(metrics, written[2], summary)
    draw_confusion(metrics.confusion, shown, written[3], f"{summary}\n{limits}")
    draw_class_bars(metrics, SIZES, written[4], summary)
    draw_losses(metrics, written[5], summary)
    if panels > 0:
        worst = judge_images(metrics)[:panels]
        subtitle = (
            f"the {len(worst)} worst of {len(truth.frames):,} images; {limits}; "
            "broken lines: missed (left), false or wrong class (right)"
        )
        written.append(folder / "panels.png")
        with atomic_path(written[-1]) as temporary:
            draw_panels(worst, metrics, summary, subtitle, enhance, value_range).save(temporary)
    return written


class JudgedImage(NamedTuple):
    """One image, what was detected in it at or above the score threshold, and what is wrong with that.

    Attributes:
        missed: ``bool`` ``[boxes]``: annotated boxes that no detection found.
        false_alarms, wrong_class, ignored: ``bool`` ``[detections]``: where nothing is, on a box of another class, and
            in a crowd.
        penalty: 1 for each missed box, and the score of each false alarm or wrong class. So a confident mistake weighs
            as much as a miss, and a doubtful one less.
    """

    frame: Frame
    boxes: Boxes
    found: Boxes
    missed: np.ndarray
    false_alarms: np.ndarray
    wrong_class: np.ndarray
    ignored: np.ndarray
    penalty: float


def judge_images(metrics: DetectionMetrics) -> list[JudgedImage]:
    """Returns all images, worst first (by their penalty), equal ones by id."""
    truth, (found, box_of) = metrics.truth, metrics.confident
    missed, false_alarms = missed_boxes(truth.boxes, box_of), box_of == FREE
    wrong_class = (box_of >= 0) & (found.labels != np.append(truth.boxes.labels, 0)[box_of])
    costs = np.where(false_alarms | wrong_class, found.weights.clip(0, 1), 0.0)
    images = []
    for row, frame in enumerate(truth.frames):
        own, seen = truth.boxes.place_of(row), found.place_of(row)
        marks = (missed[own], false_alarms[seen], wrong_class[seen], box_of[seen] == IGNORED)
        penalty = float(missed[own].sum() + costs[seen].sum())
        images.append(JudgedImage(frame, truth.boxes.part(own), found.part(seen), *marks, penalty))
    return sorted(images, key=lambda image: -image.penalty)


def draw_panels(
    images: Sequence[JudgedImage],
    metrics: DetectionMetrics,
    title: str,
    subtitle: str = "",
    enhance: Enhance | None = None,
    value_range: Range | None = None,
) -> Image.Image:
    """Draws one sheet: for each of ``images``, at least one, the annotation on the left, the detections on the right.

    Broken lines mark mistakes: on the left what was missed, on the right false alarms and wrong classes. An image that
    cannot be read is drawn black, with a warning. Arguments are those of :func:`write_evaluation`.
    """
    panels = [_panel(image, metrics, *_picture(image.frame, enhance, value_range)) for image in images]
    columns = max(1, (SHEET_WIDTH - PADDING) // (max(panel.width for panel in panels) + PADDING))
    return contact_sheet(panels, columns, title, subtitle, title_size=22)


def _picture(frame: Frame, enhance: Enhance | None, value_range: Range | None) -> tuple[Image.Image, float]:
    """Returns the picture with its longer side scaled to ``PICTURE_SIDE``, and the factor."""
    try:
        pixels = read_image(frame.image, value_range)
        pixels = pixels if enhance is None else np.ascontiguousarray(enhance(pixels), dtype=np.uint8)
    except ImageError as error:
        logger.warning("panels: %s; drawn black", error)
        pixels = np.zeros((frame.height or PICTURE_SIDE, frame.width or PICTURE_SIDE, 3), np.uint8)
    picture = Image.fromarray(pixels)
    factor = PICTURE_SIDE / max(picture.size)
    method = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC
    return picture.resize([max(1, round(side * factor)) for side in picture.size], method), factor


def _panel(image: JudgedImage, metrics: DetectionMetrics, picture: Image.Image, factor: float) -> Image.Image:
    classes = list(zip(metrics.truth.names, metrics.truth.numbers, strict=True))

    def with_boxes(boxes: Boxes, dashed: np.ndarray, notes: Sequence[str], scores: list[float] | None) -> Image.Image:
        low, size = boxes.boxes[:, :2], boxes.boxes[:, 2:]
        own = [classes[label] for label in boxes.labels]
        texts = [f"{drawable(*each)} {note}".strip() for each, note in zip(own, notes, strict=True)]
        return draw_boxes(
            picture, np.concatenate([low, low + size], axis=1) * factor, texts, scores,
            classes=[number for _, number in own], dashed=dashed.tolist(), smallest=0,
        )  # fmt: skip

    notes = ["missed" if missed else "crowd" if crowd else ""
             for missed, crowd in zip(image.missed, image.boxes.crowd, strict=True)]  # fmt: skip
    annotated = with_boxes(image.boxes, image.missed, notes, None)
    wrong = image.wrong_class | image.false_alarms
    detected = with_boxes(image.found, wrong, [""] * len(image.found.rows), image.found.weights.tolist())

    counts = ((image.missed, "missed"), (image.wrong_class, "wrong class"), (image.false_alarms, "false"))
    mistakes = ", ".join(f"{int(marks.sum())} {word}" for marks, word in counts if marks.any())
    correct = len(image.found.rows) - int(image.ignored.sum())
    if mistakes or correct:
        verdict = mistakes or f"all {correct} correct"
    else:
        verdict = "only crowds" if image.ignored.any() else "empty, nothing detected"

    verdict = f"annotated (left), detected (right): {verdict}"
    ink = WRONG if mistakes else RIGHT
    return contact_sheet([annotated, detected], 2, image.frame.name, verdict, title_size=15, subtitle_colour=ink)
