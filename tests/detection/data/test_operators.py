"""Operators of ours in ppdet's readers."""

from __future__ import annotations

import numpy as np
import pytest

from detection.toolkit import register
from ppcls_ext.preprocess import sonar
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.signature import parameters_of


@pytest.fixture(autouse=True)
def registered():
    register()


def sample_with(boxes: int) -> dict:
    return {
        "image": np.zeros([3, 8, 8], np.float32),
        "gt_bbox": np.zeros([boxes, 4], np.float32),
        "gt_class": np.ones([boxes, 1], np.int32),
    }


@pytest.mark.parametrize("counts", [(2, 1), (0, 3), (0, 0)])
def test_readers_give_labels_of_64_bits(counts):
    from ppdet.data.reader import BatchCompose

    batch = BatchCompose([{"PadGT": {}}, {"LabelsToInt64": {}}])([sample_with(count) for count in counts])
    assert np.asarray(batch["gt_class"]).dtype == np.int64
    # Without any box there is one that the mask hides: the toolkit's assigners fail on none.
    boxes = max(*counts, 1)
    assert np.asarray(batch["gt_class"]).shape == (2, boxes, 1)
    assert np.asarray(batch["gt_bbox"]).shape == (2, boxes, 4)
    assert np.asarray(batch["pad_gt_mask"]).sum(axis=(1, 2)).tolist() == list(counts)


def test_batches_without_labels_pass():
    from ppdet.data.reader import BatchCompose

    batch = BatchCompose([{"LabelsToInt64": {}}])([{"image": np.zeros([3, 8, 8], np.float32)}])
    assert set(batch) == {"image"}


def test_registration_may_be_repeated_but_replaces_nothing(monkeypatch):
    from ppdet.data import transform
    from ppdet.data.transform.operators import BaseOperator

    register()
    assert transform.LabelsToInt64 is BaseOperator.LabelsToInt64

    monkeypatch.setattr(BaseOperator, "LabelsToInt64", type("LabelsToInt64", (), {}))
    with pytest.raises(UserError, match="already has another image operator 'LabelsToInt64'"):
        register()


def frame(height: int = 40, width: int = 56) -> np.ndarray:
    image = np.zeros([height, width, 3], np.uint8)
    image[:, :, 1] = np.random.default_rng(5).integers(0, 30, (height, width))
    image[8:20, 30:50, 1] = 60
    return image


def transformed(operators: list[dict], sample: dict) -> dict:
    from ppdet.data.reader import Compose

    return Compose(operators)(sample)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"method": "gamma", "gamma": 0.4},
        {"method": "log", "channel": "green"},
        {"method": "equalize"},
        {"method": "clahe", "clip_limit": 4.0, "tile_grid": [4, 3]},
    ],
)
def test_training_enhances_as_deployment_does(arguments):
    expected = sonar.SonarEnhance(**arguments)(frame())
    assert np.array_equal(transformed([{"SonarEnhance": arguments}], {"image": frame()})["image"], expected)


def test_enhancing_takes_the_same_arguments_in_training_and_deployment():
    from ppdet.data.transform import SonarEnhance

    assert parameters_of(SonarEnhance) == parameters_of(sonar.SonarEnhance)


def test_enhancing_behind_other_operators_is_refused():
    with pytest.raises(ValueError, match="SonarEnhance works on bytes, got float32; let it follow Decode"):
        transformed([{"Resize": {"target_size": 16, "keep_ratio": False}}, {"SonarEnhance": {}}], {"image": frame()})


def boxes() -> np.ndarray:
    return np.array([[30, 8, 50, 20], [0, 0, 5.5, 40]], np.float32)


def flipped(seed: int = 0, **arguments: object) -> dict:
    np.random.seed(seed)
    return transformed([{"SonarFlip": arguments}], {"image": frame(), "gt_bbox": boxes()})


def test_horizontal_flip_is_that_of_ppdet():
    for seed in range(8):
        ours = flipped(seed, prob=0.5, axis="horizontal")
        np.random.seed(seed)
        theirs = transformed([{"RandomFlip": {"prob": 0.5}}], {"image": frame(), "gt_bbox": boxes()})
        assert np.array_equal(ours["image"], theirs["image"])
        assert np.array_equal(ours["gt_bbox"], theirs["gt_bbox"])


def test_vertical_flip_is_the_horizontal_one_turned():
    turned = {"image": frame().transpose(1, 0, 2), "gt_bbox": boxes()[:, [1, 0, 3, 2]]}
    expected = transformed([{"RandomFlip": {"prob": 1.0}}], turned)
    sample = flipped(prob=1, axis="vertical")
    assert np.array_equal(sample["image"], expected["image"].transpose(1, 0, 2))
    assert np.array_equal(sample["gt_bbox"], expected["gt_bbox"][:, [1, 0, 3, 2]])


def test_each_flip_mirrors_one_axis_only():
    rows = np.arange(40, dtype=np.uint8)[:, None, None].repeat(56, 1).repeat(3, 2)
    sideways = transformed([{"SonarFlip": {"prob": 1.0, "axis": "horizontal"}}], {"image": rows.copy()})
    assert np.array_equal(sideways["image"], rows)
    down = transformed([{"SonarFlip": {"prob": 1.0, "axis": "vertical"}}], {"image": rows.copy()})
    assert np.array_equal(down["image"], rows[::-1])
    for seed in range(8):
        assert np.array_equal(flipped(seed, prob=1.0, axis="none")["image"], frame())


@pytest.mark.parametrize("axis", ["horizontal", "vertical"])
def test_flips_as_often_as_asked_from_the_global_generator(axis):
    np.random.seed(1)
    count = sum(
        "flipped" in transformed([{"SonarFlip": {"prob": 0.25, "axis": axis}}], {"image": frame()}) for _ in range(400)
    )
    assert 70 <= count <= 130
    assert np.array_equal(flipped(7, axis=axis)["image"], flipped(7, axis=axis)["image"])


def test_frames_without_boxes_are_flipped():
    for axis in ("horizontal", "vertical"):
        sample = {"image": frame(), "gt_bbox": np.zeros([0, 4], np.float32), "gt_poly": []}
        assert transformed([{"SonarFlip": {"prob": 1.0, "axis": axis}}], sample)["gt_bbox"].shape == (0, 4)


def test_vertical_flip_refuses_what_it_would_leave_behind():
    sample = {"image": frame(), "gt_bbox": boxes(), "gt_poly": [None, [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7, 8]]]}
    with pytest.raises(ValueError, match="SonarFlip with axis: vertical moves boxes only, the sample has 'gt_poly'"):
        transformed([{"SonarFlip": {"prob": 1.0, "axis": "vertical"}}], sample)


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        ({"SonarFlip": {"prob": 1.5}}, "prob: must be from 0 to 1"),
        ({"SonarFlip": {"axis": "x"}}, "axis: must be horizontal, vertical or none"),
        ({"SonarEnhance": {"method": "x"}}, "method: must be one of"),
    ],
)
def test_arguments_out_of_range(operator, message):
    with pytest.raises(ValueError, match=message):
        transformed([operator], {"image": frame()})
