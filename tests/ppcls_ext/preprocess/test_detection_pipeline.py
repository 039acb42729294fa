"""The pipeline that detectors are deployed with: sources, the letterbox, mistakes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ppcls_ext.preprocess import ImageError
from ppcls_ext.preprocess.detection import LetterResize, build_detection_pipeline
from ppcls_ext.utils.errors import ConfigError
from tests.support.image_files import image_files
from tests.support.pictures import smooth_picture

NORMALIZE = {"NormalizeImage": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "norm_type": "none"}}
PERMUTE = {"Permute": {}}


CASES = [
    # height, width of the picture; target; height, width, top, left of the picture in the result
    ((40, 80), (64, 64), (32, 64, 16, 0)),  # shrinks
    ((10, 20), (64, 64), (32, 64, 16, 0)),  # grows
    ((33, 64), (64, 64), (33, 64, 15, 0)),  # an odd number of rows is added: the bottom gets the one more
    ((100, 70), (96, 160), (96, 67, 0, 46)),  # a target that is not square
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
    assert np.array_equal(inner, cv2.resize(image, (width, height)))
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


OPERATORS = [
    {"Decode": {}},
    {"SonarEnhance": {"method": "equalize"}},
    {"Resize": {"target_size": [32, 48], "keep_ratio": False, "interp": 2}},
    {"NormalizeImage": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "is_scale": True}},
    {"Permute": {}},
]


def test_paths_bytes_and_arrays_give_the_same(tmp_path):
    pipeline = build_detection_pipeline(OPERATORS)
    data = image_files()["png"]
    path = tmp_path / "frame.png"
    path.write_bytes(data)
    pixels = smooth_picture(4, 53, 38)
    expected = pipeline(data)
    assert expected.pixels.shape == (3, 32, 48)
    assert (expected.height, expected.width) == (38, 53)
    assert expected.scale_factor == pytest.approx([32 / 38, 48 / 53])
    assert expected.im_shape.tolist() == [32, 48]
    for image in (path, str(path), pixels):
        assert np.array_equal(pipeline(image).pixels, expected.pixels)


LETTER, RESIZE = {"LetterResize": {"target_size": 32}}, {"Resize": {"target_size": 32, "keep_ratio": False}}


@pytest.mark.parametrize(
    ("operators", "message"),
    [
        ([{"Rezise": {}}], r"here\[0\]: unknown operator 'Rezise' \(did you mean 'Resize'\?\)"),
        ([{"LetterResize": {"fil_value": [0, 0, 0]}}], "unknown argument 'fil_value'.*did you mean 'fill_value'"),
        ([{"NormalizeImage": {"std": [1, 0, 1]}}], "std: must be three numbers other than zero"),
        ([{"SonarEnhance": {"method": "clache"}}], "did you mean 'clahe'"),
        ([RESIZE, {"SonarEnhance": {}}, PERMUTE], r"here\[1\]: SonarEnhance must stand before Resize"),
        ([LETTER, RESIZE, PERMUTE], r"here\[1\]: Resize cannot follow LetterResize, which gives the final size"),
        ([RESIZE], "here: Permute is missing"),
        ("Decode", "here: expected a list of"),
    ],
)
def test_wrong_lists(operators, message):
    with pytest.raises(ConfigError, match=message):
        build_detection_pipeline(operators, "here")


def test_unusable_images_are_named():
    for image, message in (
        (b"", r"^frame 3: the file is empty"),
        (image_files(400, 300)["jpeg"][:2000], "^frame 3: "),
        (np.zeros([8, 8, 2], np.uint8), r"^frame 3: is an array of uint8 and shape \[8, 8, 2\], but arrays must be"),
    ):
        with pytest.raises(ImageError, match=message):
            build_detection_pipeline(OPERATORS)(image, "frame 3")
