"""The tables of our models: one row for each name. Loads no Paddle, so that names can be listed at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Stem = Literal["patchify", "stepped"]
StemStride = Literal[1, 2, 4]


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


@dataclass(frozen=True)
class ConvNeXtVariant:
    """One row of the tables of ConvNeXt (arXiv 2201.03545, section 3) and ConvNeXt V2 (arXiv 2301.00808, appendix A).

    Attributes:
        dims: channels of the four stages.
        depths: blocks in each of the four stages.
    """

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


VARIANTS: dict[str, Variant] = {
    "EConvNeXt_mini": Variant("patchify", (48, 96, 192, 384, 768), (3, 3, 9, 3), (1, 2, 2, 2)),
    "EConvNeXt_tiny": Variant("stepped", (64, 128, 256, 512, 1024), (3, 3, 9, 3), (2, 2, 2, 2)),
    "EConvNeXt_small": Variant("stepped", (64, 128, 256, 512, 1024), (3, 3, 27, 3), (2, 2, 2, 2)),
}
V1_VARIANTS: dict[str, ConvNeXtVariant] = {
    "ConvNeXtV1_tiny": ConvNeXtVariant((96, 192, 384, 768), (3, 3, 9, 3)),
    "ConvNeXtV1_small": ConvNeXtVariant((96, 192, 384, 768), (3, 3, 27, 3)),
    "ConvNeXtV1_base": ConvNeXtVariant((128, 256, 512, 1024), (3, 3, 27, 3)),
    "ConvNeXtV1_large": ConvNeXtVariant((192, 384, 768, 1536), (3, 3, 27, 3)),
}
V2_VARIANTS: dict[str, ConvNeXtVariant] = {
    "ConvNeXtV2_atto": ConvNeXtVariant((40, 80, 160, 320), (2, 2, 6, 2)),
    "ConvNeXtV2_femto": ConvNeXtVariant((48, 96, 192, 384), (2, 2, 6, 2)),
    "ConvNeXtV2_pico": ConvNeXtVariant((64, 128, 256, 512), (2, 2, 6, 2)),
    "ConvNeXtV2_nano": ConvNeXtVariant((80, 160, 320, 640), (2, 2, 8, 2)),
    "ConvNeXtV2_tiny": ConvNeXtVariant((96, 192, 384, 768), (3, 3, 9, 3)),
    "ConvNeXtV2_base": ConvNeXtVariant((128, 256, 512, 1024), (3, 3, 27, 3)),
    "ConvNeXtV2_large": ConvNeXtVariant((192, 384, 768, 1536), (3, 3, 27, 3)),
}


@dataclass(frozen=True, eq=False)
class Family:
    """Models of one class.

    Attributes:
        module: file of the class in this package, without ending.
        class_name: the class; its constructor takes the fields of a row and what a user may set.
        rows: the models by name.
    """

    module: str
    class_name: str
    rows: Mapping[str, Variant | ConvNeXtVariant]


FAMILIES: tuple[Family, ...] = (
    Family("econvnext", "EConvNeXt", VARIANTS),
    Family("convnext_v1", "ConvNeXtV1", V1_VARIANTS),
    Family("convnext_v2", "ConvNeXtV2", V2_VARIANTS),
)


def family_of(name: str) -> Family | None:
    """Returns the family of one of our models, or ``None`` for any other name."""
    return next((family for family in FAMILIES if name in family.rows), None)
