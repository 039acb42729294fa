"""The results of an evaluation: COCO figures of all classes and of each, with a table for people and JSON for files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detection.evaluation.matching import BestThreshold

# Names of the twelve COCO figures, in COCO's order.
SUMMARY = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
SIZES = {"small": "below 32² px", "medium": "32² to 96² px", "large": "above 96² px"}
NAME_WIDTH = 28


@dataclass(frozen=True)
class ClassFigures:
    """Figures of one class.

    Attributes:
        category_id, name: as in the annotation file.
        boxes, images: annotated boxes (without crowds), and images that hold some.
        detections: how many detections name the class, whatever their score.
        figures: the twelve COCO figures by name, of this class alone; None where there is no annotated box.
        best: the score threshold with the highest F1; None if no detection is correct.
    """

    category_id: int
    name: str
    boxes: int
    images: int
    detections: int
    figures: dict[str, float | None]
    best: BestThreshold | None

    @property
    def absent(self) -> bool:
        """Whether no image holds an annotated box of this class; it then counts in no average."""
        return self.boxes == 0


@dataclass(frozen=True)
class Figures:
    """Results of one evaluation.

    Attributes:
        summary: the twelve COCO figures by name (``AP``, ``AP50``, ... ``AR_large``), between 0 and 1; None where
            there is no annotated box that could count, such as no small ones.
        classes: the figures of each class.
        images, images_without_boxes, boxes, crowds, detections: counts.
        boxes_by_size: annotated boxes (without crowds) that COCO calls small, medium and large.
        best: the score threshold with the highest F1 of all classes together; None if no detection is correct.
        score_threshold, iou_threshold: what the confusion matrix was counted with.
        confusion: ``int64`` ``[K + 1, K + 1]``: rows annotated, columns detected, background last.
        recall: ``[101]``: the recalls at which precision is known.
        precision: class name -> interpolated precision ``[101]`` at IoU 0.5; classes without boxes are left out.
        image_ids: the images that were evaluated.
    """

    summary: dict[str, float | None]
    classes: tuple[ClassFigures, ...]
    images: int
    images_without_boxes: int
    boxes: int
    crowds: int
    detections: int
    boxes_by_size: dict[str, int]
    best: BestThreshold | None
    score_threshold: float
    iou_threshold: float
    confusion: np.ndarray = field(repr=False)
    recall: np.ndarray = field(repr=False)
    precision: dict[str, np.ndarray] = field(repr=False)
    image_ids: tuple[int, ...] = field(repr=False)

    @property
    def ap(self) -> float:
        """AP at IoU 0.5 to 0.95, what runs are compared by; 0 if nothing is annotated."""
        return self.summary["AP"] or 0.0

    @property
    def ap50(self) -> float:
        """AP at IoU 0.5; 0 if nothing is annotated."""
        return self.summary["AP50"] or 0.0

    def as_json(self) -> dict[str, Any]:
        """Returns everything but the image ids as plain numbers, lists and dictionaries; absent figures are None."""
        return {
            "summary": dict(self.summary),
            "counts": {
                "images": self.images,
                "images_without_boxes": self.images_without_boxes,
                "boxes": self.boxes,
                "crowds": self.crowds,
                "detections": self.detections,
                "boxes_by_size": dict(self.boxes_by_size),
            },
            "best_threshold": _threshold_json(self.best),
            "classes": [
                {
                    "category_id": row.category_id,
                    "name": row.name,
                    "absent": row.absent,
                    "boxes": row.boxes,
                    "images": row.images,
                    "detections": row.detections,
                    **row.figures,
                    "best_threshold": _threshold_json(row.best),
                }
                for row in self.classes
            ],
            "confusion": {
                "score_threshold": self.score_threshold,
                "iou_threshold": self.iou_threshold,
                "rows": "annotated",
                "columns": "detected",
                "names": [*(row.name for row in self.classes), "background"],
                "counts": self.confusion.tolist(),
            },
            "precision_recall": {
                "iou_threshold": 0.5,
                "recall": np.round(self.recall, 2).tolist(),
                "precision": {name: np.round(values, 5).tolist() for name, values in self.precision.items()},
            },
        }

    def table(self) -> str:
        """Returns the figures as text for a terminal: one row a class, then AP and AR by box size."""
        head = ("class", "boxes", "detections", "AP", "AP50", "AP75", "AR100", "best F1", "at score")
        rows = [head]
        for row in self.classes:
            best = ("-", "-") if row.best is None else (f"{row.best.f1:.3f}", f"{row.best.threshold:.2f}")
            figures = [_text(row.figures[name]) for name in ("AP", "AP50", "AP75", "AR100")]
            rows.append((_shortened(row.name), f"{row.boxes:,}", f"{row.detections:,}", *figures, *best))
        best = ("-", "-") if self.best is None else (f"{self.best.f1:.3f}", f"{self.best.threshold:.2f}")
        figures = [_text(self.summary[name]) for name in ("AP", "AP50", "AP75", "AR100")]
        rows.append(("all", f"{self.boxes:,}", f"{self.detections:,}", *figures, *best))
        size_rows = [("box size", "", "boxes", "AP", "AR100")]
        for size, text in SIZES.items():
            figures = [_text(self.summary[f"{name}_{size}"]) for name in ("AP", "AR")]
            size_rows.append((size, text, f"{self.boxes_by_size[size]:,}", *figures))
        lines = [*_aligned(rows, left=1, rules=(1, len(rows) - 1)), "", *_aligned(size_rows, left=2, rules=(1,))]
        absent = [row.name for row in self.classes if row.absent]
        if absent:
            lines += ["", f"without annotated boxes, in no average: {', '.join(absent)}"]
        empty = f", {self.images_without_boxes:,} of them without boxes" if self.images_without_boxes else ""
        lines += ["", f"{self.images:,} images{empty}"]
        return "\n".join(lines)


def _threshold_json(best: BestThreshold | None) -> dict[str, float] | None:
    return None if best is None else {name: round(value, 6) for name, value in vars(best).items()}


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"


def _aligned(rows: list[tuple[str, ...]], left: int, rules: tuple[int, ...]) -> list[str]:
    """Aligns columns, the first ``left`` ones to the left; a line is drawn before each row of ``rules``."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        if number in rules:
            lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
        cells = (cell.ljust(width) if column < left else cell.rjust(width)
                 for column, (cell, width) in enumerate(zip(row, widths, strict=True)))  # fmt: skip
        lines.append("  ".join(cells).rstrip())
    return lines
