"""Learning rates, against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from classification.schedules import SCHEDULES, ConstLR, Cosine, Linear, MultiStepDecay, Piecewise, Step

EPOCHS, STEPS = 8, 2


def rates(schedule, count: int = EPOCHS * STEPS) -> list[float]:
    return [schedule.rate_at(step) for step in range(count)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Linear(learning_rate=0.4, end_lr=0.1).over(4, 1), [0.4, 0.325, 0.25, 0.175, 0.1]),
        (Linear(learning_rate=0.4, by_epoch=True).over(4, 2), [0.4, 0.4, 0.3, 0.3, 0.2, 0.2, 0.1, 0.1]),
        (Cosine(learning_rate=0.4, eta_min=0.2).over(4, 1), [0.4, 0.3 + 0.1 * math.sqrt(0.5), 0.3]),
        (Step(learning_rate=1.0, step_size=2, gamma=0.5).over(6, 1), [1, 1, 0.5, 0.5, 0.25, 0.25]),
        (MultiStepDecay(learning_rate=1.0, milestones=[1, 4]).over(6, 1), [1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        (Piecewise(decay_epochs=[1, 4], values=[0.3, 0.2, 0.1]).over(6, 1), [0.3, 0.2, 0.2, 0.2, 0.1, 0.1]),
        (ConstLR(learning_rate=0.2).over(6, 1), [0.2] * 6),
        (ConstLR(learning_rate=0.5, warmup_epoch=2, warmup_start_lr=0.1).over(8, 2), [0.1, 0.2, 0.3, 0.4, 0.5, 0.5]),
    ],
)
def test_rates_by_hand(schedule, expected):
    assert rates(schedule, len(expected)) == pytest.approx(expected, abs=1e-12)


def test_steps_count_from_the_end_of_the_warm_up():
    """As in PaddleClas: a ResNet with 5 epochs of warm-up and ``decay_epochs: [30]`` drops at epoch 35."""
    for schedule in (
        Step(learning_rate=1.0, step_size=3, gamma=0.5, warmup_epoch=2).over(8, 3),
        MultiStepDecay(learning_rate=1.0, milestones=[3], gamma=0.5, warmup_epoch=2).over(8, 3),
        Piecewise(decay_epochs=[3], values=[1.0, 0.5], warmup_epoch=2).over(8, 3),
    ):
        assert [schedule.rate_at(step) for step in (5 * 3 - 1, 5 * 3)] == pytest.approx([1.0, 0.5])


def test_no_steps_and_no_epochs_after_the_warm_up_do_not_divide_by_zero():
    assert math.isfinite(Cosine(learning_rate=0.1).over(1, 0).rate_at(0))
    assert Cosine(learning_rate=0.1, eta_min=0.01, warmup_epoch=1).over(1, 1).rate_at(1) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("MultiStepDecay", {"learning_rate": 1.0, "milestones": [3, 2]}, "must rise"),
        ("Piecewise", {"decay_epochs": [2], "values": [1.0]}, "values: needs one entry more"),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        SCHEDULES[name](**arguments)


def test_a_warm_up_that_does_not_fit_takes_half_of_the_run_and_is_told():
    schedule = Cosine(learning_rate=0.5, warmup_epoch=2).over(3, 5)
    assert schedule.notes() == [
        "Optimizer.lr.warmup_epoch: 10 steps of warm-up are more than half of this run (15 steps): shortened to 8"
    ]
    assert schedule.rate_at(8) == 0.5
    assert Cosine(learning_rate=0.5, warmup_epoch=2).over(4, 5).notes() == []


def test_every_rate_is_scaled():
    given = Cosine(learning_rate=0.4, eta_min=0.1, warmup_epoch=1, warmup_start_lr=0.2).over(4, 5)
    half = given.over(4, 5, 0.5)
    assert [half.rate_at(step) for step in range(21)] == [given.rate_at(step) / 2 for step in range(21)]
    steps = Piecewise(decay_epochs=[1], values=[0.4, 0.2]).over(2, 1, 2.0)
    assert [steps.rate_at(step) for step in range(2)] == [0.8, 0.4]
