"""Prepared data sets, and pictures that are changed with the samples that their files hold: grey, colours, 16 bits."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from detection.annotations import Ledger
from detection.coco import CocoSet, open_coco
from detection.prepare.readers import without_subsets
from ppcls_ext.preprocess.decode import decode_image, read_bytes
from ppcls_ext.preprocess.depth import own_range
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.outputs import Output, claim_outputs


def open_prepared(
    source: Path, output: Path, kind: str, overwrite: bool, ledger: Ledger
) -> tuple[dict[str, CocoSet], list[str]]:
    """Opens a prepared data set, of which ``output`` is to be made.

    Returns:
        What its files hold by their stems, without those of ``--subsets``; and their classes.

    Raises:
        UserError: it is none, its parts have different classes, or ``output`` may not be written.
    """
    files = {file.stem: file for file in without_subsets(sorted((source / "annotations").glob("*.json")))}
    if not files or not (source / "images").is_dir():
        advice = "prepare it with python tools/prepare_data.py import FOLDER --output OUT"
        raise UserError(f"{source}: is no prepared data set (annotations/*.json and images/); {advice}")
    claim_outputs([Output("--output", output, kind)], files.values(), [source], overwrite)
    sets = {part: open_coco(file, source / "images", ledger) for part, file in files.items()}
    first, *others = sets.values()
    for coco in others:
        if coco.names != first.names:
            raise UserError(f"{coco.path}: its classes are not those of {first.path}")
    return sets, first.names


def read_stored(path: Path) -> np.ndarray:
    """Returns the samples of a picture, upright, as the detectors see them but with all their bits.

    Returns:
        ``[H, W]`` where all colours are equal, else RGB ``[H, W, 3]``; ``uint8``, ``uint16`` or ``float32``.

    Raises:
        ImageError: it cannot be read; the message names the file.
    """
    data, deep = read_bytes(path), []
    pixels = decode_image(data, str(path), own_range(data), lambda values, _: deep.append(values), on_white=False)
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
    # cv2.imwrite() does not tell why it failed.
    file.write_bytes(cv2.imencode(file.suffix, pixels if pixels.ndim == 2 else pixels[..., ::-1])[1].tobytes())
    return file
