"""Synthetic frames of a forward-looking sonar with exact boxes: a data set for the quickstart and for tests.

A frame is simulated in range and bearing and drawn as a fan. The seabed and the objects on it are a landscape of
heights. What is brighter or darker, hidden or seen follows from that: faces turned to the sonar return more, and
everything behind an object that lies below the line of sight over its top is in its shadow, which points away from the
sonar.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detection.annotations import Box, Frame
from detection.fan import Fan, extent
from detection.prepare.stored import write_stored
from detection.prepare.write import write_made_set
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_folder
from ppcls_ext.utils.outputs import Output, claim_outputs

logger = logging.getLogger(__name__)

# A row of detection.annotations.CLASS_SETS["sonar"] for each, in the same order.
CLASSES = ("cube", "ball", "cylinder", "tyre")
DEFAULT_SIZE = 160
# Validation counts from here, so that its frames are the same however many there are for training.
FIRST_VALIDATION = 1_000_000
OPENING_DEGREES = 60.0
HALF_OPENING = math.radians(OPENING_DEGREES / 2)
VERTICAL_OPENING_DEGREES = 20.0
NEAREST = 0.8
FARTHEST = 6.0
SOUND_SPEED = 1500
FREQUENCY_KHZ = 720
SMALLEST_SIZE = 64
# Share of frames without any object, and of those with a wall.
EMPTY_SHARE = 0.08
WALL_SHARE = 0.25
MOST_TARGETS = 5
PLACES_TRIED = 60
# Of objects from the sonar, in metres.
DISTANCES = (2.0, 5.3)
# An object of which fewer pixels are to be seen, as a share of the frame, is left out of the scene.
SMALLEST_SHARE = 0.0008


@dataclasses.dataclass(frozen=True)
class Target:
    """An object on the seabed. Lengths are metres; the sonar stands at the origin and looks along y.

    Attributes:
        category: number in ``CLASSES``.
        x, y: its centre, to starboard and ahead.
        angle: of its long side against x, in radians.
        length, width: of its outline; its diameter, if it is round.
        height: of its top.
        reflectivity: of its surface; the seabed has about 1.
    """

    category: int
    x: float
    y: float
    angle: float
    length: float
    width: float
    height: float
    reflectivity: float

    @property
    def radius(self) -> float:
        """Radius of a circle around its outline."""
        round_outline = CLASSES[self.category] in ("ball", "tyre")
        return self.length / 2 if round_outline else float(np.hypot(self.length, self.width)) / 2

    def height_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Returns the height of the object at each point, 0 beside it; the shape is that of ``x`` and ``y``."""
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        along = cosine * (x - self.x) + sine * (y - self.y)
        across = cosine * (y - self.y) - sine * (x - self.x)
        name = CLASSES[self.category]
        if name == "cube":
            inside = (np.abs(along) <= self.length / 2) & (np.abs(across) <= self.width / 2)
            return np.where(inside, self.height, 0.0)
        if name == "ball":
            # Half sunk into the ground, as balls are that stay where they lie.
            radius = self.length / 2
            return self.height / radius * np.sqrt(np.maximum(radius**2 - along**2 - across**2, 0.0))
        if name == "cylinder":
            radius = self.width / 2
            beneath = radius**2 - across**2
            inside = (beneath > 0) & (np.abs(along) <= self.length / 2)
            return np.where(inside, self.height / 2 * (1 + np.sqrt(np.maximum(beneath, 0.0)) / radius), 0.0)
        tube = self.height / 2
        beneath = tube**2 - (np.hypot(along, across) - (self.length / 2 - tube)) ** 2
        return np.where(beneath > 0, tube + np.sqrt(np.maximum(beneath, 0.0)), 0.0)

    def hides(self, other: Target) -> bool:
        """Tells whether the bearings of two objects overlap, so that one may be in the other's shadow."""
        bearings = [math.atan2(target.x, target.y) for target in (self, other)]
        angles = [target.radius / math.hypot(target.x, target.y) for target in (self, other)]
        return abs(bearings[0] - bearings[1]) <= 1.1 * sum(angles)


