"""Image files and encoded bytes to ``uint8`` RGB arrays, whatever the colour mode, depth or orientation of the file."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from ppcls_ext.preprocess.jpeg import decode_jpeg, is_jpeg, is_whole_plain_jpeg
from ppcls_ext.utils.errors import UserError


class ImageError(UserError):
    """An image that cannot be used.

    Args:
        name: the file, or whatever name the caller knows the picture by.
        cause: what is wrong with it, one line.
    """

    def __init__(self, name: str, cause: str) -> None:
        self.name = name
        self.cause = cause
        super().__init__(f"{name}: {cause}")

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.name, self.cause)


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an image file as ``uint8`` RGB ``[H, W, 3]``, turned upright as its EXIF data say.

    Raises:
        ImageError: the file is missing, empty, truncated or not an image; the message names it.
    """
    return decode_image(read_bytes(path), str(path))


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Returns the bytes of an image file.

    Raises:
        ImageError: the file cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError(str(path), "the file does not exist") from None
    except OSError as error:
        raise ImageError(str(path), f"cannot be read ({error.strerror or error})") from error


def decode_image(data: bytes, name: str = "image") -> np.ndarray:
    """Decodes an image file's bytes to ``uint8`` RGB ``[H, W, 3]``.

    Grey, palette and CMYK pictures become RGB, 16-bit ones keep their upper eight bits, transparent ones are laid on
    white, and the EXIF orientation is applied.

    Raises:
        ImageError: the bytes are empty, truncated, not a known image format, or a JPEG whose compressed data do not
            fit its picture (what that finds and what not: ``ppcls_ext.preprocess.jpeg``); the message begins with
            ``name``.
    """
    if not data:
        raise ImageError(name, "the file is empty (0 bytes)")
    if is_jpeg(data):
        image, damage = decode_jpeg(data)
        if damage:
            raise ImageError(name, f"the JPEG data are damaged ({damage})")
        if image is not None and is_whole_plain_jpeg(data):
            return image
    return _decode_with_pillow(data, name)


def _decode_with_pillow(data: bytes, name: str) -> np.ndarray:
    try:
        # ppdet switches this on for the whole process when it is imported; a cut file is a damaged one.
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return _to_rgb_array(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise ImageError(name, "is not an image of a known format, or its header is damaged") from None
    except Image.DecompressionBombError as error:
        raise ImageError(name, f"is refused as too large ({error})") from error
    except Exception as error:  # Pillow's format readers raise nearly anything for damaged data.
        raise ImageError(name, f"cannot be decoded ({error})") from error


def _to_rgb_array(image: Image.Image) -> np.ndarray:
    """Converts any of Pillow's modes to ``uint8`` RGB ``[H, W, 3]``."""
    if image.mode.startswith("I"):
        return _grey_of_16_bits(np.asarray(image))
    if image.mode == "F":
        raise ValueError("floating-point samples have no agreed range; save the picture with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        picture = image.convert("RGBA")
        background = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        image = Image.alpha_composite(background, picture)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _grey_of_16_bits(samples: np.ndarray) -> np.ndarray:
    """Keeps the upper byte of 16-bit grey samples ``[H, W]`` and repeats it as RGB ``[H, W, 3]``."""
    grey = np.clip(samples.astype(np.int64), 0, 65535) >> 8
    return np.repeat(grey.astype(np.uint8)[:, :, np.newaxis], 3, axis=2)
