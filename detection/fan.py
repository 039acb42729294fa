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
# Recorders stretch frames; beyond that, in one direction against the other, the stated angle or range must be wrong.
MOST_STRETCHED = 1.3


def opening_and_range(sonar: Mapping[str, Any]) -> tuple[float, float | None, float] | None:
    """Returns the horizontal opening angle in degrees and the nearest (``None`` if unknown) and farthest range in
    metres of the settings of a sonar; ``None`` where they do not say them."""
    opening = next((sonar[key] for key in OPENING_KEYS if key in sonar), None)
    window = next((sonar[key] for key in RANGE_KEYS if key in sonar), None)
    near, far = window if isinstance(window, list) and len(window) == 2 else (None, window)
    numbers = [opening, far, 0.0 if near is None else near]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in numbers):
        return None
    return (opening, near, far) if 0 < opening < WIDEST and 0 <= numbers[2] < far else None


@dataclass(frozen=True)
class Fan:
    """A fan in a picture.

    Attributes:
        half: half of the opening angle.
        near, far: nearest and farthest range.
        x, y: where the sonar stands, in pixels of the picture; it may be below it.
        scale: pixels a metre, across and ahead.
    """

    half: float
    near: float
    far: float
    x: float
    y: float
    scale: tuple[float, float]

    def distance_and_bearing(self, points: np.ndarray) -> np.ndarray:
        """Points ``[..., 2]`` -> distance from the sonar and bearing (0 ahead, growing to the right) ``[..., 2]``."""
        aside, ahead = (points[..., 0] - self.x) / self.scale[0], (self.y - points[..., 1]) / self.scale[1]
        return np.stack([np.hypot(aside, ahead), np.arctan2(aside, ahead)], axis=-1)

    def points(self, distance: np.ndarray, bearing: np.ndarray) -> np.ndarray:
        """Distances and bearings -> points ``[..., 2]``."""
        aside, ahead = distance * np.sin(bearing), distance * np.cos(bearing)
        return np.stack([self.x + aside * self.scale[0], self.y - ahead * self.scale[1]], axis=-1)


def extent(opening: float, near: float | None, far: float) -> tuple[float, float]:
    """Returns width and height of a fan in metres; ``opening`` in degrees."""
    half = math.radians(opening / 2)
    return 2 * far * math.sin(half), far - (near or 0.0) * math.cos(half)


def fan_of(
    sonar: Mapping[str, Any], width: int, height: int, lit: tuple[float, float, float, float] | None = None
) -> Fan | None:
    """Returns the fan in a picture of a sonar; ``None`` where the settings do not tell opening angle and range.

    ``lit`` is ``x1, y1, x2, y2`` around what is ever lit in the frames of this kind, which the fan fills (a
    ``UserError`` if it is no such fan); without it, the fan is centred, and as large as the picture allows.
    """
    found = opening_and_range(sonar)
    if found is None:
        return None
    opening, near, far = found
    half, (across, ahead) = math.radians(opening / 2), extent(*found)
    if lit is None:
        scale = min(width / across, height / ahead)
        return Fan(half, near or 0.0, far, width / 2, (height - ahead * scale) / 2 + far * scale, (scale, scale))
    x1, y1, x2, y2 = lit
    scales = (x2 - x1) / across, (y2 - y1) / ahead
    if near is None:
        # What the picture shows then tells the nearest range.
        near = (far - (y2 - y1) / scales[0]) / math.cos(half)
        scales = scales[0], (y2 - y1) / extent(opening, max(near, 0.0), far)[1]
    if near >= far or max(scales) > MOST_STRETCHED * min(scales):
        raise UserError(
            f"the lit part of the frames, {x2 - x1:.0f} x {y2 - y1:.0f} pixels, is no fan of {opening:g} degrees from "
            f"{max(near, 0.0):.3g} to {far:g} m with the sonar below: check --opening-angle and --range, and that the "
            "frames are not polar already"
        )
    return Fan(half, max(near, 0.0), far, (x1 + x2) / 2, y1 + far * scales[1], scales)
