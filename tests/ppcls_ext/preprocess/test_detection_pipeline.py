"""Sources of images, wrong lists of operators and unusable images of the pipeline that detectors are deployed with."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.preprocess import ImageError
from ppcls_ext.preprocess.detection import build_detection_pipeline
from ppcls_ext.utils.errors import ConfigError
from tests.support.image_files import image_files
from tests.support.pictures import smooth_picture

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


@pytest.mark.parametrize(
    ("operators", "message"),
    [
        (
            [{"Rezise": {"target_size": 3, "keep_ratio": True}}, {"Permute": {}}],
            r"here\[0\]: unknown operator 'Rezise' \(did you mean 'Resize'\?\)",
        ),
        ([{"Resize": {"target_size": 32}}, {"Permute": {}}], r"here\[0\].Resize: missing argument 'keep_ratio'"),
        (
            [{"Resize": {"target_size": 32, "keepratio": True}}],
            r"unknown argument 'keepratio' \(did you mean 'keep_ratio'",
        ),
        ([{"Resize": {"target_size": [0, 3], "keep_ratio": True}}], r"here\[0\].Resize: target_size: must be"),
        ([{"Resize": {"target_size": 3, "keep_ratio": True, "interp": 9}}], "interp: must be from 0 to 4"),
        ([{"NormalizeImage": {"std": [1, 0, 1]}}], "std: must be three numbers other than zero"),
        ([{"NormalizeImage": {"mean": [1]}}], "mean: must be three numbers"),
        ([{"Pad": {"size": 32, "pad_mode": 1}}], "pad_mode: must be 0"),
        ([{"SonarEnhance": {"method": "clache"}}], r"did you mean 'clahe'"),
        (
            [*OPERATORS[:1], OPERATORS[2], OPERATORS[1], *OPERATORS[3:]],
            r"here\[2\]: SonarEnhance must stand before Resize",
        ),
        (OPERATORS[:-1], "here: Permute is missing"),
        ("Decode", "here: expected a list of operators"),
    ],
)
def test_wrong_lists(operators, message):
    with pytest.raises(ConfigError, match=message):
        build_detection_pipeline(operators, "here")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", r"^frame 3: the file is empty"),
        (b"no image at all", r"^frame 3: is not an image"),
        (image_files()["png"][:200], "^frame 3: "),
        (image_files(400, 300)["jpeg"][:2000], "^frame 3: "),
        (np.zeros([8, 8], np.uint8), r"^frame 3: expected uint8 \[H, W, 3\], got uint8 \[8, 8\]"),
        (np.zeros([8, 8, 3], np.float32), r"^frame 3: expected uint8 \[H, W, 3\], got float32"),
        (np.zeros([0, 8, 3], np.uint8), "^frame 3: expected uint8"),
    ],
)
def test_unusable_images_are_named(image, message):
    with pytest.raises(ImageError, match=message):
        build_detection_pipeline(OPERATORS)(image, "frame 3")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"nowhere\.png: the file does not exist"):
        build_detection_pipeline(OPERATORS)(tmp_path / "nowhere.png")


def test_images_that_do_not_fit_are_named():
    keep = [{"Resize": {"target_size": 16, "keep_ratio": True}}, {"Permute": {}}]
    with pytest.raises(ImageError, match="^strip: 900x1 pixels cannot be resized"):
        build_detection_pipeline(keep)(np.zeros([1, 900, 3], np.uint8), "strip")
    with pytest.raises(ImageError, match="^large: Pad to 16x16 does not hold 20x10 pixels"):
        build_detection_pipeline([{"Pad": {"size": 16}}, {"Permute": {}}])(np.zeros([10, 20, 3], np.uint8), "large")


def test_images_of_any_size_pass():
    pipeline = build_detection_pipeline(OPERATORS)
    for height, width in ((1, 1), (1, 500), (333, 2)):
        assert pipeline(np.zeros([height, width, 3], np.uint8)).pixels.shape == (3, 32, 48)