def random_target(generator: np.random.Generator, category: int, x: float, y: float) -> Target:
    """Returns an object of a class, of random size and direction, at a place."""
    name = CLASSES[category]
    # Hardly anything would be seen of a long thing that points at the sonar.
    limit = np.pi / 2 if name != "cylinder" else np.pi / 3
    angle = float(generator.uniform(-limit, limit))
    reflectivity = float(generator.uniform(1.6, 2.6))
    shortest, longest = {"cube": (0.7, 0.9), "ball": (0.6, 0.85), "cylinder": (1.3, 1.7), "tyre": (1.05, 1.3)}[name]
    length = float(generator.uniform(shortest, longest))
    thickness = float(generator.uniform(0.26, 0.34)) if name in ("cylinder", "tyre") else 0.0
    width = thickness if name == "cylinder" else length
    height = {"cube": 0.8 * length, "ball": 0.6 * length, "cylinder": 0.9 * thickness, "tyre": thickness}[name]
    return Target(category, x, y, angle, length, width, height, reflectivity)


@dataclasses.dataclass(frozen=True)
class SyntheticFrame:
    """One frame and what is on it.

    Attributes:
        image: ``uint8`` ``[H, W]``.
        boxes: ``float64`` ``[N, 4]``: x, y, width, height in pixels, exactly around what can be seen of each object.
        categories: ``int64`` ``[N]``: numbers in ``CLASSES``.
        sonar: settings of the sonar, as in the annotation files of real frames.
    """

    image: np.ndarray
    boxes: np.ndarray
    categories: np.ndarray
    sonar: dict[str, Any]


