"""What is known of a picture before it is decoded, and how it is shown where a browser cannot show it."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Callable
from http import HTTPStatus

import numpy as np
from PIL import Image, UnidentifiedImageError

from ppcls_ext.deploy.serve.refusal import RefusalError
from ppcls_ext.preprocess import decode_image

# The types that are let through, by the first bytes of the file. Pillow knows many more, some of which start other
# programs (EPS runs Ghostscript): those are never tried.
SIGNATURES: dict[str, re.Pattern[bytes]] = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "BMP": re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00", re.DOTALL),
    "WEBP": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    "TIFF": re.compile(rb"II\*\x00|MM\x00\*"),
    "GIF": re.compile(rb"GIF8[79]a"),
    "PPM": re.compile(rb"P[1-6][\s#]"),
}
TYPES = ("JPEG", "PNG", "BMP", "WebP", "TIFF", "GIF", "PPM", "PGM")
# What people often send by mistake, so that the answer can name it.
OTHERS: dict[str, re.Pattern[bytes]] = {
    "a HEIC or AVIF picture": re.compile(rb".{4}ftyp(?:hei|hev|mif|msf|avi[fs])", re.DOTALL),
    "a video": re.compile(rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI ", re.DOTALL),
    "a PDF": re.compile(rb"%PDF"),
    "an archive": re.compile(rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf"),
    "an SVG drawing or a web page": re.compile(rb"\s*<"),
}
PREVIEW_SIDE = 1280
# Smaller previews keep every pixel; larger ones are photographs to look at.
LOSSLESS_PIXELS = 256 * 256


def examine(data: bytes, most_pixels: int) -> str:
    """Finds out the type of a picture by its content, and refuses it if it is too large to decode.

    Returns:
        A key of ``SIGNATURES``.

    Raises:
        RefusalError: 415 of another type, 422 with a damaged header, 413 of more than ``most_pixels`` pixels.
    """
    kind = next((name for name, signature in SIGNATURES.items() if signature.match(data)), None)
    if kind is None:
        raise RefusalError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"this is {_guess(data)}; it must be one of {', '.join(TYPES)}"
        )
    try:
        with warnings.catch_warnings():
            # Our own limit, below, is told in our own words.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # Without naming the type, as the decoder opens it: some of Pillow's readers know no signature, and a
            # picture of theirs could hide, with another size, behind the one that was found above.
            with Image.open(io.BytesIO(data)) as image:
                opened, (width, height) = image.format, image.size
    except Image.DecompressionBombError:
        raise _too_many_pixels("too many pixels", most_pixels) from None
    except UnidentifiedImageError:
        raise RefusalError(HTTPStatus.UNPROCESSABLE_ENTITY, f"the header of this {kind} picture is damaged") from None
    except Exception as error:  # Pillow's format readers raise nearly anything for damaged data.
        raise RefusalError(HTTPStatus.UNPROCESSABLE_ENTITY, f"the header of this {kind} picture is damaged") from error
    if opened != kind and (kind, opened) != ("JPEG", "MPO"):
        raise RefusalError(HTTPStatus.UNPROCESSABLE_ENTITY, f"the header of this {kind} picture is damaged")
    if width * height > most_pixels:
        raise _too_many_pixels(f"{width} x {height} pixels", most_pixels)
    return kind


def _too_many_pixels(what: str, most_pixels: int) -> RefusalError:
    return RefusalError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the picture has {what}; at most {most_pixels / 1e6:g} megapixels are taken",
    )


def _guess(data: bytes) -> str:
    """Says what a file that is no picture seems to be."""
    for name, signature in OTHERS.items():
        if signature.match(data):
            return name
    # A cut may fall inside a character.
    start = data[:512].decode("utf-8", errors="ignore")
    readable = sum(character.isprintable() or character.isspace() for character in start)
    is_text = len(start) > 0 and readable == len(start) and len(start.encode()) >= min(len(data), 512) - 3
    return "a text file, not a picture" if is_text else "not a picture of a known type"


def preview_of(data: bytes, enhance: Callable[[np.ndarray], np.ndarray] | None) -> str:
    """Returns a ``data:`` address of the picture, upright, at most ``PREVIEW_SIDE`` pixels wide and high.

    Args:
        data: an encoded picture that was examined.
        enhance: raises the contrast of ``uint8`` RGB ``[H, W, 3]``, so that people see what the detector sees.

    Raises:
        ImageError: the picture cannot be decoded.
    """
    pixels = decode_image(data)
    if enhance is not None:
        pixels = enhance(pixels)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.LANCZOS)
    kind = "PNG" if picture.width * picture.height <= LOSSLESS_PIXELS else "JPEG"
    stream = io.BytesIO()
    picture.save(stream, kind, quality=88)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
