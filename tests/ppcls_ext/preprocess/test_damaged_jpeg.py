"""Damaged JPEG data are refused by name instead of being decoded to something else; whole files are never refused."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from ppcls_ext.preprocess import ImageError, decode_image
from tests.support.image_files import encoded_with_pillow

KINDS: dict[str, dict[str, Any]] = {
    "standard tables": {},
    "own tables": {"optimize": True},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_rows": 1},
    "best quality": {"quality": 100, "subsampling": 0},
}
END = b"\xff\xd9"


def scenery(width: int = 320, height: int = 240) -> np.ndarray:
    """Smooth areas, edges and noise, as photographs have them."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    cv2.circle(picture, (width // 3, height // 2), height // 4, (250, 240, 20), -1)
    noisy = picture + generator.normal(0.0, 6.0, picture.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def encoded(picture: np.ndarray, mode: str | None = None, **options: Any) -> bytes:
    return encoded_with_pillow(Image.fromarray(picture).convert(mode), "JPEG", **{"quality": 90, **options})


def damaged(data: bytes) -> dict[str, bytes]:
    """Cut with and without an end marker, filled up, and overwritten in the middle."""
    size, noise = len(data), np.random.default_rng(1).bytes(len(data) // 4)
    return {
        "cut at a third": data[: size // 3] + END,
        "cut near the end": data[: int(0.95 * size)] + END,
        "filled up with zeros": data[: int(0.4 * size)] + bytes(size - int(0.4 * size) - 2) + END,
        "end filled up with zeros": data[: int(0.8 * size)] + bytes(size - int(0.8 * size) - 2) + END,
        "a hole": data[: 3 * size // 8] + bytes(size // 4) + data[3 * size // 8 + size // 4 :],
        "other bytes": data[: size // 2] + noise + data[size // 2 + len(noise) :],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_and_whole_files_have_the_pixels_of_opencv(kind: str) -> None:
    whole = encoded(scenery(), **KINDS[kind])
    expected = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.array_equal(decode_image(whole), expected)
    for what, data in damaged(whole).items():
        with pytest.raises(ImageError, match=r"damaged|cannot be decoded"):
            decode_image(data)
            pytest.fail(f"{what} was accepted")
    # Odd, but whole: padding, a film or zeros behind the picture, a comment of zeros.
    comment_of_zeros = whole[:2] + b"\xff\xfe" + (5002).to_bytes(2, "big") + bytes(5000) + whole[2:]
    for data in (whole[:-2] + bytes(3) + END, whole + bytes(9), whole + b"a film" + bytes(5000), comment_of_zeros):
        assert np.abs(decode_image(data).astype(int) - expected.astype(int)).max() <= 3


def test_damage_is_named_and_nothing_else_is_printed(capfd: Any) -> None:
    with pytest.raises(ImageError, match=r"^hole\.jpg: the JPEG data are damaged \(.+\)$"):
        decode_image(damaged(encoded(scenery()))["a hole"], "hole.jpg")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", KINDS)
def test_even_pictures_noise_and_cmyk_are_accepted(kind: str) -> None:
    options = KINDS[kind]
    assert decode_image(encoded(scenery(), "CMYK", **options)).shape == (240, 320, 3)
    with pytest.raises(ImageError, match="damaged"):
        decode_image(damaged(encoded(scenery(), "CMYK", **options))["cut at a third"])
    for value in (0, 128, 255):
        for shape in ((512, 512), (512, 512, 3)):
            picture = np.full(shape, value, np.uint8)
            picture[-1, -1] = 77
            assert abs(int(decode_image(encoded(picture, **options))[0, 0, 0]) - value) <= 1
    noise = np.random.default_rng(2).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    for quality in (1, 100):
        assert decode_image(encoded(noise, **{**options, "quality": quality})).shape == (200, 300, 3)
