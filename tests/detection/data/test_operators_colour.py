"""RandomHSV against its own computation, and what LetterResize leaves in a sample."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest

from detection.toolkit import register
from ppcls_ext.preprocess import detection as preprocess
from ppcls_ext.utils.signature import parameters_of
from tests.support.coloured_boxes import coloured_sample, seen_box
from tests.support.pictures import smooth_picture


@pytest.fixture(autouse=True)
def registered():
    register()


def apply(name: str, arguments: dict[str, Any], sample: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    from ppdet.data.reader import Compose

    np.random.seed(seed)
    return Compose([{name: arguments}])(sample)


def changed(image: np.ndarray, seed: int = 0, **arguments: float) -> np.ndarray:
    settings = {"hue": 0.0, "saturation": 0.0, "value": 0.0, **arguments}
    return apply("RandomHSV", settings, {"image": image.copy()}, seed)["image"]


def hsv(image: np.ndarray) -> np.ndarray:
    """Hue, saturation and value, 0 to 1, by Python's own formula."""
    return np.array([colorsys.rgb_to_hsv(*pixel) for pixel in (image.reshape(-1, 3) / 255.0).tolist()])


def vivid() -> np.ndarray:
    colours = [[200, 40, 40], [180, 160, 30], [40, 170, 60], [30, 90, 180], [140, 40, 170], [160, 90, 110]]
    return np.array(colours, np.uint8).reshape(2, 3, 3)


def turns(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """By how much hues were turned, -0.5 to 0.5."""
    return (hsv(after)[:, 0] - hsv(before)[:, 0] + 0.5) % 1 - 0.5


def test_the_hue_is_turned_alike_everywhere_within_its_limit():
    extremes = []
    for seed in range(60):
        after = changed(vivid(), seed, hue=0.1)
        turned = turns(vivid(), after)
        # A step of OpenCV's hue is a 180th of the circle; the rounding of dark colours adds to it.
        assert np.ptp(turned) < 0.03
        assert np.abs(turned).max() <= 0.1 + 0.015
        assert np.abs(hsv(after)[:, 1:] - hsv(vivid())[:, 1:]).max() < 0.03
        extremes.append(turned.mean())
    assert min(extremes) < -0.08 and max(extremes) > 0.08


@pytest.mark.parametrize(("name", "channel"), [("saturation", 1), ("value", 2)])
def test_saturation_and_brightness_are_multiplied_within_their_limit(name, channel):
    factors = []
    for seed in range(60):
        after = changed(vivid(), seed, **{name: 0.2})
        ratio = hsv(after)[:, channel] / hsv(vivid())[:, channel]
        assert (ratio <= 1.2 + 0.05).all() and (ratio >= 0.8 - 0.05).all()
        assert np.ptp(ratio) < 0.07
        other = 3 - channel
        assert np.abs(hsv(after)[:, other] - hsv(vivid())[:, other]).max() < 0.03
        assert np.abs(turns(vivid(), after)).max() < 0.02
        factors.append(ratio.mean())
    assert min(factors) < 0.85 and max(factors) > 1.15


def test_brightness_stops_at_white():
    image = np.full([4, 4, 3], 250, np.uint8)
    levels = {int(changed(image, seed, value=1.0).max()) for seed in range(40)}
    assert max(levels) == 255 and min(levels) < 60


def test_the_result_is_of_bytes_and_of_the_same_shape_and_repeatable():
    image = smooth_picture(3, 33, 21)
    results = [apply("RandomHSV", {}, {"image": image.copy()}, 4)["image"] for _ in range(2)]
    assert results[0].dtype == np.uint8 and results[0].shape == image.shape
    assert np.array_equal(*results)
    assert not np.array_equal(results[0], apply("RandomHSV", {}, {"image": image.copy()}, 5)["image"])
    # ppdet's flip leaves a view that runs backwards.
    assert apply("RandomHSV", {}, {"image": image[:, ::-1]})["image"].shape == image.shape


def test_grey_pictures_stay_grey_and_only_change_in_brightness():
    grey = np.arange(0, 252, 4, dtype=np.uint8).reshape(7, 9, 1).repeat(3, axis=2)
    for seed in range(20):
        after = changed(grey, seed, hue=0.5, saturation=1.0, value=0.4)
        assert np.array_equal(after[..., 0], after[..., 1]) and np.array_equal(after[..., 0], after[..., 2])
        assert np.array_equal(changed(grey, seed, hue=0.5, saturation=1.0), grey)


def test_without_limits_nothing_changes_much():
    assert np.abs(changed(vivid()).astype(int) - vivid()).max() <= 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hue": 0.6}, "hue: must be from 0 to 0.5"),
        ({"saturation": 1.1}, "saturation: must be from 0 to 1"),
        ({"value": -0.1}, "value: must be from 0 to 1"),
    ],
)
def test_limits_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        changed(vivid(), **arguments)


def test_numbers_are_refused():
    with pytest.raises(ValueError, match="RandomHSV works on bytes, got float32; let it follow Decode"):
        changed(vivid().astype(np.float32))


def test_the_letterbox_takes_the_same_arguments_in_training_and_deployment():
    from ppdet.data.transform import LetterResize

    assert parameters_of(LetterResize) == parameters_of(preprocess.LetterResize)


@pytest.mark.parametrize("size", [(50, 100), (100, 50), (20, 31), (64, 64)])
def test_the_letterbox_moves_boxes_with_the_picture(size):
    boxes = [[5, 4, 15, 14], [10, 15, 28, 19]]
    sample = apply("LetterResize", {"target_size": [96, 128]}, coloured_sample(0, *size, boxes))
    assert sample["image"].shape == (96, 128, 3)
    for box, label in zip(sample["gt_bbox"], sample["gt_class"].ravel(), strict=True):
        assert np.abs(seen_box(sample["image"], int(label)) - box).max() <= 1.01
    back = (sample["gt_bbox"] - np.tile(sample["pad"][::-1], 2)) / np.tile(sample["scale_factor"][::-1], 2)
    assert back == pytest.approx(np.array(boxes), abs=1e-4)
    assert sample["im_shape"] / sample["scale_factor"] == pytest.approx(size, abs=1e-4)
    for name in ("pad", "scale_factor", "im_shape", "gt_bbox"):
        assert sample[name].dtype == np.float32


def test_a_second_letterbox_is_refused():
    sample = apply("LetterResize", {"target_size": 32}, coloured_sample(0, 20, 30, []))
    assert sample["gt_bbox"].shape == (0, 4)
    with pytest.raises(ValueError, match="LetterResize stands twice"):
        apply("LetterResize", {"target_size": 64}, sample)


def test_a_batch_carries_the_padding_of_each_picture():
    from ppdet.data.reader import BatchCompose

    samples = [apply("LetterResize", {"target_size": 32}, coloured_sample(n, 16, 16 + 8 * n, [])) for n in range(3)]
    batch = BatchCompose([{"Permute": {}}])(samples)
    assert np.asarray(batch["pad"]).tolist() == [[0, 0], [5, 0], [8, 0]]
    assert np.asarray(batch["scale_factor"]).shape == (3, 2)
