"""Image files and encoded bytes to ``uint8`` RGB arrays, whatever the colour mode, depth or orientation of the file.

Everything that reads pictures reads them here: the checks, training, evaluation, prediction and the server take the
same files and name the same cause where one cannot be read. What counts is the content, not the name.

JPEG has no checksum: libjpeg invents what is missing. But it compares the length of the compressed data with the
picture, and simplejpeg (libjpeg-turbo, the pixels of OpenCV bit for bit) can refuse what libjpeg only warns of: data
that end too early or are left over, markers in the middle or out of order, codes that no table of the file has.

Not found: overwritten data that decode to as many blocks as before, and damage behind a header that libjpeg already
finds odd. Measured: cuts were always found; random bytes over 512 and more in 99 of 100 cases, over 64 in 9 of 10;
zeros over 4,096 (a lost block of a disk) in 99 of 100, over 512 in 9 of 10; a single changed byte in 4 of 10. Whoever
must know more needs checksums of the files.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError

from ppcls_ext.preprocess import samples
from ppcls_ext.preprocess.content import FORMATS, RAW, is_cut, kind_of, what_is, why_not_read
from ppcls_ext.preprocess.samples import SIXTEEN_BITS, AnyRange, Note, SampleError, samples_to_image
from ppcls_ext.utils.errors import UserError

# Pillow's own limit, for all formats: what a few bytes may make of themselves ("decompression bomb").
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**30 // 12)
# Pillow warns from half of that on, without a name.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

JPEG_START = b"\xff\xd8\xff"
JPEG_END = b"\xff\xd9"
# What libjpeg finds odd in headers, which says nothing of the data behind them.
HARMLESS = re.compile(r"Adobe color transform|JFIF revision|SOS parameters|ICC")
CUT = re.compile(r"[Pp]remature end")
LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
# Some encoders fill the data up with zeros before the end marker. More zeros than these may be a hole in the file.
HARMLESS_PADDING = 16
# EXIF's number for how the camera was held; 1 is upright.
ORIENTATION = 0x0112
EXIF = b"Exif\0\0"
# What programs hold.
Picture = np.ndarray | Image.Image
ARRAYS = "arrays must be uint8 or uint16 of shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"


class ImageError(UserError):
    """An image that cannot be used: the ``name`` that the caller knows it by, and the ``cause``, one line."""

    def __init__(self, name: str, cause: str) -> None:
        self.name = name
        self.cause = cause
        super().__init__(f"{name}: {cause}")

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.name, self.cause)


class TooManyPixelsError(ImageError):
    """A picture that would need too much memory: of more pixels than are decoded, or than it may be resized to."""


def read_image(path: str | os.PathLike[str], value_range: AnyRange = None, note: Note | None = None) -> np.ndarray:
    """Reads an image file as ``uint8`` RGB ``[H, W, 3]``, upright as its EXIF data say: see :func:`decode_image`.

    Raises:
        ImageError: the file is missing, empty, truncated or not an image; the message names it.
    """
    return decode_image(read_bytes(path), str(path), value_range, note)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Returns the bytes of an image file; ``ImageError`` if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError(str(path), "the file does not exist") from None
    except OSError as error:
        raise ImageError(str(path), f"cannot be read ({error.strerror or error})") from error


def decode_image(
    data: bytes,
    name: str = "image",
    value_range: AnyRange = None,
    note: Note | None = None,
    on_white: bool = True,
) -> np.ndarray:
    """Decodes an image file's bytes to ``uint8`` RGB ``[H, W, 3]``.

    Grey, palette and CMYK pictures become RGB, and the EXIF orientation is applied.
    Of several pictures in a file the first is taken.

    Args:
        data, name: the file, and what errors call it.
        value_range: ``(low, high)``: of pictures with more than 8 bits a sample, values from low to high become bytes
            (``samples.to_bytes``). None: of 16 bits the upper 8 remain, of 12 in a file of 12 as well; whole numbers of
            32 bits count as such of 16, and where they are larger, or no whole numbers, the picture is refused.
        note: is given the samples of such pictures as they are stored, ``[H, W]`` or ``[H, W, C]``, and the largest
            value that they could have.
        on_white: transparent pictures are laid on white; else their colours count alone.

    Raises:
        ImageError: the bytes are empty, truncated, of a kind that is not read, of more than ``MOST_PIXELS`` pixels, or
            a JPEG whose compressed data do not fit its picture (what that finds and what not: the top of this file);
            the message begins with ``name``, and says by what the file begins what it is.
    """
    if data.startswith(JPEG_START):
        image, damage = _decode_jpeg(data, name)
        if damage:
            if CUT.search(damage) and is_cut(data):
                raise ImageError(name, _cut_off(data, name))
            raise ImageError(name, f"the JPEG data are damaged ({damage})")
        if image is not None:
            return image
    return _decode_with_pillow(data, name, value_range, note, on_white)


def rgb_of(
    image: Picture, name: str = "image", value_range: AnyRange = None, note: Note | None = None, on_white: bool = True
) -> np.ndarray:
    """Makes ``uint8`` RGB ``[H, W, 3]`` of a picture that a program holds, as :func:`decode_image` does of a file.

    Args:
        image: an array of ``uint8`` or ``uint16``: grey ``[H, W]`` or ``[H, W, 1]``, RGB ``[H, W, 3]``, with
            transparency ``[H, W, 4]``; or a Pillow image of any mode, which is turned upright as its EXIF data say.
            Of colours of 16 bits it keeps 8: a ``value_range`` for such a file, not loaded yet, is an error.
        name, value_range, note, on_white: see :func:`decode_image`.

    Raises:
        ImageError: it is anything else, or its samples have no agreed range; the message begins with ``name``.
    """
    if isinstance(image, Image.Image):
        try:
            return _rgb_of_pillow(image, value_range, note, None, on_white)
        except SampleError as error:
            raise ImageError(name, str(error)) from error
        except Exception as error:  # Pillow loads files when they are used, and its readers raise nearly anything.
            raise ImageError(name, f"is a Pillow image that cannot be loaded ({error})") from error
    values = _checked_array(image, name)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        values = values.astype(np.uint16, copy=False)
    if values.dtype != np.uint8:
        try:
            if note is not None:
                note(values, 65535)
            picture = samples_to_image(values, value_range, 65535)
        except SampleError as error:
            raise ImageError(name, str(error)) from error
    elif values.ndim == 3 and values.shape[2] == 3:
        return values
    else:
        picture = Image.fromarray(np.ascontiguousarray(values))
    return _to_rgb_array(picture, on_white)


def _checked_array(image: Any, name: str) -> np.ndarray:
    """Returns an array of a picture, grey ones as ``[H, W]``; raises ``ImageError`` if it is none."""
    if not isinstance(image, np.ndarray):
        what = "None (did a camera or file give no frame?)" if image is None else f"of type {type(image).__name__}"
        raise ImageError(name, f"is no image but {what}; images are arrays, Pillow images, paths or encoded files")
    shape = image.shape
    known = len(shape) in (2, 3) and shape[2:] in ((), (1,), (3,), (4,))
    if known and image.size and image.dtype.kind == "u" and image.dtype.itemsize <= 2:
        return image[:, :, 0] if shape[2:] == (1,) else image
    advice = ""
    if image.dtype.kind == "f":
        advice = "; make values from 0 to 1 bytes by (255 * image).astype(numpy.uint8)"
    elif len(shape) == 3 and shape[0] in (1, 3, 4):
        advice = "; put channels last by image.transpose(1, 2, 0)"
    elif len(shape) == 3 and shape[2] > 4:
        advice = "; give several grey images as a list"
    raise ImageError(name, f"is an array of {image.dtype} and shape {list(shape)}, but {ARRAYS}{advice}")


def header_of(data: bytes, name: str = "image", most: int = MOST_PIXELS) -> tuple[str, int, int]:
    """Returns format (of ``FORMATS``, or MPO), width and height as they are stored, from the header alone.

    Raises:
        ImageError: the file is none that is read, or its header is damaged; TooManyPixelsError above ``most`` pixels.
    """
    with _opened(data, name, most) as image:
        return str(image.format), *image.size


def _refuse_excess(pixels: int | None, shape: str, name: str, most: int) -> None:
    if pixels is None or pixels > most:
        raise TooManyPixelsError(name, f"has {shape} pixels; at most {most / 1e6:.4g} megapixels are taken")


def _cut_off(data: bytes, name: str) -> str:
    return f"is truncated: {what_is(data, name)} that ends too early, after {len(data):,} bytes"


def _jpeg_header(data: bytes) -> tuple[int, int, str | None]:
    """Returns height, width and libjpeg's name of the colours; no name where the headers are not those of a picture."""
    try:
        return simplejpeg.decode_jpeg_header(data, strict=False)[:3]
    except (ValueError, KeyError):  # of a colour space or subsampling without a name
        return 0, 0, None


