"""Turns sonar frames and their boxes from fans into polar form or back (``prepare_data.py sonar --projection``)."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detection.annotations import SMALLEST_REST, Box, Frame, Ledger
from detection.fan import Fan, extent, fan_of, opening_and_range
from detection.prepare.stored import read_stored, write_stored
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)
Transform = Callable[[np.ndarray], np.ndarray]
# Brightness, of 255, above which a pixel belongs to the fan; what compression leaves around it is darker.
DARK = 4
# So many frames of a size show where it is ever lit.
LOOKED_AT = 64
# Points on each side of a box whose outline is transformed.
OUTLINE = 65


@dataclasses.dataclass(frozen=True)
class Projection:
    """What the options say: the form (``polar`` or ``fan``), and what ``None`` takes from each frame's settings: the
    opening angle in degrees, the range in metres, and at which end of a polar frame (``top`` or ``bottom``, which is
    the default) the nearest range is."""

    form: str
    opening_angle: float | None = None
    window: tuple[float, float] | None = None
    nearest: str | None = None

    def settings(self, frame: Frame) -> dict[str, Any]:
        """Returns the settings of a frame's sonar with those of the options; a ``UserError`` if angle or range is
        unknown, or the frame has this form."""
        sonar = frame.metadata.get("sonar")
        sonar = dict(sonar) if isinstance(sonar, dict) else {}
        if sonar.get("projection") == self.form:
            raise UserError(f"{frame.name}: has the form {self.form} already, as its sonar block says")
        sonar["nearest"] = self.nearest or sonar.get("nearest", "bottom")
        if self.opening_angle is not None:
            sonar["horizontal_opening_angle"] = self.opening_angle
        if self.window is not None:
            sonar["range_window"] = list(self.window)
        if opening_and_range(sonar) is None:
            raise UserError(
                f"{frame.name}: its annotation tells no usable opening angle and range of the sonar: give "
                "--opening-angle DEGREES (below 180) and --range NEAR FAR (metres, NEAR below FAR)"
            )
        return sonar


def polar_form(fan: Fan, width: int, height: int, nearest: str) -> tuple[Transform, Transform]:
    """Returns what turns points of a fan, ``[..., 2]``, into those of its polar frame of a size, and back."""

    def rows(share: np.ndarray) -> np.ndarray:
        return 1 - share if nearest == "top" else share

    def from_fan(points: np.ndarray) -> np.ndarray:
        distance, bearing = np.moveaxis(fan.distance_and_bearing(points), -1, 0)
        share = rows((fan.far - distance) / (fan.far - fan.near))
        return np.stack([(bearing / fan.half + 1) / 2 * width, share * height], axis=-1)

    def to_fan(points: np.ndarray) -> np.ndarray:
        distance = fan.far - rows(points[..., 1] / height) * (fan.far - fan.near)
        return fan.points(distance, (2 * points[..., 0] / width - 1) * fan.half)

    return from_fan, to_fan


def project_frames(frames: Sequence[Frame], projection: Projection, scratch: Path, ledger: Ledger) -> None:
    """Gives clean frames the picture (written into ``scratch``), the boxes and the settings that they have in the other
    form.

    Raises:
        UserError: a frame's opening angle or range is unknown, or the frames are no such fans.
    """
    settings = [projection.settings(frame) for frame in frames]
    lit = _lit_parts(frames) if projection.form == "polar" else {}
    for number, (frame, sonar) in enumerate(zip(frames, settings, strict=True)):
        size = (frame.width, frame.height)
        if projection.form == "polar":
            fan = fan_of(sonar, *size, lit[size])
            sides = 2 * fan.half * fan.far * fan.scale[0], (fan.far - fan.near) * fan.scale[1]
            new_size = round(sides[0]), round(sides[1])
            forward, backward = polar_form(fan, *new_size, sonar["nearest"])
        else:
            # As many pixels a metre ahead as the polar frame has.
            opening, near, far = opening_and_range(sonar)
            across, ahead = (side * frame.height / (far - (near or 0.0)) for side in extent(opening, near, far))
            new_size = math.ceil(across), math.ceil(ahead)
            fan = fan_of(sonar, *new_size)
            # A fan has no such end.
            backward, forward = polar_form(fan, *size, sonar.pop("nearest"))
        source = read_stored(frame.image)
        columns, rows = np.meshgrid(np.arange(new_size[0]) + 0.5, np.arange(new_size[1]) + 0.5)
        places = backward(np.stack([columns, rows], axis=-1))
        maps = (places - 0.5).astype(np.float32)
        pixels = cv2.remap(source, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        pixels[((places < 0) | (places >= size)).any(axis=-1)] = 0
        frame.image = write_stored(scratch / f"{number:06d}", pixels)
        frame.boxes = _moved_boxes(frame, forward, new_size, ledger)
        frame.width, frame.height = new_size
        window = [round(fan.near, 4), round(fan.far, 4)]
        frame.metadata["sonar"] = {**sonar, "range_window": window, "projection": projection.form}


def _lit_parts(frames: Sequence[Frame]) -> dict[tuple[int, int], tuple[float, float, float, float]]:
    """Returns for each size of frames ``x1, y1, x2, y2`` around what is lit in any; a ``UserError`` if all are black.
    """
    by_size: dict[tuple[int, int], list[Frame]] = defaultdict(list)
    for frame in frames:
        by_size[frame.width, frame.height].append(frame)
    found = {}
    for size, group in by_size.items():
        brightest, is_deep = np.zeros(size[::-1]), False
        for frame in group[:: max(len(group) // LOOKED_AT, 1)]:
            pixels = read_stored(frame.image)
            brightest = np.maximum(brightest, pixels.reshape(*pixels.shape[:2], -1).max(axis=2))
            is_deep |= pixels.dtype != np.uint8
        # Of more than 8 bits, or fractions, a file does not say how large they get.
        white = brightest.max() if is_deep else 255
        rows, columns = np.nonzero(brightest > DARK * white / 255)
        if not len(rows):
            raise UserError(f"{group[0].name}: it and all frames of its size are black; where is the fan?")
        left, top, right, bottom = float(columns.min()), float(rows.min()), columns.max() + 1.0, rows.max() + 1.0
        logger.info("fan of frames of %d x %d: lit from x %g to %g, from y %g to %g", *size, left, right, top, bottom)
        found[size] = left, top, right, bottom
    return found


def _moved_boxes(frame: Frame, forward: Transform, size: tuple[int, int], ledger: Ledger) -> list[Box]:
    """Returns the boxes around the transformed outlines, clipped to the new picture."""
    boxes = []
    along = np.linspace(0.0, 1.0, OUTLINE)
    sides = [(along, 0 * along), (along, 0 * along + 1), (0 * along, along), (0 * along + 1, along)]
    outline = np.concatenate([np.stack(side, axis=1) for side in sides])
    for box in frame.boxes:
        x, y, width, height = box.xywh
        points = np.clip(forward(outline * (width, height) + (x, y)), 0, size)
        (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        if min(x2 - x1, y2 - y1) >= SMALLEST_REST:
            boxes.append(dataclasses.replace(box, xywh=(x1, y1, x2 - x1, y2 - y1), raw=None))
            continue
        ledger.boxes["repaired" if box.repaired else "kept"] -= 1
        ledger.reject("outside_the_fan", frame.name, f"box {box.xywh} lies outside of the fan", boxes=1)
    return boxes
