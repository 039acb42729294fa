"""What is drawn can be measured: where boxes and labels lie, that a class keeps its colour, predictions on cards."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.utils.drawing import (
    DESK,
    FAINT,
    RIGHT,
    TRACK,
    UNKNOWN,
    WRONG,
    Card,
    class_colour,
    draw_boxes,
    draw_card,
    draw_sheet,
    enlarged,
)


def pixels(*arguments, **options) -> np.ndarray:
    return np.asarray(draw_boxes(*arguments, **options))


def black(height: int = 200, width: int = 300) -> np.ndarray:
    return np.zeros((height, width, 3), dtype=np.uint8)


def marked(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture == colour).all(axis=2)


def test_lines_follow_the_corners():
    picture = pixels(black(), [[60, 80, 200, 150]], ["tyre"], classes=[2], smallest=0)
    marks = marked(picture, class_colour(2))
    assert picture.shape == (200, 300, 3)
    for y, x in ((80, 130), (150, 130), (115, 60), (115, 200)):
        assert marks[y, x]
    assert not picture[90:140, 70:190].any(), "the target itself must stay visible"


@pytest.mark.parametrize("corners", [[285, 185, 300, 200], [0, 0, 300, 200]])
def test_labels_stay_inside(corners):
    labelled = marked(pixels(black(), [corners], ["circle cage"], [0.5], classes=[0], smallest=0), class_colour(0))
    bare = marked(pixels(black(), [corners], [""], classes=[0], smallest=0), class_colour(0))
    inside = labelled & ~bare
    # The label's ground: as wide as its text, and all of it in the picture.
    assert inside.sum() > 1000 and inside.any(axis=1).sum() >= 14 and inside.any(axis=0).sum() > 90


def test_small_pictures_grow_by_whole_factors_and_large_ones_keep_their_size():
    assert draw_boxes(black(40, 32), [], []).size == (32 * 16, 40 * 16)
    assert draw_boxes(black(480, 320), [], []).size == (640, 960)
    assert draw_boxes(black(700, 900), [], []).size == (900, 700)
    assert enlarged(black(480, 320))[1] == 2


def test_a_class_keeps_its_colour_and_classes_differ():
    colours = [class_colour(number) for number in range(60)]
    assert len(set(colours)) == 60
    assert min(max(colour) for colour in colours) >= 200, "too dark for sonar frames"
    one = pixels(black(), [[10, 50, 90, 90]], [""], classes=[3], smallest=0)
    two = pixels(black(), [[10, 50, 90, 90], [150, 50, 190, 90]], ["", ""], classes=[3, 0], smallest=0)
    assert np.array_equal(one[:, :120], two[:, :120])


def test_boxes_are_clipped_and_those_outside_left_out():
    partly = pixels(black(), [[250, 100, 900, 900]], [""], classes=[0], smallest=0)
    assert marked(partly, class_colour(0))[150, 299]
    assert not pixels(black(), [[400, 10, 500, 50], [10, -50, 20, -5]], ["a", "b"], smallest=0).any()

    assert pixels(np.zeros((50, 60), np.uint8), [[5, 5, 5, 5]], ["echo"]).any(), "a box without area"


def _count(picture, colour):
    return int((np.asarray(picture) == np.array(colour, dtype=np.uint8)).all(axis=-1).sum())


def _card(truth=None, side=(64, 64), scores=(0.75, 0.25), labels=("cube", "ball")):
    image = np.full((*side, 3), 77, dtype=np.uint8)
    return Card(image, "picture.png", list(labels), list(scores), truth)


def test_a_card_shows_right_and_wrong_by_colour_and_the_probability_by_length():
    for truth, colour in (("cube", RIGHT), ("ball", WRONG), (None, UNKNOWN)):
        picture = draw_card(_card(truth))
        assert [other for other in (RIGHT, WRONG, UNKNOWN) if _count(picture, other) > 500] == [colour]
    first, second, track = (_count(picture, colour) for colour in (UNKNOWN, FAINT, TRACK))
    assert first == pytest.approx(3 * second, rel=0.02)
    assert track == pytest.approx(first / 3 + 3 * second, rel=0.02)


def test_extreme_shapes_fit():
    for side in ((30, 3000), (1, 1)):
        picture = draw_card(_card(side=side))
        assert picture.width <= 1300 and picture.height <= 1500


def test_a_sheet_shows_every_card_in_a_grid_and_cuts_long_names():
    long = _card("w" * 300, labels=("w" * 300, "ω" * 200))
    sheet = draw_sheet([long, _card()], title="t" * 500)
    assert (np.asarray(sheet)[:, -8:] == np.array(DESK, dtype=np.uint8)).all()
    cards = [_card() for _ in range(7)]
    sheet = draw_sheet(cards, title="seven")
    one = _count(draw_sheet(cards[:1]), (77, 77, 77))
    assert _count(sheet, (77, 77, 77)) == 7 * one
    with pytest.raises(ValueError, match="cards"):
        draw_sheet([])
