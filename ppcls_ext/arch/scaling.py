"""Compound scaling (EfficientNet, arXiv 1905.11946, section 3.3): depth, width and resolution grow together.

Loads no Paddle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ppcls_ext.arch.arguments import HIGHEST_MULTIPLIER, LOWEST_MULTIPLIER
from ppcls_ext.arch.catalog import architecture_parameters, list_models
from ppcls_ext.utils.errors import UserError

MULTIPLIERS = ("depth_multiplier", "width_multiplier")
# The coarsest map of our networks has 1/8 of the positions per side of the first stage's.
STAGE_STRIDES = 8
LARGEST_IMAGE = 2048


@dataclass(frozen=True)
class Coefficients:
    """How much depth, width and resolution grow for each step of phi.

    Attributes:
        alpha, beta, gamma: of depth, width and resolution; the defaults are EfficientNet's, with which the computation
            about doubles for each step (alpha x beta^2 x gamma^2 = 1.92).

    Raises:
        UserError: one is below 1, so that it would shrink what should grow, or above 4.
    """

    alpha: float = 1.2
    beta: float = 1.1
    gamma: float = 1.15

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 1 <= value <= 4:
                raise UserError(f"{name}: must be from 1 (does not grow) to 4, got {value:g}")

    def at(self, phi: float) -> Multipliers:
        """Returns the multipliers of step ``phi``; a negative one shrinks the network.

        Raises:
            UserError: a multiplier is out of range.
        """
        if not math.isfinite(phi) or abs(phi) > 100:
            raise UserError(f"phi: must be a number from -100 to 100, got {phi:g}")
        try:
            return Multipliers(*(round(base**phi, 4) for base in (self.alpha, self.beta, self.gamma)))
        except UserError as error:
            raise UserError(f"phi {phi:g}: {error}") from error


@dataclass(frozen=True)
class Multipliers:
    """Factors of depth, width and resolution.

    Raises:
        UserError: one is out of range; the message begins with its name.
    """

    depth: float = 1.0
    width: float = 1.0
    resolution: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not LOWEST_MULTIPLIER <= value <= HIGHEST_MULTIPLIER:
                raise UserError(f"{name}: must be from {LOWEST_MULTIPLIER} to {HIGHEST_MULTIPLIER}, got {value:g}")

    def architecture(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Returns ``Arch`` of the scaled network: ``arguments`` with the multipliers that are not 1."""
        chosen = dict(zip(MULTIPLIERS, (self.depth, self.width), strict=True))
        return {"name": name, **arguments, **{key: value for key, value in chosen.items() if value != 1}}

    def image_size(self, base: int, stem_stride: int = 4) -> int:
        """Returns the side of the images: ``base`` times the resolution, rounded to whole positions of the last map.

        Raises:
            UserError: it would be larger than any network here is trained with.
        """
        unit = STAGE_STRIDES * stem_stride
        size = base if self.resolution == 1 else max(int(base * self.resolution / unit + 0.5), 1) * unit
        if size > LARGEST_IMAGE:
            raise UserError(f"resolution: images of {size} px are too large, at most {LARGEST_IMAGE}")
        return size


def check_scalable(name: str, arguments: dict[str, Any]) -> None:
    """Refuses to scale what has no multipliers, or what has them in its arguments already.

    Raises:
        UserError: the name is unknown, or the model cannot be scaled.
    """
    try:
        known = architecture_parameters(name)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not set(MULTIPLIERS) <= set(known):
        able = [model for model in list_models() if set(MULTIPLIERS) <= set(architecture_parameters(model))]
        raise UserError(f"{name}: cannot be scaled, it takes no {' and no '.join(MULTIPLIERS)}; {', '.join(able)} do")
    twice = [key for key in MULTIPLIERS if key in arguments]
    if twice:
        raise UserError(f"-o {twice[0]}: the scaling chooses it; leave it out")
