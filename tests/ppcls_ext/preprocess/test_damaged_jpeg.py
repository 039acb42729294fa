"""Damaged JPEG data are refused by name instead of being decoded to something else; whole files are never refused."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from ppcls_ext.preprocess import ImageError, decode_image, read_image

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


def encoded(picture: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", **{"quality": 90, **options})
    return stream.getvalue()


@pytest.fixture(params=KINDS)
def whole(request: pytest.FixtureRequest) -> bytes:
    return encoded(scenery(), **KINDS[request.param])


def with_hole(data: bytes, share: float) -> bytes:
    """Zeros over a share of the bytes, in the middle."""
    count = int(len(data) * share)
    start = (len(data) - count) // 2
    return data[:start] + bytes(count) + data[start + count :]


def test_pixels_are_those_of_opencv(whole: bytes) -> None:
    expected = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.array_equal(decode_image(whole), expected)


def test_middle_quarter_of_zeros_is_refused_by_name(whole: bytes, tmp_path: Path, capfd: Any) -> None:
    path = tmp_path / "hole.jpg"
    path.write_bytes(with_hole(whole, 0.25))
    with pytest.raises(ImageError, match=r"hole\.jpg: the JPEG data are damaged \(.+\)$"):
        read_image(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("share", [1 / 3, 0.95])
def test_cut_with_an_end_marker_is_refused(whole: bytes, share: float) -> None:
    with pytest.raises(ImageError, match=r"premature end|damaged"):
        decode_image(whole[: int(len(whole) * share)] + END)


@pytest.mark.parametrize("share", [0.4, 0.8])
def test_cut_filled_up_with_zeros_is_refused(whole: bytes, share: float) -> None:
    kept = int(len(whole) * share)
    with pytest.raises(ImageError, match=r"damaged|cannot be decoded"):
        decode_image(whole[:kept] + bytes(len(whole) - kept - 2) + END)


def test_random_bytes_in_the_middle_are_refused(whole: bytes) -> None:
    noise = np.random.default_rng(1).bytes(len(whole) // 4)
    start = len(whole) // 2
    with pytest.raises(ImageError, match=r"damaged|cannot be decoded"):
        decode_image(whole[:start] + noise + whole[start + len(noise) :])


@pytest.mark.parametrize("place", np.linspace(0.1, 0.95, 9).tolist())
@pytest.mark.parametrize("kind", ["standard tables", "own tables"])
def test_every_hole_is_found_even_where_the_rest_fits_again(kind: str, place: float) -> None:
    data = encoded(scenery(), **KINDS[kind])
    start = data.index(b"\xff\xda") + 14 + int(place * (len(data) - 2000))
    with pytest.raises(ImageError, match="damaged"):
        decode_image(data[:start] + bytes(512) + data[start + 512 :])


def test_cmyk_is_checked_too() -> None:
    stream = io.BytesIO()
    Image.fromarray(scenery()).convert("CMYK").save(stream, "JPEG", quality=90)
    data = stream.getvalue()
    assert decode_image(data).shape == (240, 320, 3)
    with pytest.raises(ImageError, match="damaged"):
        decode_image(data[: len(data) // 3] + END)


@pytest.mark.parametrize("options", list(KINDS.values()), ids=list(KINDS))
@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("shape", [(512, 512), (512, 512, 3)], ids=["grey", "colour"])
def test_even_pictures_are_not_taken_for_holes(shape: tuple[int, ...], value: int, options: dict[str, Any]) -> None:
    picture = np.full(shape, value, np.uint8)
    picture[-1, -1] = 77
    assert abs(int(decode_image(encoded(picture, **options))[0, 0, 0]) - value) <= 1


@pytest.mark.parametrize("options", list(KINDS.values()), ids=list(KINDS))
@pytest.mark.parametrize("quality", [1, 100])
def test_noise_at_any_quality_is_accepted(quality: int, options: dict[str, Any]) -> None:
    picture = np.random.default_rng(2).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    assert decode_image(encoded(picture, **{**options, "quality": quality})).shape == (200, 300, 3)


def test_harmless_oddities_are_accepted(whole: bytes) -> None:
    expected = decode_image(whole)
    padded = whole[:-2] + bytes(3) + END
    photo_with_more_behind = whole + b"a film follows" + bytes(5000)
    comment_of_zeros = whole[:2] + b"\xff\xfe" + (5002).to_bytes(2, "big") + bytes(5000) + whole[2:]
    for data in (padded, whole + bytes(9), photo_with_more_behind, comment_of_zeros):
        assert np.abs(decode_image(data).astype(int) - expected.astype(int)).max() <= 3


def test_a_process_without_standard_error_decodes(tmp_path: Path) -> None:
    path = tmp_path / "whole.jpg"
    path.write_bytes(encoded(scenery()))
    script = (
        "import os, sys; os.close(2); from ppcls_ext.preprocess import read_image; "
        f"sys.exit(0 if read_image({str(path)!r}).shape == (240, 320, 3) else 1)"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", script]) == 0
