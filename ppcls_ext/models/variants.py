"""The table of our models: one row for each name. Loads no Paddle, so that names can be listed at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Stem = Literal["patchify", "stepped"]


@dataclass(frozen=True)
class Variant:
    """One row of the table of E-ConvNeXt models (arXiv 2508.20955).

    Attributes:
        stem: "patchify" is one 4x4 convolution of stride 4, "stepped" three small ones of total stride 2.
        dims: channels d0 (stem) and d1..d4 (outputs of the four stages).
        depths: blocks in each of the four stages.
        strides: stride of each of the four stages.
    """

    stem: Stem
    dims: tuple[int, int, int, int, int]
    depths: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]


VARIANTS: dict[str, Variant] = {
    "EConvNeXt_mini": Variant("patchify", (48, 96, 192, 384, 768), (3, 3, 9, 3), (1, 2, 2, 2)),
    "EConvNeXt_tiny": Variant("stepped", (64, 128, 256, 512, 1024), (3, 3, 9, 3), (2, 2, 2, 2)),
    "EConvNeXt_small": Variant("stepped", (64, 128, 256, 512, 1024), (3, 3, 27, 3), (2, 2, 2, 2)),
}
