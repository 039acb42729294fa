"""Objects on the seabed: where each stands, and how high it is at each point."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

# A row of detection.prepare.classes.CLASS_SETS["sonar"] for each, in the same order.
CLASSES = ("cube", "ball", "cylinder", "tyre")


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
        return SHAPES[CLASSES[self.category]](self, along, across)


def _cube(target: Target, along: np.ndarray, across: np.ndarray) -> np.ndarray:
    inside = (np.abs(along) <= target.length / 2) & (np.abs(across) <= target.width / 2)
    return np.where(inside, target.height, 0.0)


def _ball(target: Target, along: np.ndarray, across: np.ndarray) -> np.ndarray:
    radius = target.length / 2
    beneath = radius**2 - along**2 - across**2
    # Half sunk into the ground, as balls are that stay where they lie.
    return target.height / radius * np.sqrt(np.maximum(beneath, 0.0))


def _cylinder(target: Target, along: np.ndarray, across: np.ndarray) -> np.ndarray:
    radius = target.width / 2
    beneath = radius**2 - across**2
    inside = (beneath > 0) & (np.abs(along) <= target.length / 2)
    return np.where(inside, target.height / 2 * (1 + np.sqrt(np.maximum(beneath, 0.0)) / radius), 0.0)


def _tyre(target: Target, along: np.ndarray, across: np.ndarray) -> np.ndarray:
    tube = target.height / 2
    middle = target.length / 2 - tube
    beneath = tube**2 - (np.hypot(along, across) - middle) ** 2
    return np.where(beneath > 0, tube + np.sqrt(np.maximum(beneath, 0.0)), 0.0)


SHAPES: dict[str, Callable[[Target, np.ndarray, np.ndarray], np.ndarray]] = {
    "cube": _cube,
    "ball": _ball,
    "cylinder": _cylinder,
    "tyre": _tyre,
}


def random_target(generator: np.random.Generator, category: int, x: float, y: float) -> Target:
    """Returns an object of a class, of random size and direction, at a place."""
    name = CLASSES[category]
    # Hardly anything would be seen of a long thing that points at the sonar.
    limit = np.pi / 2 if name != "cylinder" else np.pi / 3
    angle = float(generator.uniform(-limit, limit))
    reflectivity = float(generator.uniform(1.6, 2.6))
    if name == "cube":
        length = width = float(generator.uniform(0.7, 0.9))
        height = 0.8 * length
    elif name == "ball":
        length = width = float(generator.uniform(0.6, 0.85))
        height = 0.6 * length
    elif name == "cylinder":
        length, width = float(generator.uniform(1.3, 1.7)), float(generator.uniform(0.26, 0.34))
        height = 0.9 * width
    else:
        length = width = float(generator.uniform(1.05, 1.3))
        height = float(generator.uniform(0.26, 0.34))
    return Target(category, x, y, angle, length, width, height, reflectivity)
