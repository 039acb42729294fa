"""Where range and bearing lie in the frames of a forward-looking sonar.

A *fan* is the Cartesian picture: the sonar stands below the middle and looks up, ranges are arcs around it. A *polar*
frame is what the sonar measures: rows are ranges, columns are bearings from left to right. Lengths are metres, angles
radians, points ``x, y`` in pixels, where pixel i reaches from i to i + 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppcls_ext.utils.errors import UserError

OPENING_KEYS = ("horizontal_opening_angle", "opening_angle", "azimuth")
RANGE_KEYS = ("range_window", "range")
WIDEST = 180.0
# How far, as a share of the largest range, the lit part of frames may differ from the fan that is stated.
TOLERANCE = 0.05


def opening_and_range(sonar: Mapping[str, Any]) -> tuple[float, float | None, float] | None:
    """Returns the horizontal opening angle in degrees and the nearest (``None`` if unknown) and farthest range in
    metres of the settings of a sonar; ``None`` where they do not say them."""
    opening = next((sonar[key] for key in OPENING_KEYS if key in sonar), None)
    window = next((sonar[key] for key in RANGE_KEYS if key in sonar), None)
    near, far = window if isinstance(window, list) and len(window) == 2 else (None, window)
    numbers = [value for value in (opening, far, *([] if near is None else [near]))]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in numbers):
        return None
    if not 0 < opening < WIDEST or not 0 <= (near or 0) < far:
        return None
    return float(opening), None if near is None else float(near), float(far)


@dataclass(frozen=True)
class Fan:
    """A fan in a picture.

    Attributes:
        half: half of the opening angle.
        near, far: nearest and farthest range.
        x, y: where the sonar stands, in pixels of the picture; it may be below it.
        pixels_a_metre: scale of the picture.
    """

    half: float
    near: float
    far: float
    x: float
    y: float
    pixels_a_metre: float

    def distance_and_bearing(self, points: np.ndarray) -> np.ndarray:
        """Points ``[..., 2]`` -> distance from the sonar and bearing (0 ahead, growing to the right) ``[..., 2]``."""
        aside, ahead = points[..., 0] - self.x, self.y - points[..., 1]
        return np.stack([np.hypot(aside, ahead) / self.pixels_a_metre, np.arctan2(aside, ahead)], axis=-1)

    def points(self, places: np.ndarray) -> np.ndarray:
        """Distances and bearings ``[..., 2]`` -> points ``[..., 2]``."""
        length, bearing = places[..., 0] * self.pixels_a_metre, places[..., 1]
        return np.stack([self.x + length * np.sin(bearing), self.y - length * np.cos(bearing)], axis=-1)


def fan_of(
    sonar: Mapping[str, Any], width: int, height: int, lit: tuple[float, float, float, float] | None = None
) -> Fan | None:
    """Returns the fan in a picture of a sonar; ``None`` where the settings do not tell opening angle and range.

    Args:
        sonar: the settings, see :func:`opening_and_range`.
        width, height: of the picture.
        lit: ``x1, y1, x2, y2`` around what is ever lit in the frames of this kind, which the fan fills. ``None``: it is
            centred, and as large as the picture allows.

    Raises:
        UserError: what is lit is no such fan.
    """
    found = opening_and_range(sonar)
    if found is None:
        return None
    opening, near, far = found
    half = math.radians(opening / 2)
    across, ahead = 2 * far * math.sin(half), far - (near or 0.0) * math.cos(half)
    if lit is None:
        scale = min(width / across, height / ahead)
        return Fan(half, near or 0.0, far, width / 2, (height - ahead * scale) / 2 + far * scale, scale)
    x1, y1, x2, y2 = lit
    scale = (x2 - x1) / across
    y = y1 + far * scale
    seen = (y - y2) / scale / math.cos(half)
    if abs(seen - (near or 0.0)) > TOLERANCE * far if near is not None else not -TOLERANCE * far <= seen < far:
        stated = f"{opening:g} degrees from {near or 0:g} to {far:g} m"
        raise UserError(
            f"the lit part of the frames, {x2 - x1:.0f} x {y2 - y1:.0f} pixels, is no fan of {stated} with the sonar "
            "below: check --opening-angle and --range, and that the frames are not polar already"
        )
    return Fan(half, max(seen, 0.0) if near is None else near, far, (x1 + x2) / 2, y, scale)
