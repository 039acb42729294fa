"""Writes an evaluation into a folder: figures, detections, charts, panels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from detection.evaluation.charts import draw_class_figures, draw_confusion, draw_precision_recall
from detection.evaluation.detections import Detection, check_detections
from detection.evaluation.figures import Figures
from detection.evaluation.ground_truth import read_ground_truth
from detection.evaluation.panels import Enhance, draw_panels, judge_images
from ppcls_ext.utils.files import atomic_path, write_json, write_text

PANELS = 12


def write_evaluation(
    folder: str | Path,
    annotation_file: str | Path,
    image_folder: str | Path,
    detections: Sequence[Detection],
    figures: Figures,
    title: str = "Evaluation",
    panels: int = PANELS,
    enhance: Enhance | None = None,
) -> list[Path]:
    """Writes ``figures.json``, ``detections.json``, three charts and ``panels.png``.

    Args:
        folder: is made if it is not there; files of an earlier evaluation are replaced.
        annotation_file: the COCO file that ``figures`` come from.
        image_folder: what ``file_name`` in it is relative to.
        detections: what ``figures`` were computed from.
        figures: result of ``evaluate_detections``.
        title: heading of the charts, for instance the name of the configuration and of the checkpoint.
        panels: how many images to show, the worst first (see ``panels.Judged.penalty``); 0 leaves the sheet out.
        enhance: what the detector does to the contrast of a picture (``uint8`` RGB in and out), so that dark sonar
            frames are shown as it sees them.

    Returns:
        The files written.

    Raises:
        UserError: the annotation file or the detections are faulty.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    truth = read_ground_truth(annotation_file, figures.image_ids, [row.name for row in figures.classes])
    found = check_detections(detections, truth)
    written = [folder / name for name in ("figures.json", "detections.json")]
    write_json(written[0], {"annotation_file": str(annotation_file), **figures.as_json()})
    # One record a line: small, and still readable.
    lines = ",\n".join(json.dumps(_plain(record)) for record in detections)
    write_text(written[1], f"[\n{lines}\n]\n" if lines else "[]\n")
    summary = f"{title}: AP {figures.ap:.3f}, AP50 {figures.ap50:.3f}"
    for name, draw in (
        ("precision_recall.png", draw_precision_recall),
        ("confusion.png", draw_confusion),
        ("per_class_ap.png", draw_class_figures),
    ):
        draw(figures, folder / name, summary)
        written.append(folder / name)
    if panels > 0:
        judged = judge_images(truth, found, figures.score_threshold, figures.iou_threshold)[:panels]
        subtitle = (
            f"the {len(judged)} worst of {figures.images:,} images; score at least {figures.score_threshold:.2f}, "
            f"IoU at least {figures.iou_threshold:.2f}; broken lines: missed (left), false or wrong class (right)"
        )
        sheet = draw_panels(judged, truth, image_folder, summary, subtitle, enhance)
        written.append(folder / "panels.png")
        with atomic_path(written[-1]) as temporary:
            sheet.save(temporary)
    return written


def _plain(record: Detection) -> dict[str, object]:
    """Returns a COCO result with Python's own numbers."""
    return {
        "image_id": int(record["image_id"]),
        "category_id": int(record["category_id"]),
        "bbox": [float(value) for value in record["bbox"]],
        "score": float(record["score"]),
    }
