"""Tiles: windows that cover a picture much larger than the network's input, and one list of boxes from all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ppcls_ext.utils.errors import UserError

SMALLEST_TILE = 32
LARGEST_OVERLAP = 0.9
OVERLAP = 0.2
# Two boxes of a class from different tiles are one object if their intersection over union is larger; so is a part of
# an object of which a larger share is covered by a box.
SAME_OBJECT = 0.5
# What a score counts of a box that ends at a seam, where the object may have been cut.
CUT_WEIGHT = 0.5
# So near to a seam a box ends at it, as a share of the tile.
MARGIN = 0.01


class Window(NamedTuple):
    """A part of a picture, in pixels."""

    x: int
    y: int
    width: int
    height: int


class Tiled(NamedTuple):
    """What was found in the tiles of a picture, one list as :func:`merge` returns it, and the size of the picture."""

    rows: np.ndarray
    height: int
    width: int


def windows(width: int, height: int, tile: int, overlap: float = OVERLAP) -> list[Window]:
    """Returns windows of ``tile`` x ``tile`` pixels that cover a picture to its edges, row by row.

    Neighbours share at least ``overlap`` of their side, and are spread evenly. Where the picture is smaller than a tile
    the window is as large as the picture: a small picture is one window.

    Raises:
        UserError: ``tile`` or ``overlap`` is out of range.
    """
    if tile < SMALLEST_TILE:
        raise UserError(f"tile: must be at least {SMALLEST_TILE} pixels, got {tile}")
    if not 0 <= overlap <= LARGEST_OVERLAP:
        raise UserError(f"overlap: must be from 0 to {LARGEST_OVERLAP}, a share of the tile, got {overlap:g}")

    def starts(side: int) -> list[int]:
        count = 1 + max(math.ceil((side - tile) / (tile * (1 - overlap))), 0)
        return np.linspace(0, max(side - tile, 0), count).astype(int).tolist()

    sides = min(tile, width), min(tile, height)
    return [Window(x, y, *sides) for y in starts(height) for x in starts(width)]


def _meet(one: Window, other: Window) -> bool:
    """Tells whether two tiles have pixels in common, or edges: boxes may reach a little beyond their tile."""
    across, along = abs(one.x - other.x), abs(one.y - other.y)
    return across <= one.width and along <= one.height


def merge(found: Sequence[np.ndarray], places: Sequence[Window], width: int, height: int) -> np.ndarray:
    """Returns the boxes of a picture from those of its tiles.

    From the best score on, each box that is kept removes those of its class from *other* tiles that show the same
    object: those that overlap it with an intersection over union above 0.5, and parts, which end at a seam (an edge of
    their tile inside the picture) and of which it covers more than half. The score of a box that ends at a seam counts
    half, so that of an object which one tile cuts and another shows whole, the whole one stays. Boxes of the same tile
    never remove each other: what a network without NMS gives, and the result for a single tile, stay as they are.

    Args:
        found: for each tile ``float32`` ``[n, 6]``: class, score, x1, y1, x2, y2 in pixels of the tile.
        places: the tiles.
        width, height: of the picture.

    Returns:
        ``float32`` ``[m, 6]`` in pixels of the picture, the best first.
    """
    shifted, ends = [], []
    for rows, place in zip(found, places, strict=True):
        margin = MARGIN * max(place.width, place.height)
        inner = np.array([place.x > 0, place.y > 0, place.x + place.width < width, place.y + place.height < height])
        limits = np.array([margin, margin, place.width - margin, place.height - margin])
        beyond = np.concatenate([rows[:, 2:4] <= limits[:2], rows[:, 4:] >= limits[2:]], axis=1)
        ends.append((beyond & inner).any(axis=1))
        shifted.append(rows + np.array([0, 0, *place[:2], *place[:2]], np.float32))
    rows, cut = np.concatenate(shifted), np.concatenate(ends)
    tiles = np.repeat(np.arange(len(found)), [len(each) for each in found])
    areas = np.maximum(rows[:, 4:] - rows[:, 2:4], 0).prod(axis=1)
    ranks = rows[:, 1] * np.where(cut, CUT_WEIGHT, 1.0)
    # Only boxes of tiles that meet can be one object.
    members = [np.flatnonzero(tiles == number) for number in range(len(places))]
    near = [np.concatenate([members[other] for other in range(len(places)) if other != number
                            and _meet(places[number], places[other])] or [members[number][:0]])
            for number in range(len(places))]  # fmt: skip
    waiting, kept = np.ones(len(rows), bool), np.zeros(len(rows), bool)
    for best in np.argsort(-ranks, kind="stable").tolist():
        if not waiting[best]:
            continue
        waiting[best], kept[best] = False, True
        others = near[tiles[best]]
        others = others[waiting[others] & (rows[others, 0] == rows[best, 0])]
        low, high = np.maximum(rows[others, 2:4], rows[best, 2:4]), np.minimum(rows[others, 4:], rows[best, 4:])
        common = np.maximum(high - low, 0).prod(axis=1)
        same = common > SAME_OBJECT * (areas[others] + areas[best] - common)
        same |= cut[others] & (common > SAME_OBJECT * areas[others])
        waiting[others[same]] = False
    result = rows[kept]
    return result[np.argsort(-result[:, 1], kind="stable")]
