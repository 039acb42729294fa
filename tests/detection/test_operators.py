"""Operators of ours in ppdet's readers: labels, sonar, colours against Python's own formula, the letterbox."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest

from detection.toolkit import register
from ppcls_ext.preprocess import detection as preprocess
from ppcls_ext.preprocess import sonar
from ppcls_ext.utils.signature import parameters_of
from tests.support.coloured_boxes import coloured_sample, seen_box
from tests.support.pictures import smooth_picture


@pytest.fixture(autouse=True)
def registered():
    register()


def sample_with(boxes: int) -> dict:
    labels = np.ones([boxes, 1], np.int32)
    return {"image": np.zeros([3, 8, 8], np.float32), "gt_bbox": np.zeros([boxes, 4], np.float32), "gt_class": labels}


@pytest.mark.parametrize("counts", [(2, 1), (0, 0)])
def test_readers_give_labels_of_64_bits(counts):
    from ppdet.data.reader import BatchCompose

    batch = BatchCompose([{"PadGT": {}}, {"LabelsToInt64": {}}])([sample_with(count) for count in counts])
    assert np.asarray(batch["gt_class"]).dtype == np.int64
    # Without any box there is one that the mask hides: the toolkit's assigners fail on none.
    boxes = max(*counts, 1)
    assert np.asarray(batch["gt_class"]).shape == (2, boxes, 1)
    assert np.asarray(batch["gt_bbox"]).shape == (2, boxes, 4)
    assert np.asarray(batch["pad_gt_mask"]).sum(axis=(1, 2)).tolist() == list(counts)


def frame(height: int = 40, width: int = 56) -> np.ndarray:
    image = np.zeros([height, width, 3], np.uint8)
    image[:, :, 1] = np.random.default_rng(5).integers(0, 30, (height, width))
    image[8:20, 30:50, 1] = 60
    return image


def transformed(operators: list[dict], sample: dict) -> dict:
    from ppdet.data.reader import Compose

    return Compose(operators)(sample)


def apply(name: str, arguments: dict[str, Any], sample: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    np.random.seed(seed)
    return transformed([{name: arguments}], sample)


@pytest.mark.parametrize(
    "arguments", [{}, {"method": "log", "channel": "green"}, {"method": "clahe", "tile_grid": [4, 3]}]
)
def test_training_enhances_as_deployment_does(arguments):
    expected = sonar.SonarEnhance(**arguments)(frame())
    assert np.array_equal(transformed([{"SonarEnhance": arguments}], {"image": frame()})["image"], expected)


def test_operators_take_the_same_arguments_in_training_and_deployment():
    from ppdet.data.transform import LetterResize, Resize, SonarEnhance

    assert parameters_of(SonarEnhance) == parameters_of(sonar.SonarEnhance)
    assert parameters_of(LetterResize) == parameters_of(preprocess.LetterResize)
    assert parameters_of(Resize) == parameters_of(preprocess.Resize)


@pytest.mark.parametrize("name", ["SonarEnhance", "RandomHSV"])
def test_numbers_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} works on bytes, got float32; let it follow Decode"):
        transformed([{"Resize": {"target_size": 16, "keep_ratio": False}}, {name: {}}], {"image": frame()})


def boxes() -> np.ndarray:
    return np.array([[30, 8, 50, 20], [0, 0, 5.5, 40]], np.float32)


def flipped(seed: int = 0, **arguments: object) -> dict:
    return apply("SonarFlip", arguments, {"image": frame(), "gt_bbox": boxes()}, seed)


def test_flips_are_those_of_ppdet_the_vertical_one_turned():
    for seed in range(4):
        ours = flipped(seed, prob=0.5, axis="horizontal")
        theirs = apply("RandomFlip", {"prob": 0.5}, {"image": frame(), "gt_bbox": boxes()}, seed)
        assert np.array_equal(ours["image"], theirs["image"])
        assert np.array_equal(ours["gt_bbox"], theirs["gt_bbox"])
    turned = {"image": frame().transpose(1, 0, 2), "gt_bbox": boxes()[:, [1, 0, 3, 2]]}
    expected = transformed([{"RandomFlip": {"prob": 1.0}}], turned)
    sample = flipped(prob=1, axis="vertical")
    assert np.array_equal(sample["image"], expected["image"].transpose(1, 0, 2))
    assert np.array_equal(sample["gt_bbox"], expected["gt_bbox"][:, [1, 0, 3, 2]])
    count = sum("flipped" in flipped(seed, prob=0.25, axis="vertical") for seed in range(400))
    assert 70 <= count <= 130
    assert np.array_equal(flipped(7, prob=1.0, axis="none")["image"], frame())


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


@pytest.mark.parametrize("channel", [0, 1, 2], ids=["hue", "saturation", "value"])
def test_hue_saturation_and_value_change_alike_everywhere_within_their_limits(channel):
    changes = []
    for seed in range(30):
        limit = 0.2 if channel else 0.1
        after = changed(vivid(), seed, **{("hue", "saturation", "value")[channel]: limit})
        before = hsv(vivid())
        # A step of OpenCV's hue is a 180th of the circle; the rounding of dark colours adds to it.
        change = hsv(after)[:, channel] / before[:, channel] - 1 if channel else turns(vivid(), after)
        assert np.ptp(change) < 0.07 and np.abs(change).max() <= limit + 0.05
        others = [other for other in (1, 2) if other != channel]
        assert np.abs(hsv(after)[:, others] - before[:, others]).max() < 0.03
        assert channel == 0 or np.abs(turns(vivid(), after)).max() < 0.02
        changes.append(change.mean() / limit)
    assert min(changes) < -0.75 and max(changes) > 0.75


def test_colours_are_repeatable_and_views_are_taken():
    # ppdet's flip leaves a view that runs backwards.
    image = smooth_picture(3, 33, 21)[:, ::-1]
    one, same, other = (apply("RandomHSV", {}, {"image": image.copy()}, seed)["image"] for seed in (4, 4, 5))
    assert one.dtype == np.uint8 and np.array_equal(one, same) and not np.array_equal(one, other)
    assert np.array_equal(apply("RandomHSV", {}, {"image": image}, 4)["image"], one)


@pytest.mark.parametrize("size", [(50, 100), (20, 31)])
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
