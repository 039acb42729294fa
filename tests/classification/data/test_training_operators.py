"""Training operators: geometry, colour arithmetic against Pillow, and PaddleClas's arguments."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from classification.data import colour as photometric
from classification.data import geometry
from classification.data.colour import TimmAutoAugment, changes
from classification.data.geometry import Pad, RandCropImage, RandFlipImage, affine, resize_antialiased, rotation
from classification.data.operators import TRAIN_OPERATORS, RandomErasing
from ppcls_ext.preprocess import ImageError, build_operators
from ppcls_ext.utils.errors import ConfigError

FILL = (124, 116, 104)


@pytest.fixture
def image() -> np.ndarray:
    """Smooth areas, edges and noise; not writable, as data sets in memory give their pictures."""
    generator = np.random.default_rng(0)
    picture = cv2.resize(
        generator.integers(0, 256, (6, 8, 3), dtype=np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC
    )
    cv2.circle(picture, (70, 50), 30, (250, 20, 90), -1)
    noisy = np.clip(picture + generator.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
    noisy.setflags(write=False)
    return noisy


def largest_difference(first: np.ndarray, second: Any) -> int:
    second = np.asarray(second)
    assert first.shape == second.shape
    assert first.dtype == second.dtype == np.uint8
    return int(np.abs(first.astype(int) - second.astype(int)).max())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(40, 33), (224, 224), (1, 1)])
def test_antialiased_resizing_equals_pillow(image: np.ndarray, interpolation: str, size: tuple[int, int]) -> None:
    # Pillow rounds and clips between the two directions; without edges that leave the range, one level remains.
    soft = (image * 0.7 + 30).astype(np.uint8)
    expected = Image.fromarray(soft).resize(size, Image.Resampling[interpolation.upper()])
    assert largest_difference(resize_antialiased(soft, *size, interpolation), expected) <= 1


class TestRandCropImage:
    def test_parts_are_inside_and_of_the_promised_shape(self) -> None:
        operator = RandCropImage(size=224)
        generator = np.random.default_rng(0)
        shares, ratios = [], []
        for _ in range(4000):
            left, top, width, height = operator.draw(400, 400, generator)
            assert 0 <= left <= 400 - width and 0 <= top <= 400 - height
            shares.append(width * height / 400**2)
            ratios.append(width / height)
        assert min(shares) == pytest.approx(0.08, abs=0.01)
        # The area is even between 0.08 and the largest that fits, 1 at ratio 1 and 3/4 at its ends.
        assert np.mean(shares) == pytest.approx((0.08 + 0.87) / 2, abs=0.015)
        assert 0.73 < min(ratios) < 0.78 and 1.30 < max(ratios) < 1.37

    def test_whole_picture_and_a_narrow_one(self, image: np.ndarray) -> None:
        square = image[:, :120]
        operator = RandCropImage(size=60, scale=[1.0, 1.0], ratio=[1.0, 1.0], interpolation="bicubic", backend="pil")
        expected = resize_antialiased(square, 60, 60, "bicubic")
        assert np.array_equal(operator(square, np.random.default_rng(0)), expected)
        for backend, interpolation in (("cv2", "area"), ("pil", "lanczos"), ("pil", "bicubic")):
            operator = RandCropImage(size=[16, 12], backend=backend, interpolation=interpolation, use_log_aspect=True)
            assert np.all(operator(np.full((10, 900, 3), 77, np.uint8), np.random.default_rng(0)) == 77)
            assert operator(image, np.random.default_rng(0)).shape == (12, 16, 3)


def test_random_crop_and_pad(image: np.ndarray) -> None:
    padded = Pad(padding=4, fill=[1, 2, 3])(image)
    assert padded.shape == (128, 168, 3)
    assert np.array_equal(padded[4:-4, 4:-4], image)
    assert padded[0, 0].tolist() == [1, 2, 3]
    assert Pad(padding=[1, 2])(image).shape == (124, 162, 3)
    assert Pad(padding=[1, 2, 3, 4])(image).shape == (126, 164, 3)
    mirrored = Pad(padding=3, padding_mode="reflect")(image)
    assert np.array_equal(mirrored, np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="reflect"))
    crop = geometry.RandomCropImage(size=[30, 20])
    parts = {crop(image, np.random.default_rng(seed)).tobytes() for seed in range(10)}
    assert len(parts) > 5
    assert crop(image, np.random.default_rng(0)).shape == (20, 30, 3)
    with pytest.raises(ImageError, match="cannot cut 200x200 out of 160x120"):
        geometry.RandomCropImage(size=200)(image, np.random.default_rng(0))


def test_flip_flips_half_of_the_images(image: np.ndarray) -> None:
    for code, axes in ((1, 1), (0, 0), (-1, (0, 1))):
        results = [RandFlipImage(flip_code=code)(image, np.random.default_rng(seed)) for seed in range(100)]
        flipped = sum(np.array_equal(result, np.flip(image, axes)) for result in results)
        assert flipped + sum(np.array_equal(result, image) for result in results) == 100
        assert 30 < flipped < 70


def test_rotation_equals_pillow(image: np.ndarray) -> None:
    expected = Image.fromarray(image).rotate(17.0, Image.Resampling.BICUBIC, fillcolor=FILL)
    result = affine(image, rotation(160, 120, 17.0), "bicubic", FILL)
    assert np.mean(np.any(result != np.asarray(expected), axis=2)) < 0.001
    rotated = geometry.RandomRotation(prob=1.0, degrees=[90.0, 90.0])(image[:, :120], np.random.default_rng(0))
    assert np.array_equal(rotated, np.rot90(image[:, :120]))
    assert geometry.RandomRotation(prob=0.0, degrees=30)(image, np.random.default_rng(0)) is image


@pytest.mark.parametrize("factor", [0.0, 0.55, 1.9])
@pytest.mark.parametrize("name", ["Brightness", "Contrast", "Color", "Sharpness"])
def test_enhancements_equal_pillow(image: np.ndarray, name: str, factor: float) -> None:
    expected = getattr(ImageEnhance, name)(Image.fromarray(image)).enhance(factor)
    assert largest_difference(getattr(photometric, name.lower())(image, factor), expected) <= 2


def test_pointwise_operations_equal_pillow(image: np.ndarray) -> None:
    picture = Image.fromarray(image)
    for value in (1, 100, 255, 256):
        assert largest_difference(photometric.solarize(image, value), ImageOps.solarize(picture, value)) == 0
    for bits in range(1, 9):
        assert largest_difference(photometric.posterize(image, bits), ImageOps.posterize(picture, bits)) == 0
    assert largest_difference(photometric.auto_contrast(image), ImageOps.autocontrast(picture)) == 0
    assert largest_difference(photometric.equalize(image), ImageOps.equalize(picture)) == 0
    assert largest_difference(photometric.grayscale(image), picture.convert("L").convert("RGB")) <= 1
    added = photometric.solarize_add(image, 40)
    assert np.array_equal(added, np.where(image < 128, image + np.uint8(40), image))
    # Hue and saturation have 256 steps, so dark pixels come back a little different.
    assert np.abs(photometric.hue(image, 0.0).astype(int) - image).mean() < 1.5
    turned = photometric.hue(np.full((4, 4, 3), (255, 0, 0), np.uint8), 1 / 3)
    assert turned[0, 0, 1] > 250
    assert turned[0, 0, 0] < 10


class TestTimmAutoAugment:
    def test_arguments_at_magnitude_nine(self, image: np.ndarray) -> None:
        picture = Image.fromarray(image)
        operations = changes(True)
        expected = {
            "Solarize": ImageOps.solarize(picture, 256 - 230),
            "Posterize": ImageOps.posterize(picture, 4 - 3),
            "Brightness": ImageEnhance.Brightness(picture).enhance(1 - 0.81),
            "TranslateX": affine(image, (1, 0, -0.9 * 0.45 * 160, 0, 1, 0), "bicubic", FILL),
            "TranslateY": affine(image, (1, 0, 0, 0, 1, -0.9 * 0.45 * 120), "bicubic", FILL),
            "ShearX": affine(image, (1, -0.27, 0, 0, 1, 0), "bicubic", FILL),
            "ShearY": affine(image, (1, 0, 0, -0.27, 1, 0), "bicubic", FILL),
            "Rotate": affine(image, rotation(160, 120, -27.0), "bicubic", FILL),
        }
        for name, result in expected.items():
            assert largest_difference(operations[name](image, 0.9, -1.0, "bicubic", FILL), result) <= 1, name
        # The strongest posterizing keeps one bit: none would be no image.
        assert set(np.unique(operations["Posterize"](image, 1.0, 1.0, "bicubic", FILL))) == {0, 128}

    def test_magnitude_noise_is_normal_and_clipped(self) -> None:
        generator = np.random.default_rng(0)
        operator = TimmAutoAugment(config_str="rand-m9-mstd0.5-inc1")
        strengths = np.asarray([operator.draw_strength(generator) for _ in range(5000)])
        assert strengths.max() == 1.0
        assert strengths.mean() == pytest.approx(0.9, abs=0.01)
        assert strengths.std() == pytest.approx(0.05, abs=0.005)
        assert {TimmAutoAugment(config_str="rand-m7").draw_strength(generator) for _ in range(5)} == {0.7}

    def test_each_of_two_operations_is_applied_with_probability_one_half(
        self, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        operator = TimmAutoAugment()
        calls: list[str] = []
        names = list(changes(True))
        monkeypatch.setattr(
            operator, "changes", [lambda image, *_, name=name: calls.append(name) or image for name in names]
        )
        for seed in range(1500):
            operator(image, np.random.default_rng(seed))
        assert len(calls) == pytest.approx(1500, abs=100)
        assert set(calls) == set(names)
        assert max(calls.count(name) for name in names) < 150

    def test_grammar(self, image: np.ndarray) -> None:
        operator = TimmAutoAugment(config_str="rand-m5-n3-inc0", interpolation="random")
        assert (operator.magnitude, operator.layers) == (5.0, 3)
        assert operator(image, np.random.default_rng(0)).shape == image.shape
        assert TimmAutoAugment(prob=0.0)(image, np.random.default_rng(0)) is image
        with pytest.raises(ValueError, match="^config_str: .*'q3' in"):
            TimmAutoAugment(config_str="rand-m9-q3")


class TestRandomErasing:
    def erased(self, **arguments: Any) -> np.ndarray:
        """What becomes of 300 images of ones, ``[300, 3, 40, 60]``."""
        operator, ones = RandomErasing(**arguments), np.ones((40, 60, 3), np.float32)
        return np.stack([operator(ones, np.random.default_rng(seed)).transpose(2, 0, 1) for seed in range(300)])

    def test_probability_and_area(self) -> None:
        written = np.any(self.erased(EPSILON=0.25, sl=0.02, sh=1 / 3, attempt=10, use_log_aspect=True) != 1, axis=1)
        shares = written.mean(axis=(1, 2))
        assert np.mean(shares > 0) == pytest.approx(0.25, abs=0.07)
        assert shares.max() <= 1 / 3 + 0.03
        assert shares[shares > 0].min() >= 0.01
        for mask in written[shares > 0]:
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            assert mask.sum() == len(rows) * len(columns)

    def test_noise_in_bytes_looks_as_noise_after_normalizing_does(self) -> None:
        operator = RandomErasing(EPSILON=1.0, sl=0.5, sh=0.9, mode="pixel")
        image = np.full((200, 200, 3), 128, np.uint8)
        before = operator(image, np.random.default_rng(3))
        written = np.any(before != 128, axis=2)
        (normalize,) = build_operators([{"NormalizeImage": {"order": ""}}], "t")
        noise = normalize(before)[written]
        assert np.abs(noise.mean(axis=0)).max() < 0.05
        assert np.abs(noise.std(axis=0) - 1.0).max() < 0.07
        after = operator(normalize(image), np.random.default_rng(3))
        assert np.mean(np.any(after != normalize(image), axis=2) != written) < 0.001  # the same rectangle

    def test_constant_and_single_colour(self) -> None:
        operator = RandomErasing(EPSILON=1.0, mean=[10.4, 300.0, 20.0])
        result = operator(np.full((40, 60, 3), 99, np.uint8), np.random.default_rng(0))
        assert set(map(tuple, result.reshape(-1, 3).tolist())) == {(99, 99, 99), (10, 255, 20)}
        one = self.erased(EPSILON=1.0, mode="rand")[0]
        assert all(len(np.unique(plane)) == 2 for plane in one)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"RandomErasing": {"EPSILON": 1.5}}, "RandomErasing.EPSILON: must be at least 0 and at most 1, got 1.5"),
        ({"RandomErasing": {"sl": 0.5, "sh": 0.4}}, "RandomErasing: sl: must be above 0 and not above sh"),
        ({"RandCropImage": {"size": 20, "scale": [0.5, 0.2]}}, "RandCropImage: scale: must be [smallest, largest]"),
        ({"TimmAutoAugment": {"config_str": "original"}}, "TimmAutoAugment: config_str: 'original': only 'rand'"),
    ],
)
def test_arguments_out_of_range(entry: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as told:
        build_operators([entry], "t", TRAIN_OPERATORS)
    assert str(told.value).startswith(f"t[0].{problem}")


RANDOM = {
    "RandCropImage": {"size": 32, "interpolation": "bicubic", "backend": "pil"},
    "RandomCropImage": {"size": 32},
    "RandFlipImage": {},
    "RandomRotation": {"degrees": 40},
    "TimmAutoAugment": {},
    "ColorJitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    "RandomGrayscale": {"p": 0.5},
    "RandomErasing": {"EPSILON": 0.5, "mode": "pixel"},
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_operators_depend_on_the_generator_alone(image: np.ndarray, name: str) -> None:
    (operator,) = build_operators([{name: RANDOM[name]}], "t", TRAIN_OPERATORS)
    assert operator.random
    before = image.copy()
    first = [operator(image, np.random.default_rng(seed)) for seed in range(12)]
    np.random.seed(1)
    again = [operator(image, np.random.default_rng(seed)) for seed in range(12)]
    assert np.array_equal(image, before)
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert len({result.tobytes() for result in first}) > 1
