"""Top-k accuracy: ties, answers that are no numbers, and more places than classes."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from classification.metrics import TopkAcc

NAN, INFINITE = float("nan"), float("inf")


def hits(topk, logits, label) -> list[float]:
    return TopkAcc(topk).hits(paddle.to_tensor(np.array(logits, "float32")), paddle.to_tensor(np.array(label))).tolist()


def test_against_sorting():
    generator = np.random.default_rng(0)
    logits, label = generator.normal(size=(200, 12)), generator.integers(0, 12, 200)
    order = np.argsort(-logits.astype("float32"), axis=1)
    expected = [float((order[:, :k] == label[:, None]).any(axis=1).sum()) for k in (1, 3, 5)]
    assert hits([1, 3, 5], logits, label) == expected


def test_names_and_a_single_k():
    assert TopkAcc(5).names == ["top5"]
    assert TopkAcc([1, 5]).names == ["top1", "top5"]
    assert hits(2, [[1, 2, 3]], [1]) == [1.0]


def test_a_model_that_answers_the_same_for_every_class_is_right_once_in_each_class():
    logits, label = np.zeros((10, 10)), np.arange(10)
    assert hits([1, 3, 10], logits, label) == [1.0, 3.0, 10.0]


def test_ties_go_to_the_lower_class():
    assert hits([1, 2], [[5, 5, 0]] * 3, [0, 1, 2]) == [1.0, 2.0]


def test_with_fewer_classes_than_places_every_image_is_right():
    assert hits([1, 5], [[0.0, 1.0], [1.0, 0.0], [-INFINITE, 1.0]], [0, 0, 0]) == [1.0, 3.0]


@pytest.mark.parametrize("row", [[NAN, 0.0, 0.0], [0.0, NAN, NAN], [1.0, NAN, 0.0], [NAN, NAN, NAN]])
def test_an_image_with_nan_among_its_scores_is_wrong_wherever_it_stands(row):
    assert hits([1, 3], [row], [0]) == [0.0, 0.0]
    assert hits([1, 3], [row, [1.0, 0.0, 0.0]], [0, 0]) == [1.0, 1.0]


def test_infinite_scores_rank_as_numbers_do():
    assert hits([1], [[INFINITE, 0.0], [-INFINITE, 0.0]], [0, 1]) == [2.0]


def test_an_empty_batch():
    assert hits([1, 5], np.zeros((0, 3)), np.zeros((0,), "int64")) == [0.0, 0.0]


def test_labels_may_stand_in_a_column():
    assert hits([1], [[1.0, 0.0], [1.0, 0.0]], [[0], [1]]) == [1.0]


def test_half_precision_logits_are_compared_as_they_are():
    logits = paddle.to_tensor([[1.0, 1.0001]]).astype("float16")
    assert TopkAcc(1).hits(logits, paddle.to_tensor([0])).tolist() == [1.0], "equal in float16: a tie"


@pytest.mark.parametrize("topk", [0, -1, [], [1, 0]])
def test_places_below_one_are_refused(topk):
    with pytest.raises(ValueError, match="^topk: must hold whole numbers of at least 1"):
        TopkAcc(topk)
