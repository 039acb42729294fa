"""Checks frames against their pictures: sizes, boxes and class names; repairs what is safe, rejects the rest."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from detection.prepare.classes import ClassMatcher
from detection.prepare.looks import look_of
from detection.prepare.records import Box, CleanFrame, Frame, Ledger, RawBox
from ppcls_ext.preprocess.decode import ImageError, decode_image
from ppcls_ext.utils.machine import available_cores

logger = logging.getLogger(__name__)
# Less than this is left of a box after clipping: it is rejected as outside, in pixels.
SMALLEST_REST = 1.0
# Less of its area inside the picture than this is no box that someone drew a little too large, but a mistake.
SMALLEST_SHARE = 0.25
# Decoders release the interpreter; each thread holds a picture.
MOST_THREADS = 8
# Frames between two lines of progress.
PROGRESS = 1000


@dataclass(frozen=True)
class _Picture:
    """What is kept of a decoded image; ``problem`` says why there is none."""

    width: int = 0
    height: int = 0
    look: np.ndarray | None = None
    problem: str = ""


def clean_frames(frames: Sequence[Frame], matcher: ClassMatcher, ledger: Ledger) -> list[CleanFrame]:
    """Decodes the image of each frame and checks its boxes; everything that is changed or left out is listed.

    Args:
        frames: what was read; their boxes have been taken in by the ledger.
        matcher: knows the classes.
        ledger: gets the entries and the counts.
    """
    with ThreadPoolExecutor(max_workers=min(available_cores(), MOST_THREADS)) as threads:
        pictures = threads.map(_look_at, frames)
        cleaned = []
        for number, (frame, picture) in enumerate(zip(frames, pictures, strict=True), start=1):
            cleaned.append(_clean_frame(frame, picture, matcher, ledger))
            if number % PROGRESS == 0:
                logger.info("checked %d of %d frames", number, len(frames))
    return [frame for frame in cleaned if frame is not None]


def _look_at(frame: Frame) -> _Picture:
    try:
        pixels = decode_image(frame.image.read_bytes(), frame.name)
    except (ImageError, OSError) as error:
        return _Picture(problem=str(error).removeprefix(frame.name).lstrip(": "))
    return _Picture(pixels.shape[1], pixels.shape[0], look_of(pixels))


def _clean_frame(frame: Frame, picture: _Picture, matcher: ClassMatcher, ledger: Ledger) -> CleanFrame | None:
    """Checks one frame; returns ``None`` if it cannot be used."""
    if picture.problem:
        ledger.reject("undecodable_image", frame.name, picture.problem, len(frame.boxes))
        ledger.images["rejected"] += 1
        return None
    width, height = picture.width, picture.height
    if frame.stated_size is not None and frame.stated_size != (width, height):
        stated = "{}x{}".format(*frame.stated_size)
        ledger.repair("size_disagrees", frame.source, f"states {stated}, the picture has {width}x{height}")
    boxes = clean_boxes(frame, width, height, matcher, ledger)
    if frame.boxes and not boxes:
        # It shows something; without a box it would teach that it shows nothing.
        ledger.reject("no_box_left", frame.name, f"none of its {len(frame.boxes)} boxes can be used")
        ledger.images["rejected"] += 1
        return None
    return CleanFrame(frame, width, height, boxes, picture.look)


def clean_boxes(frame: Frame, width: int, height: int, matcher: ClassMatcher, ledger: Ledger) -> list[Box]:
    """Returns the boxes of a frame that can be used; counts and lists what happened to each.

    Args:
        frame: the frame; its picture has ``width`` x ``height`` pixels.
        width: in pixels.
        height: in pixels.
        matcher: knows the classes.
        ledger: gets the entries and the counts.
    """
    boxes: list[Box] = []
    for position, raw in enumerate(frame.boxes, start=1):
        place = f"object {position} ({raw.name or 'no name'})"
        category = matcher.index_of(raw.name)
        problem, repairs, xywh = _check(raw, width, height)
        if problem is None and category is None:
            problem = ("unknown_class", matcher.unknown(raw.name) if raw.name else "has no class name")
        if problem is None and any((box.category, box.xywh) == (category, xywh) for box in boxes):
            problem = ("duplicate_box", "the same class and corners as an object before it")
        if problem is not None:
            ledger.reject(problem[0], frame.source, f"{place}: {problem[1]}", boxes=1)
            continue
        for kind, reason in repairs:
            ledger.repair(kind, frame.source, f"{place}: {reason}", boxes=1)
        ledger.boxes["repaired" if repairs else "kept"] += 1
        boxes.append(Box(category, xywh, raw.extra, bool(repairs)))
    return boxes


_Reason = tuple[str, str]


def _check(
    raw: RawBox, width: int, height: int
) -> tuple[_Reason | None, list[_Reason], tuple[float, float, float, float]]:
    """Returns the reason to reject a box or ``None``, the repairs, and the box as ``x, y, w, h``."""
    nothing = (0.0, 0.0, 0.0, 0.0)
    if raw.corners is None:
        return raw.problem or ("missing_coordinates", "has no coordinates"), [], nothing
    written = " ".join(f"{value:g}" for value in raw.corners)
    repairs: list[_Reason] = []
    left, top, right, bottom = raw.corners
    if right < left or bottom < top:
        repairs.append(("swapped_corners", f"corners {written} put in order"))
        left, right = min(left, right), max(left, right)
        top, bottom = min(top, bottom), max(top, bottom)
    if right == left or bottom == top:
        return ("empty_box", f"corners {written} enclose nothing"), [], nothing
    inside = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
    if inside != (left, top, right, bottom):
        if inside[2] - inside[0] < SMALLEST_REST or inside[3] - inside[1] < SMALLEST_REST:
            return ("box_outside", f"corners {written} lie outside the {width}x{height} picture"), [], nothing
        share = (inside[2] - inside[0]) * (inside[3] - inside[1]) / ((right - left) * (bottom - top))
        if share < SMALLEST_SHARE:
            reason = f"corners {written} leave {share:.0%} of the box inside the {width}x{height} picture"
            return ("box_outside", reason), [], nothing
        repairs.append(("clipped_box", f"corners {written} clipped to the {width}x{height} picture"))
    return None, repairs, (inside[0], inside[1], inside[2] - inside[0], inside[3] - inside[1])
