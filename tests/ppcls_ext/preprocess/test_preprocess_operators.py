"""Operators of inference: PaddleClas's arguments and results."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ppcls_ext.preprocess import ImageError, build_pipeline
from ppcls_ext.preprocess.operators import CropImage, DecodeImage, NormalizeImage, ResizeImage
from ppcls_ext.utils.errors import ConfigError

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (37, 61, 3), dtype=np.uint8)


def test_resizing(image: np.ndarray) -> None:
    assert ResizeImage(resize_short=20)(image).shape == (20, round(61 * 20 / 37), 3)
    assert ResizeImage(size=16)(image).shape == (16, 16, 3)
    # Pillow is antialiased.
    expected = np.asarray(Image.fromarray(image).resize((12, 9), Image.Resampling.BICUBIC))
    assert np.array_equal(ResizeImage(size=[12, 9], interpolation="bicubic", backend="pil")(image), expected)
    expected = cv2.resize(image, (12, 9), interpolation=cv2.INTER_AREA)
    assert np.array_equal(ResizeImage(size=[12, 9], interpolation="area")(image), expected)
    assert np.array_equal(CropImage(size=[21, 17])(image), image[10:27, 20:41])


@pytest.mark.parametrize("order", ["hwc", "chw"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_normalize_is_scale_mean_std(image: np.ndarray, order: str, dtype: type) -> None:
    expected = (image.astype(np.float64) / 255.0 - MEAN) / STD
    source = image.astype(dtype)
    if order == "chw":
        source, expected = source.transpose(2, 0, 1), expected.transpose(2, 0, 1)
    before = source.copy()
    result = NormalizeImage(scale=1.0 / 255.0, mean=MEAN, std=STD, order=order)(source)
    assert result.dtype == np.float32
    assert result.shape == expected.shape
    assert np.array_equal(source, before)
    np.testing.assert_allclose(result, expected, atol=2e-6)
    half = NormalizeImage(order=order, output_fp16=True)(source)
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, expected, atol=4e-3)


def test_decode_bgr_and_channel_first(image: np.ndarray) -> None:
    assert np.array_equal(DecodeImage(to_rgb=False)(image), image[:, :, ::-1])
    assert np.array_equal(DecodeImage(channel_first=True)(image), image.transpose(2, 0, 1))


OPERATIONS = [
    {"DecodeImage": {"to_rgb": True, "channel_first": False}},
    {"ResizeImage": {"resize_short": 32, "interpolation": "bicubic", "backend": "pil"}},
    {"CropImage": {"size": 28}},
    {"NormalizeImage": {"scale": "1.0/255.0", "mean": MEAN, "std": STD, "order": ""}},
    {"ToCHWImage": None},
]


def test_pipeline_takes_paths_bytes_and_arrays(tmp_path: Path, image: np.ndarray) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(image).save(path)
    pipeline = build_pipeline(OPERATIONS, "Infer.transforms")
    results = [pipeline(source) for source in (path, str(path), path.read_bytes(), image)]
    assert pipeline.channel_first
    assert (results[0].shape, results[0].dtype) == ((3, 28, 28), np.float32)
    assert all(np.array_equal(results[0], result) for result in results)


def test_pipeline_errors_name_the_picture(image: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"^small\.png: CropImage cannot cut 99x99 out of 61x37"):
        build_pipeline([{"CropImage": {"size": 99}}], "t")(image, "small.png")


def test_all_problems_of_a_list_are_reported_with_their_places() -> None:
    operations = [
        {"ResizeImage": {"sise": 3, "interpolation": "bicubik", "size": 4}},
        {"CropImag": {"size": 3}},
        {"CropImage": {}},
        {"CropImage": {"size": -1}},
        {"A": {}, "B": {}},
    ]
    with pytest.raises(ConfigError) as caught:
        build_pipeline(operations, "Infer.transforms")
    expected = (
        "[0].ResizeImage: unknown argument 'sise'", "[0].ResizeImage.interpolation: ",
        "[1]: unknown operator 'CropImag' (did you mean 'CropImage'?)", "[2].CropImage: missing argument 'size'",
        "[3].CropImage: size: must be", "[4]: expected one entry",
    )  # fmt: skip
    for problem, start in zip(caught.value.problems, expected, strict=True):
        assert problem.startswith(f"Infer.transforms{start}")
