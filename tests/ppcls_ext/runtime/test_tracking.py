"""Identities of objects from frame to frame."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ppcls_ext.runtime.tracking import PATIENCE, Tracker
from tests.support.predictors import Known, made_detector


def square(x, y=50.0, side=20.0):
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


def follow(frames, threshold=0.5):
    """Tracks frames of ``(x, score, class)``; returns the numbers of each frame."""
    tracker = Tracker([threshold] * 3)
    found = []
    for objects in frames:
        boxes = np.array([square(x) for x, _, _ in objects], np.float32).reshape(-1, 4)
        scores, labels = (np.array([one[place] for one in objects]) for place in (1, 2))
        found.append(tracker.update(boxes, scores, labels.astype(np.int64)).tolist())
    return found


def test_two_that_pass_each_other_keep_their_numbers():
    # One comes from the left, the other from the right, on top of each other in the middle; listed in changing order.
    frames = [[(5 * step, 0.9, 0), (100 - 5 * step, 0.8, 0)][:: 1 if step % 2 else -1] for step in range(21)]
    found = follow(frames)
    ordered = [numbers[:: 1 if step % 2 else -1] for step, numbers in enumerate(found)]
    assert {tuple(numbers) for numbers in ordered} == {tuple(ordered[0])}
    assert sorted(ordered[0]) == [1, 2]


def test_when_an_object_begins_and_ends():
    # A low score keeps an object but begins none; classes are not mixed; what flickers up once gets no number.
    assert follow([[(10, 0.9, 0)], [(11, 0.2, 0)], [(12, 0.05, 0)], [(13, 0.9, 0)]]) == [[1], [1], [0], [1]]
    assert follow([[(10, 0.3, 0)]] * 4) == [[0]] * 4
    assert follow([[(10, 0.9, 0)], [(10, 0.9, 1)], [(10, 0.9, 1)], [(10, 0.9, 0)]]) == [[1], [0], [2], [1]]
    still = (10, 0.9, 0)
    found = follow([[still], [still, (60, 0.9, 0)], [still], [still, (90, 0.9, 0)], [still, (91, 0.9, 0)]])
    assert found == [[1], [1, 0], [1], [1, 0], [1, 2]]


@pytest.mark.parametrize(("gap", "number"), [(PATIENCE - 1, 1), (PATIENCE + 1, 2)])
def test_an_object_is_looked_for_as_long_as_patience_lasts(gap, number):
    found = follow([[(10, 0.9, 0)]] * 3 + [[]] * gap + [[(10, 0.9, 0)]] * 2)
    assert found[-1] == [number]


def test_a_hidden_object_is_expected_where_its_way_leads():
    frames = [[(6.0 * step, 0.9, 0)] if not 10 <= step < 16 else [] for step in range(20)]
    assert follow(frames)[16:] == [[1]] * 4


def drifting():
    """One object of high score that moves on with each frame, and one of low score."""
    steps = itertools.count()

    def answer(image):
        step = next(steps)
        return [[0, 0.2 if step == 2 else 0.9, *square(20 + 3 * step)], [1, 0.15, *square(70.0)]]

    return made_detector(Known(answer))


def test_a_predictor_tracks(tmp_path):
    frames = [np.zeros([100, 100, 3], np.uint8)] * 3 + [tmp_path / "absent.png"] + [np.zeros([100, 100], np.uint8)]
    predictions = list(drifting()(iter(frames), batch_size=2, track=True))
    assert [prediction.identities is None for prediction in predictions] == [False, False, False, True, False]
    found = [prediction for prediction in predictions if prediction.error is None]
    # The known object stays when its score falls; a box of low score that shows no object is left out.
    assert [prediction.identities.tolist() for prediction in found] == [[1]] * 4
    assert [prediction.labels.tolist() for prediction in found] == [[0]] * 4
    assert found[2].scores[0] == pytest.approx(0.2)
    # Without tracking nothing changes.
    assert [(len(one.scores), one.identities) for one in drifting()(frames[:3])] == [(2, None)] * 3
    # Each call begins anew.
    again = drifting()
    for _ in range(2):
        assert again(frames[:1], track=True, threshold=0.5)[0].identities.tolist() == [1]
