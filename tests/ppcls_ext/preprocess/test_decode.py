"""Every kind of image file that a user may have is decoded right or refused by name."""

from __future__ import annotations

import contextlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.preprocess import ImageError, decode_image, read_image


def picture(width: int = 40, height: int = 24) -> np.ndarray:
    """A smooth picture whose four quarters differ, so that every turn and mirror image of it is recognised."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + y) * 2], axis=2).astype(np.uint8)


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def difference(first: np.ndarray, second: np.ndarray) -> float:
    assert first.shape == second.shape
    return float(np.abs(first.astype(int) - second.astype(int)).mean())


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_come_back_exactly(image_format: str) -> None:
    image = decode_image(encoded(Image.fromarray(picture()), image_format))
    assert image.dtype == np.uint8
    assert np.array_equal(image, picture())


def test_colour_modes_become_rgb() -> None:
    pixels = picture()
    grey = np.repeat(pixels[:, :, :1], 3, axis=2)
    assert difference(decode_image(encoded(Image.fromarray(pixels[:, :, 0]), "JPEG", quality=95)), grey) < 3
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    red = np.full((16, 16, 3), [255, 0, 0], np.uint8)
    assert difference(decode_image(encoded(cmyk, "JPEG", quality=95)), red) < 10
    deep = (np.arange(20 * 30).reshape(20, 30) * 109).astype(np.uint16)
    upper = np.repeat((deep >> 8).astype(np.uint8)[:, :, np.newaxis], 3, axis=2)
    assert np.array_equal(decode_image(encoded(Image.fromarray(deep), "PNG")), upper)
    palette = Image.fromarray(pixels).quantize(8)
    assert np.array_equal(decode_image(encoded(palette, "PNG")), np.asarray(palette.convert("RGB")))


def test_transparent_parts_are_white() -> None:
    alpha = np.dstack([picture(), np.zeros(picture().shape[:2], np.uint8)])
    alpha[:, :20, 3] = 255
    image = decode_image(encoded(Image.fromarray(alpha), "PNG"))
    assert np.array_equal(image[:, :20], picture()[:, :20])
    assert np.all(image[:, 20:] == 255)
    palette = Image.fromarray(picture()).quantize(8)
    transparent = np.asarray(palette) == 3
    image = decode_image(encoded(palette, "PNG", transparency=3))
    assert np.all(image[transparent] == 255)
    assert np.array_equal(image[~transparent], np.asarray(palette.convert("RGB"))[~transparent])


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int, image_format: str) -> None:
    upright = picture()
    # What a camera stores for each orientation, from the EXIF standard's row and column directions.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if image_format == "JPEG" else {}
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), image_format, exif=exif, **options)
    assert difference(decode_image(data), upright) < 4


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.95])
def test_truncated_file_is_refused_by_name(tmp_path: Path, image_format: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), image_format)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=r"cut\.img: "):
        read_image(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "is no picture but an HTML page named .jpg"),
        (b"\x80" * 99, "is not an image of a known format"),
        (encoded(Image.fromarray(picture()), "PNG")[:16] + b"\xff" * 8 + bytes(100), ""),
        (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), ".*floating-point"),
    ],
    ids=["empty", "a page", "unknown", "damaged header", "floating-point"],
)
def test_what_is_no_image_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=f"^a.jpg: {message}"):
        decode_image(data, "a.jpg")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"absent\.png: the file does not exist"):
        read_image(tmp_path / "absent.png")


def test_random_damage_never_raises_anything_else() -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        data = bytearray(encoded(Image.fromarray(picture()), ["JPEG", "PNG", "TIFF", "GIF"][seed % 4]))
        for position in generator.integers(0, len(data), 12):
            data[position] = int(generator.integers(256))
        with contextlib.suppress(ImageError):
            image = decode_image(bytes(data))
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


def test_error_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "is broken")))
    assert (error.name, error.cause, str(error)) == ("a.jpg", "is broken", "a.jpg: is broken")


def test_cut_file_is_refused_whatever_another_package_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as importing ppdet does
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    with pytest.raises(ImageError):
        decode_image(encoded(Image.fromarray(noise), "PNG")[:2000])
