"""The letterbox against a computation of its own: where the picture lies, its pixels, and the way back for boxes."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.preprocess.detection import LetterResize, build_detection_pipeline
from ppcls_ext.utils.errors import ConfigError
from tests.support.pictures import smooth_picture

NORMALIZE = {"NormalizeImage": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "norm_type": "none"}}
PERMUTE = {"Permute": {}}


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes by hand: pixel centres are half a pixel from the edge, and the border is repeated."""
    picture = image.astype(np.float64)
    for axis, size in ((0, height), (1, width)):
        old = picture.shape[axis]
        place = ((np.arange(size) + 0.5) * old / size - 0.5).clip(0, old - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, old - 1)
        weight = (place - low).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
        picture = picture.take(low, axis) * (1 - weight) + picture.take(high, axis) * weight
    return picture


CASES = [
    # height, width of the picture; target; height, width, top, left of the picture in the result
    ((40, 80), (64, 64), (32, 64, 16, 0)),  # shrinks
    ((80, 40), (64, 64), (64, 32, 0, 16)),
    ((10, 20), (64, 64), (32, 64, 16, 0)),  # grows
    ((33, 64), (64, 64), (33, 64, 15, 0)),  # an odd number of rows is added: the bottom gets the one more
    ((64, 61), (64, 64), (64, 61, 0, 1)),
    ((100, 70), (96, 160), (96, 67, 0, 46)),  # a target that is not square
    ((1, 1), (32, 48), (32, 32, 0, 8)),
    ((1, 3), (32, 32), (11, 32, 10, 0)),
    ((2, 500), (32, 32), (1, 32, 15, 0)),  # nothing would remain of it otherwise
    ((64, 64), (64, 64), (64, 64, 0, 0)),
]


@pytest.mark.parametrize(("size", "target", "place"), CASES)
def test_the_picture_lies_in_the_middle_and_the_rest_is_filled(size, target, place):
    image = smooth_picture(3, size[1], size[0])
    operator = LetterResize(list(target), [7, 80, 200])
    result = operator(image)
    height, width, top, left = place
    assert operator.placement(*size) == place
    assert result.shape == (*target, 3) and result.dtype == np.uint8
    inner = result[top : top + height, left : left + width]
    assert np.abs(inner - bilinear(image, height, width)).max() <= 1.01
    outside = np.ones(target, bool)
    outside[top : top + height, left : left + width] = False
    assert (result[outside] == [7, 80, 200]).all()


def test_without_enlarging_small_pictures_are_only_padded():
    image = smooth_picture(3, 20, 10)
    operator = LetterResize(64, upscale=False)
    result = operator(image)
    assert operator.placement(10, 20) == (10, 20, 27, 22)
    assert np.array_equal(result[27:37, 22:42], image)
    assert (result[:27] == 114).all()
    assert operator.placement(128, 20) == (64, 10, 0, 27)


@pytest.mark.parametrize("size", [(40, 80), (77, 31), (10, 13), (1, 3)])
def test_boxes_are_taken_back_to_the_picture(size):
    """A bright rectangle is painted into the picture; where it is seen in the input leads back to where it was."""
    image = np.zeros([*size, 3], np.uint8)
    top, left, bottom, right = size[0] // 4, size[1] // 3, max(size[0] * 3 // 4, 1), max(size[1] * 2 // 3, 1)
    image[top:bottom, left:right] = 255
    operators = [{"LetterResize": {"target_size": [96, 128], "fill_value": [0, 0, 0]}}, NORMALIZE, PERMUTE]
    prepared = build_detection_pipeline(operators)(image)
    rows, columns = np.nonzero(prepared.pixels[0] > 0.5)
    seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
    found = (seen - prepared.pad[[1, 0, 1, 0]]) / prepared.scale_factor[[1, 0, 1, 0]]
    half_a_pixel = 0.5 / prepared.scale_factor.min() + 1e-4
    assert found == pytest.approx([left, top, right, bottom], abs=half_a_pixel)
    assert prepared.pad.dtype == np.float32
    assert prepared.im_shape / prepared.scale_factor == pytest.approx(size)


def test_pictures_that_are_not_letterboxed_have_no_padding():
    resize = {"Resize": {"target_size": 32, "keep_ratio": False}}
    prepared = build_detection_pipeline([resize, NORMALIZE, PERMUTE])(smooth_picture(1, 40, 30))
    assert prepared.pad.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_size": 0}, "target_size: must be a positive number"),
        ({"target_size": [32, 32, 3]}, "target_size: must be"),
        ({"target_size": 32, "fill_value": [1, 2]}, "fill_value: must be three whole numbers from 0 to 255"),
        ({"target_size": 32, "fill_value": [1, 2, 256]}, "fill_value: must be three whole numbers"),
        ({"target_size": 32, "fill_value": [1, 2, -1]}, "fill_value: must be three whole numbers"),
        ({"target_size": 32, "interp": 5}, "interp: must be from 0 to 4"),
        ({"target_size": 32, "fil_value": [0, 0, 0]}, "unknown argument 'fil_value'.*did you mean 'fill_value'"),
        ({}, "missing argument 'target_size'"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ConfigError, match=message):
        build_detection_pipeline([{"LetterResize": arguments}, PERMUTE])


LETTER = {"LetterResize": {"target_size": 32}}


@pytest.mark.parametrize(
    ("operators", "message"),
    [
        ([LETTER, {"Resize": {"target_size": 32, "keep_ratio": False}}], r"here\[1\]: Resize cannot follow"),
        ([LETTER, {"Pad": {"size": 64}}], r"here\[1\]: Pad cannot follow LetterResize, which gives the final size"),
        ([LETTER, LETTER], r"here\[1\]: LetterResize cannot follow LetterResize"),
        ([NORMALIZE, LETTER], r"here\[1\]: LetterResize must stand before NormalizeImage"),
        ([LETTER, {"SonarEnhance": {}}], r"here\[1\]: SonarEnhance must stand before LetterResize"),
    ],
)
def test_orders_that_would_move_boxes(operators, message):
    with pytest.raises(ConfigError, match=message):
        build_detection_pipeline([*operators, PERMUTE], "here")
