"""The assigner against a brute-force version, and what it must leave out."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from detection import toolkit
from ppcls_ext.utils.errors import UserError
from tests.support.yolov10 import make_batch, slow_assignment

SIDE = 64
STRIDES = (8, 16, 32)
CLASSES = 3


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    toolkit.register()


def grid() -> np.ndarray:
    """Centres of the cells of a picture of 64 x 64 pixels, ``[84, 2]``."""
    cells = [(step, row, column) for step in STRIDES for row in range(SIDE // step) for column in range(SIDE // step)]
    return np.array([((column + 0.5) * step, (row + 0.5) * step) for step, row, column in cells], dtype="float32")


def predictions(generator: np.random.Generator, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores ``[N, 84, 3]`` and boxes around the anchors ``[N, 84, 4]``."""
    points = grid()
    scores = generator.uniform(0.001, 1, (images, len(points), CLASSES)).astype("float32")
    reach = generator.uniform(2, 30, (images, len(points), 4)).astype("float32")
    return scores, np.concatenate([points - reach[..., :2], points + reach[..., 2:]], axis=-1)


def random_objects(generator: np.random.Generator, number: int) -> list[tuple[Any, int]]:
    corners = generator.uniform(0, 50, (number, 2))
    far = np.minimum(corners + generator.uniform(1, 50, (number, 2)), SIDE)
    boxes = np.concatenate([corners, far], axis=1).astype("float32")
    return [(tuple(box.tolist()), int(generator.integers(CLASSES))) for box in boxes]


