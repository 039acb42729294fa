"""Checks frames against their pictures: sizes, boxes and class names; repairs what is safe, rejects the rest."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from detection.prepare.classes import ClassMatcher
from detection.prepare.records import Box, CleanFrame, Frame, Ledger, RawBox
from ppcls_ext.preprocess.decode import ImageError, decode_image

# Less than this is left of a box after clipping: it is rejected as outside, in pixels.
SMALLEST_REST = 1.0
LOOK_SIDE = 32


def clean_frames(frames: Iterable[Frame], matcher: ClassMatcher, ledger: Ledger) -> list[CleanFrame]:
    """Decodes the image of each frame and checks its boxes; everything that is changed or left out is listed.

    Args:
        frames: what was read; their boxes have been taken in by the ledger.
        matcher: knows the classes.
        ledger: gets the entries and the counts.
    """
    cleaned = (clean_frame(frame, matcher, ledger) for frame in frames)
    return [frame for frame in cleaned if frame is not None]


def clean_frame(frame: Frame, matcher: ClassMatcher, ledger: Ledger) -> CleanFrame | None:
    """Checks one frame; returns ``None`` if its image cannot be used."""
    try:
        pixels = decode_image(frame.image.read_bytes(), frame.name)
    except (ImageError, OSError) as error:
        reason = str(error).removeprefix(frame.name).lstrip(": ")
        ledger.reject("undecodable_image", frame.name, reason, len(frame.boxes))
        ledger.images["rejected"] += 1
        return None
    height, width = pixels.shape[:2]
    if frame.stated_size is not None and frame.stated_size != (width, height):
        stated = "{}x{}".format(*frame.stated_size)
        ledger.repair("size_disagrees", frame.source, f"states {stated}, the picture has {width}x{height}")
    boxes = clean_boxes(frame, width, height, matcher, ledger)
    return CleanFrame(frame, width, height, boxes, look_of(pixels))


def look_of(pixels: np.ndarray) -> np.ndarray:
    """Returns a small grey version with mean 0 and norm 1, ``float32`` ``[1024]``; dark frames are as good as bright.

    Args:
        pixels: ``uint8`` RGB ``[H, W, 3]``. Sonar frames may carry the echo in one channel: the brightest counts.
    """
    grey = pixels.max(axis=2).astype(np.float32)
    small = cv2.resize(grey, (LOOK_SIDE, LOOK_SIDE), interpolation=cv2.INTER_AREA).ravel()
    small -= small.mean()
    return small / max(float(np.linalg.norm(small)), 1e-6)


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
        repairs.append(("clipped_box", f"corners {written} clipped to the {width}x{height} picture"))
    return None, repairs, (inside[0], inside[1], inside[2] - inside[0], inside[3] - inside[1])
