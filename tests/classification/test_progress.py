"""Where a run stands: means over batches, the best epoch, and states that survive JSON bit for bit."""

from __future__ import annotations

import json
import random

import numpy as np
import paddle
import pytest

from classification.progress import EpochSums, RunProgress, random_states, restore_random_states


def test_means_weigh_batches_by_their_images():
    sums = EpochSums()
    sums.add(loss=1.0, hits=3.0, images=4)
    sums.add(loss=4.0, hits=0.5, images=2)
    sums.seconds = 3.0
    assert sums.mean() == {"loss": 2.0, "top1": 3.5 / 6, "images_per_second": 2.0, "seconds": 3.0}


def test_an_epoch_without_a_batch_divides_by_nothing():
    assert EpochSums().mean()["loss"] == 0.0


@pytest.mark.parametrize(
    ("plain", "averaged", "weights", "best"),
    [(0.5, None, "model", 0.5), (0.5, 0.7, "ema", 0.7), (0.7, 0.5, "model", 0.7), (0.6, 0.6, "ema", 0.6)],
)
def test_the_better_weights_are_the_ones_that_count(plain, averaged, weights, best):
    progress = RunProgress()
    record = {"epoch": 4, "eval": {"top1": plain}}
    if averaged is not None:
        record["ema"] = {"top1": averaged}
    assert progress.note_best(record, "top1")
    assert (progress.evaluated_weights, progress.best_metric, progress.best_epoch) == (weights, best, 4)


def test_the_first_of_equal_epochs_stays_the_best():
    progress = RunProgress()
    outcomes = [progress.note_best({"epoch": epoch, "eval": {"top1": value}}, "top1")
                for epoch, value in enumerate([0.0, 0.5, 0.5, 0.4, 0.6], start=1)]  # fmt: skip
    assert outcomes == [True, True, False, False, True]
    assert progress.best_epoch == 5


def test_json_round_trip_keeps_every_bit():
    progress = RunProgress(
        epoch=3, step=7, updates=31, best_metric=0.1 + 0.2, best_epoch=2, evaluated_weights="ema",
        sums=EpochSums(loss=1 / 3, hits=2 / 7, images=9, seconds=0.1),
        history=[{"epoch": 1, "train": {"loss": 2 / 3}}], bad_images=["ä.jpg"],
    )  # fmt: skip
    state = json.loads(json.dumps({**progress.to_json(), "arch": {"name": "other keys are left alone"}}))
    assert RunProgress.from_json(state) == progress


def test_random_states_survive_json_and_repeat_the_same_numbers():
    random.seed(1)
    np.random.seed(2)
    np.random.normal()
    states = json.loads(json.dumps(random_states()))
    expected = [random.random(), *np.random.normal(size=3)]
    random.seed(9)
    np.random.seed(9)
    restore_random_states(states)
    assert [random.random(), *np.random.normal(size=3)] == expected


def test_paddles_seed_is_restored():
    paddle.seed(1234)
    states = random_states()
    expected = paddle.rand([3]).numpy()
    paddle.seed(99)
    restore_random_states(states)
    assert np.array_equal(paddle.rand([3]).numpy(), expected)