def _decode_jpeg(data: bytes, name: str) -> tuple[np.ndarray | None, str]:
    """Decodes grey and YCbCr JPEGs, upright as the EXIF data say.

    Returns:
        ``uint8`` RGB ``[H, W, 3]``, or None where Pillow has to decode; and what is wrong with the compressed data, one
        line, empty where nothing is known to be.
    """
    height, width, colours = _jpeg_header(data)
    _refuse_excess(width * height, f"{width} x {height}", name, MOST_PIXELS)
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
    except ValueError as error:
        damage = str(error).removeprefix("Corrupt JPEG data: ")
        if colours is None:
            return None, ""
        left_over = LEFT_OVER.fullmatch(damage)
        count, end = int(left_over[1]) if left_over else HARMLESS_PADDING + 1, data.rfind(JPEG_END)
        is_padding = count <= HARMLESS_PADDING and data[end - count : end] == bytes(count)
        if not is_padding and not HARMLESS.search(damage):
            return None, damage
        try:
            pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, strict=False)
        except ValueError as problem:
            return None, str(problem)
    # Adobe's CMYK is inverted, which Pillow knows.
    return (None if colours in ("CMYK", "YCCK") else _upright(pixels, data)), ""


def _upright(pixels: np.ndarray, data: bytes) -> np.ndarray:
    """Turns or mirrors ``[H, W, 3]`` as the EXIF segment among the first 64 KB of the file says."""
    start = data.find(EXIF, 0, 65536)
    if start < 0:
        return pixels

    def read() -> Image.Exif:
        exif = Image.Exif()
        exif.load(data[start : start + 65536])
        return exif

    return samples.turned(pixels, orientation_of(read))


