"""Long, narrow pictures: what is cut away is not computed, and what would be too large is refused in one line."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from ppcls_ext.preprocess import OPERATORS, ImageError, build_pipeline
from ppcls_ext.preprocess.decode import TooManyPixelsError
from ppcls_ext.preprocess.detection import DETECTION_OPERATORS, build_detection_pipeline
from ppcls_ext.preprocess.operators import CropImage, ResizeImage, tell_crops, with_limit
from ppcls_ext.utils.errors import ConfigError
from tests.support.pictures import smooth_picture


def resized_and_cropped(image: np.ndarray, crop: list[int], told: bool, **arguments: Any) -> np.ndarray:
    operators = [ResizeImage(**arguments), CropImage(crop)]
    if told:
        tell_crops(operators)
    return operators[1](operators[0](image))


@pytest.mark.parametrize("size", [(20000, 2), (2, 20000)])
@pytest.mark.parametrize("backend", ["cv2", "pil"])
def test_only_what_the_crop_keeps_is_computed(size: tuple[int, int], backend: str) -> None:
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[:, :, 1] = 200
    operators = [{"ResizeImage": {"resize_short": 256, "backend": backend}}, {"CropImage": {"size": 224}}]
    tracemalloc.start()
    result = build_pipeline(operators, "here")(image)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.shape == (224, 224, 3)
    assert (result == (0, 200, 0)).all()
    assert most < 20e6


@pytest.mark.parametrize("backend", ["cv2", "pil"])
@pytest.mark.parametrize("turned", [False, True])
def test_the_part_is_that_of_the_whole(backend: str, turned: bool) -> None:
    """4003 x 10 becomes 89,667 x 224, just above the number of pixels from which the crop comes first."""
    image, crop = np.random.default_rng(3).integers(0, 256, (10, 4003, 3), dtype=np.uint8), [224, 31]
    if turned:
        image, crop = np.ascontiguousarray(image.transpose(1, 0, 2)), crop[::-1]
    arguments = {"resize_short": 224, "interpolation": "bilinear", "backend": backend}
    part, whole = (resized_and_cropped(image, crop, told, **arguments) for told in (True, False))
    assert part.shape == whole.shape == (crop[1], crop[0], 3)
    assert np.abs(part.astype(int) - whole).max() <= 2
    assert whole.std() > 30


def test_pictures_of_usual_shapes_are_the_same_bit_for_bit() -> None:
    for width, height in ((640, 480), (480, 640), (3000, 40), (224, 224)):
        image = smooth_picture(width, width, height)
        part, whole = (resized_and_cropped(image, [224, 200], told, resize_short=256) for told in (True, False))
        assert np.array_equal(part, whole)


def test_the_limit_is_an_argument() -> None:
    image = np.zeros((10, 400, 3), np.uint8)
    message = r"^strip: would be resized to \d+ x \d+ pixels; at most 64 megapixels are made \(max_megapixels.*\)$"
    with pytest.raises(TooManyPixelsError, match=message):
        build_pipeline([{"ResizeImage": {"resize_short": 256}}], "here")(np.zeros((20000, 2, 3), np.uint8), "strip")
    resize = {"resize_short": 100, "max_megapixels": 0.4}
    assert build_pipeline([{"ResizeImage": resize}], "here")(image).shape == (100, 4000, 3)
    with pytest.raises(ImageError, match="would be resized to 4000 x 100 pixels; at most 0.3 megapixels"):
        build_pipeline([{"ResizeImage": resize | {"max_megapixels": 0.3}}], "here")(image)
    with pytest.raises(ConfigError, match="size: 9000 x 9000 pixels are above max_megapixels, 64"):
        build_pipeline([{"ResizeImage": {"size": 9000}}], "here")


def test_an_option_sets_the_limit_of_all_operators_that_resize() -> None:
    letter = [{"LetterResize": {"target_size": 9000}}, {"Permute": {}}]
    with pytest.raises(ConfigError, match="target_size: 9000 x 9000 pixels are above max_megapixels, 64"):
        build_detection_pipeline(letter, "here")
    build_detection_pipeline(with_limit(letter, 100, DETECTION_OPERATORS), "here")
    operators = [{"DecodeImage": {}}, {"ResizeImage": {"resize_short": 256}}, {"ToCHWImage": None}, "ToCHWImage"]
    changed = with_limit(operators, 2.5, OPERATORS)
    assert changed == [operators[0], {"ResizeImage": {"resize_short": 256, "max_megapixels": 2.5}}, *operators[2:]]
    assert with_limit(operators, None, OPERATORS) is operators
    malformed = [{"A": {}, "B": {}}, {"ResizeImage": [3]}, [3]]
    assert with_limit(malformed, 2.5, OPERATORS) == malformed


@pytest.mark.parametrize("size", [(20000, 2), (2, 20000)])
def test_detectors(size: tuple[int, int]) -> None:
    """With the ratio kept nothing is left of the short side; a letterbox leaves a pixel."""
    image = np.full((size[1], size[0], 3), 255, np.uint8)
    keep = [{"Resize": {"target_size": 64, "keep_ratio": True}}, {"Permute": {}}]
    with pytest.raises(ImageError, match=rf"^strip: has {size[0]} x {size[1]} pixels, of which resizing by 0.0032"):
        build_detection_pipeline(keep)(image, "strip")
    for operator in ({"LetterResize": {"target_size": 64}}, {"Resize": {"target_size": 64, "keep_ratio": False}}):
        assert build_detection_pipeline([operator, {"Permute": {}}])(image).pixels.shape == (3, 64, 64)
