"""The six published scales of YOLOv10 (arXiv 2405.14458, table 1 and appendix) as rows. Loads neither Paddle nor ppdet.

A scale says how deep and wide the network is, and where its compact inverted blocks (CIB) stand: at P4 and P5 in the
backbone; at F4 (upwards), N4 and N5 (downwards again) in the neck. Configurations are checked by this table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ppcls_ext.utils.errors import suggestion

NECK_PLACES = ("F4", "N4", "N5")
# Widths at scale 1, of the stages P1 to P5.
BASE_CHANNELS = (64, 128, 256, 512, 1024)
# Blocks at depth 1, of the stages P2 to P5 and of each stage of the neck.
BASE_REPEATS = (3, 6, 6, 3)
NECK_REPEATS = 3
# Pixels of the picture to one position of P3, P4 and P5, and of the neck's outputs.
STRIDES = (8, 16, 32)
_CHANNEL_STEP = 8


@dataclass(frozen=True)
class Scale:
    """One row of the table: factors of the numbers of blocks and of the channels, a limit of the channels before their
    factor, the places with compact inverted blocks, and those of them with 7x7 kernels."""

    depth: float
    width: float
    max_channels: int
    cib: tuple[str, ...]
    large_kernel: tuple[str, ...] = ()

    def channels(self) -> list[int]:
        """Returns the channels of the stages P1 to P5."""
        return [divisible(min(base, self.max_channels) * self.width) for base in BASE_CHANNELS]


SCALES = {
    "N": Scale(0.33, 0.25, 1024, cib=("N5",), large_kernel=("N5",)),
    "S": Scale(0.33, 0.50, 1024, cib=("P5", "N5"), large_kernel=("P5", "N5")),
    "M": Scale(0.67, 0.75, 768, cib=("P5", "N4", "N5")),
    "B": Scale(0.67, 1.00, 512, cib=("P5", "F4", "N4", "N5")),
    "L": Scale(1.00, 1.00, 512, cib=("P5", "F4", "N4", "N5")),
    "X": Scale(1.00, 1.25, 512, cib=("P4", "P5", "F4", "N4", "N5")),
}


def divisible(channels: float) -> int:
    """Returns the smallest multiple of 8 that is not below ``channels``."""
    return int(-(-channels // _CHANNEL_STEP)) * _CHANNEL_STEP


def scaled_repeats(repeats: int, depth: float) -> int:
    """Returns the number of blocks at ``depth``, at least 1."""
    return max(round(repeats * depth), 1)


def scale_problem(name: object) -> str:
    """Says what is wrong with a ``scale``, or nothing."""
    if isinstance(name, str) and name in SCALES:
        return ""
    return f"must be one of {', '.join(SCALES)}, got {name!r}{suggestion(str(name), SCALES)}"


def find_scale(name: str) -> Scale:
    """Returns the row ``name``; ``ValueError`` if there is none."""
    if problem := scale_problem(name):
        raise ValueError(f"scale: {problem}")
    return SCALES[name]


def neck_problems(
    scale: str | None, depth_mult: float | None, width_mult: float | None, cib: Sequence[str] | None,
    large_kernel: Sequence[str] | None,
) -> dict[str, str]:  # fmt: skip
    """Says what is wrong with the arguments of a neck: argument -> words."""
    problems = {}
    if width_mult is not None:
        words = "for it would change nothing: YOLOv10 is as wide as its scale or its backbone says"
        problems["width_mult"] = f"must not be given, {words}, got {width_mult!r}"
    if scale is not None:
        if wrong := scale_problem(scale):
            return {**problems, "scale": wrong}
        given = {"depth_mult": depth_mult, "cib": cib, "large_kernel": large_kernel}
        words = f"must not be given: it follows from scale {scale}"
        return problems | {name: words for name, value in given.items() if value is not None}
    if depth_mult is None:
        problems["depth_mult"] = "is missing: a number above 0 is needed, for there is no scale"
    elif isinstance(depth_mult, int | float) and depth_mult <= 0:
        problems["depth_mult"] = f"must be above 0, got {depth_mult}"
    if cib is None:
        problems["cib"] = f"is missing: a list of {', '.join(NECK_PLACES)} is needed, for there is no scale"
        return problems
    return problems | _place_problems(cib, large_kernel or ())


def _place_problems(cib: Sequence[str], large_kernel: Sequence[str]) -> dict[str, str]:
    problems = {}
    for key, places in (("cib", cib), ("large_kernel", large_kernel)):
        if not isinstance(places, Sequence) or isinstance(places, str):
            problems[key] = f"must be a list of places ({', '.join(NECK_PLACES)}), got {places!r}"
            continue
        if unknown := [place for place in places if place not in NECK_PLACES]:
            near = suggestion(str(unknown[0]), NECK_PLACES)
            problems[key] = f"must be places of {', '.join(NECK_PLACES)}, got {unknown[0]!r}{near}"
    if not problems and (plain := [place for place in large_kernel if place not in cib]):
        problems["large_kernel"] = f"{plain[0]} has no compact inverted block: it is not in cib"
    return problems
