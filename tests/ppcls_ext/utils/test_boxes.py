"""Boxes on pictures: where the lines go, that labels stay inside, that a class keeps its colour."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.utils.boxes import class_colour, draw_boxes, enlarged


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


def test_the_picture_of_the_caller_is_left_alone():
    array, image = black(), Image.new("RGB", (900, 700))
    draw_boxes(array, [[10, 10, 50, 50]], ["ball"])
    draw_boxes(image, [[10, 10, 50, 50]], ["ball"])
    assert not array.any()
    assert not np.asarray(image).any()


@pytest.mark.parametrize("place", ["top left", "top right", "bottom left", "bottom right", "whole"])
def test_labels_stay_inside(place):
    corners = {
        "top left": [0, 0, 30, 20],
        "top right": [280, 0, 300, 20],
        "bottom left": [0, 190, 30, 200],
        "bottom right": [285, 185, 300, 200],
        "whole": [0, 0, 300, 200],
    }[place]
    box, scores = [corners], [0.5]
    labelled = marked(pixels(black(), box, ["circle cage"], scores, classes=[0], smallest=0), class_colour(0))
    bare = marked(pixels(black(), box, [""], classes=[0], smallest=0), class_colour(0))
    inside = labelled & ~bare
    # The label's ground: as wide as its text, and all of it in the picture.
    assert inside.sum() > 1000
    assert inside.any(axis=1).sum() >= 14
    assert inside.any(axis=0).sum() > 90


def test_labels_of_neighbours_do_not_hide_each_other():
    boxes = [[100, 80, 160, 140], [104, 84, 164, 144], [98, 78, 150, 150]]
    alone = [
        marked(pixels(black(), [box], ["ball"], classes=[number], smallest=0), class_colour(number)).sum()
        for number, box in enumerate(boxes)
    ]
    together = pixels(black(), boxes, ["ball"] * 3, classes=[0, 1, 2], smallest=0)
    for number, area in enumerate(alone):
        assert marked(together, class_colour(number)).sum() > 0.6 * area


def test_small_pictures_grow_by_whole_factors_and_large_ones_keep_their_size():
    assert draw_boxes(black(40, 32), [], []).size == (32 * 16, 40 * 16)
    assert draw_boxes(black(480, 320), [], []).size == (640, 960)
    assert draw_boxes(black(700, 900), [], []).size == (900, 700)
    assert enlarged(black(480, 320))[1] == 2
    grown = pixels(black(480, 320), [[40, 100, 80, 200]], [""], classes=[1])
    assert marked(grown, class_colour(1))[300, 80]


def test_a_class_keeps_its_colour_and_classes_differ():
    colours = [class_colour(number) for number in range(60)]
    assert len(set(colours)) == 60
    assert min(max(colour) for colour in colours) >= 200, "too dark for sonar frames"
    one = pixels(black(), [[10, 50, 90, 90]], [""], classes=[3], smallest=0)
    two = pixels(black(), [[10, 50, 90, 90], [150, 50, 190, 90]], ["", ""], classes=[3, 0], smallest=0)
    assert np.array_equal(one[:, :120], two[:, :120])


def test_the_strong_detection_lies_on_top():
    picture = pixels(black(), [[50, 50, 150, 150]] * 2, ["", ""], scores=[0.9, 0.2], classes=[0, 1], smallest=0)
    assert marked(picture, class_colour(0))[100, 50]


def test_a_broken_line_has_gaps():
    whole, broken = (
        marked(pixels(black(), [[50, 50, 250, 150]], [""], classes=[0], dashed=[dashed], smallest=0), class_colour(0))
        for dashed in (False, True)
    )
    assert 0.3 * whole.sum() < broken.sum() < 0.75 * whole.sum()


def test_boxes_are_clipped_and_those_outside_left_out():
    partly = pixels(black(), [[250, 100, 900, 900]], [""], classes=[0], smallest=0)
    assert marked(partly, class_colour(0))[150, 299]
    assert not pixels(black(), [[400, 10, 500, 50], [10, -50, 20, -5]], ["a", "b"], smallest=0).any()


def test_grey_and_tiny_pictures_and_zero_areas():
    assert pixels(np.zeros((50, 60), np.uint8), [[5, 5, 5, 5]], ["echo"]).any()
    assert draw_boxes(np.zeros((1, 1, 3), np.uint8), [[0, 0, 1, 1]], ["a long name of a class"]).size == (16, 16)


@pytest.mark.parametrize(
    ("boxes", "options", "message"),
    [
        ([[0, 0, 5, 5]], {"labels": []}, "labels: 0 for 1 boxes"),
        ([[0, 0, 5, 5]], {"labels": ["a"], "scores": [1, 1]}, "scores: 2 for 1 boxes"),
        ([[0, 0, 5]], {"labels": ["a"]}, r"boxes: need \[N, 4\], not \[1, 3\]"),
        ([[0, 0, float("nan"), 5]], {"labels": ["a"]}, "finite"),
    ],
)
def test_mistakes_of_the_caller(boxes, options, message):
    with pytest.raises(ValueError, match=message):
        draw_boxes(black(), boxes, **options)


def test_an_image_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="uint8"):
        draw_boxes(np.zeros((5, 5, 3)), [], [])
