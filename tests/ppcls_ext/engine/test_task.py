"""Where a run stands: means over batches, the best epoch, and states that survive JSON bit for bit."""

from __future__ import annotations

import json

import pytest

from ppcls_ext.engine.task import UNDEFINED, EpochSums, RunProgress, StepResult
from ppcls_ext.utils.errors import UserError


def test_means_weigh_batches_and_an_epoch_without_a_batch_divides_by_nothing():
    sums = EpochSums()
    assert sums.mean() == {"images_per_second": 0.0, "seconds": 0.0}
    sums.add(StepResult(1.0, {"loss": 4.0, "top1": 3.0}, 4, 4, {}, 0.1))
    sums.add(StepResult(4.0, {"loss": 8.0, "top1": 0.5}, 2, 2, {}, 0.1))
    sums.seconds = 3.0
    assert sums.mean() == {"loss": 2.0, "top1": 3.5 / 6, "images_per_second": 2.0, "seconds": 3.0}


def test_processes_add_their_sums(monkeypatch):
    monkeypatch.setattr("ppcls_ext.engine.task.sum_over_ranks", lambda values, world_size: world_size * values)
    both = EpochSums({"loss": 4.0, "top1": 3.0}, weight=4, images=4, seconds=2.0).over_ranks(2)
    assert both == EpochSums({"loss": 8.0, "top1": 6.0}, weight=8, images=8, seconds=2.0)
    assert both.share_of(2) == EpochSums({"loss": 4.0, "top1": 3.0}, weight=4, images=4, seconds=2.0)


def test_the_better_weights_are_the_ones_that_count():
    for plain, averaged, weights, best in ((0.5, 0.7, "ema", 0.7), (0.7, 0.5, "model", 0.7), (0.6, 0.6, "ema", 0.6)):
        progress = RunProgress()
        assert progress.note_best({"epoch": 4, "eval": {"top1": plain}, "ema": {"top1": averaged}}, "top1")
        assert (progress.evaluated_weights, progress.best_metric, progress.best_epoch) == (weights, best, 4)


def test_the_best_epoch_is_chosen_anew_by_another_metric_that_the_history_has():
    figures = {1: {"eval": {"top1": 0.2, "top5": 0.5}}, 2: {}, 3: {"eval": {"top1": 0.1, "top5": 0.6}}}
    history = [{"epoch": epoch, **record} for epoch, record in figures.items()]
    progress = RunProgress(history=history, best_metric=0.2, best_epoch=1)
    for metric, best in (("top1", (0.2, 1)), ("top5", (0.6, 3))):
        progress.choose_best(metric, "checkpoint")
        assert (progress.best_metric, progress.best_epoch) == best
    with pytest.raises(UserError, match="^checkpoint: was not evaluated by top3, by which the best epoch"):
        progress.choose_best("top3", "checkpoint")


@pytest.mark.parametrize("averaged", [False, True])
def test_of_epochs_without_a_metric_the_last_is_the_best(averaged):
    progress = RunProgress()

    def note(epoch: int, value: float | None) -> bool:
        ema = {"ema": {"AP": value}} if averaged else {}
        return progress.note_best({"epoch": epoch, "eval": {"AP": value}, **ema}, "AP")

    assert [note(1, None), note(2, None)] == [True, True]
    assert (progress.best_epoch, progress.best_metric) == (2, UNDEFINED)
    progress = RunProgress.from_json(json.loads(json.dumps(progress.to_json())))
    # A figure is better than none, and stays so.
    assert [note(3, None), note(4, 0.0), note(5, None), note(6, 0.1)] == [True, True, False, True]
    assert progress.best_epoch == 6
    # Where nothing was right yet, the later epoch has learnt more.
    progress = RunProgress()
    assert [note(1, 0.0), note(2, 0.0), note(3, 0.2), note(4, 0.2)] == [True, True, True, False]


def test_json_round_trip_keeps_every_bit():
    progress = RunProgress(
        epoch=3, step=7, updates=31, best_metric=0.1 + 0.2, best_epoch=2, evaluated_weights="ema",
        history=[{"epoch": 1, "train": {"loss": 2 / 3}}],
        sums=EpochSums({"loss": 1 / 3, "top1": 0.1 + 0.7}, 56, 56, 2.3),
    )  # fmt: skip
    state = json.loads(json.dumps({**progress.to_json(), "arch": {"name": "other keys are left alone"}}))
    assert RunProgress.from_json(state) == progress
    # As earlier versions wrote the sums of classifiers, of pretraining and of detectors.
    of_classifier = {"loss": 0.3, "hits": 2.0, "images": 56, "seconds": 2.3, "parts": {"loss_kd": 0.1}}
    for sums, kind, expected in (
        (of_classifier, None, EpochSums({"loss": 0.3, "loss_kd": 0.1, "top1": 2.0}, 56, 56, 2.3)),
        (of_classifier, "Masked", EpochSums({"loss": 0.3, "loss_kd": 0.1}, 56, 56, 2.3)),
        ({"loss": 0.0, "hits": 0.0, "images": 0, "seconds": 0.0, "parts": {}}, None, EpochSums()),
        ({"losses": {"loss": 0.3}, "batches": 7, "images": 56, "seconds": 2.3}, None,
         EpochSums({"loss": 0.3}, 7, 56, 2.3)),
    ):  # fmt: skip
        assert RunProgress.from_json({**state, "sums": sums, "pretraining": kind}).sums == expected
