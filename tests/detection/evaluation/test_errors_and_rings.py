"""What each kind of error costs, on scenes in which one kind occurs and its loss is known; figures by range ring."""

from __future__ import annotations

import json

import pytest

from detection.evaluation import evaluate_detections
from detection.evaluation.metrics import ERRORS, FALSE_NEGATIVES, FALSE_POSITIVES
from tests.support.coco import annotation, coco_data, detection, random_coco, write_coco

FIRST, SECOND, NOWHERE = [10, 10, 40, 40], [200, 10, 40, 40], [400, 300, 40, 40]
# Overlap of a third with FIRST and SECOND.
BESIDE_FIRST, BESIDE_SECOND = [30, 10, 40, 40], [220, 10, 40, 40]
BALL, CUBE = 1, 2
HALF = 51 / 101  # of the recalls 0, 0.01 ... 1 those up to 0.5


@pytest.mark.parametrize(
    ("annotated", "found", "ap50", "expected"),
    [
        pytest.param(
            [(BALL, FIRST), (CUBE, SECOND)], [(BALL, FIRST, 0.9), (BALL, SECOND, 0.8)], 0.5,
            {"classification": 0.5, FALSE_POSITIVES: 0, FALSE_NEGATIVES: 0.5}, id="classification",
        ),
        pytest.param(  # The mended one, better than the right one, takes its place: no second box.
            [(BALL, FIRST)], [(BALL, BESIDE_FIRST, 0.9), (BALL, FIRST, 0.5)], 0.5,
            {"localisation": 0.5, FALSE_POSITIVES: 0.5}, id="localisation beside a right one",
        ),
        pytest.param(
            [(BALL, FIRST), (CUBE, SECOND)],
            [(BALL, BESIDE_SECOND, 0.9), (CUBE, SECOND, 0.8), (BALL, FIRST, 0.5)], 0.75,
            {"both": 0.25, FALSE_POSITIVES: 0.25}, id="both",
        ),
        pytest.param(
            [(BALL, FIRST), (BALL, SECOND)], [(BALL, FIRST, 0.9), (BALL, FIRST, 0.8), (BALL, SECOND, 0.7)],
            HALF + (1 - HALF) * 2 / 3,
            {"duplicate": (1 - HALF) / 3, FALSE_POSITIVES: (1 - HALF) / 3}, id="duplicate",
        ),
        pytest.param(
            [(BALL, FIRST)], [(BALL, NOWHERE, 0.9), (BALL, FIRST, 0.5)], 0.5,
            {"background": 0.5, FALSE_POSITIVES: 0.5}, id="background",
        ),
        pytest.param(
            [(BALL, FIRST), (BALL, SECOND)], [(BALL, FIRST, 0.9)], HALF,
            {"missed": 1 - HALF, FALSE_NEGATIVES: 1 - HALF}, id="missed",
        ),
        pytest.param(
            [(BALL, FIRST)], [(BALL, NOWHERE, 0.9)], 0,
            {"background": 0, "missed": 0, FALSE_POSITIVES: 0, FALSE_NEGATIVES: 0},
            id="background and missed",
        ),
    ],
)  # fmt: skip
def test_each_kind_alone_costs_what_mending_it_gains(tmp_path, annotated, found, ap50, expected):
    data = coco_data(2, ["ball", "cube"], [annotation(n, 1, *one) for n, one in enumerate(annotated, start=1)])
    metrics = evaluate_detections(write_coco(tmp_path / "val.json", data), [detection(1, *one) for one in found])
    assert metrics.ap50 == pytest.approx(ap50)
    assert tuple(metrics.errors) == (*ERRORS, FALSE_POSITIVES, FALSE_NEGATIVES)
    for name, loss in metrics.errors.items():
        assert loss == pytest.approx(expected.get(name, 0), abs=1e-9), name
    assert json.loads(json.dumps(metrics.as_json()))["errors_ap50_lost"] == metrics.errors
    assert f"{metrics.errors['missed']:.3f}" in metrics.table().split("missed")[1].splitlines()[0]


def test_crowds_are_no_error_and_nothing_annotated_gives_no_losses(tmp_path):
    data = coco_data(1, ["ball"], [annotation(1, 1, BALL, FIRST), annotation(2, 1, BALL, [200, 200, 200, 200], 1)])
    found = [detection(1, BALL, FIRST, 0.6), detection(1, BALL, [220, 220, 30, 30], 0.9)]
    errors = evaluate_detections(write_coco(tmp_path / "val.json", data), found).errors
    assert set(errors.values()) == {0}
    del data["annotations"][0]
    assert evaluate_detections(write_coco(tmp_path / "val.json", data), found).errors == {}


def test_losses_of_many_images_are_those_of_coco_without_the_errors(tmp_path):
    """Crowds, equal scores, over a hundred detections in an image; false positives can be taken out of the list."""
    data, detections = random_coco(1)
    file = write_coco(tmp_path / "val.json", data)
    metrics = evaluate_detections(file, detections)
    # Its detections stand image by image, as those of the file do.
    right = [one for one, box in zip(detections, metrics.own_matches, strict=True) if box >= 0]
    without = evaluate_detections(file, right)
    assert metrics.ap50 + metrics.errors[FALSE_POSITIVES] == pytest.approx(without.ap50)
    assert min(metrics.errors.values()) > 0, "the data must not be trivial"
    assert metrics.errors["missed"] < metrics.errors[FALSE_NEGATIVES]


# A fan of 60 degrees and 10 m fills 480 of 640 x 480 pixels, its tip in the middle below: 48 pixels a metre.
FAN = {"range": 10, "horizontal_opening_angle": 60}
POLAR = {**FAN, "range": None, "range_window": [2, 10], "projection": "polar"}


@pytest.mark.parametrize("sonar", [FAN, POLAR])
def test_rings_hold_the_objects_at_their_distance(tmp_path, sonar):
    def at(metres: float) -> list[float]:
        row = 480 - 48 * metres if sonar is FAN else 480 * (10 - metres) / 8
        return [300, row - 20, 40, 40]

    data = coco_data(2, ["ball"], [annotation(n, 1, BALL, at(m)) for n, m in enumerate((3.1, 7, 9), start=1)])
    data["annotations"].append(annotation(9, 2, BALL, FIRST))
    data["images"][0]["sonar"] = sonar  # The other image does not tell its range, so that it counts in no ring.
    found = [detection(1, BALL, at(3.1), 0.9), detection(1, BALL, at(5), 0.8), detection(1, BALL, at(7), 0.7)]
    metrics = evaluate_detections(write_coco(tmp_path / "val.json", data), found)
    rings = [tuple(ring[name] for name in ("nearest", "farthest", "boxes", "ap50", "recall")) for ring in metrics.rings]
    # The false alarm at 5 m costs nothing in other rings; where nothing is annotated there is no figure.
    assert rings == [(0, 2, 0, None, None), (2, 4, 1, 1, 1), (4, 6, 0, None, None), (6, 8, 1, 1, 1), (8, 10, 1, 0, 0)]
    assert metrics.as_json()["rings"] == metrics.rings
    (row,) = [line for line in metrics.table().splitlines() if line.startswith("6 to 8")]
    assert row.split()[3:] == ["1", "1.000", "1.000", "1.000"]
    data["images"][0]["sonar"] = {"type": "Gemini", "range": 10}  # no opening angle
    metrics = evaluate_detections(write_coco(tmp_path / "val.json", data), [])
    assert metrics.rings == [] and "rings" not in metrics.as_json() and "metres" not in metrics.table()
