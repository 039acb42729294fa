"""The six published scales of YOLOv10 (arXiv 2405.14458, table 1 and appendix) as rows. Loads neither Paddle nor ppdet.

A scale says how deep and wide the network is, and where its compact inverted blocks (CIB) stand: at P4 and P5 in the
backbone; at F4 (upwards), N4 and N5 (downwards again) in the neck.
"""

from __future__ import annotations

from dataclasses import dataclass

from ppcls_ext.utils.errors import suggestion

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


def find_scale(name: object, owner: str) -> Scale:
    """Returns the row ``name``; ``ValueError``, which names the class ``owner`` that wants it, if there is none."""
    if not isinstance(name, str) or name not in SCALES:
        wanted = f"must be one of {', '.join(SCALES)}, got {name!r}{suggestion(str(name), SCALES)}"
        raise ValueError(f"{owner}.scale: {wanted}")
    return SCALES[name]
