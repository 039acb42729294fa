"""Resizing of ``uint8`` images by the names that PaddleClas's configurations use."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from PIL import Image

Backend = Literal["cv2", "pil"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "area", "lanczos", "box", "hamming"]

CV2_INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}
PIL_INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
    "hamming": Image.Resampling.HAMMING,
}


def check_interpolation(interpolation: str, backend: str) -> None:
    """Checks that the backend knows the interpolation.

    Raises:
        ValueError: it does not; the message begins with the argument's name.
    """
    allowed = CV2_INTERPOLATIONS if backend == "cv2" else PIL_INTERPOLATIONS
    if interpolation not in allowed:
        raise ValueError(
            f"interpolation: '{interpolation}' is not available with backend '{backend}'; "
            f"allowed: {', '.join(sorted(allowed))}"
        )


def resize(image: np.ndarray, width: int, height: int, interpolation: str, backend: str) -> np.ndarray:
    """Resizes an image.

    Args:
        image: ``uint8`` ``[H, W, 3]``.
        width, height: size of the result in pixels.
        interpolation: a name of ``CV2_INTERPOLATIONS`` or ``PIL_INTERPOLATIONS``.
        backend: ``pil`` low-pass filters when it makes an image smaller (antialiasing); ``cv2`` does so only with
            ``area``.

    Returns:
        ``uint8`` ``[height, width, 3]``.
    """
    if image.shape[0] == height and image.shape[1] == width:
        return image
    if backend == "cv2":
        return cv2.resize(image, (width, height), interpolation=CV2_INTERPOLATIONS[interpolation])
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), PIL_INTERPOLATIONS[interpolation]))
