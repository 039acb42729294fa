"""The folder of an evaluation: its files, charts and panels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from detection.annotations import Ledger
from detection.coco import open_coco
from detection.evaluation import evaluate_detections, write_evaluation
from detection.evaluation.report import draw_panels, judge_images
from tests.support.coco import annotation, coco_data, detection, random_coco, write_coco

FILES = ["confusion.png", "detections.json", "errors.png", "figures.json", "panels.png", "per_class_ap.png",
         "precision_recall.png"]  # fmt: skip


def write_images(folder, data, level: int = 90) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for record in data["images"]:
        Image.new("L", (record["width"], record["height"]), level).save(folder / record["file_name"])


def metrics_of(tmp_path, data, detections):
    file = write_coco(tmp_path / "val.json", data)
    return evaluate_detections(open_coco(file, tmp_path / "images", Ledger()), detections)


def evaluate(tmp_path, data, detections, **options):
    metrics = metrics_of(tmp_path, data, detections)
    written = write_evaluation(tmp_path / "run" / "eval", metrics, **options)
    assert sorted(path.name for path in written) == sorted(path.name for path in (tmp_path / "run" / "eval").iterdir())
    return metrics, tmp_path / "run" / "eval"


def colours(path) -> int:
    """How many pixels of a picture are not grey."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    return int((pixels.max(axis=2) - pixels.min(axis=2) > 60).sum())


def test_all_files_are_written_and_show_something(tmp_path):
    data, detections = random_coco(1, images=15)
    write_images(tmp_path / "images", data)
    metrics, folder = evaluate(tmp_path, data, detections, title="mini, epoch 3", panels=5)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert json.loads((folder / "figures.json").read_text())["summary"] == metrics.summary
    stored = json.loads((folder / "detections.json").read_text())
    assert stored == detections
    assert evaluate_detections(tmp_path / "val.json", stored).summary == metrics.summary
    assert min(colours(folder / name) for name in FILES if name.endswith(".png")) > 1000


def test_without_detections_and_without_annotations(tmp_path):
    data = coco_data(2, ["ball", "cube"], [])
    write_images(tmp_path / "images", data)
    _, folder = evaluate(tmp_path, data, [], panels=1)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert json.loads((folder / "detections.json").read_text()) == []


@pytest.fixture
def judged(tmp_path):
    """Metrics of four images, and the images judged at a threshold of 0.5."""
    box = [100, 100, 200, 150]
    data = coco_data(4, ["ball", "cube"], [annotation(n, n, 1, box) for n in (1, 2, 3)])
    write_images(tmp_path / "images", data)
    detections = [
        detection(1, 1, box, 0.9),
        detection(2, 2, box, 0.6),  # wrong class
        detection(4, 1, box, 0.7),  # nothing is there
    ]
    metrics = metrics_of(tmp_path, data, detections)
    metrics.score_threshold = 0.5
    return metrics, judge_images(metrics)


def test_the_worst_image_comes_first(judged):
    found = [(image.frame.image_id, pytest.approx(image.penalty)) for image in judged[1]]
    # Missed: 1; false alarm and wrong class: their scores.
    assert found == [(3, 1), (4, 0.7), (2, 0.6), (1, 0)]


def pixels_of(sheet: Image.Image, level: int) -> int:
    return int((np.asarray(sheet) == level).all(axis=2).sum())


def test_panels_show_pictures_as_the_detector_sees_them_and_black_where_there_is_none(judged, caplog):
    metrics, judged = judged[0], judged[1][:2]
    plain = draw_panels(judged, metrics, "panels")
    seen = draw_panels(judged, metrics, "panels", enhance=lambda image: np.clip(image * 2.0, 0, 255))
    assert pixels_of(plain, 90) > 300_000
    assert pixels_of(seen, 90) < 1000 and pixels_of(seen, 180) > 300_000
    judged[0].frame.image.unlink()
    assert pixels_of(draw_panels(judged[:1], metrics, "panels"), 0) > 200_000
    assert f"{judged[0].frame.name}: the file does not exist" in caplog.text