def assign(scores: np.ndarray, boxes: np.ndarray, batch: dict[str, paddle.Tensor], most: int) -> list[dict]:
    """Anchors of each image with their box, class and score."""
    from detection.yolov10.assigner import YOLOv10Assigner, objects_of

    points = grid()
    found = YOLOv10Assigner().assign(
        paddle.to_tensor(scores), paddle.to_tensor(boxes), paddle.to_tensor(points), objects_of(batch), most
    )
    images: list[dict] = [{} for _ in scores]
    columns = (found.positive, found.boxes, found.labels, found.scores)
    for flat, box, label, score in zip(*(column.numpy() for column in columns), strict=True):
        images[flat // len(points)][flat % len(points)] = (tuple(box.tolist()), int(label), float(score))
    return images


def check(scores: np.ndarray, boxes: np.ndarray, shown: list[list[tuple[Any, int]]], most: int) -> list[dict]:
    """Compares both versions; returns what they found."""
    found = assign(scores, boxes, make_batch(shown), most)
    for image, objects in enumerate(shown):
        expected = slow_assignment(scores[image], boxes[image], grid(), objects, most)
        assert found[image].keys() == expected.keys()
        for anchor, (number, score) in expected.items():
            assert found[image][anchor][:2] == objects[number]
            assert found[image][anchor][2] == pytest.approx(score, rel=2e-4)
    return found


@pytest.mark.parametrize("most", [10, 1])
@pytest.mark.parametrize("seed", range(4))
def test_random_boxes_are_assigned_as_by_brute_force(seed: int, most: int) -> None:
    generator = np.random.default_rng(seed)
    shown = [random_objects(generator, number) for number in (6, 0, 1, 12)]
    found = check(*predictions(generator, len(shown)), shown, most)
    assert found[1] == {}
    assert len(found[3]) > 3


def test_many_boxes_that_are_compared_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    from detection.yolov10 import assigner

    monkeypatch.setattr(assigner, "PAIRS_AT_ONCE", 200)
    generator = np.random.default_rng(9)
    check(*predictions(generator, 1), [random_objects(generator, 9)], 10)


def test_an_anchor_that_two_boxes_want_goes_to_the_one_that_it_overlaps_more() -> None:
    scores, boxes = predictions(np.random.default_rng(0), 1)
    scores[:] = 0.5
    boxes[:] = (0.0, 0.0, 2.0, 2.0)
    # Only one anchor, at (20, 20), predicts something that overlaps either box.
    boxes[0, 18] = (10.0, 10.0, 30.0, 30.0)
    assert grid()[18].tolist() == [20.0, 20.0]
    far, near = ((6.0, 6.0, 40.0, 40.0), 1), ((11.0, 10.0, 31.0, 30.0), 2)
    for shown in ([far, near], [near, far]):
        found = check(scores, boxes, [shown], 1)
        assert [value[:2] for value in found[0].values()] == [near]


def test_of_equals_the_first_anchor_and_the_first_box_win() -> None:
    scores, boxes = predictions(np.random.default_rng(0), 1)
    scores[:] = 0.5
    boxes[:] = (8.0, 8.0, 40.0, 40.0)
    twin = (8.0, 8.0, 40.0, 40.0)
    found = check(scores, boxes, [[(twin, 1), (twin, 2)]], 3)
    inside = [anchor for anchor, (x, y) in enumerate(grid()) if 8 < x < 40 and 8 < y < 40]
    assert sorted(found[0]) == inside[:3]
    assert {value[1] for value in found[0].values()} == {1}


def test_a_box_between_the_anchors_gets_none() -> None:
    scores, boxes = predictions(np.random.default_rng(0), 1)
    assert check(scores, boxes, [[((5.0, 5.0, 7.0, 7.0), 0)]], 10) == [{}]


def test_a_centre_on_the_edge_is_outside() -> None:
    scores, boxes = predictions(np.random.default_rng(0), 1)
    boxes[:] = (12.0, 12.0, 19.0, 19.0)
    # (12, 12) is the centre of one anchor, (16, 16) of another.
    found = check(scores, boxes, [[((12.0, 12.0, 19.0, 19.0), 0)]], 10)
    assert [grid()[anchor].tolist() for anchor in found[0]] == [[16.0, 16.0]]


def test_boxes_without_area_padding_and_crowds_are_left_out() -> None:
    scores, boxes = predictions(np.random.default_rng(3), 2)
    kept = ((10.0, 10.0, 50.0, 50.0), 1)
    shown = [
        [((20.0, 20.0, 20.0, 20.0), 0), ((12.0, 4.0, 12.0, 60.0), 0), kept, ((0.0, 0.0, 64.0, 64.0), 2)],
        [((0.0, 0.0, 64.0, 64.0), 2)],
    ]
    batch = make_batch(shown)
    crowd = np.zeros((2, 4, 1), np.int32)
    crowd[0, 3] = crowd[1, 0] = 1
    batch["is_crowd"] = paddle.to_tensor(crowd)
    found = assign(scores, boxes, batch, 10)
    assert found == assign(scores, boxes, make_batch([[kept], []]), 10)
    assert found[0] and not found[1]
    assert {value[:2] for value in found[0].values()} == {kept}


@pytest.mark.parametrize("boxes", [0, 1])
def test_batches_without_any_box(boxes: int) -> None:
    scores, predicted = predictions(np.random.default_rng(3), 2)
    batch = make_batch([[], []])
    # PadGT leaves no row at all, LabelsToInt64 one that is hidden.
    batch = {name: value if name == "image" else value[:, :boxes] for name, value in batch.items()}
    assert assign(scores, predicted, batch, 10) == [{}, {}]


def test_a_reader_without_padding_is_named() -> None:
    from detection.yolov10.assigner import objects_of

    batch = make_batch()
    del batch["pad_gt_mask"]
    with pytest.raises(UserError, match="TrainReader: .*'pad_gt_mask'.*PadGT"):
        objects_of(batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"one_to_many": 0}, "one_to_many: "), ({"one_to_one": True}, "one_to_one: "), ({"beta": -1}, "beta: ")],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    from detection.yolov10.assigner import YOLOv10Assigner

    with pytest.raises(ValueError, match=message):
        YOLOv10Assigner(**arguments)
