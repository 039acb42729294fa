"""Pointwise changes of colour on ``uint8`` RGB arrays; with the results of Pillow's ``ImageOps`` and ``ImageEnhance``.

Where a byte depends only on the byte at its place, all 256 results are computed once and looked up.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageOps

BYTES = np.arange(256)
# Weights of red, green and blue in the brightness of a pixel (ITU-R BT.601).
LUMINANCE = np.asarray([0.299, 0.587, 0.114])
# Pillow's smoothing filter, which sharpness blends with.
SMOOTH = np.asarray([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13.0


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    return cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8))


def invert(image: np.ndarray) -> np.ndarray:
    """Negative of ``uint8`` ``[H, W, 3]``."""
    return cv2.bitwise_not(image)


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Inverts the values from ``threshold`` on."""
    return _look_up(image, np.where(threshold > BYTES, BYTES, 255 - BYTES))


def solarize_add(image: np.ndarray, addend: int, threshold: int = 128) -> np.ndarray:
    """Adds to the values below ``threshold``."""
    return _look_up(image, np.where(threshold > BYTES, np.minimum(BYTES + addend, 255), BYTES))


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keeps the upper ``bits`` (1 to 8) of each value."""
    return _look_up(image, BYTES & ~((1 << (8 - bits)) - 1))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends black (factor 0) with the image (factor 1), or goes beyond it."""
    return _look_up(image, BYTES * factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends the image's mean grey (factor 0) with the image (factor 1), or goes beyond it."""
    red, green, blue = cv2.mean(image)[:3]
    grey = int(np.dot(LUMINANCE, (red, green, blue)) + 0.5)
    return _look_up(image, grey + factor * (BYTES - grey))


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends the grey image (factor 0) with the image (factor 1), or goes beyond it."""
    matrix = factor * np.eye(3) + (1.0 - factor) * np.tile(LUMINANCE, (3, 1))
    return cv2.transform(image, matrix)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends the smoothed image (factor 0) with the image (factor 1), or goes beyond it; the outermost pixels stay."""
    blended = cv2.addWeighted(image, factor, cv2.filter2D(image, -1, SMOOTH), 1.0 - factor, 0.0)
    result = image.copy()
    result[1:-1, 1:-1] = blended[1:-1, 1:-1]
    return result


def grayscale(image: np.ndarray) -> np.ndarray:
    """Brightness of each pixel in all three channels."""
    return color(image, 0.0)


def hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Turns the hue by a share of the colour circle (-0.5 to 0.5)."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    # 8-bit arithmetic wraps around, as the circle does.
    hsv[:, :, 0] += np.uint8(round(turn * 256) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Stretches each channel to the whole range."""
    return np.asarray(ImageOps.autocontrast(Image.fromarray(image)))


def equalize(image: np.ndarray) -> np.ndarray:
    """Makes the histogram of each channel even."""
    return np.asarray(ImageOps.equalize(Image.fromarray(image)))