def fan(size: int, ranges: int, bearings: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns for each pixel of a square frame, its tip below and its arc above, where it lies in the simulated grid.

    That is the row (of ``ranges``) and the column (of ``bearings``), and whether it is inside of the fan.
    """
    across, ahead = extent(OPENING_DEGREES, NEAREST, FARTHEST)
    scale = size * 0.97 / max(across, ahead)
    tip = (size + ahead * scale) / 2 + NEAREST * math.cos(HALF_OPENING) * scale
    rows, columns = np.mgrid[0:size, 0:size] + 0.5
    place = Fan(HALF_OPENING, NEAREST, FARTHEST, size / 2, tip, (scale, scale))
    distance, bearing = np.moveaxis(place.distance_and_bearing(np.stack([columns, rows], axis=-1)), -1, 0)
    inside = (distance >= NEAREST) & (distance <= FARTHEST) & (np.abs(bearing) <= HALF_OPENING)
    row = (distance - NEAREST) / (FARTHEST - NEAREST) * (ranges - 1)
    column = (bearing + HALF_OPENING) / (2 * HALF_OPENING) * (bearings - 1)
    return row.astype(np.float32), column.astype(np.float32), inside


def synthetic_frame(seed: int, number: int, size: int = 160) -> SyntheticFrame:
    """Makes a frame of ``size`` pixels a side; the same arguments always give the same one, each number another scene.

    Raises:
        ValueError: ``size`` is too small; the message begins with the argument's name.
    """
    if size < SMALLEST_SIZE:
        raise ValueError(f"size: must be at least {SMALLEST_SIZE}, got {size}")
    generator = np.random.default_rng([seed, number])
    altitude = float(generator.uniform(1.9, 2.5))
    # Distance ahead and slope of a wall across the far end of some scenes.
    distance, slope, chosen = generator.uniform(4.7, 5.6), generator.uniform(-0.35, 0.35), generator.random()
    wall = (float(distance), float(slope)) if chosen < WALL_SHARE else None
    targets = _random_targets(generator, wall)

    # Heights, reflectivity and the number of the object (from 1; 0 is seabed) by range and bearing, all [R, B].
    ranges = np.linspace(NEAREST, FARTHEST, round(1.3 * size))[:, np.newaxis]
    bearings = np.linspace(-HALF_OPENING, HALF_OPENING, round(1.2 * size))[np.newaxis, :]
    x, y = ranges * np.sin(bearings), ranges * np.cos(bearings)

    def texture(cells: int) -> np.ndarray:
        """Returns smooth noise ``[R, B]`` of mean 0 and deviation about 1 with so many cells across."""
        coarse = generator.standard_normal((cells + 3, cells + 3)).astype(np.float32)
        return cv2.resize(coarse, x.shape[::-1], interpolation=cv2.INTER_CUBIC).astype(np.float64)

    heights = 0.03 * texture(6) + 0.005 * texture(45)
    if generator.random() < 0.5:
        direction, length = generator.uniform(-0.5, 0.5), generator.uniform(0.3, 0.6)
        phase = 2 * np.pi * (y * np.cos(direction) + x * np.sin(direction)) / length
        heights = heights + 0.008 * np.sin(phase + 2.0 * texture(6))
    reflectivity = np.exp(0.25 * texture(14))
    owner = np.zeros(x.shape, dtype=np.int64)
    for label, target in enumerate(targets, start=1):
        own = target.height_at(x, y)
        covered = own > 0
        heights = np.where(covered, own, heights)
        reflectivity = np.where(covered, target.reflectivity, reflectivity)
        owner[covered] = label
    if wall is not None:
        behind = np.clip(y - wall[0] - wall[1] * x, 0.0, None)
        heights = np.maximum(heights, np.minimum(2.5 * behind, 1.6))
        reflectivity = np.where(behind > 0, 1.3 * reflectivity, reflectivity)

    # The sonar sees a surface if nothing nearer reaches above the line of sight.
    line_of_sight = (heights - altitude) / ranges
    seen = line_of_sight >= np.maximum.accumulate(line_of_sight, axis=0) - 0.004

    # The amplitude that comes back from each cell, with speckle and the sonar's own noise.
    climb = np.gradient(heights, ranges[:, 0], axis=0)
    below = altitude - heights
    facing = (climb * ranges + below) / (np.hypot(ranges, below) * np.hypot(climb, 1.0))
    # Lambert's law, and a gloss on what faces the sonar straight.
    surface = reflectivity * (np.clip(facing, 0.02, 1.0) + np.clip(facing, 0.0, 1.0) ** 6) * seen
    # Down in front the beam does not reach the ground; far away little comes back, which the receiver makes up in part.
    elevation = np.degrees(np.arctan2(altitude, ranges))
    beam = np.exp(-(np.maximum(elevation - generator.uniform(24.0, 32.0), 0.0) ** 2) / (2 * 13.0**2))
    stripes = 1.0 + 0.05 * generator.standard_normal(bearings.shape)
    amplitude = surface * beam * stripes * np.exp(-0.12 * (ranges - NEAREST))
    amplitude = cv2.GaussianBlur(amplitude, (0, 0), sigmaX=1.0 * (size / 160), sigmaY=0.5 * (size / 160))
    speckle = np.hypot(*generator.standard_normal((2, *amplitude.shape))) / math.sqrt(math.pi / 2)
    noise = np.hypot(*generator.standard_normal((2, *amplitude.shape))) * 0.02
    echo = amplitude * (0.15 + 0.85 * speckle) + noise

    # The echo by pixels, loud parts held down, black outside of the fan.
    row, column, inside = fan(size, *x.shape)
    gain = float(generator.uniform(0.75, 1.25))
    picture = cv2.remap(echo.astype(np.float32), column, row, cv2.INTER_LINEAR)
    values = 255.0 * (1.0 - np.exp(-0.9 * gain * picture.astype(np.float64)))
    values += generator.normal(0.0, 1.5, values.shape)
    image = np.where(inside, np.clip(np.rint(values), 0, 255), 0).astype(np.uint8)

    # The box of an object lies around its pixels that can be seen.
    labels = cv2.remap(np.where(seen, owner, 0).astype(np.float32), column, row, cv2.INTER_NEAREST)
    labels = np.where(inside, labels, 0).astype(int)
    boxes, categories = [], []
    for label, target in enumerate(targets, start=1):
        rows, columns = np.nonzero(labels == label)
        if len(rows) >= SMALLEST_SHARE * labels.size:
            left, top = columns.min(), rows.min()
            boxes.append([left, top, columns.max() + 1 - left, rows.max() + 1 - top])
            categories.append(target.category)
    sonar = {
        "type": "synthetic",
        "version": 1,
        "range": FARTHEST,
        "horizontal_opening_angle": OPENING_DEGREES,
        "vertical_opening_angle": VERTICAL_OPENING_DEGREES,
        "sound_speed": SOUND_SPEED,
        "frequency": FREQUENCY_KHZ,
        "altitude": round(altitude, 3),
        "gain": round(gain, 3),
    }
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return SyntheticFrame(image, boxes, np.array(categories, dtype=np.int64), sonar)


def _random_targets(generator: np.random.Generator, wall: tuple[float, float] | None) -> list[Target]:
    """Places objects that neither touch one another nor stand in one another's way, the nearest first."""
    wanted = 0 if generator.random() < EMPTY_SHARE else int(generator.integers(1, MOST_TARGETS + 1))
    targets: list[Target] = []
    for category in generator.integers(len(CLASSES), size=wanted):
        for _ in range(PLACES_TRIED):
            distance, bearing = generator.uniform(*DISTANCES), generator.uniform(-HALF_OPENING, HALF_OPENING)
            x, y = float(distance * np.sin(bearing)), float(distance * np.cos(bearing))
            target = random_target(generator, int(category), x, y)
            margin = 1.15 * target.radius
            inside = abs(bearing) + margin / distance < HALF_OPENING
            before_wall = wall is None or y + margin < wall[0] + wall[1] * x - 0.3
            if inside and before_wall and not any(target.hides(other) for other in targets):
                targets.append(target)
                break
    return sorted(targets, key=lambda target: target.y)


def write_synthetic(
    output: str | os.PathLike[str], train: int = 320, val: int = 64, size: int = DEFAULT_SIZE, seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Writes a prepared data set of synthetic frames, all of it or nothing.

    Args:
        output: the folder: ``images``, ``annotations/{train,val}.json``, ``classes.txt``, ``report.json``.
        train, val: how many frames, of ``size`` pixels a side.
        overwrite: replace a prepared data set that is there.

    Returns:
        The content of ``report.json``.
    """
    for name, value, least in (("train", train, 1), ("val", val, 1), ("size", size, SMALLEST_SIZE), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"--{name} must be at least {least}, got {value}")
    if train > FIRST_VALIDATION:
        raise UserError(f"--train must be at most {FIRST_VALIDATION}, got {train}")
    target = Path(output)
    claim_outputs([Output("--output", target, "prepared")], overwrite=overwrite)
    parts: dict[str, list[Frame]] = {}
    with atomic_folder(target) as folder:
        (folder / "images").mkdir()
        for part, first, count in (("train", 0, train), ("val", FIRST_VALIDATION, val)):
            parts[part] = []
            for index in range(count):
                frame = synthetic_frame(seed, first + index, size)
                image = write_stored(folder / "images" / f"{part}_{index:05d}", frame.image)
                pairs = zip(frame.categories.tolist(), frame.boxes.tolist(), strict=True)
                boxes = [Box(category, tuple(box)) for category, box in pairs]
                settings = {"metadata": {"sonar": frame.sonar}, "width": size, "height": size, "target": image.name}
                parts[part].append(Frame(image.name, image, boxes=boxes, **settings))
        report = write_made_set(folder, parts, CLASSES, source="synthetic", seed=seed, size=size)
    for part, summary in report["parts"].items():
        boxes = ", ".join(f"{name} {count}" for name, count in summary["boxes_by_class"].items())
        empty = summary["images_without_boxes"]
        logger.info("%s: %d frames (%d empty), %d boxes: %s", part, summary["images"], empty, summary["boxes"], boxes)
    logger.info("wrote %s", target)
    return report
