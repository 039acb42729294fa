"""COCO metrics: equal to pycocotools, right in the odd cases, clear about faulty input."""

from __future__ import annotations

import contextlib
import copy
import io

import pytest

from detection.evaluation import SUMMARY, evaluate_detections
from ppcls_ext.utils.errors import UserError
from tests.support.coco import annotation, coco_data, detection, random_coco, write_coco


def by_pycocotools(data: dict, detections: list[dict], category_ids=None, image_ids=None) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(data)
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(copy.deepcopy(detections)), "bbox")
        if category_ids is not None:
            judge.params.catIds = category_ids
        if image_ids is not None:
            judge.params.imgIds = image_ids
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return dict(zip(SUMMARY, judge.stats, strict=True))


def assert_equal(ours: dict, theirs: dict) -> None:
    for name in SUMMARY:
        expected = None if theirs[name] == -1 else pytest.approx(theirs[name], abs=5e-5)
        assert ours[name] == expected, name


def test_metrics_equal_pycocotools(tmp_path):
    data, detections = random_coco(1)
    file = write_coco(tmp_path / "val.json", data)
    metrics = evaluate_detections(file, detections)
    expected = by_pycocotools(data, detections)
    assert 0.05 < expected["AP"] < 0.95, "the test data must not be trivial"
    assert_equal(metrics.summary, expected)
    for row in metrics.classes:
        assert_equal(row, by_pycocotools(data, detections, category_ids=[row["category_id"]]))
    assert metrics.classes[-1]["absent"]
    assert metrics.counts["crowds"] > 0
    assert metrics.counts["images_without_boxes"] == 8
    metrics = evaluate_detections(file, detections, image_ids=range(1, 21))
    assert metrics.counts["images"] == 20
    assert_equal(metrics.summary, by_pycocotools(data, detections, image_ids=list(range(1, 21))))


def test_no_detections_give_zero_and_nothing_annotated_gives_no_metric(tmp_path):
    data = coco_data(3, ["ball", "cube"], [annotation(1, 1, 1, [10, 10, 50, 50])])
    metrics = evaluate_detections(write_coco(tmp_path / "val.json", data), [])
    assert metrics.ap == metrics.ap50 == metrics.summary["AP_medium"] == metrics.summary["AR100"] == 0
    assert metrics.summary["AP_small"] is None and metrics.best_threshold is None
    assert metrics.confusion.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert "cube" in metrics.table().splitlines()[-3]
    data["annotations"].clear()
    metrics = evaluate_detections(write_coco(tmp_path / "val.json", data), [detection(2, 1, [1, 1, 9, 9], 0.8)])
    assert metrics.ap is None and metrics.as_json()["summary"]["AP50"] is None and metrics.precision == {}
    assert metrics.confusion.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert metrics.counts["images_without_boxes"] == 3


def test_perfect_detections(tmp_path):
    boxes = [[10, 10, 20, 20], [100, 100, 50, 60], [200, 50, 200, 300]]
    # Faster-coco-eval and pycocotools both take an annotation's id of 0 for 'unmatched'.
    data = coco_data(1, ["ball", "cube"], [annotation(n, 1, 1 + n % 2, box) for n, box in enumerate(boxes)])
    found = [detection(1, 1 + n % 2, box, 0.5 + 0.1 * n) for n, box in enumerate(boxes)]
    metrics = evaluate_detections(write_coco(tmp_path / "val.json", data), found)
    assert set(metrics.summary.values()) - {metrics.summary["AR1"]} == {1.0}
    assert metrics.counts["boxes_by_size"] == {"small": 1, "medium": 1, "large": 1}
    assert metrics.confusion.tolist() == [[2, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert (metrics.best_threshold["f1"], metrics.best_threshold["threshold"]) == (1, 0.5)
    assert all((curve == 1).all() for curve in metrics.precision.values())


def test_best_threshold_weighs_false_alarms_against_misses(tmp_path):
    boxes = [[20 + 60 * n, 20, 40, 40] for n in range(4)]
    data = coco_data(1, ["ball"], [annotation(n + 1, 1, 1, box) for n, box in enumerate(boxes)])
    found = [detection(1, 1, box, score) for box, score in zip(boxes, (0.9, 0.8, 0.7, 0.1), strict=True)]
    found += [detection(1, 1, [20 + 30 * n, 300, 20, 20], 0.5 - 0.01 * n) for n in range(8)]
    best = evaluate_detections(write_coco(tmp_path / "val.json", data), found).classes[0]["best_threshold"]
    assert best == {"threshold": 0.7, "f1": pytest.approx(6 / 7), "precision": 1, "recall": 0.75}


def test_what_cannot_be_evaluated_is_one_line(tmp_path):
    box = [10, 10, 20, 20]
    data = coco_data(1, ["ball", "cube"], [annotation(1, 1, 1, box)])
    file = write_coco(tmp_path / "val.json", data)
    with pytest.raises(UserError, match="not finite: did its training diverge"):
        evaluate_detections(file, [detection(1, 1, box, float("nan"))])
    data["images"][0]["id"] = None
    with pytest.raises(UserError, match="val.json.*none of its images can be used: left out"):
        evaluate_detections(write_coco(file, data), [])


def test_confusion_matrix_of_detections_above_the_threshold(tmp_path):
    ball, cube, tyre = [10, 10, 40, 40], [100, 10, 40, 40], [200, 10, 40, 40]
    annotations = [annotation(1, 1, 1, ball), annotation(2, 1, 2, cube), annotation(3, 1, 3, tyre)]
    data = coco_data(2, ["ball", "cube", "tyre"], [*annotations, annotation(4, 2, 1, ball)])
    found = [
        detection(1, 1, ball, 0.9),  # correct
        detection(1, 1, ball, 0.8),  # a second time: false alarm
        detection(1, 1, cube, 0.7),  # wrong class
        detection(1, 3, tyre, 0.5),  # below the threshold: missed
        detection(2, 3, [300, 300, 9, 9], 0.7),  # false alarm; the ball of image 2 is missed
    ]
    metrics = evaluate_detections(write_coco(tmp_path / "val.json", data), found)
    metrics.score_threshold = 0.6
    assert metrics.confusion.tolist() == [[1, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 1], [1, 0, 1, 0]]


def test_a_class_keeps_the_number_that_it_has_in_the_model(tmp_path):
    """Whatever its place in the annotation file, which may lack classes; the name or its number is drawn by it."""
    file = write_coco(tmp_path / "val.json", coco_data(3, ["ball", "cube"], []))
    truth = evaluate_detections(file, [], class_names=["cube", "tyre", "ball"]).truth
    assert (truth.names, truth.numbers) == (["ball", "cube"], [2, 0])
    assert evaluate_detections(file, []).truth.numbers == [0, 1]
