"""Shears and translations: each row slides by an amount of its own, so the arithmetic has one dimension, not two.

The results are those of Pillow's ``transform``, about four times as fast for a picture of 224 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np


def tap_weights(fractions: np.ndarray, interpolation: str) -> np.ndarray:
    """Returns the weights of the pixels one before, at, one after and two after a position.

    Args:
        fractions: ``[N]``, the part of each position behind the decimal point.
        interpolation: ``bilinear`` or ``bicubic`` (cubic convolution with a = -1, as Pillow's transforms have it).

    Returns:
        ``float32`` ``[4, N]``; each column sums to 1.
    """
    d = fractions
    if interpolation == "bilinear":
        weights = [np.zeros_like(d), 1.0 - d, d, np.zeros_like(d)]
    else:
        weights = [-d * (1.0 - d) ** 2, 1.0 - d * d * (2.0 - d), d * (1.0 + d - d * d), -d * d * (1.0 - d)]
    return np.stack(weights).astype(np.float32)


def slide_rows(image: np.ndarray, amounts: np.ndarray, interpolation: str, fill: Sequence[int]) -> np.ndarray:
    """Takes the pixel at (x, y) from (x + amounts[y], y).

    Args:
        image: ``uint8`` ``[H, W, 3]``.
        amounts: ``float64`` ``[H]``, in pixels; positive ones move the picture to the left.
        interpolation: ``bilinear`` or ``bicubic``.
        fill: colour of what comes from outside.

    Returns:
        ``uint8`` ``[H, W, 3]``.
    """
    height, width = image.shape[:2]
    amounts = np.clip(amounts, -width - 1.0, width + 1.0)
    whole = np.floor(amounts).astype(np.int64)
    weights = tap_weights(amounts - whole, interpolation)
    margin_left, margin_right = max(1 - int(whole.min()), 0), max(int(whole.max()) + 2, 0)
    padded = cv2.copyMakeBorder(image, 0, 0, margin_left, margin_right, cv2.BORDER_REPLICATE).reshape(height, -1)
    taken = np.empty((height, (width + 3) * 3), dtype=np.float32)
    for y, start in enumerate(((whole - 1 + margin_left) * 3).tolist()):
        taken[y] = padded[y, start : start + (width + 3) * 3]
    total = taken[:, : width * 3] * weights[0][:, np.newaxis]
    product = np.empty_like(total)
    for tap in (1, 2, 3):
        np.multiply(taken[:, tap * 3 : (tap + width) * 3], weights[tap][:, np.newaxis], out=product)
        total += product
    result = cv2.add(total.reshape(height, width, 3), 0.0, dtype=cv2.CV_8U)
    # Centres of pixels are at one half: those that lie before 0 or from the width on come from outside.
    first = np.clip(np.ceil(-amounts - 0.5), 0, width).astype(np.int64)
    end = np.clip(np.ceil(width - amounts - 0.5), 0, width).astype(np.int64)
    for y, (left, right) in enumerate(zip(first.tolist(), end.tolist(), strict=True)):
        if left > 0:
            result[y, :left] = fill
        if right < width:
            result[y, right:] = fill
    return result


def slide_columns(image: np.ndarray, amounts: np.ndarray, interpolation: str, fill: Sequence[int]) -> np.ndarray:
    """Takes the pixel at (x, y) from (x, y + amounts[x]); otherwise as :func:`slide_rows`."""
    return cv2.transpose(slide_rows(cv2.transpose(image), amounts, interpolation, fill))