def orientation_of(read_exif: Callable[[], Image.Exif]) -> int:
    """Reads EXIF data; returns their number for how the camera was held, 1 where they are damaged or say nothing."""
    try:
        return read_exif().get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - Pillow's reader raises nearly anything.
        return 1


def _opened(data: bytes, name: str, most: int = MOST_PIXELS) -> Image.Image:
    """Opens a picture with Pillow; nothing but its header is read. Raises what :func:`header_of` raises."""
    if kind_of(data).words == RAW:
        # Pillow would read the preview in it.
        raise ImageError(name, why_not_read(data, name))
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(name, _cut_off(data, name) if is_cut(data) else why_not_read(data, name)) from None
    except Image.DecompressionBombError as error:
        _refuse_excess(None, (re.findall(r"\d+", str(error)) or ["too many"])[0], name, most)
    except Exception as error:  # Pillow's format readers raise nearly anything for damaged data.
        what = _cut_off(data, name) if is_cut(data) else f"is {what_is(data, name)} whose header is damaged ({error})"
        raise ImageError(name, what) from error
    _refuse_excess(image.width * image.height, f"{image.width} x {image.height}", name, most)
    return image


def _decode_with_pillow(
    data: bytes, name: str, value_range: AnyRange, note: Note | None, on_white: bool
) -> np.ndarray:
    # ppdet switches this on for the whole process when it is imported; a cut file is a damaged one.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with _opened(data, name) as image:
        try:
            return _rgb_of_pillow(image, value_range, note, data, on_white)
        except SampleError as error:
            raise ImageError(name, str(error)) from error
        except Exception as error:  # Pillow's format readers raise nearly anything for damaged data.
            if is_cut(data) or "truncated" in str(error):
                raise ImageError(name, _cut_off(data, name)) from error
            raise ImageError(name, f"is {what_is(data, name)} that cannot be decoded ({error})") from error


def _rgb_of_pillow(
    image: Image.Image, value_range: AnyRange, note: Note | None, data: bytes | None, on_white: bool
) -> np.ndarray:
    """Loads an opened image and makes ``uint8`` RGB ``[H, W, 3]`` of it, upright. ``data`` is its file, if it is known.

    Raises ``SampleError``, and nearly anything else for damaged data.
    """
    form = samples.deep_form(image)
    image.load()
    picture = image
    # What Pillow makes of these by itself is the upper byte.
    by_pillow = form is None or (value_range is None and (form.colour or form.rescaled))
    is_noted = note is not None and form is not None and not (form.colour and data is None)
    if is_noted or not by_pillow:
        values = samples.stored_samples(form, image, data)
        if is_noted:
            note(values, form.largest)
        if not by_pillow:
            picture = samples_to_image(values, value_range, form.largest)
    # Pillow has turned TIFFs already, and nothing of them is left to turn; so has OpenCV, which reads deep colours.
    return samples.turned(_to_rgb_array(picture, on_white), orientation_of(image.getexif))


def _to_rgb_array(image: Image.Image, on_white: bool) -> np.ndarray:
    """Converts any of Pillow's modes to ``uint8`` RGB ``[H, W, 3]``; what is transparent lies on white, if asked."""
    if image.mode == "I":
        image = Image.fromarray(samples.to_bytes(np.asarray(image), SIXTEEN_BITS))
    if on_white and (image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info):
        picture = image.convert("RGBA")
        background = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        image = Image.alpha_composite(background, picture)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
