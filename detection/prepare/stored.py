"""Pictures that a preparation changes, with the samples that their files hold: grey, colours, 8 or 16 bits."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ppcls_ext.preprocess.decode import read_bytes
from ppcls_ext.preprocess.depth import own_range
from ppcls_ext.preprocess.detection import decode_as_trained


def read_stored(path: Path) -> np.ndarray:
    """Returns the samples of a picture, upright, as the detectors see them but with all their bits.

    Returns:
        ``[H, W]`` where all colours are equal, else RGB ``[H, W, 3]``; ``uint8``, ``uint16`` or ``float32``.

    Raises:
        ImageError: it cannot be read; the message names the file.
    """
    data, deep = read_bytes(path), []
    pixels = decode_as_trained(data, str(path), own_range(data), lambda values, _: deep.append(values))
    if deep:
        pixels = deep[0][..., :3] if deep[0].ndim == 3 else deep[0]
        pixels = pixels if pixels.dtype == np.uint16 else pixels.astype(np.float32)
    if pixels.ndim == 3 and (pixels[..., :1] == pixels).all():
        pixels = pixels[..., 0]
    return np.ascontiguousarray(pixels)


def write_stored(path: Path, pixels: np.ndarray) -> Path:
    """Writes what :func:`read_stored` returned without loss; returns ``path`` with its suffix, ``.png``, or ``.tiff``
    of floating-point samples."""
    file = path.with_name(f"{path.name}{'.tiff' if pixels.dtype == np.float32 else '.png'}")
    if not cv2.imwrite(str(file), pixels if pixels.ndim == 2 else pixels[..., ::-1]):
        raise OSError(f"{file}: cannot be written")
    return file
