"""Image files of every kind that a detector may meet, made by the tests."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from tests.support.pictures import smooth_picture


def encoded_with_pillow(image: Image.Image, form: str, **options: object) -> bytes:
    """Returns the bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def encoded_with_opencv(suffix: str, pixels: np.ndarray) -> bytes:
    """Returns the bytes of a file; channels are BGR or BGRA."""
    done, data = cv2.imencode(suffix, pixels)
    assert done
    return data.tobytes()


def image_files(width: int = 53, height: int = 38) -> dict[str, bytes]:
    """Returns kind -> bytes of a file of that size."""
    pixels = smooth_picture(4, width, height)
    picture = Image.fromarray(pixels)
    alpha = smooth_picture(5, width, height)[:, :, 0]
    deep = pixels[:, :, 0].astype(np.uint16) * 257 - 60
    transparent = Image.fromarray(np.dstack([pixels, alpha]))
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "png": encoded_with_pillow(picture, "PNG"),
        "png grey": encoded_with_pillow(picture.convert("L"), "PNG"),
        "png palette": encoded_with_pillow(picture.quantize(40), "PNG"),
        "png palette with transparency": encoded_with_pillow(picture.quantize(40), "PNG", transparency=3),
        "png of one bit": encoded_with_pillow(picture.convert("1"), "PNG"),
        "png with alpha": encoded_with_pillow(transparent, "PNG"),
        "png grey with alpha": encoded_with_pillow(transparent.convert("LA"), "PNG"),
        "png grey, one value transparent": encoded_with_pillow(picture.convert("L"), "PNG", transparency=90),
        "png of 16 bits": encoded_with_opencv(".png", deep),
        "png of 16 bits and colours": encoded_with_opencv(".png", np.dstack([deep, deep[::-1], deep // 3])),
        "png held sideways": encoded_with_pillow(picture, "PNG", exif=turned),
        "jpeg": encoded_with_pillow(picture, "JPEG", quality=90),
        "jpeg grey": encoded_with_pillow(picture.convert("L"), "JPEG"),
        "jpeg progressive": encoded_with_pillow(picture, "JPEG", progressive=True),
        "jpeg held sideways": encoded_with_pillow(picture, "JPEG", exif=turned),
        "jpeg cmyk": encoded_with_pillow(picture.convert("CMYK"), "JPEG"),
        "jpeg with a film behind": encoded_with_pillow(picture, "JPEG") + bytes(range(200)),
        "bmp": encoded_with_pillow(picture, "BMP"),
        "bmp grey": encoded_with_pillow(picture.convert("L"), "BMP"),
        "bmp palette": encoded_with_pillow(picture.quantize(40), "BMP"),
        "bmp with alpha": encoded_with_opencv(".bmp", np.dstack([pixels, alpha])),
        "tiff": encoded_with_pillow(picture, "TIFF"),
        "tiff of 16 bits": encoded_with_opencv(".tiff", deep),
        "webp": encoded_with_pillow(picture, "WEBP", lossless=True),
    }
