"""Every kind of image file is decoded right, whatever its name; what is no readable picture is told by what it is."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from ppcls_ext.preprocess import ImageError, build_pipeline, decode_image, read_image
from ppcls_ext.preprocess.content import what_is
from ppcls_ext.preprocess.decode import MOST_PIXELS, TooManyPixelsError, header_of
from ppcls_ext.preprocess.detection import build_detection_pipeline
from tests.support.image_files import encoded_with_pillow
from tests.support.pictures import smooth_picture

PIXELS = smooth_picture(1, 60, 40)
PICTURE = Image.fromarray(PIXELS)


def difference(first: np.ndarray, second: np.ndarray) -> float:
    assert first.shape == second.shape
    return float(np.abs(first.astype(int) - second.astype(int)).mean())


def tiff(entries: dict[int, int]) -> bytes:
    """A TIFF file of 8 x 8 grey pixels with further tags."""
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 300, 277: 1, 278: 8, 279: 64, **entries}
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + bytes(4)).ljust(300, b"\0") + bytes(range(64))


NOT_READ = {
    "a HEIC picture": b"\0\0\0\x20ftypheic" + bytes(90),
    "a raw photograph of a camera": tiff({50706: 0x01040000}),
    "a PostScript drawing": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "an SVG drawing": b'\xef\xbb\xbf<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
}
NO_PICTURE = {
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "a git-annex pointer": b"../.git/annex/objects/Xx/Yy/SHA256E-s3--ab.jpg/SHA256E-s3--ab.jpg",
    "a video": b"\0\0\0\x20ftypisom" + bytes(90),
    "a text file": "\u6d77\u53c2 no picture".encode(),
    "a file of zeros": bytes(9000),
}


def test_damaged_headers_unknown_and_missing_files() -> None:
    for data, message in (
        (b"", "the file is empty"),
        (b"\x80" * 99, "is not an image of a known format"),
        (encoded_with_pillow(PICTURE, "PNG")[:16] + b"\xff" * 8 + bytes(100), ""),
    ):
        with pytest.raises(ImageError, match=f"^a.jpg: {message}"):
            decode_image(data, "a.jpg")
    with pytest.raises(ImageError, match=r"absent\.png: the file does not exist"):
        read_image("absent.png")


@pytest.mark.parametrize("words", NOT_READ)
def test_pictures_of_other_kinds_are_named_with_what_helps(words: str) -> None:
    with pytest.raises(ImageError, match=f"^photos/a.png: is {words}.* named .png, which is not read here: convert"):
        decode_image(NOT_READ[words], "photos/a.png")


@pytest.mark.parametrize("words", NO_PICTURE)
def test_what_is_no_picture_is_named(words: str) -> None:
    message = f"^a.jpg: is no picture but {words} named .jpg(, whose file was not fetched .*)?$"
    for decode in (decode_image, lambda data, name: build_detection_pipeline([{"Permute": {}}])(data, name)):
        with pytest.raises(ImageError, match=message):
            decode(NO_PICTURE[words], "a.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM"])
def test_content_counts_and_not_the_name(kind: str, tmp_path: Path) -> None:
    data = encoded_with_pillow(PICTURE, kind)
    path = tmp_path / "misnamed.png"
    path.write_bytes(data)
    pixels = decode_image(data, "a.jpg")
    assert pixels.shape == PIXELS.shape and pixels.dtype == np.uint8
    assert kind in ("JPEG", "WEBP", "GIF") or np.array_equal(pixels, PIXELS)
    assert header_of(data) == (kind, 60, 40)
    assert what_is(data) not in ("a file of an unknown kind", "an empty file")
    permute, channels = [{"Permute": {}}], pixels.transpose(2, 0, 1)
    assert np.abs(build_detection_pipeline(permute)(path).pixels - channels).max() < 3
    assert np.array_equal(build_pipeline([{"ToCHWImage": {}}], "here")(path), channels)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "GIF"])
def test_cut_files_are_called_truncated_with_their_length(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as importing ppdet does
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded_with_pillow(Image.fromarray(noise), kind)
    data = data[: int(0.9 * len(data))]
    with pytest.raises(ImageError, match=rf"^a.png: is truncated: a \w+ picture.* after {len(data):,} bytes$"):
        decode_image(data, "a.png")


def test_a_raw_photograph_is_not_read_as_its_preview() -> None:
    """Pillow opens the small preview that stands first in it."""
    assert decode_image(tiff({}), "a.tif").shape == decode_image(tiff({254: 0}), "a.tif").shape == (8, 8, 3)
    for entries in ({50706: 0x01040000}, {254: 1}):
        assert Image.open(io.BytesIO(tiff(entries))).size == (8, 8)
        with pytest.raises(ImageError, match=r"^a.dng: is a raw photograph of a camera \(DNG, .*convert it"):
            decode_image(tiff(entries), "a.dng")


def bomb(kind: str) -> bytes:
    """A file whose header states 30000 x 30000 pixels."""
    data = bytearray(encoded_with_pillow(PICTURE, kind))
    if kind == "PNG":
        data[16:24] = struct.pack(">II", 30000, 30000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    else:
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = struct.pack(">HH", 30000, 30000)
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_decompression_bombs_are_refused_by_the_header_in_one_line(kind: str) -> None:
    message = "^a: has (30000 x 30000|900000000) pixels; at most 179 megapixels are taken$"
    for read in (decode_image, header_of):
        with pytest.raises(TooManyPixelsError, match=message):
            read(bomb(kind), "a")
    assert 30000 * 30000 > MOST_PIXELS > 170e6


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_see_every_format_upright(kind: str, orientation: int) -> None:
    """Boxes belong to what the preparation and the checks see; OpenCV turns no WebP."""
    # What a camera stores for each orientation, from the EXIF standard's row and column directions.
    stored = [
        PIXELS, PIXELS[:, ::-1], PIXELS[::-1, ::-1], PIXELS[::-1], PIXELS.transpose(1, 0, 2), np.rot90(PIXELS, 1),
        PIXELS[::-1, ::-1].transpose(1, 0, 2), np.rot90(PIXELS, -1),
    ][orientation - 1]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    data = encoded_with_pillow(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    seen = build_detection_pipeline([{"Permute": {}}])(data).pixels.transpose(1, 2, 0)
    assert np.array_equal(seen, decode_image(data))
    assert difference(seen, PIXELS) < 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"garbage!", b"II*\0\x08\0\0\0\x05\0"])
def test_damaged_exif_data_turn_nothing(kind: str, exif: bytes) -> None:
    data = encoded_with_pillow(PICTURE, kind, exif=b"Exif\0\0" + exif)
    assert difference(decode_image(data), PIXELS) < 8
    assert difference(build_detection_pipeline([{"Permute": {}}])(data).pixels.transpose(1, 2, 0), PIXELS) < 8


def test_colour_modes_become_rgb() -> None:
    pixels = PIXELS
    grey = np.repeat(pixels[:, :, :1], 3, axis=2)
    assert difference(decode_image(encoded_with_pillow(Image.fromarray(pixels[:, :, 0]), "JPEG", quality=95)), grey) < 3
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    red = np.full((16, 16, 3), [255, 0, 0], np.uint8)
    assert difference(decode_image(encoded_with_pillow(cmyk, "JPEG", quality=95)), red) < 10
    deep = (np.arange(20 * 30).reshape(20, 30) * 109).astype(np.uint16)
    upper = np.repeat((deep >> 8).astype(np.uint8)[:, :, np.newaxis], 3, axis=2)
    assert np.array_equal(decode_image(encoded_with_pillow(Image.fromarray(deep), "PNG")), upper)
    palette = Image.fromarray(pixels).quantize(8)
    assert np.array_equal(decode_image(encoded_with_pillow(palette, "PNG")), np.asarray(palette.convert("RGB")))


def test_transparent_parts_are_white_but_detectors_see_their_colours() -> None:
    alpha = np.dstack([PIXELS, np.zeros(PIXELS.shape[:2], np.uint8)])
    alpha[:, :20, 3] = 255
    data = encoded_with_pillow(Image.fromarray(alpha), "PNG")
    assert np.array_equal(build_detection_pipeline([{"Permute": {}}])(data).pixels, PIXELS.transpose(2, 0, 1))
    image = decode_image(data)
    assert np.array_equal(image[:, :20], PIXELS[:, :20])
    assert np.all(image[:, 20:] == 255)


def test_random_damage_never_raises_anything_else() -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        data = bytearray(encoded_with_pillow(Image.fromarray(PIXELS), ["JPEG", "PNG", "TIFF", "GIF"][seed % 4]))
        for position in generator.integers(0, len(data), 12):
            data[position] = int(generator.integers(256))
        with contextlib.suppress(ImageError):
            image = decode_image(bytes(data))
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
