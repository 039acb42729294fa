"""Mosaics and random perspectives: boxes stay around what they were drawn around, and vanish when it does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detection.operators import RandomPerspective
from detection.toolkit import register
from tests.support.coloured_boxes import GROUND, coloured_sample, seen_box

WILD = {"degrees": 25.0, "translate": 0.2, "scale": 0.5, "shear": 10.0, "perspective": 0.3}


@pytest.fixture(autouse=True)
def registered():
    register()


def apply(name: str, arguments: dict[str, Any], sample: Any, seed: int = 0) -> dict[str, Any]:
    from ppdet.data.reader import Compose

    np.random.seed(seed)
    return Compose([{name: arguments}])(sample)


def four(spare: int = 1) -> list[dict[str, Any]]:
    """Samples of different shapes, each with one box of its own class, and what ppdet hands over besides."""
    shapes = [(120, 160), (160, 100), (90, 200), (64, 64), (50, 50)]
    boxes = [[30, 20, 90, 80], [20, 40, 70, 120], [80, 20, 140, 70], [16, 16, 48, 48], [5, 5, 30, 30]]
    return [coloured_sample(number, *shapes[number], [boxes[number]], [number]) for number in range(4 + spare)]


def check_boxes(sample: dict[str, Any], tightness: float | None) -> int:
    """Checks every box against the colour of its class; returns how many there were.

    Args:
        sample: with at most one box of each class.
        tightness: how far a box may reach beyond the colour, in pixels; ``None`` if it may because it was turned.
    """
    labels = sample["gt_class"].ravel().tolist()
    assert len(set(labels)) == len(labels) == len(sample["gt_bbox"]) == len(sample["is_crowd"])
    height, width = sample["image"].shape[:2]
    for box, label in zip(sample["gt_bbox"], labels, strict=True):
        seen = seen_box(sample["image"], label)
        assert seen is not None, "a box around nothing"
        assert (box >= -1e-3).all() and (box <= np.array([width, height, width, height]) + 1e-3).all()
        # Half a pixel at the edge may be a mixture of two colours; what was resized before, a little more.
        assert (seen[:2] >= box[:2] - 1.01).all() and (seen[2:] <= box[2:] + 1.01).all(), (seen, box)
        if tightness is not None:
            assert np.abs(seen - box).max() <= tightness, (seen, box)
    return len(labels)


@pytest.mark.parametrize(("arguments", "tightness"), [({}, 2.01), (WILD, None)])
def test_boxes_of_a_mosaic_bound_what_they_are_drawn_around(arguments, tightness):
    for seed in range(6):
        sample = apply("MosaicPerspective", {"target_size": [192, 256], **arguments}, four(), seed)
        assert sample["image"].shape == (192, 256, 3) and sample["image"].dtype == np.uint8
        assert sample["gt_bbox"].dtype == np.float32
        check_boxes(sample, tightness)


@pytest.mark.parametrize(("arguments", "tightness"), [({"translate": 0.3}, 1.51), (WILD, None)])
def test_boxes_of_a_moved_picture_bound_what_they_are_drawn_around(arguments, tightness):
    for seed in range(6):
        sample = coloured_sample(0, 96, 128, [[10, 10, 40, 50], [60, 30, 100, 90], [100, 5, 125, 20]])
        check_boxes(apply("RandomPerspective", arguments, sample, seed), tightness)


def test_mosaics_show_parts_of_all_four_and_of_no_fifth_picture():
    counts = np.zeros(5, int)
    for seed in range(30):
        sample = apply("MosaicPerspective", {"target_size": 192}, four(), seed)
        counts += np.bincount(sample["gt_class"].ravel(), minlength=5)
        for label in range(4):
            seen = seen_box(sample["image"], label)
            boxed = label in sample["gt_class"]
            # What is left of an object has a box, unless it is less than a tenth; the largest has 144 x 144 pixels.
            assert boxed or seen is None or (seen[2:] - seen[:2]).prod() < 0.11 * 144**2
    assert (counts[:4] > 10).all() and counts[4] == 0


def test_one_sample_is_letterboxed_and_not_moved():
    sample = apply("MosaicPerspective", {"target_size": [128, 128], **WILD}, four()[1])
    assert sample["image"].shape == (128, 128, 3)
    # 160 x 100 becomes 128 x 80, with 24 columns on either side.
    assert sample["gt_bbox"] == pytest.approx(np.array([[40, 32, 80, 96]]))
    assert (sample["image"][:, :24] == 114).all() and (sample["image"][:, 104:] == 114).all()
    assert check_boxes(sample, tightness=1.01) == 1
    assert "pad" not in sample


def test_the_fill_is_black_for_sonar_and_grey_else():
    for arguments, colour in (({}, [114, 114, 114]), ({"fill_value": [0, 0, 0]}, [0, 0, 0])):
        for seed in range(2):
            shrunk = {"translate": 0.0, "scale": 0.0, **arguments}
            samples = [coloured_sample(n, 20, 200, []) for n in range(5)]
            image = apply("MosaicPerspective", {"target_size": 100, **shrunk}, samples, seed)["image"]
            levels = {tuple(value) for value in np.unique(image.reshape(-1, 3), axis=0).tolist()}
            assert levels == {tuple(colour), (GROUND,) * 3}
            shift = {"translate": 1.0, "scale": 0.0, **arguments}
            image = apply("RandomPerspective", shift, coloured_sample(0, 40, 40, []), seed)["image"]
            assert any((corner == colour).all() for corner in image[[0, 0, -1, -1], [0, -1, 0, -1]])


def test_pictures_without_boxes_take_part_and_crowds_stay_crowds():
    samples = four()
    samples[0] = coloured_sample(0, 100, 100, [])
    samples[1]["is_crowd"][:] = 1
    for seed in range(20):
        sample = apply("MosaicPerspective", {"target_size": 192}, [dict(each) for each in samples], seed)
        assert np.array_equal(sample["is_crowd"], (sample["gt_class"] == 1).astype(np.int32))
        assert set(sample["gt_class"].ravel().tolist()) <= {1, 2, 3}
    empty = apply("MosaicPerspective", {"target_size": 192}, [coloured_sample(n, 50, 60, []) for n in range(5)])
    assert empty["gt_bbox"].shape == (0, 4) and empty["gt_class"].shape == (0, 1) and empty["is_crowd"].shape == (0, 1)
    alone = apply("MosaicPerspective", {"target_size": 64}, coloured_sample(0, 50, 60, []))
    assert alone["gt_bbox"].shape == (0, 4)


def test_what_is_cut_off_vanishes_by_its_share_and_its_sides():
    # Shifted by exactly 30 columns: 10 of 40 columns remain of the first box, a column of the second.
    sample = coloured_sample(0, 50, 100, [[0, 10, 40, 40], [20, 0, 31, 5]])
    matrix = np.array([[1.0, 0, -30], [0, 1, 0], [0, 0, 1]])

    def kept(**options: float) -> list[int]:
        operator = RandomPerspective(**options)
        operator.draw_motion = lambda source, target: matrix
        return operator(dict(sample))["gt_class"].ravel().tolist()

    assert kept(least_share=0.2, least_side=1.0) == [0]
    assert kept(least_share=0.05, least_side=0.5) == [0, 1]
    assert kept(least_share=0.05, least_side=2.0) == [0]
    assert kept(least_share=0.3, least_side=1.0) == []


def test_what_cannot_be_put_together_is_refused():
    with pytest.raises(ValueError, match="MosaicPerspective wants 4 samples, got 2: set mosaic_epoch only"):
        apply("MosaicPerspective", {"target_size": 64}, four()[:2])
    samples = four()
    samples[2]["gt_poly"] = [[[1, 2, 3, 4, 5, 6]]]
    with pytest.raises(ValueError, match="MosaicPerspective moves boxes only, the sample has 'gt_poly'"):
        apply("MosaicPerspective", {"target_size": 64}, samples)
    with pytest.raises(ValueError, match="RandomPerspective moves boxes only"):
        apply("RandomPerspective", {}, samples[2])
