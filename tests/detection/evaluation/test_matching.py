"""Which detection means which box, and the confusion matrix that follows."""

from __future__ import annotations

import numpy as np
import pytest

from detection.evaluation import evaluate_detections
from detection.evaluation.ground_truth import Boxes
from detection.evaluation.matching import match_boxes, overlaps
from tests.support.coco import annotation, coco_data, detection, write_coco


def boxes(rows: list[list[float]], categories: list[int], weights=None, crowd=None) -> Boxes:
    count = len(rows)
    return Boxes(
        np.array(rows, float).reshape(-1, 4),
        np.array(categories, int),
        np.array([1.0] * count if weights is None else weights),
        np.array([False] * count if crowd is None else crowd, bool),
    )


def test_overlaps_equal_pycocotools():
    from pycocotools import mask

    generator = np.random.default_rng(0)
    found, truth = (np.hstack([generator.uniform(0, 60, (n, 2)), generator.uniform(0, 50, (n, 2))]) for n in (30, 20))
    crowd = generator.random(20) < 0.4
    expected = mask.iou(found, truth, crowd.astype(np.uint8))
    ours = overlaps(boxes(found, [1] * 30), boxes(truth, [1] * 20, crowd=crowd))
    assert np.allclose(ours, expected)
    assert (ours > 0.5).any()


def test_boxes_without_area_overlap_nothing():
    assert overlaps(boxes([[5, 5, 0, 0]], [1]), boxes([[5, 5, 0, 0]], [1])).tolist() == [[0.0]]


def test_the_higher_score_chooses_first():
    found = boxes([[0, 0, 10, 10], [0, 0, 10, 12]], [1, 1], [0.4, 0.9])
    matches = match_boxes(found, boxes([[0, 0, 10, 10]], [1]))
    assert matches.box_of.tolist() == [-1, 0]
    assert matches.detection_of.tolist() == [1]


def test_of_several_boxes_the_nearest_of_the_own_class_is_taken():
    truth = boxes([[0, 0, 10, 10], [0, 0, 10, 13], [0, 0, 10, 12]], [2, 1, 1])
    assert match_boxes(boxes([[0, 0, 10, 10]], [1]), truth).box_of.tolist() == [2]
    assert match_boxes(boxes([[0, 0, 10, 10]], [3]), truth).box_of.tolist() == [0]


def test_too_little_overlap_is_no_match():
    truth = boxes([[0, 0, 10, 10]], [1])
    found = boxes([[0, 0, 10, 4.9]], [1])
    assert match_boxes(found, truth).box_of.tolist() == [-1]
    assert match_boxes(found, truth, iou_threshold=0.4).box_of.tolist() == [0]


@pytest.mark.parametrize("score_threshold", [0.3, 0.6])
def test_confusion_matrix(tmp_path, score_threshold):
    ball, cube, tyre = [10, 10, 40, 40], [100, 10, 40, 40], [200, 10, 40, 40]
    data = coco_data(
        2,
        ["ball", "cube", "tyre"],
        [annotation(1, 1, 1, ball), annotation(2, 1, 2, cube), annotation(3, 1, 3, tyre), annotation(4, 2, 1, ball)],
    )
    found = [
        detection(1, 1, ball, 0.9),  # correct
        detection(1, 1, ball, 0.8),  # a second time: false alarm
        detection(1, 1, cube, 0.7),  # wrong class
        detection(1, 3, tyre, 0.5),  # correct, but doubtful
        detection(2, 3, [300, 300, 9, 9], 0.7),  # false alarm; the ball of image 2 is missed
    ]
    figures = evaluate_detections(write_coco(tmp_path / "val.json", data), found, score_threshold=score_threshold)
    doubtful = int(score_threshold < 0.5)
    assert figures.confusion.tolist() == [
        [1, 0, 0, 1],
        [1, 0, 0, 0],
        [0, 0, doubtful, 1 - doubtful],
        [1, 0, 1, 0],
    ]
    assert figures.score_threshold == score_threshold
