"""Pictures of predictions: what is drawn can be measured."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.utils.pictures import DESK, FAINT, RIGHT, TRACK, UNKNOWN, WRONG, Card, draw_card, draw_sheet


def _count(picture, colour):
    return int((np.asarray(picture) == np.array(colour, dtype=np.uint8)).all(axis=-1).sum())


def _card(truth=None, side=(64, 64), scores=(0.75, 0.25), labels=("cube", "ball")):
    image = np.full((*side, 3), 77, dtype=np.uint8)
    return Card(image, "picture.png", list(labels), list(scores), truth)


@pytest.mark.parametrize(("truth", "colour"), [("cube", RIGHT), ("ball", WRONG), (None, UNKNOWN)])
def test_the_first_class_is_green_when_right_and_red_when_wrong(truth, colour):
    picture = draw_card(_card(truth))
    for other in (RIGHT, WRONG, UNKNOWN):
        assert (_count(picture, other) > 500) == (other == colour)


def test_bars_are_as_long_as_the_probability():
    picture = draw_card(_card())
    first, second, track = (_count(picture, colour) for colour in (UNKNOWN, FAINT, TRACK))
    assert first == pytest.approx(3 * second, rel=0.02)
    assert track == pytest.approx(first / 3 + 3 * second, rel=0.02)


def test_tiny_pictures_are_enlarged_with_sharp_pixels():
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    image[::2, ::2] = 255
    picture = np.asarray(draw_card(Card(image, "tiny.png", ["a"], [1.0])))[10:330, 10:330]
    assert set(np.unique(picture)) == {0, 255}
    assert (picture[:40, :40] == 255).all()
    assert (picture[:40, 40:80] == 0).all()


@pytest.mark.parametrize("side", [(30, 3000), (2000, 20), (1, 1), (97, 131)])
def test_extreme_shapes_fit(side):
    picture = draw_card(_card(side=side))
    assert picture.width <= 1300
    assert picture.height <= 1500
    sheet = draw_sheet([_card(side=side)])
    assert _count(sheet, (77, 77, 77)) > 100


def test_long_names_are_cut_and_stay_inside():
    long = _card("w" * 300, labels=("w" * 300, "ω" * 200))
    sheet = draw_sheet([long, _card()], title="t" * 500)
    right_edge = np.asarray(sheet)[:, -8:]
    assert (right_edge == np.array(DESK, dtype=np.uint8)).all()


def test_a_sheet_shows_every_card_in_a_grid():
    cards = [_card() for _ in range(7)]
    sheet = draw_sheet(cards, title="seven")
    one = _count(draw_sheet(cards[:1]), (77, 77, 77))
    assert _count(sheet, (77, 77, 77)) == 7 * one
    assert 0.5 < sheet.width / sheet.height < 3
    with pytest.raises(ValueError, match="cards"):
        draw_sheet([])
